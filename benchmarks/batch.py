"""A cohort in one run: what it scales to, what it costs beyond its stages, and beside what.

Four parts, each prints a table; every number is of whole processes, imports included, unless it
says otherwise:

- `scaling`: ``radloom run`` (ingest, denoise) over studies of equal size, 1, 2, 4 and 8 workers;
  and what a study costs beyond its stages' own seconds: from the run's log, the time from the first
  stage's begin to the last study's end, times workers, less the seconds in the receipts. Writing
  and hashing are in that; they lie beside the stages' seconds, not in them;
- `loop`: the same DICOM studies by one ``radloom run``, by a shell loop of dcm2niix and a ``radloom
  denoise`` an image, and by a loop of dcm2niix and a Python call (scikit-image) a study;
- `nnunet`: an nnU-Net v2 model of random weights on the same images by ``radloom run`` and by
  ``nnUNetv2_predict_from_modelfolder`` on a folder; and the share of voxels with equal labels;
- `tiny`: thousands of studies of 8 x 8 x 8 voxels, ingest only: seconds a study, the driver's peak
  memory, the same command again, status and report.

Run::

    python benchmarks/batch.py [PART ...] [--studies 8] [--tiny 1000 3000 10000]

about 15 minutes on a quiet machine of two cores; Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import torch

PYTHON = sys.executable
RADLOOM = (PYTHON, "-m", "radloom")

DENOISE = """\
import sys
import nibabel as nib
import numpy as np
from skimage.restoration import denoise_nl_means

for path in sys.argv[2:]:
    image = nib.load(path)
    data = np.asarray(image.dataobj, dtype=np.float32)
    sigma = 1.4826 * float(np.median(np.abs(np.diff(data, axis=0)))) / 2**0.5
    clean = denoise_nl_means(
        data, patch_size=3, patch_distance=2, h=0.9 * sigma, sigma=sigma, fast_mode=True
    )
    name = path.rsplit("/", 1)[1]
    nib.save(nib.Nifti1Image(clean.astype(np.float32), image.affine), f"{sys.argv[1]}/{name}")
"""


@dataclass(frozen=True)
class Cost:
    """Of one process, and for memory of it alone, not of those it starts."""

    wall_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Table:
    """One part's result."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", _row(self.head), "|" + "---|" * len(self.head)]
        lines += [_row(row) for row in self.rows]
        return "\n".join([*lines, *(("", *self.notes) if self.notes else ()), ""])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


class _Watch(threading.Thread):
    """Samples one process's resident set."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.stop = psutil.Process(pid), 0, threading.Event()

    def run(self) -> None:
        with contextlib.suppress(psutil.Error):
            while not self.stop.wait(0.2):
                self.peak = max(self.peak, int(self.process.memory_info().rss))


def call(*command: str | Path, log: Path, env: Mapping[str, str] | None = None) -> Cost:
    """The command's cost; it must succeed."""
    begin = time.perf_counter()
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
        watch = _Watch(process.pid)
        watch.start()
        code = process.wait()
    watch.stop.set()
    watch.join()
    if code:
        sys.exit(f"{command[0]} ended with {code}; its last words:\n{log.read_text()[-3000:]}")
    return Cost(time.perf_counter() - begin, watch.peak)


def run(studies: Path, out: Path, stages: str, *options: str | Path) -> Cost:
    """``radloom run`` with a workflow of these lines."""
    workflow = out.with_suffix(".yaml")
    workflow.write_text(f"name: batch\nstages:\n{stages}")
    command = (*RADLOOM, "run", studies, out, "--workflow", workflow, "--no-index")
    return call(*command, *options, log=out.with_suffix(".log"))


# --- scaling ---------------------------------------------------------------------------------


def part_scaling(folder: Path, options: argparse.Namespace) -> Table:
    """Equal studies, more and more workers."""
    studies = folder / "studies"
    volume = render_head(options.spacing)
    generator = np.random.default_rng(0)
    for number in range(options.studies):
        write_study(studies, number, {"T1w": noisy(volume, generator)})
    stages = "  - stage: ingest\n  - stage: denoise\n"
    rows, walls = [], {}
    for n_workers in options.workers:
        out = folder / f"out{n_workers}"
        cost = run(studies, out, stages, "--workers", str(n_workers))
        walls[n_workers] = cost.wall_s
        first = walls[options.workers[0]] * options.workers[0]
        within = _within(out)
        beyond = within.span_s * min(n_workers, os.cpu_count() or 1) - within.stages_s
        rows.append(
            (
                str(n_workers),
                f"{cost.wall_s:.1f}",
                f"{walls[options.workers[0]] / cost.wall_s:.2f}",
                f"{first / cost.wall_s / n_workers:.2f}",
                f"{within.stages_s / options.studies:.2f}",
                f"{within.span_s / options.studies:.2f}",
                f"{100 * beyond / within.stages_s:+.1f} %" if n_workers == 1 else "",
            )
        )
        shutil.rmtree(out)
    head = ("workers", "wall, s", "speed-up", "efficiency", "stages, s a study")
    return Table(
        f"{options.studies} studies of {' x '.join(map(str, volume.shape))} voxels",
        (*head, "wall between, s a study", "beyond the stages"),
        tuple(rows),
        (
            f"{os.cpu_count()} cores: each of n workers gets a share of them, and one worker all, "
            "so that more workers than cores can gain nothing but overlap.",
        ),
    )


@dataclass(frozen=True)
class _Within:
    span_s: float
    """From the first stage's begin to the last study's end."""
    stages_s: float
    """Sum over the receipts."""


def _within(out: Path) -> _Within:
    """What the run's log and its receipts say."""
    events = [json.loads(line) for line in (out / "run.jsonl").read_text().splitlines()]

    def at(event: dict[str, Any]) -> float:
        return dt.datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()

    begin = min(at(event) for event in events if event["event"] == "enter")
    end = max(at(event) for event in events if event["event"] == "study")
    receipts = [json.loads(path.read_text()) for path in out.glob("stages/*/*/stage.json")]
    return _Within(end - begin, sum(receipt["seconds"] for receipt in receipts))


# --- loop ------------------------------------------------------------------------------------


def part_loop(folder: Path, options: argparse.Namespace) -> Table:
    """Against loops of single commands."""
    from radloom.pipelines.demo import write_demo_study

    studies = folder / "studies"
    n_studies = max(1, options.studies // 2)
    for seed in range(n_studies):
        write_demo_study(studies / f"phantom{seed}", seed=seed, spacing_mm=options.loop_spacing)
    ways: dict[str, Callable[[Path, Path], float]] = {
        "`radloom run`": lambda s, w: run(s, w / "out", _DENOISE_MR).wall_s,
        "loop: dcm2niix, `radloom denoise` an image": _loop_of_commands,
        "loop: dcm2niix, a Python call a study": _loop_of_python,
    }
    walls = {}
    for name, way in ways.items():
        work = folder / f"work{len(walls)}"
        work.mkdir()
        walls[name] = way(studies, work)
        shutil.rmtree(work)
    first = next(iter(walls.values()))
    rows = tuple(
        (n, f"{w:.1f}", f"{w / n_studies:.1f}", f"{w / first:.2f}") for n, w in walls.items()
    )
    return Table(
        f"{n_studies} DICOM studies: convert all, denoise T1, T2 and FLAIR",
        ("", "wall, s", "s a study", "to `radloom run`"),
        rows,
        (
            "The loops write no receipts, tables or hashes, and check nothing. scikit-image's "
            "non-local means stand for what a Python call does; its results are not ours.",
        ),
    )


_DENOISE_MR = "  - stage: ingest\n  - stage: denoise\n"


def _converted(studies: Path, work: Path) -> tuple[float, dict[Path, list[Path]]]:
    """Seconds of dcm2niix over all studies, and the MR images of each."""
    import dcm2niix

    wall_s, found = 0.0, {}
    for study in sorted(studies.iterdir()):
        nifti = work / "nifti" / study.name
        nifti.mkdir(parents=True)
        command = (dcm2niix.bin, "-z", "y", "-f", "%d", "-o", nifti, study)
        wall_s += call(*command, log=work / "log").wall_s
        names = {
            path
            for t in ("t1_", "t2_tse", "flair")
            for path in nifti.glob("*.nii.gz")
            if t in path.name.lower()
        }
        found[study] = sorted(names)
    return wall_s, found


def _loop_of_commands(studies: Path, work: Path) -> float:
    wall_s, images = _converted(studies, work)
    for study, paths in images.items():
        (work / study.name).mkdir()
        for path in paths:
            wall_s += call(
                *RADLOOM, "denoise", path, work / study.name / path.name, log=work / "log"
            ).wall_s
    return wall_s


def _loop_of_python(studies: Path, work: Path) -> float:
    wall_s, images = _converted(studies, work)
    script = work / "denoise.py"
    script.write_text(DENOISE)
    for study, paths in images.items():
        (work / study.name).mkdir()
        wall_s += call(PYTHON, script, work / study.name, *paths, log=work / "log").wall_s
    return wall_s


# --- nnunet ----------------------------------------------------------------------------------


def part_nnunet(folder: Path, options: argparse.Namespace) -> Table:
    """Against nnU-Net's own command on a folder."""
    model = write_model(folder / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    volume = render_head(SPACING_MM)
    generator = np.random.default_rng(0)
    plain = folder / "plain"
    plain.mkdir()
    for number in range(options.studies):
        path = write_study(folder / "studies", number, {"T1w": noisy(volume, generator)})
        shutil.copy(path, plain / f"case{number}_0000.nii.gz")
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    program = Path(sysconfig.get_path("scripts")) / "nnUNetv2_predict_from_modelfolder"
    theirs = call(
        *(program, "-i", plain, "-o", folder / "theirs", "-m", model),
        *("-f", "0", "-device", "cpu"),
        log=folder / "theirs.log",
        env={name: str(folder) for name in names},
    )
    stages = f"  - stage: ingest\n  - stage: segment\n    parameters: {{model: {model}}}\n"
    ours = run(folder / "studies", folder / "ours", stages, "--trust")
    rows = (
        ("`radloom run`", f"{ours.wall_s:.1f}", f"{ours.wall_s / options.studies:.1f}", "1.00"),
        (
            "`nnUNetv2_predict_from_modelfolder`",
            f"{theirs.wall_s:.1f}",
            f"{theirs.wall_s / options.studies:.1f}",
            f"{theirs.wall_s / ours.wall_s:.2f}",
        ),
    )
    equal = statistics.fmean(
        _agreement(folder / "theirs" / f"case{number}.nii.gz", _label_of(folder / "ours", number))
        for number in range(options.studies)
    )
    return Table(
        f"One nnU-Net model on {options.studies} images of {' x '.join(map(str, volume.shape))}",
        ("", "wall, s", "s a study", "to `radloom run`"),
        rows,
        (f"Voxels with equal labels: {100 * equal:.3f} %.",),
    )


def _label_of(out: Path, number: int) -> Path:
    return next(out.glob(f"sub-{number:05d}/**/*dseg.nii.gz"))


def _agreement(one: Path, other: Path) -> float:
    first, second = nib.load(one), nib.load(other)
    assert np.allclose(first.affine, second.affine, atol=1e-3)
    return float(np.mean(np.asarray(first.dataobj) == np.asarray(second.dataobj)))


def write_model(folder: Path) -> Path:
    """An nnU-Net v2 results folder, its network small and its weights random."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "shell": 1, "core": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "fold_0").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps(PLANS))
    torch.manual_seed(0)
    manager = PlansManager(PLANS)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 1, 3, enable_deep_supervision=False
    )
    last = network.decoder.seg_layers[-1]
    with torch.no_grad():  # no class shall win everywhere
        last.bias -= network.eval()(torch.randn(1, 1, *PATCH)).mean(dim=(0, 2, 3, 4))
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


PATCH = (64, 64, 64)
SPACING_MM = 4.0
_RESAMPLING = "resample_data_or_seg_to_shape"
_STAGES = 3


def _resampling(order: int) -> dict[str, Any]:
    return {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}


PLANS: dict[str, Any] = {
    "dataset_name": "Dataset901_Batch",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [SPACING_MM] * 3,
    "original_median_shape_after_transp": [64, 80, 64],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        "0": dict.fromkeys(
            ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0
        )
    },
    "configurations": {
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": list(PATCH),
            "median_image_size_in_voxels": [64.0, 80.0, 64.0],
            "spacing": [SPACING_MM] * 3,
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": _RESAMPLING,
            "resampling_fn_seg": _RESAMPLING,
            "resampling_fn_probabilities": _RESAMPLING,
            "resampling_fn_data_kwargs": _resampling(3),
            "resampling_fn_seg_kwargs": {**_resampling(1), "is_seg": True},
            "resampling_fn_probabilities_kwargs": _resampling(1),
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet."
                "PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": _STAGES,
                    "features_per_stage": [8, 16, 32],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3, 3, 3]] * _STAGES,
                    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                    "n_conv_per_stage": [2] * _STAGES,
                    "n_conv_per_stage_decoder": [2] * (_STAGES - 1),
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
            "batch_dice": True,
        }
    },
}
"""As nnU-Net's planner writes them, with an eighth of its features."""


# --- tiny ------------------------------------------------------------------------------------


def part_tiny(folder: Path, options: argparse.Namespace) -> Table:
    """Thousands of studies that cost nothing but their number."""
    rows = []
    for n_studies in options.tiny:
        studies, out = folder / f"studies{n_studies}", folder / f"out{n_studies}"
        write_tiny_studies(studies, n_studies)
        stages = "  - stage: ingest\n"
        first = run(studies, out, stages)
        again = run(studies, out, stages)
        status = call(*RADLOOM, "status", out, log=folder / "status.log")
        report = call(*RADLOOM, "report", out, log=folder / "report.log")
        n_done = len(json.loads((out / "manifest.json").read_text()))
        assert n_done >= n_studies, f"expected {n_studies} studies, the manifest has {n_done}"
        rows.append(
            (
                f"{n_studies:,}",
                *(f"{first.wall_s:.0f}", f"{1000 * first.wall_s / n_studies:.1f}"),
                f"{first.peak_bytes / 2**20:.0f}",
                *(f"{again.wall_s:.1f}", f"{again.peak_bytes / 2**20:.0f}"),
                f"{status.wall_s:.2f}",
                f"{report.wall_s:.1f}",
            )
        )
        shutil.rmtree(studies)
        shutil.rmtree(out)
    head = ("studies", "wall, s", "ms a study", "driver's peak, MiB", "again, s")
    return Table(
        "Studies of 8 x 8 x 8 voxels, ingest only",
        (*head, "its peak, MiB", "status, s", "report, s"),
        tuple(rows),
    )


def write_tiny_studies(studies: Path, n_studies: int) -> None:
    """One NIfTI file of 1.5 kB each, under BIDS names."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    image = nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), affine)
    header = image.to_bytes()[:352]
    generator = np.random.default_rng(0)
    for number in range(n_studies):
        name = f"sub-{number:05d}"
        folder = studies / name / "ses-1" / "anat"
        folder.mkdir(parents=True)
        voxels = generator.integers(0, 1000, 512, dtype=np.int16)
        (folder / f"{name}_ses-1_T1w.nii").write_bytes(header + voxels.tobytes())


# --- studies ---------------------------------------------------------------------------------


def render_head(spacing_mm: float) -> nib.Nifti1Image:
    """The phantom's T1, without noise."""
    from radloom.shapes import affine_of, array_of
    from radloom.transforms.synthesis.phantom import make_head, render_mr

    head = make_head(torch.Generator().manual_seed(0), spacing_mm=spacing_mm)
    volume = render_mr(head, "t1", noise=0.0, generator=torch.Generator().manual_seed(0))
    return nib.Nifti1Image(array_of(volume)[0], affine_of(volume))


def noisy(image: nib.Nifti1Image, generator: np.random.Generator) -> nib.Nifti1Image:
    """The image with Rician noise of its own, as scanners store it."""
    clean = np.asarray(image.dataobj, dtype=np.float32)
    sigma = 0.03 * float(np.percentile(clean, 99))
    noise = generator.normal(0, sigma, (2, *clean.shape)).astype(np.float32)
    magnitude = np.hypot(clean + noise[0], noise[1])
    scale = 4000 / float(magnitude.max())
    return nib.Nifti1Image((scale * magnitude).astype(np.int16), image.affine)


def write_study(studies: Path, number: int, images: Mapping[str, nib.Nifti1Image]) -> Path:
    """The last file of a study under BIDS names."""
    name = f"sub-{number:05d}"
    folder = studies / name / "ses-1" / "anat"
    folder.mkdir(parents=True)
    for suffix, image in images.items():
        path = folder / f"{name}_ses-1_{suffix}.nii.gz"
        path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
    return path


PARTS: dict[str, Callable[[Path, argparse.Namespace], Table]] = {
    "scaling": part_scaling,
    "loop": part_loop,
    "nnunet": part_nnunet,
    "tiny": part_tiny,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--studies", type=int, default=8, help="in all parts but tiny; loop: half")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--spacing", type=float, default=1.0, help="mm, of scaling's heads")
    parser.add_argument("--loop-spacing", type=float, default=2.0, help="mm, of loop's heads")
    parser.add_argument("--tiny", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--at", type=Path, help="an existing folder for scratch files")
    options = parser.parse_args()
    for name in options.parts:
        if name not in PARTS:
            sys.exit(f"expected a part of {', '.join(PARTS)}, got {name}")
    print(
        f"{dt.date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}\n"
    )
    for name in options.parts or PARTS:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="batch-", dir=options.at) as folder:
            print(PARTS[name](Path(folder).resolve(), options).markdown(), flush=True)
        print(f"({name}: {time.perf_counter() - begin:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
