"""What the bundle shows its network beside the images, and whose axes the answer is along.

Callables over a dictionary, for the bundle's ``inference.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from radloom.errors import MissingWeights
from radloom.models.registration.structures import shipped_segmenter

__all__ = ["AlongOwnAxes", "WithStructures"]


class WithStructures:
    """Puts the numbers of the structures seen in each channel of ``image`` behind its channels.

    (C, I, J, K) -> (2 C, I, J, K); voxels of about 2 mm, axes along R, A and S. 0 everywhere where
    the segmentation network has no weights.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The dictionary with the longer ``image``, a MetaTensor as before."""
        image = data["image"]
        with torch.inference_mode():
            seen = self._seen(image.as_tensor().float())
        return {**data, "image": torch.cat([image, seen.clone().to(image.dtype)])}

    def _seen(self, images: torch.Tensor) -> torch.Tensor:
        try:
            segmenter = shipped_segmenter(torch.device("cpu"))
        except MissingWeights:
            return torch.zeros_like(images)
        return torch.stack([segmenter.classes(image) for image in images])


class AlongOwnAxes:
    """Turns a displacement ``pred`` in voxels of the grid that was shown into voxels of its own.

    `pred` (3, I, J, K) already lies on the grid of the file; ``image`` still has the affine that
    the network was shown, whose axes may be others.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The dictionary with the turned ``pred``."""
        pred = data["pred"]
        shown, own = (
            np.asarray(data[key].affine, dtype=np.float64)[:3, :3] for key in ("image", "pred")
        )
        turn = torch.as_tensor(np.linalg.inv(own) @ shown).to(pred.dtype)
        turned = torch.tensordot(turn, pred.as_tensor(), dims=1)
        result = pred.clone()
        result.copy_(turned)
        return {**data, "pred": result}
