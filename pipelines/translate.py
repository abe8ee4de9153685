"""Translate MR into pseudo-CT: HU on the MR's own grid.

Input: one MR volume. Output: a volume of role ``ct``, named ``pseudoct``, on the grid of the MR.
The network is Radloom's bundle ``head_mr_to_ct_translation``, or another MONAI bundle that maps
``image`` to ``pred`` in HU. Without its weights the stage is skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from radloom.errors import InputError, MissingWeights
from radloom.models.bundles import Bundle, bundle_sha256, find_bundle, load_bundle
from radloom.models.threads import torch_settings
from radloom.pipelines.stage import Check, Context, StageResult
from radloom.pipelines.study import Output, Study
from radloom.shapes import Volume, array_of, like

__all__ = ["TranslateStage", "translate"]

DEFAULT_BUNDLE = "head_mr_to_ct_translation"

VERSION = 1
"""Goes up when the same bundle would give other numbers."""

PEAKS_HU: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "air": ((-1100.0, -500.0), (-1050.0, -900.0)),
    "soft_tissue": ((-150.0, 150.0), (-20.0, 90.0)),
    "bone": ((300.0, 3000.0), (300.0, 1600.0)),
}
"""Tissue -> where its peak is looked for, and where the peak of a head CT lies, in HU."""


def translate(
    mr: Volume,
    model: Path | None = None,
    *,
    bundle: str = DEFAULT_BUNDLE,
    device: torch.device | None = None,
    n_threads: int = 1,
    trust: bool = False,
) -> Volume:
    """The pseudo-CT (1, I, J, K) in HU on the grid of `mr`.

    Args:
        mr: (1, I, J, K).
        model: a MONAI bundle; None: Radloom's own `bundle`.
        bundle: the name of one of Radloom's bundles.
        device: where the network runs; None: the CPU. On a GPU whose memory runs out the CPU does
            the work.
        n_threads: of the CPU.
        trust: whether the user trusts code in an outside bundle.

    Raises:
        MissingWeights: the bundle or its weights are not here.
        NotTrusted: the bundle is not Radloom's own, and `trust` is False.
        InputError: `mr` is no MR volume, or the prediction is not one channel of finite numbers.
    """
    if mr.meta.get("modality") != "MR":
        raise InputError(f"expected an MR volume, got modality {mr.meta.get('modality')!r}")
    folder = model if model is not None else find_bundle(bundle)
    digest = bundle_sha256(folder)
    with torch_settings(n_threads):
        try:
            pred = _loaded(folder, digest, str(device or "cpu"), trust).predict([mr])
        except torch.OutOfMemoryError:
            _loaded.cache_clear()
            torch.cuda.empty_cache()
            pred = _loaded(folder, digest, "cpu", trust).predict([mr])
    if pred.shape[0] != 1 or not bool(torch.isfinite(pred.as_tensor()).all()):
        raise InputError(
            f"the bundle <{folder.name}>: expected one channel of finite HU, got {pred.shape[0]}"
        )
    return like(mr, pred.as_tensor(), modality="CT", units="HU")


@dataclass(frozen=True)
class TranslateStage:
    """The pseudo-CT of one study."""

    model: Path | None = None
    """A MONAI bundle; None: Radloom's own `bundle`."""
    bundle: str = DEFAULT_BUNDLE
    """The name of one of Radloom's bundles."""
    roles: tuple[str, ...] = ("t1", "t2", "flair", "pd", "t1ce")
    """Roles to translate, the first that the study has."""

    @property
    def name(self) -> str:
        """The stage's name."""
        return "translate"

    def fingerprint(self) -> str:
        """Hex digest over version, parameters and the bundle's files, wherever they lie."""
        try:
            model = bundle_sha256(self._folder())
        except MissingWeights:
            model = "no weights"
        parts = (VERSION, model, self.roles)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        """Path -> hash of the MR volume's files."""
        role = self._role(study)
        return dict(study.latest(role).files) if role else {}

    def estimate_memory(self, study: Study) -> int:
        """Bytes at the peak: a few float32 copies of the volume, and the network's features."""
        role = self._role(study)
        return 4 * 32 * study.latest(role).volume.numel() if role else 0

    def run(self, study: Study, context: Context) -> StageResult:
        """The pseudo-CT and its checks; skipped where bundle, weights or MR are absent.

        Raises:
            NotTrusted: the bundle is not Radloom's own, and `context.trust` is False.
        """
        role = self._role(study)
        if not role:
            return StageResult(
                status="skipped", reason=f"the study has no volume of {', '.join(self.roles)}"
            )
        try:
            digest = bundle_sha256(self._folder())
        except MissingWeights as error:
            return StageResult(status="skipped", reason=str(error))
        pseudo_ct = translate(
            study.latest(role).volume,
            self.model,
            bundle=self.bundle,
            device=context.device,
            n_threads=context.n_threads,
            trust=context.trust,
        )
        sidecar = {
            "Model": self._folder().name,
            "ModelSHA256": digest,
            "TranslatedFrom": role,
            "Synthetic": True,
        }
        output = Output(
            kind="volume", role="ct", name="pseudoct", source=pseudo_ct, space=role, sidecar=sidecar
        )
        return StageResult((output,), _checks(role, array_of(pseudo_ct)))

    def _folder(self) -> Path:
        return self.model if self.model is not None else find_bundle(self.bundle)

    def _role(self, study: Study) -> str:
        return next((role for role in self.roles if role in study.roles), "")


def _checks(role: str, hu: npt.NDArray[np.float32]) -> tuple[Check, ...]:
    return tuple(
        Check(
            f"{role}_{tissue}_peak",
            _peak(hu, *within),
            low=low,
            high=high,
            unit="HU",
            meaning=f"The most frequent HU of {tissue.replace('_', ' ')} in the pseudo-CT.",
        )
        for tissue, (within, (low, high)) in PEAKS_HU.items()
    )


def _peak(hu: npt.NDArray[np.float32], low: float, high: float) -> float:
    """The middle of the fullest bin of 20 HU; not a number where no voxel lies in the range."""
    counts, edges = np.histogram(hu, bins=int((high - low) / 20), range=(low, high))
    if not counts.any():
        return float("nan")
    return float(edges[counts.argmax()] + 10.0)


@lru_cache(maxsize=1)
def _loaded(
    folder: Path,
    digest: str,  # noqa: ARG001 (keys the cache: other files, another bundle)
    device: str,
    trust: bool,  # noqa: FBT001 (lru_cache keys on positions)
) -> Bundle:
    """The bundle, loaded once in a worker's life."""
    return load_bundle(folder, device=torch.device(device), trust=trust)
