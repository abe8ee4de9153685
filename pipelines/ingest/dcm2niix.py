"""Volumes through dcm2niix, for what highdicom does not stack: mosaics, time series, diffusion.

dcm2niix (Li, Morgan, Ashburner, Smith, Rorden, J Neurosci Methods 2016,
doi:10.1016/j.jneumeth.2016.03.001) gets a folder with one series' files alone and must give
exactly one image.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from radloom.errors import ReasonCode, SeriesRefused
from radloom.geometry import Affine

__all__ = ["convert_with_dcm2niix"]

TIMEOUT_S = 900.0
"""Long enough for thousands of EPI slices on a slow disk; a hung child must end some day."""

OPTIONS = ("-z", "n", "-b", "n", "-f", "out", "-p", "n", "-w", "1", "-m", "n")
"""Uncompressed; no sidecar; one name; display scaling as the standard's modality LUT does it (not
Philips' private one); nothing merged across echoes or sizes."""


def convert_with_dcm2niix(files: Sequence[Path]) -> tuple[npt.NDArray[np.float32], Affine]:
    """(I, J, K) or (I, J, K, T) float32 values and the (4, 4) affine to RAS+ mm.

    Raises:
        SeriesRefused: dcm2niix fails, takes too long, or gives no image or several.
    """
    import dcm2niix

    with tempfile.TemporaryDirectory(prefix="radloom-") as name:
        folder = Path(name)
        taken, given = folder / "in", folder / "out"
        taken.mkdir()
        given.mkdir()
        for number, file in enumerate(files):
            _place(file.resolve(), taken / f"{number:06d}.dcm")
        command = [str(dcm2niix.bin), *OPTIONS, "-o", str(given), str(taken)]
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
        return _load(images[0])


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
