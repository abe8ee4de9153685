"""Every real series beside the checkout: Radloom's verdict, and how far it is from other tools.

Each folder with DICOM in it is read by Radloom, and each of its series, alone, by dcm2niix. An
accepted volume is compared with the reference in world space: a ``*_ground_truth.nii.gz`` where one
lies beside the series, else what dcm2niix made of it. The reference's axes are turned onto
Radloom's (dcm2niix stores rows upwards), then

- affine: the largest difference of any element of the two affines, millimetres;
- voxels: the share of voxels that are equal, up to the rounding of the reference's own float32
  slope. Volumes of a 4D series are matched in order; "other order" where the reference sorts them
  in another.

Warnings of dcm2niix that speak of the image (not of missing sidecar fields) stand beside, so that
one sees that what it warns of is refused, or split, here. Run::

    python benchmarks/vendors.py [DATA] [--write docs/reference/vendors.md]
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dcm2niix
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom

from radloom.errors import SeriesRefused
from radloom.pipelines.ingest import discover, read_series
from radloom.pipelines.ingest.headers import is_dicom
from radloom.pipelines.study import SeriesRecord, StudyRecord
from radloom.shapes import affine_of, array_of

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = REPOSITORY.parent / "shared" / "data"

PLACES = ("studies", "dicom", "real/body_ct")

AFFINE_MM = 1e-3
"""Largest difference of an element of the affine that counts as the same place."""

ROUNDING = 4e-7
"""Relative difference of two values that went through float32 slopes in another order."""

OF_THE_IMAGE = re.compile(
    r"tilt|interslice|not spatial|spatial matrix|mosaic|order|slope/intercept|fieldmap|single slice"
    r"|unsupported|unable to decode|failed to decode|decompress|fragments|rle|colou?r|repeats",
    re.IGNORECASE,
)
"""Warnings that speak of voxels or places."""

HEAD = """\
# Real scanners' series

What Radloom says of every DICOM series among the real data, beside what another tool makes of the
same files. Written by `python benchmarks/vendors.py --write docs/reference/vendors.md`; a test
(`tests/pipelines/ingest/test_vendors.py`, run where the data are) holds it. The scans are those
of dcm2niix's, dicom2nifti's, NEMA's and pydicom's test sets.

- **verdict, reason**: as in `radloom inspect`; reasons are explained in [reason
  codes](reason-codes.md).
- **against**: the reference, a ground truth that lies beside the series, or dcm2niix run on that
  series alone.
- **affine**: the largest difference of any element of the two affines in mm, once the reference's
  axes are turned onto Radloom's.
- **voxels**: the share of voxels with equal values, up to the rounding of the reference's own
  float32 slope.
- **dcm2niix**: how many images it makes of the series, and what it warns of.
"""


@dataclass(frozen=True)
class Row:
    """One volume or refusal."""

    place: str
    series: str
    n_files: int
    verdict: str
    reason: str
    against: str = ""
    affine_mm: float | None = None
    equal: float | None = None
    note: str = ""
    other: str = ""
    """How many images dcm2niix makes, and its warnings."""

    @property
    def is_same(self) -> bool:
        """Whether an accepted volume equals its reference."""
        return self.affine_mm is not None and self.affine_mm <= AFFINE_MM and self.equal == 1.0


@dataclass(frozen=True)
class Reference:
    """An image of another tool."""

    name: str
    array: npt.NDArray[np.float64]
    """(I, J, K, T)."""
    affine: npt.NDArray[np.float64]


def main() -> None:
    """Print the table, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    parser.add_argument("--write", type=Path, help="The page to write, instead of printing it.")
    given = parser.parse_args()
    rows = list(compared(given.data))
    page = f"{HEAD}\n{table(rows)}"
    if given.write:
        given.write.write_text(page, encoding="utf-8")
    else:
        print(page)
    wrong = [row for row in rows if row.verdict != "rejected" and not row.is_same]
    for row in wrong:
        print("DIFFERS", row, file=sys.stderr)
    sys.exit(1 if wrong else 0)


def compared(data: Path) -> Iterator[Row]:
    """A row a volume or refusal, folder by folder."""
    for folder in sorted({path.parent for place in PLACES for path in (data / place).rglob("*")}):
        if _holds_dicom(folder):
            yield from _folder_rows(folder, folder.relative_to(data).as_posix())


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown; alike ones once, with their number."""
    lines = [
        "| folder | series | files | verdict | reason | against | affine, mm | voxels | dcm2niix |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, n in Counter(rows).items():
        affine = "" if row.affine_mm is None else f"{row.affine_mm:.1e}"
        equal = "" if row.equal is None else f"{100 * row.equal:.4g} %"
        cells = (
            *identity(row, n),
            row.against,
            affine,
            "; ".join(word for word in (equal, row.note) if word),
            _literal(row.other),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def identity(row: Row, n: int) -> tuple[str, ...]:
    """The cells that say which series a row is about, and its verdict."""
    series = _literal(row.series) + (f" ({n} series)" if n > 1 else "")
    return (
        row.place,
        series,
        str(row.n_files),
        row.verdict,
        row.reason and f"`{row.reason}`",
    )


def _literal(text: str) -> str:
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "/")):
        text = text.replace(sign, name)
    return text


def _holds_dicom(folder: Path) -> bool:
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as stream:
                if is_dicom(stream.read(132)):
                    return True
    return False


def _folder_rows(folder: Path, place: str) -> Iterator[Row]:
    files: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.is_file():
            files[_series_uid(path)].append(path)
    for study in discover(folder):
        for uid in dict.fromkeys(series.series_uid for series in study.series):
            records = [s for s in study.series if s.series_uid == uid and s.reader != "nifti"]
            # Files of this folder alone: discovery also looks into the folders below it.
            records = [s for s in records if all("/" not in path for path in s.files)]
            if not records:
                continue
            own = files.get(uid) or [folder / path for s in records for path in s.files]
            references, said = _by_dcm2niix(own)
            truth = folder.parent / f"{folder.name}_ground_truth.nii.gz"
            for record in records:
                yield _row(study, record, place, (truth, references, said))


def _series_uid(path: Path) -> str:
    try:
        found = pydicom.dcmread(path, force=True, specific_tags=["SeriesInstanceUID"])
        return str(found.get("SeriesInstanceUID", ""))
    except Exception:  # noqa: BLE001  # damaged files are part of the data
        return ""


def _row(
    study: StudyRecord,
    record: SeriesRecord,
    place: str,
    others: tuple[Path, list[Reference], str],
) -> Row:
    truth, references, said = others
    what = (record.description or record.modality, record.n_files)
    if record.status == "rejected":
        return Row(place, *what, "rejected", record.reason, other=said)
    try:
        volume = read_series(study, record)
    except SeriesRefused as refusal:
        return Row(place, *what, "rejected", refusal.code.value, other=said)
    array, affine = array_of(volume).astype(np.float64), affine_of(volume)
    against = f"{len(references)} of dcm2niix"
    if truth.is_file():
        references = [_loaded(truth, "ground truth"), *references]
    best: Row | None = None
    for reference in references:
        turned = _turned(reference, affine, array.shape[1:])
        if turned is None or turned.array.shape[3] != array.shape[0]:
            continue
        values = np.moveaxis(turned.array, 3, 0)
        equal, note = _equal(array, values)
        row = Row(
            place, *what, record.status, record.reason, reference.name,
            float(np.abs(turned.affine - affine).max()), equal, note, said,
        )  # fmt: skip
        if best is None or (row.equal or 0.0) > (best.equal or 0.0):
            best = row
    missing = Row(
        place, *what, record.status, record.reason, against, note="none alike", other=said
    )
    return best or missing


def _equal(array: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> tuple[float, str]:
    """The share of equal voxels, and whether volumes had to be matched in another order."""
    share = float(np.mean(_close(array, other)))
    if share == 1.0 or len(array) == 1:
        return share, ""
    orders = itertools.permutations(range(len(array))) if len(array) < 6 else ()
    for order in orders:
        if np.all(_close(array, other[list(order)])):
            return 1.0, "other order"
    return share, ""


def _close(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.abs(a - b) <= ROUNDING * np.maximum(np.abs(a), np.abs(b)).max()


def _turned(
    reference: Reference, affine: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> Reference | None:
    """The reference with its axes permuted and flipped to those of `affine`; None if none do."""
    into = np.linalg.inv(affine[:3, :3]) @ reference.affine[:3, :3]
    axes = np.abs(into).argmax(axis=1)  # our axis -> the reference's
    if sorted(axes.tolist()) != [0, 1, 2]:
        return None
    array = reference.array.transpose(*axes.tolist(), 3)
    turned = reference.affine.copy()
    turned[:3, :3] = reference.affine[:3, axes]
    if array.shape[:3] != tuple(shape):
        return None
    for axis in range(3):
        if float(turned[:3, axis] @ affine[:3, axis]) < 0:
            turned[:3, 3] += turned[:3, axis] * (array.shape[axis] - 1)
            turned[:3, axis] *= -1
            array = np.flip(array, axis)
    return Reference(reference.name, array, turned)


def _by_dcm2niix(files: Sequence[Path]) -> tuple[list[Reference], str]:
    with tempfile.TemporaryDirectory() as name:
        taken, given = Path(name, "in"), Path(name, "out")
        taken.mkdir()
        given.mkdir()
        for number, file in enumerate(files):
            shutil.copyfile(file, taken / f"{number:05d}.dcm")
        options = ("-z", "n", "-b", "n", "-f", "%s", "-p", "n", "-w", "2")
        command = [str(dcm2niix.bin), *options, "-o", str(given), str(taken)]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=300)
        except subprocess.TimeoutExpired:
            return [], "no answer in 300 s"
        images = [_loaded(path, "dcm2niix") for path in sorted(given.glob("*.nii"))]
        images = [image for image in images if image.array.size]
        return images, _said(len(images), done.stdout.decode(errors="replace"))


def _said(n_images: int, output: str) -> str:
    warnings = []
    for line in output.splitlines():
        found = re.match(r"(?:Warning|Error): (.*)", line.strip())
        if found and OF_THE_IMAGE.search(found[1]):
            text = re.sub(r"\S*/in/\d+\.dcm|\(see .*|\(issue \d+\)", "", found[1])
            warnings.append(re.split(r"[:,.] |\(hint", text)[0].strip(" ."))
    made = f"{n_images} image" + "s" * (n_images != 1)
    return "; ".join([made, *dict.fromkeys(warnings)])


def _loaded(path: Path, name: str) -> Reference:
    image: Any = nib.load(path)
    if image.get_data_dtype().kind not in "iuf":
        return Reference(name, np.empty((0, 0, 0, 0)), np.eye(4))
    array = np.asarray(image.dataobj, dtype=np.float64)
    return Reference(name, array[..., None] if array.ndim == 3 else array, image.affine)


if __name__ == "__main__":
    main()
