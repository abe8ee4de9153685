"""Bring every volume of a study onto the grid of one of them, and check that it came home."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from radloom import __version__
from radloom.errors import ConfigError
from radloom.models.registration.elastix import TransformKind, read_parameter_file, register
from radloom.models.registration.similarity import Similarity
from radloom.pipelines.stage import Check, Context, StageResult
from radloom.pipelines.study import Output, Study
from radloom.shapes import LabelVolume, Volume, affine_of, require_volume, spatial_shape
from radloom.transforms.spatial import Transform, resample

__all__ = ["FIXED_PREFERENCE", "RegisterStage", "Registration", "register_images"]

_REVISION = 2
"""Raised when the same parameters give other transforms."""

FIXED_PREFERENCE = ("t1", "t1ce", "flair", "t2", "pd", "ct", "pet")
"""Which role the others are brought to, where the one asked for is absent."""

_BYTES_PER_VOXEL = {"rigid": 24, "affine": 24, "deformable": 200}
"""Of fixed and moving together, at the peak: copies, pyramids, for a field its float64 forms."""


@dataclass(frozen=True, eq=False)
class Registration:
    """What registering one volume to another gives."""

    moving_from_fixed: Transform
    warped_moving: Volume
    """Moving on the fixed grid, interpolated once."""
    checks: tuple[Check, ...]
    """Named without a role: ``similarity_gain``."""


def register_images(
    fixed: Volume,
    moving: Volume,
    *,
    transform: TransformKind = "rigid",
    parameter_files: Sequence[Path] = (),
    fixed_mask: LabelVolume | None = None,
    moving_mask: LabelVolume | None = None,
    n_threads: int = 1,
    fast: bool = False,
) -> Registration:
    """Map, warped moving volume and checks of one registration; see `elastix.register`.

    Outside the field of view of `moving` the result holds air (-1024 HU) for a CT, else 0.

    Raises:
        InputError: a volume does not keep the contract of `radloom.shapes`.
        ConfigError: a parameter file does not parse.
        StageFailed: elastix gave up.
    """
    require_volume(fixed, "fixed")
    require_volume(moving, "moving")
    moving_from_fixed = register(
        fixed,
        moving,
        transform=transform,
        parameter_files=parameter_files,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        n_threads=n_threads,
        fast=fast,
    )
    warped = resample(
        moving, moving_from_fixed, affine_of(fixed), spatial_shape(fixed), n_threads=n_threads
    )
    checks = tuple(_checks(fixed, moving, moving_from_fixed, fixed_mask))
    return Registration(moving_from_fixed, warped, checks)


@dataclass(frozen=True)
class RegisterStage:
    """Every other role's newest volume, registered to one role's.

    Inputs: the newest volume of each role. Outputs, a moving role: a transform
    `moving_from_fixed` and a volume `registered` in the space of the fixed role.
    """

    fixed: str = "t1"
    """The fixed role; a study without it takes the first of `FIXED_PREFERENCE` that it has."""
    moving: tuple[str, ...] = ()
    """Which roles are registered; empty: all others."""
    method: Literal["elastix"] = "elastix"
    transform: TransformKind = "rigid"
    """rigid, affine or deformable."""
    parameter_files: tuple[Path, ...] = ()
    """elastix parameter files, run in order instead of ours."""
    fast: bool = False
    """Estimate on a coarser grid; said in every sidecar."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "moving", tuple(self.moving))
        object.__setattr__(self, "parameter_files", tuple(Path(p) for p in self.parameter_files))
        if self.method != "elastix":
            raise ConfigError(f"register: expected method 'elastix', got {self.method!r}")
        if self.transform not in _BYTES_PER_VOXEL:
            raise ConfigError(
                f"register: expected transform of {sorted(_BYTES_PER_VOXEL)}, "
                f"got {self.transform!r}"
            )

    @property
    def name(self) -> str:
        """``register``."""
        return "register"

    def fingerprint(self) -> str:
        """Of the parameters, the contents of the parameter files and the version.

        Raises:
            ConfigError: a parameter file is not there or does not parse.
        """
        contents = [dict(read_parameter_file(path)) for path in self.parameter_files]
        parts = {
            **asdict(self),
            "parameter_files": contents,
            "revision": _REVISION,
            "version": __version__,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        """The files of the fixed and the moving volumes."""
        roles = self._roles(study)
        inputs = (study.latest(role) for role in roles)
        return {path: digest for output in inputs for path, digest in output.files.items()}

    def estimate_memory(self, study: Study) -> int:
        """The largest pair while it is worked on, and every warped volume."""
        roles = self._roles(study)
        if len(roles) < 2:
            return 0
        fixed, *moving = (study.latest(role).volume.numel() for role in roles)
        working = (fixed + max(moving)) * _BYTES_PER_VOXEL[self.transform]
        kept = 16 if self.transform == "deformable" else 4
        return int(working + kept * fixed * len(moving))

    def run(self, study: Study, context: Context) -> StageResult:
        """Transform and warped volume of every moving role; skipped where there is nothing to move.

        Raises:
            InputError: a volume does not keep the contract.
            ConfigError: a parameter file does not parse.
            StageFailed: elastix gave up on one of the volumes.
        """
        roles = self._roles(study)
        if len(roles) < 2:
            reason = "one volume only" if study.roles else "the study has no volume to register"
            return StageResult(status="skipped", reason=reason)
        fixed, *moving = roles
        outputs: list[Output] = []
        checks: list[Check] = []
        for role in moving:
            found = register_images(
                study.latest(fixed).volume,
                study.latest(role).volume,
                transform=self.transform,
                parameter_files=self.parameter_files,
                n_threads=context.n_threads,
                fast=self.fast,
            )
            outputs.extend(self._outputs(fixed, role, found))
            checks.extend(
                Check(f"{role}_{c.name}", c.value, c.low, c.high, c.unit, c.meaning)
                for c in found.checks
            )
        return StageResult(tuple(outputs), tuple(checks))

    def _roles(self, study: Study) -> tuple[str, ...]:
        """The fixed role, then the moving ones; fewer than two where there is nothing to do."""
        order = dict.fromkeys((self.fixed, *FIXED_PREFERENCE, *study.roles))
        fixed = next((role for role in order if role in study.roles), None)
        if fixed is None:
            return ()
        wanted = self.moving or study.roles
        return (fixed, *(r for r in study.roles if r != fixed and r in wanted))

    def _outputs(self, fixed: str, role: str, found: Registration) -> Iterator[Output]:
        sidecar = {
            "RegistrationMethod": self.method,
            "RegistrationTransform": "parameter files" if self.parameter_files else self.transform,
            "RegistrationParameterFiles": [path.name for path in self.parameter_files],
            "RegistrationFast": self.fast,
        }
        yield Output(
            "transform",
            role,
            "moving_from_fixed",
            found.moving_from_fixed,
            space=fixed,
            sidecar=sidecar,
        )
        yield Output(
            "volume",
            role,
            "registered",
            found.warped_moving,
            space=fixed,
            sidecar={**sidecar, "Interpolation": "linear"},
        )


def _checks(
    fixed: Volume, moving: Volume, moving_from_fixed: Transform, mask: LabelVolume | None
) -> Iterator[Check]:
    judge = Similarity.of(
        fixed,
        moving,
        spacing_mm=3.0,
        n_points=20_000,
        fixed_mask=mask,
        seed=2,
        between_voxels=True,
    )
    before, _ = judge.measure(Transform.identity())
    after, overlap = judge.measure(moving_from_fixed)
    moved = np.linalg.norm(moving_from_fixed.apply(judge.points) - judge.points, axis=1)
    yield Check(
        "similarity_before",
        before,
        meaning="Normalised mutual information of the two volumes where the scanners put them.",
    )
    yield Check(
        "similarity_after",
        after,
        low=1.03,
        meaning="Normalised mutual information after registration, from 1 (nothing in common) to "
        "2. Low: look whether the outlines of the brain and the skull meet.",
    )
    yield Check(
        "similarity_gain",
        after - before,
        low=-0.002,
        meaning="What registration gained. Below zero: it made things worse; do not use the map.",
    )
    yield Check(
        "overlap",
        overlap,
        low=0.6,
        meaning="Share of the fixed head that the moving volume shows. Low: a small field of view, "
        "or a map that carried the head out of it.",
    )
    yield Check(
        "moved_mm",
        float(moved.mean()),
        high=80.0,
        unit="mm",
        meaning="How far the map carries the head, on average. High: volumes of different "
        "sessions, or a map that went astray; look.",
    )
    yield from _shape_checks(moving_from_fixed)


def _shape_checks(moving_from_fixed: Transform) -> Iterator[Check]:
    linear = moving_from_fixed.matrix[:3, :3]
    if moving_from_fixed.is_affine:
        u, _, vt = np.linalg.svd(linear)
        cosine = (np.trace(u @ vt) - 1) / 2
        yield Check(
            "rotation_degrees",
            float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
            high=45.0,
            unit="degree",
            meaning="How far the head was turned. High: no patient turns that far; look.",
        )
        yield Check(
            "volume_ratio",
            float(np.linalg.det(linear)),
            low=0.8,
            high=1.25,
            meaning="How much the map enlarges (1 for a rigid one). Out of range: one head is not "
            "so much larger than another; look at the affine map.",
        )
        return
    yield Check(
        "folded_voxels",
        moving_from_fixed.folded_share(),
        high=0.001,
        meaning="Share of voxels where the map turns tissue inside out. Above zero: look at the "
        "warped volume for smears.",
    )
