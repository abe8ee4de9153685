"""Samples a second: the generator, MONAI's random transforms, and the network that waits for them.

At 192^3 and 1 mm, medians over `--samples` draws, in turn:

- the generator with all its truths (MR and clean MR, CT and HU, labels, anomalies), with MR and
  labels alone, and a pair with its displacement both ways;
- MONAI's random transforms to MR and labels alone: elastic with affine, a table of intensities,
  texture, smoothing, bias, Gibbs, spikes, low resolution, Rician noise, gamma, each as likely as
  the generator's; it knows no CT, no anomalies, no edits, no partial volume and no truth for noise
  or displacement;
- one training step (mixed precision where there is a GPU) of a residual U-Net of 7 M parameters on
  a patch of `--patch`^3, and the share of it that a sample of that size takes.

Run from the repository root::

    python benchmarks/generator_speed.py LABELMAP.nii.gz [--device cuda] [--samples 8]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai import transforms as mt
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet

from radloom.transforms.synthesis.anatomy import Anatomy, anatomy_of_labels, labels_of
from radloom.transforms.synthesis.sample import (
    TENSORS,
    GridRecipe,
    PairRecipe,
    SampleRecipe,
    draw_pair,
    draw_sample,
    render_pair,
    render_sample,
)
from radloom.transforms.synthesis.tissues import LABEL_NAMES

SHAPE = (192, 192, 192)
N_CLASSES = 36


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labelmap", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--without-network", action="store_true")
    parser.add_argument("--without-monai", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    image = nib.load(args.labelmap)
    labels = np.asarray(image.dataobj).astype(np.int16)
    anatomy = anatomy_of_labels("head", labels, image.affine).to(args.device)
    runs: dict[str, Callable[[int], object]] = {
        "generator, all truths": lambda n: one(anatomy, n, SHAPE, TENSORS),
        "generator, MR and labels": lambda n: one(anatomy, n, SHAPE, ("image", "label")),
        "generator, pair": lambda n: pair(anatomy, n),
    }
    if not args.without_monai:
        runs["MONAI transforms, MR and labels"] = monai_chain(anatomy)
    if not args.without_network:
        patch = (args.patch,) * 3
        runs[f"generator, MR and labels, {args.patch}^3"] = lambda n: one(
            anatomy, n, patch, ("image", "label")
        )
        runs[f"training step, {args.patch}^3"] = training_step(args.patch, args.device)
    taken = measure(runs, args.samples, args.device)
    print("| | s a sample | samples a second |")
    print("|---|---|---|")
    for name, seconds in taken.items():
        print(f"| {name} | {seconds:.3f} | {1 / seconds:.2f} |")
    if not args.without_network:
        share = taken[f"generator, MR and labels, {args.patch}^3"]
        print(f"\ngenerator / training step: {share / taken[f'training step, {args.patch}^3']:.2f}")


def measure(runs: dict[str, Callable[[int], object]], n: int, device: str) -> dict[str, float]:
    """Median seconds of each, run in turn; the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(n + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(number)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if number:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def one(
    anatomy: Anatomy, number: int, shape: tuple[int, int, int], wanted: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    recipe = SampleRecipe(grid=GridRecipe(shape, offset=0.5))
    drawn = draw_sample(anatomy, recipe, torch.Generator().manual_seed(number))
    return render_sample(anatomy, drawn, wanted)


def pair(anatomy: Anatomy, number: int) -> dict[str, torch.Tensor]:
    recipe = PairRecipe(SampleRecipe(grid=GridRecipe(SHAPE, offset=0.5)))
    drawn = draw_pair(anatomy, recipe, torch.Generator().manual_seed(number))
    return render_pair(anatomy, drawn, ("image", "label"))


def monai_chain(anatomy: Anatomy) -> Callable[[int], object]:
    """Random transforms with the generator's likelihoods, on one label map in memory."""
    labels = labels_of(anatomy.structures)[None].float()
    steps = mt.Compose(
        [
            mt.Rand3DElasticd(
                keys="label",
                prob=1.0,
                sigma_range=(9, 13),
                magnitude_range=(50, 150),
                rotate_range=(0.35,) * 3,
                scale_range=(0.15,) * 3,
                shear_range=(0.06,) * 6,
                translate_range=(12,) * 3,
                spatial_size=SHAPE,
                mode="nearest",
                padding_mode="border",
            ),
            mt.RandFlipd(keys="label", prob=0.5, spatial_axis=0),
            _Painted(),
            mt.RandGaussianSmoothd(keys="image", prob=0.8, sigma_x=(0.3, 0.8)),
            mt.RandBiasFieldd(keys="image", prob=0.85, degree=3, coeff_range=(0.0, 0.3)),
            mt.RandGibbsNoised(keys="image", prob=0.2, alpha=(0.2, 0.6)),
            mt.RandKSpaceSpikeNoised(keys="image", prob=0.04),
            mt.RandSimulateLowResolutiond(keys="image", prob=0.4, zoom_range=(0.4, 0.95)),
            mt.RandRicianNoised(keys="image", prob=0.85, std=0.1, relative=False),
            mt.RandAdjustContrastd(keys="image", prob=0.2, gamma=(0.7, 1.5)),
        ]
    )

    def run(number: int) -> object:
        steps.set_random_state(number)
        return steps({"label": labels.clone()})

    return run


class _Painted(mt.RandomizableTransform):
    """An intensity and a texture for each label."""

    def __call__(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        size = max(LABEL_NAMES) + 1
        means = torch.from_numpy(self.R.rand(size).astype(np.float32))
        deviations = torch.from_numpy(0.05 * self.R.rand(size).astype(np.float32))
        index = data["label"].long()
        noise = torch.from_numpy(self.R.standard_normal(index.shape).astype(np.float32))
        return data | {"image": means[index] + deviations[index] * noise}


def training_step(patch: int, device: str) -> Callable[[int], object]:
    """Forward, loss, backward and update."""
    kernels, strides = [[3] * 3] * 5, [[1] * 3] + [[2] * 3] * 4
    network = DynUNet(
        3, 1, N_CLASSES, kernels, strides, strides[1:], filters=[24, 48, 96, 160, 224]
    ).to(device)
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters")
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loss_of = DiceCELoss(softmax=True, to_onehot_y=True)
    image = torch.rand((1, 1, patch, patch, patch), device=device)
    target = torch.randint(N_CLASSES, image.shape, device=device)
    kind = torch.device(device).type

    def run(number: int) -> object:
        del number
        optimiser.zero_grad()
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            loss = loss_of(network(image).float(), target)
        loss.backward()
        optimiser.step()
        return loss

    return run


if __name__ == "__main__":
    main()
