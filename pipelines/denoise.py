"""Take the noise out of every volume of a study, and check that nothing else went with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from radloom import __version__
from radloom.errors import ConfigError, MissingWeights
from radloom.geometry import spacing_of
from radloom.models.bundles import bundle_sha256, find_bundle
from radloom.models.denoising.learned import BUNDLES, bundle_of
from radloom.models.denoising.methods import METHODS, How, Method, denoise_image, suitable_method
from radloom.models.denoising.noise import NoiseEstimate, estimate_noise
from radloom.models.denoising.residual import residual_structure
from radloom.pipelines.stage import Check, Context, StageResult
from radloom.pipelines.study import Output, Study
from radloom.shapes import Volume, affine_of, array_of, like, require_volume
from radloom.threads import torch_settings

__all__ = ["DenoiseStage", "denoise"]

MAX_AUTOCORRELATION = 0.05
"""Upper end of what good denoising leaves in the residual.

Set with `MAX_EDGE_CORRELATION` on three training maps (`benchmarks/denoise_checks.py`), T1, T2 and
FLAIR, noise of 3 and 9%, white, interpolated and uneven, slices of 1 and 4 mm. Of 72 results of
non-local means and total variation at their own strength, with -0.19 to 0.035, none is flagged; of
128 that are further from the truth than the noise was, too strong or blurred, 118 are. Non-local
Bayes, on one of the maps: 0 of 12, -0.205 to -0.001.
"""

MAX_EDGE_CORRELATION = 0.05
"""Set as `MAX_AUTOCORRELATION`: good results have -0.38 to -0.02, and up to 0.03 on clinical scans.

Gaussian blurs have 0.08 to 0.64. What is told twice the noise that there is, and loses a little, is
flagged half of the time by non-local means, and not by total variation.
"""

MAX_NOISE_LEFT = 0.75
"""Set by looking: up to 0.62 was seen on a clinical scan; nothing removed gives 1."""

_REVISION = 4
"""Raised when the same parameters give other voxels."""

_BYTES_PER_VOXEL = {
    "nlm": 28,
    "nlb": 48,
    "dct": 40,
    "tv": 72,
    "network": 72,
    "dip": 72,
    "bm4d": 400,
}
"""Peaks, checks included: 26 measured for nlm, 64 for tv; the rest set from above."""

_BYTES_OF_NOISE = 56
"""A voxel of MR, while the map of its noise is estimated: 52 measured."""

_BYTES_PER_WINDOW = {"network": 3 * 2**30, "dip": 2 * 2**30, "dct": 2**29, "nlb": 2**30}
"""Of a window of 112^3; of a block of 96^3 with its gradients; of a tile, or of four.
Estimates from above."""

_BYTES_PER_THREAD = 160 * 2**20
"""The slab buffers of one thread of non-local means at planes of 512 x 512, rounded up."""


def denoise(volume: Volume, how: How | None = None) -> tuple[Volume, float]:
    """The volume without its noise on the same grid and in the same units, and the noise level.

    The level is the standard deviation in the volume's units; of a volume with several channels,
    which are denoised one by one, the median. The volume given is not changed.

    Raises:
        InputError: `volume` does not keep the contract of `radloom.shapes`.
        MissingWeights: the network has no weights here.
        ConfigError: BM4D is not installed.
        GridMismatch: the guide does not lie on the volume's grid.
    """
    clean, noise = _denoise(volume, how)
    return clean, noise.sigma


def _denoise(volume: Volume, how: How | None) -> tuple[Volume, NoiseEstimate]:
    """As `denoise`, with all that is known of the noise: of several channels the medians."""
    require_volume(volume, "denoise")
    spacing = spacing_of(affine_of(volume)).tolist()
    modality = str(volume.meta["modality"])
    results = [
        denoise_image(channel, spacing, modality=modality, how=how) for channel in array_of(volume)
    ]
    clean = like(volume, np.stack([image for image, _ in results]))
    sigma, unevenness, n_coils = (
        float(np.median([getattr(noise, name) for _, noise in results]))
        for name in ("sigma", "unevenness", "n_coils")
    )
    first = results[0][1]
    return clean, replace(first, sigma=sigma, unevenness=unevenness, n_coils=int(n_coils))


@dataclass(frozen=True)
class DenoiseStage:
    """Every volume that lies on its own grid, denoised.

    Inputs: the newest volume of each role. Outputs: one volume `denoised` a role, on the same grid.
    """

    method_mr: Method | None = None
    """For MR: network, dip, nlb, dct, nlm, tv or bm4d; None: nlb, and nlm with `fast`."""
    method_other: Method | None = None
    """For CT, PET and the rest; None: nlm."""
    roles: tuple[str, ...] = ()
    """Which roles; empty: all."""
    fast: bool = False
    """Less work for a weaker result; said in every sidecar."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", tuple(self.roles))
        for method in (self.method_mr, self.method_other):
            if method is not None and method not in METHODS:
                raise ConfigError(f"denoise: expected a method of {METHODS}, got {method!r}")

    @property
    def name(self) -> str:
        """``denoise``."""
        return "denoise"

    def fingerprint(self) -> str:
        """Of the parameters, the methods' revision, the networks' weights and the version."""
        weights = {
            modality: _weights_of(name)
            for modality, name in BUNDLES.items()
            if self._method_for(modality) == "network"
        }
        parts = {**asdict(self), "revision": _REVISION, "version": __version__, **weights}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        """The files of the volumes to denoise."""
        return {path: digest for o in self._inputs(study) for path, digest in o.files.items()}

    def estimate_memory(self, study: Study) -> int:
        """Volumes go one by one, so the largest counts; what is kept of the others comes on top."""
        inputs = self._inputs(study)
        kept = sum(4 * o.n_voxels + o.unread_bytes for o in inputs)
        return kept + max(map(self._working, inputs), default=0) + 2 * _BYTES_PER_THREAD

    def least_memory(self, study: Study) -> int:
        """One volume at a time, read and written back; no less, for noise is judged as a whole."""
        peaks = (self._working(o) + 8 * o.n_voxels for o in self._inputs(study))
        return max(peaks, default=0) + 2 * _BYTES_PER_THREAD

    def run(self, study: Study, context: Context) -> StageResult:
        """One denoised volume a role, with the checks of each.

        Raises:
            InputError: a volume does not keep the contract.
            ConfigError: BM4D is asked for and not installed.
        """
        outputs: list[Output] = []
        checks: list[Check] = []
        for given in self._inputs(study):
            volume = given.volume
            modality = str(volume.meta["modality"])
            method = self._method_for(modality)
            how = How(method, fast=self.fast, n_threads=context.n_threads, device=context.device)
            try:
                with torch_settings(context.n_threads):
                    clean, noise = _denoise(volume, how)
            except MissingWeights as error:
                return StageResult(status="skipped", reason=str(error))
            sidecar = {
                "DenoisingMethod": method,
                "DenoisingFast": self.fast,
                "NoiseLevel": noise.sigma,
                "NoiseLevelUnits": str(volume.meta["units"]),
                "NoiseUnevenness": round(noise.unevenness, 3),
                "NoiseCoils": noise.n_coils,
                **_model_of(method, modality),
            }
            checks.extend(_checks(given.role, volume, clean, noise.sigma))
            output = Output("volume", given.role, "denoised", clean, sidecar=sidecar)
            outputs.append(context.settle(output))
        if not outputs:
            return StageResult(status="skipped", reason="the study has no volume to denoise")
        return StageResult(tuple(outputs), tuple(checks))

    def _inputs(self, study: Study) -> tuple[Output, ...]:
        return tuple(study.latest(r) for r in study.roles if not self.roles or r in self.roles)

    def _working(self, given: Output) -> int:
        """Bytes for one volume beside itself and its result, by its role: it may lie in a file."""
        is_mr = given.role not in ("ct", "pet")
        method = self._method_for("MR" if is_mr else "CT")
        peak = max(_BYTES_PER_VOXEL[method], _BYTES_OF_NOISE if is_mr else 0)
        return peak * given.n_voxels + _BYTES_PER_WINDOW.get(method, 0)

    def _method_for(self, modality: str) -> Method:
        asked = self.method_mr if modality == "MR" else self.method_other
        return asked or suitable_method(modality, fast=self.fast)


def _weights_of(bundle: str) -> str:
    try:
        return bundle_sha256(find_bundle(bundle))
    except MissingWeights:
        return "no weights"


def _model_of(method: Method, modality: str) -> dict[str, str]:
    """What a sidecar says of the network."""
    if method != "network":
        return {}
    bundle = bundle_of(modality)
    return {"Model": bundle, "ModelSHA256": _weights_of(bundle)}


def _checks(role: str, given: Volume, clean: Volume, level: float) -> Iterator[Check]:
    units = str(given.meta["units"])
    before, after = array_of(given)[0], array_of(clean)[0]
    left = estimate_noise(after, str(given.meta["modality"])).sigma
    structure = residual_structure(before, after)
    yield Check(
        f"{role}_noise_before",
        level,
        unit=units,
        meaning="Estimated standard deviation of the noise in the volume as it came.",
    )
    yield Check(
        f"{role}_noise_left",
        left / level if level > 0 else 0.0,
        high=MAX_NOISE_LEFT,
        meaning="Noise after denoising as a share of that before. High: the noise is not what the "
        "method expects; look whether it was removed at all.",
    )
    yield Check(
        f"{role}_residual_autocorrelation",
        structure.autocorrelation,
        high=MAX_AUTOCORRELATION,
        meaning="Likeness of the removed signal two voxels apart, near 0 for noise. High: "
        "structure was removed; look for anatomy in the residual.",
    )
    yield Check(
        f"{role}_residual_edge_correlation",
        structure.edge_correlation,
        high=MAX_EDGE_CORRELATION,
        meaning="Correlation of the size of the removed signal with the edges of the image, near 0 "
        "for noise. High: edges were smoothed; look for outlines in the residual.",
    )
