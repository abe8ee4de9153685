"""Ingestion beside the converters that groups use today, on one folder of thousands of files.

The folder is made by repeating real series (Siemens MR in two orientations, a body CT) under new
UIDs, a study each. ``radloom convert``, dcm2niix, dicom2nifti and SimpleITK's GDCM reader turn it
into .nii.gz in turn, several times; what Radloom wrote is compared with what dcm2niix wrote.
Measured of each whole process tree: wall time, processor time and peak memory (sum of resident
sizes, sampled), medians of the runs, and the size of the files. Then discovery alone, in one
process, against a plain read of the same bytes; and the peak memory of ``radloom convert`` and of
discovery on a quarter, a half and all of the folder. The second form measures the peak memory of
discovery alone, on folders of very small files.

Needs the real scans beside the checkout, the packages dcm2niix and dicom2nifti, and Linux. Run::

    python benchmarks/ingest.py DATA [--files 5000] [--runs 1]
    python benchmarks/ingest.py --small 5000 20000 50000
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import itertools
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pydicom
from chain import Cost, measured
from pydicom.uid import generate_uid

SERIES = (
    "studies/mprage",
    "studies/mr_sagittal_mixed/3_t1_fl2d_sag",
    "real/body_ct/example_ct_dicom",
)
"""Folders of one series each, which every converter here takes."""

DICOM2NIFTI = """\
import logging, sys
import dicom2nifti
logging.disable(logging.CRITICAL)
dicom2nifti.convert_directory(sys.argv[1], sys.argv[2], compression=True, reorient=False)
"""

SIMPLEITK = """\
import sys
from pathlib import Path
import SimpleITK as sitk
sitk.ProcessObject.SetGlobalWarningDisplay(False)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
        sitk.WriteImage(sitk.ReadImage(names), str(Path(sys.argv[2]) / f"{uid}.nii.gz"))
"""

DISCOVERY = """\
import sys
from pathlib import Path
from radloom.pipelines.ingest.discovery import discover
print(len(discover(Path(sys.argv[1]))))
"""

TEMPLATE = "2.25.77000000"
"""Stands in the UIDs of a file of `make_small_folder`, and is replaced in each copy."""

SMALL_SERIES = 100
"""Files of each of its series."""


def make_folder(data: Path, folder: Path, n_files: int) -> int:
    """Copies of the series in turn, each a study of its own, until there are `n_files`."""
    n = 0
    for copy, name in enumerate(itertools.cycle(SERIES)):
        if n >= n_files:
            return n
        target = folder / f"{copy:04d}"
        target.mkdir(parents=True)
        study, series = generate_uid(), generate_uid()
        for file in sorted((data / name).iterdir()):
            dataset = pydicom.dcmread(file)
            dataset.PatientID = f"copy {copy}"
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            dataset.save_as(target / f"{n:06d}.dcm")
            n += 1
    return n


def make_small_folder(folder: Path, n_files: int) -> None:
    """Headers with pictures of 4 x 6 pixels, a study for every hundred; patients have four."""
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    image.Modality, image.SeriesDescription, image.Manufacturer = "MR", "t1", "SIEMENS"
    image.PatientID = f"{TEMPLATE} "
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    image.Rows, image.Columns, image.SamplesPerPixel = 4, 6, 1
    image.PixelSpacing, image.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation, image.PhotometricInterpretation = 0, "MONOCHROME2"
    image.RepetitionTime, image.EchoTime, image.FlipAngle = 2300, 3, 9
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{TEMPLATE}.1", f"{TEMPLATE}.2"
    image.PixelData = bytes(48)
    slices = []
    for k in range(SMALL_SERIES):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{TEMPLATE}.3.{k}"
        image.InstanceNumber, image.ImagePositionPatient = k + 1, [0, 0, k]
        content = io.BytesIO()
        pydicom.dcmwrite(content, image, enforce_file_format=True)
        slices.append(content.getvalue())
    for study in range(n_files // SMALL_SERIES):
        (folder / f"{study:05d}").mkdir(parents=True)
        uid = f"2.25.78{study:06d}".encode()
        for k, content in enumerate(slices):
            copy = folder / f"{study:05d}" / f"{k:03d}"
            copy.write_bytes(content.replace(TEMPLATE.encode(), uid))


def commands(folder: Path, out: Path) -> dict[str, list[str]]:
    import dcm2niix

    radloom = [sys.executable, "-m", "radloom", "convert", str(folder), str(out), "--no-index"]
    return {
        "dcm2niix": [str(dcm2niix.bin), "-z", "y", "-f", "%j", "-o", str(out), str(folder)],
        "radloom convert": radloom,
        "SimpleITK, GDCM": [sys.executable, "-c", SIMPLEITK, str(folder), str(out)],
        "dicom2nifti": [sys.executable, "-c", DICOM2NIFTI, str(folder), str(out)],
    }


def n_volumes(out: Path) -> int:
    return sum(1 for _ in out.rglob("*.nii.gz"))


def nifti_bytes(out: Path) -> int:
    return sum(path.stat().st_size for path in out.rglob("*.nii.gz"))


def compare(ours: Path, theirs: Path) -> str:
    """How many volumes of Radloom's are dcm2niix's, voxel for voxel in world space."""
    import json

    by_uid = {}
    for path in theirs.rglob("*.nii.gz"):
        by_uid[path.name.removesuffix(".nii.gz")] = path
    same = n = 0
    for sidecar in ours.rglob("sub-*.json"):
        uid = json.loads(sidecar.read_text()).get("SeriesInstanceUID")
        image = sidecar.with_suffix(".nii.gz")
        if uid in by_uid and image.is_file():
            n += 1
            same += same_volume(image, by_uid[uid])
    return f"{same} of {n} volumes equal dcm2niix's"


def same_volume(ours: Path, theirs: Path) -> bool:
    one, two = (nib.as_closest_canonical(nib.load(path)) for path in (ours, theirs))
    return (
        one.shape == two.shape
        and np.allclose(one.affine, two.affine, atol=1e-3)
        and np.array_equal(one.get_fdata(dtype=np.float32), two.get_fdata(dtype=np.float32))
    )


Costs = dict[str, list[tuple[Cost, float]]]
"""Converter -> cost and processor seconds of each run."""


def processor_s() -> float:
    """Of all processes that have ended below this one."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def convert_in_turn(folder: Path, work: Path, runs: int) -> tuple[Costs, list[str]]:
    costs: Costs = {}
    notes: list[str] = []
    for run in range(runs):
        outs = {}
        for name in commands(folder, work):
            out = work / f"{run}_{name.split()[0].strip(',')}"
            out.mkdir()
            before = processor_s()
            cost = measured([commands(folder, out)[name]], work / "log.txt")
            costs.setdefault(name, []).append((cost, processor_s() - before))
            outs[name] = out
            print(
                f"{name}: {cost.wall_s:.1f} s, {costs[name][-1][1]:.1f} s of processors", flush=True
            )
            if run == 0:
                size = nifti_bytes(out) >> 20
                notes.append(f"{name}: {n_volumes(out)} volumes, {size} MiB")
        if run == 0:
            notes.append(compare(outs["radloom convert"], outs["dcm2niix"]))
        for out in outs.values():
            shutil.rmtree(out)
    return costs, notes


def best_of(runs: int, job: Callable[[], object]) -> float:
    """Median of processor seconds, the first time left out: it fills the file cache."""
    times = []
    for _ in range(runs + 1):
        begin = time.process_time()
        job()
        times.append(time.process_time() - begin)
    return statistics.median(times[1:])


def discovery_rates(folder: Path, runs: int) -> dict[str, float]:
    """Files a second of one core: headers by Radloom and pydicom, and a plain read of the bytes."""
    from radloom.pipelines.ingest.elements import Unusual, read_elements
    from radloom.pipelines.ingest.examine import LooksAgain, look_at_folder
    from radloom.pipelines.ingest.index import FileIndex
    from radloom.pipelines.ingest.scan import list_folder

    files = [folder / entry.path for entry in list_folder(folder)]
    ends = []
    for file in files:
        with file.open("rb", buffering=0) as stream:
            try:
                ends.append(read_elements(stream, file.stat().st_size)[1])
            except Unusual:
                ends.append(file.stat().st_size)

    def read_plainly() -> None:
        for file, end in zip(files, ends, strict=True):
            with file.open("rb", buffering=0) as stream:
                stream.read(end)

    def read_by_pydicom() -> None:
        for file in files[:500]:
            pydicom.dcmread(file, stop_before_pixels=True)

    def look(index: Path | None = None) -> int:
        with FileIndex.at(index, LooksAgain(folder)) as known:
            return sum(1 for _ in look_at_folder(folder, index=known))

    n = len(files)
    with tempfile.TemporaryDirectory() as name:
        index = Path(name) / "index"
        look(index)
        return {
            "Radloom, every header": n / best_of(runs, look),
            "Radloom, all of them in the index": n / best_of(runs, lambda: look(index)),
            "pydicom.dcmread(stop_before_pixels=True)": min(500, n)
            / best_of(runs, read_by_pydicom),
            "a plain read of the same bytes": n / best_of(runs, read_plainly),
        }


def small_peaks(work: Path, counts: Sequence[int]) -> list[tuple[int, int]]:
    """Files, and the peak in bytes of a process that only discovers them, on small files."""
    peaks = []
    for n in counts:
        make_small_folder(work / "small", n)
        peaks.append((n, look_peak(work / "small", work)))
        shutil.rmtree(work / "small")
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder of the real scans")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--small", type=int, nargs="+", help="only discover so many small files")
    options = parser.parse_args()
    if options.small:
        with tempfile.TemporaryDirectory(prefix="radloom-bench-") as name:
            peaks = small_peaks(Path(name), options.small)
        print("| small files | peak of discovery, MiB |\n|---|---|")
        print("\n".join(f"| {n:,} | {peak / 2**20:.1f} |" for n, peak in peaks))
        return
    if options.data is None:
        parser.error("name the folder of the real scans, or --small")
    with tempfile.TemporaryDirectory(prefix="radloom-bench-") as name:
        work = Path(name)
        n = make_folder(options.data, work / "in", options.files)
        rates = discovery_rates(work / "in", options.runs)
        costs, notes = convert_in_turn(work / "in", work, options.runs)
        peaks = [*smaller(options.data, work, options.files), whole(work, n, costs)]
    print(table(costs, n, options.runs))
    print("\n| headers, one core | files/s |\n|---|---|")
    print("\n".join(f"| {label} | {rate:,.0f} |" for label, rate in rates.items()))
    print(
        "\n| files | peak of radloom convert, MiB | peak of discovery alone, MiB |\n|---|---|---|"
    )
    print("\n".join(f"| {n} | {convert >> 20} | {look >> 20} |" for n, convert, look in peaks))
    print("; ".join(notes))


Peaks = tuple[int, int, int]
"""Files, and the peaks of memory in bytes of converting and of looking at them."""


def smaller(data: Path, work: Path, n_files: int) -> list[Peaks]:
    """On a quarter and on a half of the folder."""
    peaks = []
    for share in (4, 2):
        folder, out = work / f"in{share}", work / f"out{share}"
        n = make_folder(data, folder, n_files // share)
        convert = measured([commands(folder, out)["radloom convert"]], work / "log.txt")
        peaks.append((n, convert.peak_bytes, look_peak(folder, work)))
        shutil.rmtree(folder)
        shutil.rmtree(out)
    return peaks


def whole(work: Path, n_files: int, costs: Costs) -> Peaks:
    """On all of it, as measured already."""
    ours = int(statistics.median(cost.peak_bytes for cost, _ in costs["radloom convert"]))
    return n_files, ours, look_peak(work / "in", work)


def look_peak(folder: Path, work: Path) -> int:
    """Of a process that only discovers the folder."""
    return measured([[sys.executable, "-c", DISCOVERY, str(folder)]], work / "log.txt").peak_bytes


def table(costs: Costs, n_files: int, runs: int) -> str:
    header = (
        f"{dt.date.today().isoformat()}, {platform.machine()}, {psutil.cpu_count()} cores, "
        f"Python {platform.python_version()}, {n_files} files, median of {runs} runs in turn\n\n"
        "| | wall time, s | of dcm2niix's | processors, s | of dcm2niix's | peak memory, MiB |\n"
        "|---|---|---|---|---|---|\n"
    )
    reference = statistics.median(cost.wall_s for cost, _ in costs["dcm2niix"])
    busy = statistics.median(cpu for _, cpu in costs["dcm2niix"])
    rows = []
    for name, several in costs.items():
        wall = statistics.median(cost.wall_s for cost, _ in several)
        peak = statistics.median(cost.peak_bytes for cost, _ in several) / 2**20
        cpu = statistics.median(cpu for _, cpu in several)
        rows.append(
            f"| {name} | {wall:.1f} | {wall / reference:.2f} "
            f"| {cpu:.1f} | {cpu / busy:.2f} | {peak:.0f} |"
        )
    return header + "\n".join(rows)


if __name__ == "__main__":
    main()
