"""Which parts of the generator move the result on real scans: small networks, the same steps each.

One small 3D U-Net a variant learns 13 groups of brain structures from heads rendered from
anatomy/train, at 2 mm on a grid of 3 mm, each for the same number of steps from the same initial
weights and the same draws; a variant leaves out one part of the generator. Measured at the end,
with the average of the weights over the last steps:

- Dice against FreeSurfer's labels on the real skull-stripped T1 (real/labelled), mean of groups;
- agreement on real T1, T2 and FLAIR of two patients (real/ms): mean Dice between the network's own
  labels of two contrasts of one head, brought together by the data's own transforms;
- Dice on 16 renders of anatomy/validation by the whole recipe.

Real scans only measure. Run from the repository root, with the data beside the checkout::

    python benchmarks/generator_ablation.py --steps 1000 --variants whole "no texture"
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from scipy import ndimage

from radloom.models.training.anatomies import load_anatomies
from radloom.transforms.itk_files import read_transform
from radloom.transforms.synthesis.anatomy import (
    Anatomy,
    coarsened,
)
from radloom.transforms.synthesis.anomalies import AnomalyRecipe
from radloom.transforms.synthesis.artefacts import MRAcquisitionRecipe
from radloom.transforms.synthesis.artefacts.bias import BiasRecipe
from radloom.transforms.synthesis.artefacts.masking import MaskRecipe
from radloom.transforms.synthesis.deformation import DeformationRecipe
from radloom.transforms.synthesis.edits import EditRecipe
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.mr import MRRecipe
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    SampleRecipe,
    draw_sample,
    render_sample,
)

SHAPE = (48, 64, 48)
SPACING_MM = 3.0
GROUPS = {
    "white matter": (2, 41, 25, 57, 77, 251, 252, 253, 254, 255),
    "cortex": (3, 42),
    "lateral ventricle": (4, 5, 43, 44, 72, 31, 63, 136, 137, 163, 164),
    "third and fourth ventricle": (14, 15),
    "cerebellar white matter": (7, 46),
    "cerebellar cortex": (8, 47),
    "thalamus": (10, 49),
    "caudate": (11, 50, 26, 58),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus and amygdala": (17, 53, 18, 54),
    "ventral diencephalon": (28, 60),
    "brainstem": (16,),
}
NO_EDITS = EditRecipe(
    sulci_probability=0,
    skull_probability=0,
    flap_probability=0,
    resection_probability=0,
    cavity_probability=0,
    pneumatised_probability=0,
    fat_probability=0,
)
WHOLE = SampleRecipe(grid=GridRecipe(SHAPE, (SPACING_MM, SPACING_MM), offset=0.6))
STRIPPED = 0.4
"""Of the renders that are skull-stripped, in all variants but one: the labelled real scan is."""


def _variants() -> dict[str, SampleRecipe]:
    acquisition = replace(WHOLE.mr_acquisition, mask=MaskRecipe(brain_probability=STRIPPED))
    whole = replace(WHOLE, mr_acquisition=replace(acquisition, nearly_clean=0.2), ct=WHOLE.ct)
    still = DeformationRecipe(
        amplitudes_mm=(0.0,) * 4, ventricle_probability=0, extreme_probability=0
    )
    bare = MRAcquisitionRecipe(
        nearly_clean=1.0, bias=BiasRecipe(probability=0), mask=MaskRecipe(brain_probability=0)
    )
    return {
        "whole": whole,
        "no non-linear deformation": replace(whole, deformation=still),
        "no anomalies, no edits": replace(
            whole, anomalies=AnomalyRecipe(probability=0), edits=NO_EDITS
        ),
        "physics only": replace(whole, mr=MRRecipe(physics_probability=1)),
        "random contrast only": replace(whole, mr=MRRecipe(physics_probability=0)),
        "no texture": replace(whole, mr=replace(whole.mr, texture_gain=(0, 0), gradient=(0, 0))),
        "no skull-stripping": replace(
            whole, mr_acquisition=replace(whole.mr_acquisition, mask=MaskRecipe(0.0))
        ),
        "no artefacts": replace(
            whole,
            mr_acquisition=replace(bare, nearly_clean=0.0, **_off(whole.mr_acquisition)),
        ),
    }


def _off(acquisition: MRAcquisitionRecipe) -> dict[str, object]:
    """Every effect off but masks."""
    return {
        "field_of_view": replace(acquisition.field_of_view, crop_probability=0, wrap_probability=0),
        "resolution": replace(acquisition.resolution, probability=0),
        "slices": replace(acquisition.slices, probability=0),
        "undersampling": replace(
            acquisition.undersampling,
            regular_probability=0,
            random_probability=0,
            partial_probability=0,
        ),
        "ghosts": replace(acquisition.ghosts, probability=0),
        "motion": replace(acquisition.motion, probability=0),
        "spikes": replace(acquisition.spikes, probability=0),
        "noise": replace(acquisition.noise, probability=0),
        "mask": acquisition.mask,
    }


def normalised(image: torch.Tensor) -> torch.Tensor:
    """Between 0 and 1 at the 1st and 99th percentile of what is not zero."""
    values = image[image > 0]
    if len(values) < 100:
        return image
    low, high = np.percentile(values.numpy()[::7], (1, 99))
    return ((image - float(low)) / max(float(high - low), 1e-6)).clamp(-0.1, 1.5)


def groups_of(labels: torch.Tensor) -> torch.Tensor:
    """Labels (any shape) as 0 for none or 1 + the index of their group."""
    table = torch.zeros(1000, dtype=torch.long)
    for number, members in enumerate(GROUPS.values(), start=1):
        table[list(members)] = number
    return table[labels.long()]


def dice(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean over the groups that either holds."""
    scores = []
    for number in range(1, len(GROUPS) + 1):
        a, b = first == number, second == number
        if a.any() or b.any():
            scores.append(float(2 * (a & b).sum() / (a.sum() + b.sum())))
    return float(np.mean(scores))


def batches(
    heads: list[Anatomy], recipe: SampleRecipe, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(1, 1, I, J, K) image and groups, for ever."""
    step = 0
    while True:
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        head = heads[int(torch.randint(len(heads), (), generator=generator))]
        sample = render_sample(head, draw_sample(head, recipe, generator), ("image", "label"))
        yield normalised(sample["image"])[None], groups_of(sample["label"])[None]
        step += 1


def train(heads: list[Anatomy], recipe: SampleRecipe, steps: int) -> tuple[UNet, float]:
    """The network with the mean of the weights of the last fifth of the steps; seconds taken."""
    torch.manual_seed(0)
    network = UNet(
        3, 1, len(GROUPS) + 1, (16, 32, 64, 96, 128), (2,) * 4, num_res_units=1, norm="instance"
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps, pct_start=0.1)
    loss_of = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    average = torch.optim.swa_utils.AveragedModel(network)
    source = batches(heads, recipe, seed=1)
    start = time.perf_counter()
    for step in range(steps):
        image, target = (part.clone() for part in next(source))
        loss = loss_of(network(image), target)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step >= 0.8 * steps:
            average.update_parameters(network)
        if step % 100 == 0:
            print(
                f"  {step} {float(loss.detach()):.3f} {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    return average.module.eval(), time.perf_counter() - start


@torch.inference_mode()
def predict(network: UNet, image: torch.Tensor) -> torch.Tensor:
    """(I, J, K) groups of a (1, I, J, K) image."""
    flipped = network(normalised(image.flip(1))[None]).flip(2)
    return (network(normalised(image)[None]) + flipped)[0].argmax(0)


def on_grid(image: nib.Nifti1Image, centre: np.ndarray, order: int) -> torch.Tensor:
    """(1, I, J, K) of a scan on the grid of the renders round `centre` (RAS mm)."""
    grid = Grid(SHAPE, (SPACING_MM,) * 3, tuple(centre))
    to_voxel = np.linalg.inv(image.affine) @ grid.affine
    data = np.asarray(image.dataobj, np.float32)
    if order:
        steps = np.abs(np.linalg.norm(image.affine[:3, :3], axis=0))
        data = ndimage.gaussian_filter(data, [max(SPACING_MM / s - 1, 0) * 0.4 for s in steps])
    out = ndimage.affine_transform(data, to_voxel[:3, :3], to_voxel[:3, 3], SHAPE, order=order)
    return torch.from_numpy(np.ascontiguousarray(out))[None]


def centre_of(image: nib.Nifti1Image) -> np.ndarray:
    """Where the head lies: the middle of what is brighter than a tenth of the brightest, RAS mm."""
    data = np.asarray(image.dataobj, np.float32)
    bright = np.argwhere(data > 0.1 * np.percentile(data, 99.5))
    middle = (bright.min(0) + bright.max(0)) / 2
    return (image.affine @ [*middle, 1])[:3]


def real_t1(data: Path, network: UNet) -> float:
    folder = data / "real" / "labelled"
    image, labels = nib.load(folder / "t1_brain.nii.gz"), nib.load(folder / "t1_aseg.nii.gz")
    centre = centre_of(image)
    truth = groups_of(on_grid(labels, centre, 0))
    return dice(predict(network, on_grid(image, centre, 1)), truth[0])


def agreement(data: Path, network: UNet) -> float:
    """Mean Dice between contrasts, on the FLAIR's grid."""
    scores = []
    for folder, study in (("patient03", "study2"), ("patient04", "study1")):
        path = data / "real" / "ms" / folder
        flair = nib.load(path / f"{study}_FLAIR.nii.gz")
        centre = centre_of(flair)
        seen = {"FLAIR": predict(network, on_grid(flair, centre, 1))}
        for name in ("T1W", "T2W"):
            image = nib.load(path / f"{study}_{name}.nii.gz")
            moving_from_fixed = read_transform(path / f"{study}_{name}_intrastudy_to_FLAIR.txt")
            affine = np.linalg.inv(moving_from_fixed.matrix) @ image.affine
            moved = nib.Nifti1Image(np.asarray(image.dataobj, np.float32), affine)
            seen[name] = predict(network, on_grid(moved, centre, 1))
        pairs = (("T1W", "T2W"), ("T1W", "FLAIR"), ("T2W", "FLAIR"))
        scores += [dice(seen[a], seen[b]) for a, b in pairs]
    return float(np.mean(scores))


def rendered(heads: list[Anatomy], network: UNet, n: int = 16) -> float:
    source = batches(heads, _variants()["whole"], seed=2)
    scores = []
    for _ in range(n):
        image, target = next(source)
        scores.append(dice(predict(network, image[0]), target[0, 0]))
    return float(np.mean(scores))


def coarse_heads(folder: Path) -> list[Anatomy]:
    """The heads of a folder at 2 mm, phantoms left out."""
    heads = [head for head in load_anatomies(folder) if not head.name.startswith("phantom")]
    return [coarsened(head, 2) for head in heads]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"))
    parser.add_argument("--anatomies", type=Path, help="a folder with packed train and validation")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variants", nargs="*", default=list(_variants()))
    parser.add_argument("--save", type=Path, help="a file that gets a line of JSON a variant")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    anatomies = args.anatomies or args.data / "anatomy"
    train_heads, other_heads = (
        coarse_heads(anatomies / "train"),
        coarse_heads(anatomies / "validation"),
    )
    print("| variant | real T1, Dice | T1/T2/FLAIR agreement | held-out renders, Dice | s |")
    print("|---|---|---|---|---|")
    for name in args.variants:
        network, seconds = train(train_heads, _variants()[name], args.steps)
        scores = (
            real_t1(args.data, network),
            agreement(args.data, network),
            rendered(other_heads, network),
        )
        print(
            f"| {name} | " + " | ".join(f"{s:.3f}" for s in scores) + f" | {seconds:.0f} |",
            flush=True,
        )
        if args.save:
            with args.save.open("a") as stream:
                stream.write(json.dumps({"variant": name, "scores": scores, "s": seconds}) + "\n")


if __name__ == "__main__":
    main()
