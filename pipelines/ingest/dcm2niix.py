"""What dcm2niix knows and headers do not say: mosaics, and how echo-planar slices were acquired.

dcm2niix (Li, Morgan, Ashburner, Smith, Rorden, J Neurosci Methods 2016,
doi:10.1016/j.jneumeth.2016.03.001) gets a folder with one series' files alone and must give
exactly one image.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.errors import ReasonCode, SeriesRefused
from radloom.geometry import Affine

__all__ = ["acquisition_facts", "convert_with_dcm2niix"]

TIMEOUT_S = 900.0
"""Long enough for thousands of EPI slices on a slow disk; a hung child must end some day."""

OPTIONS = ("-z", "n", "-f", "out", "-p", "n", "-w", "1", "-m", "n")
"""Uncompressed; one name; display scaling as the standard's modality LUT does it (not
Philips' private one); nothing merged across echoes or sizes."""


def convert_with_dcm2niix(files: Sequence[Path]) -> tuple[npt.NDArray[np.float32], Affine]:
    """(I, J, K) or (I, J, K, T) float32 values and the (4, 4) affine to RAS+ mm.

    Raises:
        SeriesRefused: dcm2niix fails, takes too long, or gives no image or several.
    """
    with _converted(files, ("-b", "n")) as image:
        return _load(image)


def acquisition_facts(files: Sequence[Path], affine: Affine) -> dict[str, Any]:
    """What dcm2niix says of how echo-planar slices were acquired, for an image with `affine`.

    BIDS keys; times along K and axes are turned to the image's. Nothing where dcm2niix makes no
    single image of the files, or one on another grid.

    Args:
        files: of a volume or two of the series, which is enough for what is the same in all.
        affine: (4, 4) of the image that the facts are for.
    """
    import nibabel as nib

    try:
        with _converted(files, ("-b", "y", "-ba", "y")) as path:
            image: Any = nib.load(path)
            said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            theirs = np.asarray(image.affine, dtype=np.float64)
    except (SeriesRefused, OSError, ValueError):
        return {}
    flips = _flips(theirs, affine)
    if flips is None:
        return {}
    facts = {key: said[key] for key in ACQUISITION_KEYS if key in said}
    if "SliceTiming" in facts and flips[2]:
        facts["SliceTiming"] = facts["SliceTiming"][::-1]
    direction = str(facts.get("PhaseEncodingDirection", ""))
    if direction and flips["ijk".index(direction[0])]:
        facts["PhaseEncodingDirection"] = direction[0] + ("" if direction.endswith("-") else "-")
    return facts


ACQUISITION_KEYS = (
    "SliceTiming",
    "PhaseEncodingDirection",
    "PhaseEncodingAxis",
    "EffectiveEchoSpacing",
    "TotalReadoutTime",
    "MultibandAccelerationFactor",
    "ParallelReductionFactorInPlane",
    "PartialFourier",
)
"""Fields of dcm2niix's sidecar that tools for echo-planar series need."""


def _flips(theirs: Affine, ours: Affine) -> tuple[bool, bool, bool] | None:
    """Along which axes two images of one grid run against each other; None if axes differ."""
    cosines = [
        float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        for a, b in zip(theirs[:3, :3].T, ours[:3, :3].T, strict=True)
    ]
    if min(abs(value) for value in cosines) < SAME_AXIS:
        return None
    return cosines[0] < 0, cosines[1] < 0, cosines[2] < 0


SAME_AXIS = 0.999
"""Cosine from which two axes are the same."""


@contextmanager
def _converted(files: Sequence[Path], more: Sequence[str]) -> Iterator[Path]:
    """The one image that dcm2niix makes of the files, while it is there."""
    import dcm2niix

    with tempfile.TemporaryDirectory(prefix="radloom-") as name:
        folder = Path(name)
        taken, given = folder / "in", folder / "out"
        taken.mkdir()
        given.mkdir()
        for number, file in enumerate(files):
            _place(file.resolve(), taken / f"{number:06d}.dcm")
        command = [str(dcm2niix.bin), *OPTIONS, *more, "-o", str(given), str(taken)]
        try:
            # A fixed program, an argument list, and paths that are ours alone.
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SeriesRefused(
                ReasonCode.UNREADABLE, f"dcm2niix took longer than {TIMEOUT_S:.0f} s"
            ) from error
        images = sorted(given.glob("*.nii"))
        if len(images) != 1:
            raise SeriesRefused(
                ReasonCode.UNREADABLE,
                f"dcm2niix: expected one image, got {len(images)} (exit status {done.returncode}); "
                "the series holds nothing that it knows, or several things",
            )
        yield images[0]


def _place(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file)
    except OSError:  # file systems and accounts without links
        shutil.copyfile(file, link)


def _load(path: Path) -> tuple[npt.NDArray[np.float32], Affine]:
    import nibabel as nib

    image: Any = nib.load(path)
    if image.get_data_dtype().kind not in "iuf":
        raise SeriesRefused(ReasonCode.COLOUR, "dcm2niix: expected grey values, got colour")
    array = np.asarray(image.dataobj, dtype=np.float32)
    return array, np.asarray(image.affine, dtype=np.float64)
