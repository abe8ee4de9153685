"""Translate MR into pseudo-CT: HU on the MR's own grid, and what follows from them.

Input: one MR volume, or as many contrasts as the bundle's network takes, registered to each other.
Outputs, all on the grid of the MR, of role ``ct`` in its space:

- ``pseudoct``: whole HU;
- ``uncertainty``: the absolute error to be expected in each voxel, HU, where the bundle knows it;
- ``attenuation``: the linear attenuation coefficient at 511 keV in cm-1, for PET;
- ``tissues``, a label: soft tissue and bone; air is 0.

The network is Radloom's bundle ``head_mr_to_ct_translation``, or another MONAI bundle that maps
``image`` to ``pred`` in HU. Without its weights the stage is skipped. What a bundle does about
contrasts that a study lacks stands in its metadata (`radloom.models.translation.declaration`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from radloom.errors import ConfigError, InputError, MissingWeights
from radloom.models.bundles import Bundle, bundle_sha256, find_bundle, load_bundle
from radloom.models.translation.attenuation import attenuation_511kev
from radloom.models.translation.declaration import ANY, Declaration, read_declaration
from radloom.models.translation.fitness import FITNESS_RANGES, fitness_of
from radloom.models.translation.network import MISSING
from radloom.models.translation.outputs import HU_RANGE
from radloom.models.translation.tissues import CLASS_NAMES, classes_of_hu
from radloom.pipelines.stage import Check, Context, StageResult
from radloom.pipelines.study import Output, Study
from radloom.shapes import (
    LabelVolume,
    Volume,
    affine_of,
    array_of,
    like,
    make_label,
    require_same_grid,
)
from radloom.threads import MOST_WINDOWS, torch_settings

__all__ = ["OUTPUTS", "PseudoCT", "TranslateStage", "checks_of_input", "translate"]

_WINDOW_BYTES = 350 * 2**20
"""A window of 128 voxels an edge, in the widest layers of the network."""

DEFAULT_BUNDLE = "head_mr_to_ct_translation"

VERSION = 2
"""Goes up when the same bundle would give other numbers."""

OUTPUTS = ("pseudoct", "uncertainty", "attenuation", "tissues")
"""What the stage can give."""

PEAKS_HU: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "air": ((-1100.0, -500.0), (-1050.0, -900.0)),
    "soft_tissue": ((-150.0, 150.0), (-20.0, 90.0)),
    "bone": ((300.0, 3000.0), (300.0, 1600.0)),
}
"""Tissue -> where its peak is looked for, and where the peak of a head CT lies, in HU."""


@dataclass(frozen=True, eq=False)
class PseudoCT:
    """What one translation gives, on the grid of the MR."""

    hu: Volume
    """(1, I, J, K) whole HU within `HU_RANGE`."""
    classes: LabelVolume
    """(1, I, J, K): 0 air, 1 soft tissue, 2 bone."""
    uncertainty: Volume | None
    """(1, I, J, K) expected absolute error, HU; None where the bundle gives none."""
    declaration: Declaration

    def attenuation(self) -> Volume:
        """(1, I, J, K) linear attenuation at 511 keV, cm-1."""
        found = attenuation_511kev(array_of(self.hu), kvp=self.declaration.kvp)
        return like(self.hu, found, units="1/cm")


def translate(
    mr: Volume | Mapping[str, Volume],
    model: Path | None = None,
    *,
    bundle: str = DEFAULT_BUNDLE,
    device: torch.device | None = None,
    n_threads: int = 1,
    trust: bool = False,
) -> PseudoCT:
    """The pseudo-CT of one MR or of several contrasts of one head.

    Args:
        mr: (1, I, J, K); for a network of several contrasts role -> volume, all on one grid, and
            those that it misses left out.
        model: a MONAI bundle; None: Radloom's own `bundle`.
        bundle: the name of one of Radloom's bundles.
        device: where the network runs; None: the CPU. On a GPU whose memory runs out the CPU does
            the work.
        n_threads: of the CPU.
        trust: whether the user trusts code in an outside bundle.

    Raises:
        MissingWeights: the bundle or its weights are not here.
        NotTrusted: the bundle is not Radloom's own, and `trust` is False.
        ConfigError: the bundle's metadata contradict themselves.
        InputError: no MR volume, contrasts that do not fit the bundle, or a prediction with other
            channels than the bundle declares, or not finite.
        GridMismatch: the contrasts do not share a grid.
    """
    folder = model if model is not None else find_bundle(bundle)
    digest = bundle_sha256(folder)
    declaration = read_declaration(folder)
    channels = _channels(mr, declaration, folder.name)
    with torch_settings(n_threads):
        try:
            pred = _loaded(folder, digest, str(device or "cpu"), trust).predict(channels)
        except torch.OutOfMemoryError:
            _loaded.cache_clear()
            torch.cuda.empty_cache()
            pred = _loaded(folder, digest, "cpu", trust).predict(channels)
    given = mr if isinstance(mr, torch.Tensor) else next(iter(mr.values()))
    return _parted(given, pred, declaration, folder.name)


def _channels(
    mr: Volume | Mapping[str, Volume], declaration: Declaration, name: str
) -> list[Volume]:
    """One volume a channel of the network; those of missing contrasts are `MISSING`."""
    given = {ANY: mr} if isinstance(mr, torch.Tensor) else dict(mr)
    for volume in given.values():
        if volume.meta.get("modality") != "MR":
            modality = volume.meta.get("modality")
            raise InputError(f"expected an MR volume, got modality {modality!r}")
        require_same_grid(volume, next(iter(given.values())), "contrasts")
    wanted = declaration.contrasts
    if wanted == (ANY,):
        if len(given) != 1:
            raise InputError(f"<{name}>: expected one MR volume, got {len(given)}")
        return list(given.values())
    absent = [role for role in wanted if role not in given]
    if len(absent) == len(wanted) or (absent and declaration.missing == "refuse"):
        raise InputError(
            f"<{name}>: expected the contrasts {', '.join(wanted)}, got {', '.join(given)}; say "
            "which contrast the volume is, or take a bundle of one channel"
        )
    first = next(given[role] for role in wanted if role in given)
    empty = like(first, torch.full_like(first.as_tensor(), MISSING))
    return [given.get(role, empty) for role in wanted]


def _parted(mr: Volume, pred: Volume, declaration: Declaration, name: str) -> PseudoCT:
    values = pred.as_tensor()
    known = [declaration.uncertainty or 0, *(declaration.scores or ())]
    if values.shape[0] <= max(known) or not bool(torch.isfinite(values).all()):
        raise InputError(
            f"the bundle <{name}>: expected {max(known) + 1} channels of finite numbers, the first "
            f"of HU, got {values.shape[0]}"
        )
    if values.shape[0] > 1 and not any(known):
        raise InputError(
            f"the bundle <{name}>: expected one channel of finite HU, got {values.shape[0]}"
        )
    whole = values[:1].round().clamp(*HU_RANGE) + 0.0  # no minus zero, which integers lack
    hu = like(mr, whole, modality="CT", units="HU")
    if declaration.scores is None:
        classes = classes_of_hu(array_of(hu))
    else:
        classes = values[list(declaration.scores)].argmax(0, keepdim=True).byte().cpu().numpy()
    series_uid = str(mr.meta.get("series_uid", ""))
    error = None
    if declaration.uncertainty is not None:
        n = declaration.uncertainty
        error = like(mr, values[n : n + 1].clamp_min(0), modality="CT", units="HU")
    label = make_label(classes, affine_of(mr), series_uid=series_uid)
    return PseudoCT(hu, label, error, declaration)


@dataclass(frozen=True)
class TranslateStage:
    """The pseudo-CT of one study."""

    model: Path | None = None
    """A MONAI bundle; None: Radloom's own `bundle`."""
    bundle: str = DEFAULT_BUNDLE
    """The name of one of Radloom's bundles."""
    roles: tuple[str, ...] = ("t1", "t2", "flair", "pd", "t1ce")
    """Which contrast a network of one takes: the first that the study has. One of several takes
    those that its bundle names."""
    outputs: tuple[str, ...] = OUTPUTS
    """What is given, of `OUTPUTS`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", tuple(self.roles))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        unknown = [name for name in self.outputs if name not in OUTPUTS]
        if unknown or not self.outputs:
            raise ConfigError(
                f"translate: expected outputs of {', '.join(OUTPUTS)}, got {unknown or 'none'}"
            )

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
        parts = (VERSION, model, self.roles, self.outputs)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        """Path -> hash of the MR volumes' files."""
        return {
            path: digest
            for output in self._inputs(study).values()
            for path, digest in output.files.items()
        }

    def estimate_memory(self, study: Study) -> int:
        """Bytes at the peak: a few float32 copies of the volumes, and the network's features."""
        inputs = self._inputs(study).values()
        unread = sum(output.unread_bytes for output in inputs)
        return _working_bytes([output.n_voxels for output in inputs]) + unread

    def least_memory(self, study: Study) -> int:
        """The same and what it reads: windows of another size would give other numbers."""
        n_voxels = [output.n_voxels for output in self._inputs(study).values()]
        return _working_bytes(n_voxels) + 4 * sum(n_voxels)

    def run(self, study: Study, context: Context) -> StageResult:
        """The pseudo-CT, what follows from it, and checks; skipped where one of them is absent.

        Needed are the bundle, its weights and an MR.

        Raises:
            NotTrusted: the bundle is not Radloom's own, and `context.trust` is False.
            ConfigError: the bundle's metadata contradict themselves.
        """
        inputs = self._inputs(study)
        if not inputs:
            return StageResult(status="skipped", reason=self._reason())
        try:
            digest = bundle_sha256(self._folder())
        except MissingWeights as error:
            return StageResult(status="skipped", reason=str(error))
        given = {role: output.volume for role, output in inputs.items()}
        found = translate(
            next(iter(given.values())) if self._is_single() else given,
            self.model,
            bundle=self.bundle,
            device=context.device,
            n_threads=context.n_threads,
            trust=context.trust,
        )
        role = next(iter(inputs))
        sidecar = {
            "Model": self._folder().name,
            "ModelSHA256": digest,
            "TranslatedFrom": "+".join(inputs),
            "Synthetic": True,
        }
        checks = [*_input_checks(given, found.declaration), *_checks(role, found)]
        return StageResult(tuple(self._outputs(found, role, sidecar)), tuple(checks))

    def _outputs(self, found: PseudoCT, role: str, sidecar: Mapping[str, Any]) -> Iterator[Output]:
        made: dict[str, Output] = {
            "pseudoct": Output("volume", "ct", "pseudoct", found.hu, role, sidecar=sidecar)
        }
        if found.uncertainty is not None:
            said = {**sidecar, "Quantity": "expected absolute error of the pseudo-CT"}
            made["uncertainty"] = Output(
                "volume", "ct", "uncertainty", found.uncertainty, role, sidecar=said
            )
        if "attenuation" in self.outputs:
            made["attenuation"] = Output(
                "volume",
                "ct",
                "attenuation",
                found.attenuation(),
                role,
                entities={"suffix": "mumap"},
                sidecar={**sidecar, **_attenuation_facts(found.declaration)},
            )
        made["tissues"] = Output(
            "label", "ct", "tissues", found.classes, role, sidecar=sidecar, label_names=CLASS_NAMES
        )
        return (made[name] for name in OUTPUTS if name in self.outputs and name in made)

    def _folder(self) -> Path:
        return self.model if self.model is not None else find_bundle(self.bundle)

    def _is_single(self) -> bool:
        return self._contrasts() == (ANY,)

    def _contrasts(self) -> tuple[str, ...]:
        try:
            return read_declaration(self._folder()).contrasts
        except MissingWeights:
            return (ANY,)

    def _inputs(self, study: Study) -> dict[str, Output]:
        """Role -> what the network gets of it; empty where the study has nothing for it."""
        if self._is_single():
            role = next((role for role in self.roles if role in study.roles), None)
            return {role: study.latest(role)} if role else {}
        wanted = self._contrasts()
        there = [role for role in wanted if role in study.roles]
        if not there:
            return {}
        spaces = [output.space for output in study.find(kind="volume", name="registered")]
        fixed = next((space for space in spaces if space in there), there[0])
        inputs = {fixed: study.latest(fixed)}
        for role in there:
            moved = study.find(kind="volume", role=role, name="registered")
            inputs.update((role, output) for output in moved if output.space == fixed)
        refused = read_declaration(self._folder()).missing == "refuse"
        return {} if refused and len(inputs) < len(wanted) else inputs

    def _reason(self) -> str:
        wanted = self.roles if self._is_single() else self._contrasts()
        if self._is_single():
            return f"the study has no volume of {', '.join(wanted)}"
        return f"the study has not what the bundle takes, registered: {', '.join(wanted)}"


def _working_bytes(n_voxels: Sequence[int]) -> int:
    """A few float32 copies of the largest volume, and the features of windows side by side."""
    if not n_voxels:
        return 0
    return 4 * 32 * max(n_voxels) + MOST_WINDOWS * _WINDOW_BYTES


def _attenuation_facts(declaration: Declaration) -> dict[str, Any]:
    return {
        "Quantity": "linear attenuation coefficient",
        "PhotonEnergy": 511,
        "PhotonEnergyUnits": "keV",
        "TubeVoltage": declaration.kvp,
        "TubeVoltageUnits": "kV",
        "Method": "bilinear scaling, Carney et al. 2006, doi:10.1118/1.2174132",
    }


_FITNESS_MEANINGS: Mapping[str, tuple[str, str]] = {
    "head_volume": ("mL", "What stands out of the background, filled. Out of range: not one whole "
        "head, a stripped one, or one smaller than the network knows."),
    "head_width": ("mm", "From left to right. Out of range: not a head, or one that is cut."),
    "head_length": ("mm", "From back to front. Out of range: not a head, or one that is cut."),
    "cut": ("", "How much of the head a border of the image cuts, of its largest section; the "
        "lower border does not count. High: the skull is not all in the picture."),
    "likeness_of_neighbours": ("", "Correlation of voxels 4 mm apart. Low: noise."),
    "negative_share": ("", "Voxels below zero. High: not a magnitude; a CT, a phase image."),
    "grey_spread": ("", "Quartiles of the grey values in the head, apart by this share of their "
        "median. Low: all is alike, as in a CT."),
}  # fmt: skip


def checks_of_input(volume: Volume, role: str = "") -> tuple[Check, ...]:
    """Whether a volume is the MR of a whole head; names begin with `role`, if one is given."""
    found = fitness_of(volume)
    prefix = f"{role}_" if role else ""
    return tuple(
        Check(
            f"{prefix}{name}",
            round(float(getattr(found, name)), 4),
            low=low,
            high=high,
            unit=_FITNESS_MEANINGS[name][0],
            meaning=_FITNESS_MEANINGS[name][1],
        )
        for name, (low, high) in FITNESS_RANGES.items()
    )


def _input_checks(given: Mapping[str, Volume], declaration: Declaration) -> Iterator[Check]:
    for role, volume in given.items():
        yield from checks_of_input(volume, role)
        if declaration.seen:
            yield Check(
                f"{role}_contrast_seen",
                float(role in declaration.seen),
                low=1.0,
                meaning=f"Whether the training held this contrast: {', '.join(declaration.seen)}.",
            )
    if declaration.contrasts != (ANY,):
        lacking = len(declaration.contrasts) - len(given)
        yield Check(
            f"{next(iter(given))}_contrasts_missing",
            float(lacking),
            high=float(len(declaration.contrasts) - 1),
            meaning="Contrasts that the network knows and the study lacks; it was told which.",
        )


def _checks(role: str, found: PseudoCT) -> Iterator[Check]:
    hu = array_of(found.hu)
    for tissue, (within, (low, high)) in PEAKS_HU.items():
        yield Check(
            f"{role}_{tissue}_peak",
            _peak(hu, *within),
            low=low,
            high=high,
            unit="HU",
            meaning=f"The most frequent HU of {tissue.replace('_', ' ')} in the pseudo-CT.",
        )
    if found.uncertainty is None:
        return
    head = array_of(found.classes) > 0
    error = array_of(found.uncertainty)
    yield Check(
        f"{role}_expected_error",
        round(float(error[head].mean()), 2) if head.any() else float("nan"),
        high=found.declaration.expected_error_hu,
        unit="HU",
        meaning="The error that the network expects of itself, on average over the head. High: "
        "nothing like this was in its training; look before you use the pseudo-CT.",
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
