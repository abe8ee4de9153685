"""Any nnU-Net model: the labels of nnU-Net, its time and its memory; how good our own labels are.

``same``: labels of both programs on the same folder and images, share of equal voxels and smallest
Dice. ``cost``: wall time and peak memory of the whole process (and those it starts), for one
image, and for 20 in a row.

The weights are drawn at random and the network is small (8 features in its first stage), so that
what surrounds the network is compared too; with nnU-Net's full network most of the time is the
network's, which is the same on both sides. The sliding window steps by a whole window and nothing
is mirrored, on both sides.

    python benchmarks/segment.py same cost --case head --work FOLDER
    python benchmarks/segment.py cost --case ct --work FOLDER
    python benchmarks/segment.py cost --case head --studies 20 --work FOLDER

``quality``: Dice of our own bundle on rendered and on real heads, see `segment_quality`::

    python benchmarks/segment.py quality --data ../shared/data --work FOLDER [--fast]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import nibabel as nib
import numpy as np
import psutil
import torch

NAME = "nnUNetTrainer__nnUNetPlans__3d_fullres"
OURS = (
    "import sys, torch; from pathlib import Path\n"
    "from radloom.models.segmentation.nnunet import NnunetOptions, find_nnunet\n"
    "from radloom.pipelines.ingest import read_image\n"
    "from radloom.pipelines.single import write_image\n"
    "options = NnunetOptions(folds=(0,), mirroring=False, step_size=1.0)\n"
    "model = find_nnunet(Path(sys.argv[1]), options).load(device=torch.device('cpu'))\n"
    "for path in sorted(Path(sys.argv[2]).glob('*_0000.nii.gz')):\n"
    "    label = model.segment([read_image(path)], n_threads=int(sys.argv[4]))\n"
    "    write_image(label, Path(sys.argv[3]) / path.name.replace('_0000', ''))\n"
)


@dataclass(frozen=True)
class Case:
    """An image and a model."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    model_spacing: tuple[float, float, float]
    n_classes: int
    channel: str


CASES = {
    "tiny": Case((40, 44, 36), (1, 1, 1.2), (32, 32, 32), (1.3, 1.1, 1.0), 4, "T1"),
    "head": Case((192, 224, 192), (1, 1, 1), (64, 64, 64), (1.2, 1.2, 1.2), 40, "T1"),
    "ct": Case((512, 512, 300), (0.8, 0.8, 1.5), (64, 64, 64), (1.5, 1.5, 1.5), 100, "CT"),
    "ct, a third": Case((512, 512, 100), (0.8, 0.8, 1.5), (64, 64, 64), (1.5, 1.5, 1.5), 100, "CT"),
}


def main() -> int:
    """Run the parts asked for and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=("same", "cost", "quality"))
    parser.add_argument("--case", choices=CASES, default="tiny")
    parser.add_argument("--studies", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, required=True)
    own = parser.add_argument_group("quality")
    own.add_argument("--data", type=Path, default=Path("../shared/data"))
    own.add_argument("--heads", type=Path, help="label maps or packed heads; else of --data")
    own.add_argument("--n-heads", type=int, default=4)
    own.add_argument("--cases", nargs="+", default=[], help="t1, t2, flair, pd, ...; else all")
    own.add_argument("--quality-parts", nargs="+", default=[], help="rendered, labelled, patients")
    own.add_argument("--patients", type=int, default=6)
    own.add_argument("--model", type=Path, help="another folder with our classes")
    own.add_argument("--fast", action="store_true")
    args = parser.parse_args()
    if "quality" in args.parts:
        run_quality(args)
    if args.parts == ["quality"]:
        return 0
    work = args.work / args.case
    case = CASES[args.case]
    folder = make_model(work / "model" / NAME, case)
    images = make_images(work / f"images{args.studies}", case, args.studies)
    found = {name: run(name, folder, images, work, args.threads) for name in ("nnU-Net", "Radloom")}
    if "cost" in args.parts:
        report_cost(found, args)
    if "same" in args.parts:
        report_same(work, images)
    return 0


def run_quality(args: argparse.Namespace) -> None:
    """Dice of our own bundle, or of `--model`."""
    from segment_quality import CASES as EVERY
    from segment_quality import PARTS, Settings, quality

    quality(
        Settings(
            heads=args.heads or args.data / "anatomy" / "validation",
            data=args.data,
            work=args.work,
            model=args.model,
            n_heads=args.n_heads,
            cases=tuple(args.cases) or EVERY,
            parts=tuple(args.quality_parts) or PARTS,
            patients=args.patients,
            fast=args.fast,
            threads=args.threads,
        )
    )


def run(name: str, folder: Path, images: Path, work: Path, threads: int) -> tuple[float, int]:
    """Seconds and peak bytes of a whole process and all that it starts."""
    out = work / f"out_{name}"
    out.mkdir(parents=True, exist_ok=True)
    if name == "Radloom":
        command = [sys.executable, "-c", OURS, str(folder), str(images), str(out), str(threads)]
    else:
        program = Path(sysconfig.get_path("scripts")) / "nnUNetv2_predict_from_modelfolder"
        command = [str(program), "-i", str(images), "-o", str(out), "-m", str(folder), "-f", "0",
                   "-device", "cpu", "-step_size", "1.0", "--disable_tta", "-npp", "1",
                   "-nps", "1"]  # fmt: skip
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        die_first(process.pid)
        said = Thread(target=lambda: print(process.stderr.read().decode()[-2000:], file=sys.stderr))
        said.start()
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(0.2)
        said.join()
    if process.returncode:
        print(f"{name} failed with {process.returncode} at {peak / 1e9:.2f} GB", file=sys.stderr)
        return math.nan, peak
    return time.perf_counter() - begin, peak


def die_first(pid: int) -> None:
    """Where memory runs out, Linux ends this process or one that it starts, and no other."""
    score = Path(f"/proc/{pid}/oom_score_adj")
    if score.exists():
        score.write_text("1000")


def tree_bytes(pid: int) -> int:
    """Memory of a process and its descendants; what they share counts once (Linux)."""
    total = 0
    try:
        top = psutil.Process(pid)
        for one in [top, *top.children(recursive=True)]:
            total += one.memory_full_info().pss
    except psutil.Error:
        pass
    return total


def report_cost(found: dict[str, tuple[float, int]], args: argparse.Namespace) -> None:
    """A row of the table; nan: did not finish."""
    theirs, ours = found["nnU-Net"], found["Radloom"]
    print(
        f"| {args.case} | {args.studies} | {theirs[0]:.0f} s | {ours[0]:.0f} s | "
        f"{ours[0] / theirs[0]:.2f} | {theirs[1] / 1e9:.2f} GB | {ours[1] / 1e9:.2f} GB | "
        f"{ours[1] / theirs[1]:.2f} |"
    )


def report_same(work: Path, images: Path) -> None:
    """Share of equal voxels and the smallest Dice, over all images."""
    for path in sorted(images.glob("*_0000.nii.gz")):
        name = path.name.replace("_0000", "")
        ours, theirs = (
            np.asarray(nib.load(work / f"out_{who}" / name).dataobj)
            for who in ("Radloom", "nnU-Net")
        )
        dice = [
            2 * ((ours == v) & (theirs == v)).sum() / ((ours == v).sum() + (theirs == v).sum())
            for v in np.unique(theirs)
        ]
        print(f"| {name} | {(ours == theirs).mean():.6f} | {len(dice)} | {min(dice):.5f} |")


def make_images(folder: Path, case: Case, n: int) -> Path:
    """A noisy body in air, one of another seed for each study."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        path = folder / f"case{number:02d}_0000.nii.gz"
        if path.exists():
            continue
        axes = np.meshgrid(*[np.linspace(-1, 1, k, dtype=np.float32) for k in case.shape],
                           indexing="ij", sparse=True)  # fmt: skip
        radius = sum(axis**2 for axis in axes)
        noise = np.random.default_rng(number).normal(0, 30, case.shape).astype(np.float32)
        image = np.where(radius < 0.8, 100 + noise, -1000).astype(np.int16)
        nib.save(nib.Nifti1Image(image, np.diag([*case.spacing, 1.0])), path)
    return folder


def make_model(folder: Path, case: Case) -> Path:
    """A results folder in nnU-Net's layout, weights drawn at random."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    labels = {"background": 0, **{f"structure {n}": n for n in range(1, case.n_classes)}}
    dataset = {
        "channel_names": {"0": case.channel},
        "labels": labels,
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    plans = plans_of(case)
    torch.manual_seed(0)
    manager = PlansManager(json.loads(json.dumps(plans)))
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 1, case.n_classes,
        enable_deep_supervision=False,
    )  # fmt: skip
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": "3d_fullres"},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def plans_of(case: Case) -> dict:
    """What nnU-Net's planner writes, with a small network."""
    resampling = {"order_z": 0, "force_separate_z": None}
    intensities = {"mean": 100.0, "std": 30.0, "percentile_00_5": -900.0, "percentile_99_5": 300.0,
                   "min": -1000.0, "max": 400.0, "median": 100.0}  # fmt: skip
    instance = {"eps": 1e-5, "affine": True}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(case.patch[::-1]),
        "spacing": list(case.model_spacing[::-1]),
        "normalization_schemes": [
            "CTNormalization" if case.channel == "CT" else "ZScoreNormalization"
        ],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
        "batch_dice": False,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [8, 16, 32],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 3,
                "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                "n_conv_per_stage": [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": instance,
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "Dataset001_Benchmark",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration},
    }


if __name__ == "__main__":
    raise SystemExit(main())
