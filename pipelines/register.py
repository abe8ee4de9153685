"""Bring every volume of a study onto the grid of one of them, and check that it came home."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from radloom import __version__
from radloom.errors import ConfigError
from radloom.models.registration.elastix import TransformKind, read_parameter_file
from radloom.models.registration.methods import Found, How, Method, find_transform
from radloom.pipelines.register_checks import deformation_checks, registration_checks
from radloom.pipelines.stage import Check, Context, StageResult
from radloom.pipelines.study import Output, Study
from radloom.shapes import LabelVolume, Volume, affine_of, require_volume, spatial_shape
from radloom.transforms.spatial import Transform, resample

__all__ = ["FIXED_PREFERENCE", "RegisterStage", "Registration", "register_images"]

_REVISION = 7
"""Raised when the same parameters give other transforms."""

FIXED_PREFERENCE = ("t1", "t1ce", "flair", "t2", "pd", "ct", "pet")
"""Which role the others are brought to, where the one asked for is absent."""

_BYTES_PER_VOXEL = {"rigid": 40, "affine": 24, "deformable": 200}
"""Of fixed and moving together, at the peak: copies, pyramids, for a field its float64 forms."""

_WORKING_BYTES = {"elastix": 0, "hybrid": 3 * 2**30, "voxelmorph": 2**30}
"""On top: what is compared on the working grid, whose size is bounded; the network's own."""


@dataclass(frozen=True, eq=False)
class Registration:
    """What registering one volume to another gives."""

    moving_from_fixed: Transform
    warped_moving: Volume
    """Moving on the fixed grid, interpolated once."""
    checks: tuple[Check, ...]
    """Named without a role: ``similarity_gain``."""
    fixed_from_moving: Transform | None = None
    """The map back from the same estimate, where the method gives one; else invert the other."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Bundle -> a hash of its weights, of the networks that took part."""


def register_images(
    fixed: Volume,
    moving: Volume,
    *,
    transform: TransformKind = "rigid",
    method: Method | None = None,
    parameter_files: Sequence[Path] = (),
    fixed_mask: LabelVolume | None = None,
    moving_mask: LabelVolume | None = None,
    device: torch.device | None = None,
    n_threads: int = 1,
    fast: bool = False,
) -> Registration:
    """Map, warped moving volume and checks of one registration; see `methods.find_transform`.

    Outside the field of view of `moving` the result holds air (-1024 HU) for a CT, else 0.

    Raises:
        InputError: a volume does not keep the contract of `radloom.shapes`.
        ConfigError: a parameter file does not parse, or the method cannot give the transform.
        MissingWeights: voxelmorph, and this release holds no weights.
        StageFailed: elastix gave up.
    """
    require_volume(fixed, "fixed")
    require_volume(moving, "moving")
    how = How(transform, method, tuple(parameter_files), fast, device, n_threads)
    found = find_transform(fixed, moving, how, fixed_mask=fixed_mask, moving_mask=moving_mask)
    warped = resample(
        moving, found.moving_from_fixed, affine_of(fixed), spatial_shape(fixed), n_threads=n_threads
    )
    checks = tuple(_checks(fixed, moving, found, fixed_mask))
    back = found.deformation.fixed_from_moving if found.deformation else None
    return Registration(found.moving_from_fixed, warped, checks, back, found.weights)


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
    method: Method | None = None
    """elastix, voxelmorph or hybrid; None: hybrid where the map may deform, else elastix."""
    transform: TransformKind = "rigid"
    """rigid, affine or deformable."""
    parameter_files: tuple[Path, ...] = ()
    """elastix parameter files, run in order instead of ours."""
    fast: bool = False
    """Estimate on a coarser grid; said in every sidecar."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "moving", tuple(self.moving))
        object.__setattr__(self, "parameter_files", tuple(Path(p) for p in self.parameter_files))
        try:
            self._how()
        except ConfigError as error:
            raise ConfigError(f"register: {error}") from error

    @property
    def name(self) -> str:
        """``register``."""
        return "register"

    def fingerprint(self) -> str:
        """Of the parameters, the contents of the parameter files, the weights and the version.

        Raises:
            ConfigError: a parameter file is not there or does not parse.
        """
        contents = [dict(read_parameter_file(path)) for path in self.parameter_files]
        parts = {
            **asdict(self),
            "method": self._how().chosen,
            "weights": self._how().weights(),
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
        inputs = [study.latest(role) for role in self._roles(study)]
        if len(inputs) < 2:
            return 0
        kept = 16 if self.transform == "deformable" else 4
        unread = sum(output.unread_bytes for output in inputs)
        return self._working(inputs) + kept * inputs[0].n_voxels * (len(inputs) - 1) + unread

    def least_memory(self, study: Study) -> int:
        """One pair at a time, read and written back."""
        inputs = [study.latest(role) for role in self._roles(study)]
        return 0 if len(inputs) < 2 else self._working(inputs)

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
        fixed_volume = study.latest(fixed).volume
        for role in moving:
            found = register_images(
                fixed_volume,
                study.latest(role).volume,
                transform=self.transform,
                method=self.method,
                parameter_files=self.parameter_files,
                device=context.device,
                n_threads=context.n_threads,
                fast=self.fast,
            )
            outputs.extend(map(context.settle, self._outputs(fixed, role, found)))
            checks.extend(
                Check(f"{role}_{c.name}", c.value, c.low, c.high, c.unit, c.meaning)
                for c in found.checks
            )
        return StageResult(tuple(outputs), tuple(checks))

    def _working(self, inputs: Sequence[Output]) -> int:
        """Bytes for the fixed volume, the first, and the largest of the others."""
        fixed, *moving = (output.n_voxels for output in inputs)
        own = _WORKING_BYTES[self._how().chosen]
        return (fixed + max(moving)) * _BYTES_PER_VOXEL[self.transform] + own

    def _how(self) -> How:
        return How(self.transform, self.method, self.parameter_files, self.fast)

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
            "RegistrationMethod": self._how().chosen,
            "RegistrationTransform": "parameter files" if self.parameter_files else self.transform,
            "RegistrationParameterFiles": [path.name for path in self.parameter_files],
            "RegistrationFast": self.fast,
            "RegistrationModelsSHA256": dict(found.weights),
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
    fixed: Volume, moving: Volume, found: Found, mask: LabelVolume | None
) -> Iterator[Check]:
    yield from registration_checks(fixed, moving, found.moving_from_fixed, mask)
    yield from deformation_checks(fixed, moving, found, mask)
