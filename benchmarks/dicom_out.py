"""Labels out as DICOM: seconds, memory and bytes, beside rt-utils, which TotalSegmentator uses.

`--structures` ellipsoids, a third of them hollow, on a grid of `--shape` are written as
Segmentation (BINARY, and LABELMAP), as RT Structure Set, and, where `--peers` names a Python that
has rt-utils, as TotalSegmentator writes them (`RTStructBuilder.add_roi` once a structure). Each
method runs in a process of its own. Memory is the peak above what the process held once libraries
and labels were loaded. The structure sets are then filled by our own rasteriser and compared with
the labels; rt-utils draws through the centres of the outermost voxels, so that what a reader fills
depends on how it takes a centre that lies on an edge.

Run from the repository root; with the sizes below it takes about six minutes::

    python -m venv peers && peers/bin/pip install rt-utils
    python benchmarks/dicom_out.py --peers peers/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

OURS = ("BINARY", "LABELMAP", "RTSTRUCT")
NAMES = {
    "BINARY": "radloom, Segmentation, BINARY",
    "LABELMAP": "radloom, Segmentation, LABELMAP (RLE)",
    "RTSTRUCT": "radloom, RT Structure Set",
    "rt-utils": "rt-utils, as TotalSegmentator calls it",
}

Labels = npt.NDArray[np.uint16]


def make_labels(shape: tuple[int, int, int], n_structures: int) -> Labels:
    """Ellipsoids at random places, later ones over earlier ones, every third hollow."""
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint16)
    size = np.asarray(shape)
    for value in range(1, n_structures + 1):
        radii = rng.uniform(0.03, 0.12, 3) * size
        middle = rng.uniform(0.15, 0.85, 3) * size
        low = np.maximum(np.floor(middle - radii), 0).astype(int)
        high = np.minimum(np.ceil(middle + radii) + 1, size).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.ogrid[box]
        squares = [((x - m) / r) ** 2 for x, m, r in zip(grid, middle, radii, strict=True)]
        distance = squares[0] + squares[1] + squares[2]
        inside = (distance < 1) & (distance > (0.3 if value % 3 == 0 else -1))
        labels[box][inside] = value
    return labels


def write_source(folder: Path, shape: tuple[int, int, int]) -> None:
    """An axial CT of zeros."""
    from pydicom.dataset import Dataset, FileMetaDataset

    from radloom.pipelines.export.dicom.uids import make_uid

    folder.mkdir()
    for k in range(shape[2]):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.SOPInstanceUID = make_uid("benchmark", str(k))
        dataset.StudyInstanceUID = make_uid("benchmark study")
        dataset.SeriesInstanceUID = make_uid("benchmark series")
        dataset.FrameOfReferenceUID = make_uid("benchmark frame")
        dataset.Modality, dataset.Manufacturer = "CT", "Phantom"
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "A^B", "1", ""
        dataset.PatientSex, dataset.AccessionNumber, dataset.StudyID = "", "", "1"
        dataset.StudyDate, dataset.StudyTime = "20200101", "120000"
        dataset.ReferringPhysicianName, dataset.SeriesNumber = "", 1
        dataset.InstanceNumber = k + 1
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [-200, -200, k * 1.5]
        dataset.PixelSpacing, dataset.SliceThickness = [0.8, 0.8], 1.5
        dataset.Columns, dataset.Rows = shape[:2]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.PixelData = bytes(2 * shape[0] * shape[1])
        dataset["PixelData"].VR = "OW"
        dataset.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)


def peak_mib() -> float:
    """The largest memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(work: Callable[[], None], path: Path) -> dict[str, float]:
    """Seconds, MiB above the start and bytes of one method."""
    before, start = peak_mib(), time.perf_counter()
    work()
    return {
        "seconds": time.perf_counter() - start,
        "mib": peak_mib() - before,
        "bytes": path.stat().st_size,
    }


def ours(form: str, folder: Path) -> dict[str, float]:
    """Our objects, and our check of them."""
    import highdicom  # noqa: F401  (its import is not what is measured)

    from radloom.pipelines.export.dicom.heading import file_bytes, read_file_bytes
    from radloom.pipelines.export.dicom.segmentation import (
        check_segmentation,
        segmentation_dataset,
    )
    from radloom.pipelines.export.dicom.structure_set import (
        check_structure_set,
        structure_set_dataset,
    )
    from radloom.pipelines.export.dicom.structures import structures_of

    grid, heading = our_grid(folder)
    structures = structures_of(grid.labels, {})
    path = folder / f"{form}.dcm"
    is_rt = form == "RTSTRUCT"

    def write() -> None:
        dataset = (
            structure_set_dataset(grid, structures, heading)
            if is_rt
            else segmentation_dataset(grid, structures, heading, form=form)
        )
        path.write_bytes(file_bytes(dataset))

    found = measured(write, path)
    start = time.perf_counter()
    check = check_structure_set if is_rt else check_segmentation
    back = [read_file_bytes(path.read_bytes())]
    list(check(back, grid=grid, structures=structures, where="benchmark"))
    return found | {"check": time.perf_counter() - start}


def our_grid(folder: Path) -> tuple[Any, Any]:
    """The labels on the source, and the heading of a series."""
    import pydicom

    from radloom.geometry import affine_from_parts, flip_lps_ras
    from radloom.pipelines.export.dicom.heading import Heading
    from radloom.pipelines.export.dicom.segmentation import LabelGrid
    from radloom.pipelines.export.dicom.source import SourceSeries
    from radloom.pipelines.export.dicom.uids import ObjectUIDs

    labels: Labels = np.load(folder / "labels.npy")
    files = sorted((folder / "ct").iterdir())
    headers = tuple(pydicom.dcmread(path, stop_before_pixels=True) for path in files)
    affine = flip_lps_ras(affine_from_parts((-200, -200, 0), (0.8, 0.8, 1.5), np.eye(3)))
    source = SourceSeries(
        datasets=headers,
        slices=tuple((k, 0) for k in range(len(headers))),
        affine=affine,
        shape=labels.shape,
        frame_of_reference_uid=str(headers[0].FrameOfReferenceUID),
    )
    uids = ObjectUIDs(source.study_uid, (source.series_uid,), "benchmark", "")
    return LabelGrid(labels, affine, source, is_own=True), Heading(uids, 1, "benchmark", (source,))


def rt_utils(folder: Path) -> dict[str, float]:
    """What TotalSegmentator does with its labels: one mask a structure for rt-utils."""
    from rt_utils import RTStructBuilder

    labels: Labels = np.load(folder / "labels.npy")
    path = folder / "rt-utils.dcm"

    def write() -> None:
        builder = RTStructBuilder.create_new(dicom_series_path=str(folder / "ct"))
        for value in np.unique(labels)[1:]:
            mask = np.ascontiguousarray((labels == value).transpose(1, 0, 2))
            builder.add_roi(mask=mask, name=f"unnamed_{value}")
        builder.save(str(path))

    return measured(write, path)


def accuracy(path: Path, folder: Path) -> tuple[float, float, float]:
    """Mean and lowest Dice of a structure set with the labels, and the largest error of volume."""
    import pydicom

    from radloom.geometry import shifted_affine
    from radloom.pipelines.export.dicom.structure_set import rasterised, read_structure_set
    from radloom.transforms.contours import label_boxes

    grid, _ = our_grid(folder)
    boxes = label_boxes(grid.labels)
    dices, errors = [], []
    for name, contours in read_structure_set(pydicom.dcmread(path)).values():
        value = int(name.rsplit("_", 1)[1])
        start = [max(part.start - 3, 0) for part in boxes[value]]
        meant = grid.labels[
            tuple(slice(a, p.stop + 3) for a, p in zip(start, boxes[value], strict=True))
        ]
        meant = meant == value
        found = rasterised(contours, shifted_affine(grid.affine, start), meant.shape)
        n_meant, n_found = int(meant.sum()), int(found.sum())
        dices.append(2 * int((meant & found).sum()) / (n_meant + n_found))
        errors.append(abs(n_found / n_meant - 1))
    return float(np.mean(dices)), min(dices), max(errors)


def run_child(python: str, method: str, folder: Path) -> dict[str, float]:
    """One method in a process of its own."""
    command = [python, "-P", __file__, "--child", method, "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(results: dict[str, dict[str, float]], folder: Path) -> str:
    """Markdown."""
    lines = [
        "| | write, s | read back and check, s | memory, MiB | file, MiB | Dice, mean (lowest) |"
        " largest error of volume |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, found in results.items():
        path = folder / f"{method}.dcm"
        if method in ("RTSTRUCT", "rt-utils"):
            mean, lowest, error = accuracy(path, folder)
            quality = f"{mean:.4f} ({lowest:.4f}) | {100 * error:.2f}%"
        else:
            quality = "1 (1), checked | 0"
        check = f"{found['check']:.1f}" if "check" in found else ""
        lines.append(
            f"| {NAMES[method]} | {found['seconds']:.1f} | {check} | {found['mib']:.0f} | "
            f"{found['bytes'] / 2**20:.1f} | {quality} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 300))
    parser.add_argument("--structures", type=int, default=100)
    parser.add_argument("--peers", help="a Python that has rt-utils")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        method = arguments.child
        work = rt_utils if method == "rt-utils" else lambda folder: ours(method, folder)
        print(json.dumps(work(arguments.folder)))
        return
    i, j, k = arguments.shape
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        labels = make_labels((i, j, k), arguments.structures)
        np.save(folder / "labels.npy", labels)
        write_source(folder / "ct", labels.shape)
        results = {method: run_child(sys.executable, method, folder) for method in OURS}
        if arguments.peers:
            results["rt-utils"] = run_child(arguments.peers, "rt-utils", folder)
        n_found = len(np.unique(labels)) - 1
        print(f"{n_found} structures on {i}x{j}x{k}, {100 * (labels > 0).mean():.0f}% of voxels\n")
        print(table(results, folder))


if __name__ == "__main__":
    main()
