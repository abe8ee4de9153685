"""The box round the head: the network has learnt from heads, not from the air beside them."""

from __future__ import annotations

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import CropForegroundd

from radloom.geometry import spacing_of
from radloom.models.registration.coarse import at_spacing
from radloom.models.registration.foreground import head_mask
from radloom.models.translation.network import MISSING
from radloom.shapes import affine_of, make_volume

__all__ = ["HeadBoxd", "head_box"]

COARSE_MM = 4.0
MARGIN_MM = 15.0
"""Ears are thinner than what `head_mask` keeps, and stand out by about as much."""


def head_box(image: MetaTensor) -> torch.Tensor:
    """(1, I, J, K) bool: the box of the head in an MR (C, I, J, K) and `MARGIN_MM` round it.

    Of several contrasts the first counts that is not `MISSING`; where nothing stands out, all is
    the head's.
    """
    plain = image.as_tensor()
    there = [channel for channel in plain if not bool((channel == MISSING).all())]
    affine = image.affine.numpy()
    volume = make_volume((there or [plain[0]])[0][None], affine, modality="MR", units="arbitrary")
    coarse = at_spacing(volume, COARSE_MM)
    n_voxels = (spacing_of(affine_of(coarse)) / spacing_of(affine)).round().astype(int)
    margins = (MARGIN_MM / spacing_of(affine)).round().astype(int)
    mask = torch.from_numpy(head_mask(coarse))
    box = torch.zeros((1, *plain.shape[1:]), dtype=torch.bool)
    slices = []
    for axis, (n, margin) in enumerate(zip(n_voxels.tolist(), margins.tolist(), strict=True)):
        others = [other for other in range(3) if other != axis]
        held = mask.any(dim=others[1]).any(dim=others[0]).nonzero()
        slices.append(slice(max(0, int(held[0]) * n - margin), int(held[-1] + 1) * n + margin))
    box[0][tuple(slices)] = True
    return box


class HeadBoxd(CropForegroundd):  # type: ignore[misc]  # MONAI is not typed here
    """Cuts the MetaTensors of `keys` to the `head_box` of the first; can be inverted.

    What lies beyond is 0 after the inverse; `AirBeyondd` makes air of it.
    """

    def __init__(self, keys: KeysCollection) -> None:
        first = keys if isinstance(keys, str) else next(iter(keys))
        super().__init__(keys, source_key=first, select_fn=head_box, allow_smaller=True)
