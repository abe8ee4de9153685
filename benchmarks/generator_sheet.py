"""A sheet of rendered heads: what the networks are trained on, to be looked at.

Each column is one draw: its acquired MR, its labels over the clean MR, its CT at a brain and at a
bone window. Run from the repository root::

    python benchmarks/generator_sheet.py LABELMAPS OUT.png [--heads 24] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from radloom.models.training.anatomies import load_anatomies
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    SampleRecipe,
    draw_sample,
    render_sample,
)

WANTED = ("image", "clean", "label", "ct")
N_COLUMNS = 8
Pixels = npt.NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("anatomies", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    heads = load_anatomies(args.anatomies)
    recipe = SampleRecipe(grid=GridRecipe((192, 224, 192), offset=0.3))
    columns = []
    for number in range(args.heads):
        anatomy = heads[number % len(heads)]
        generator = torch.Generator().manual_seed(args.seed + number)
        sample = render_sample(anatomy, draw_sample(anatomy, recipe, generator), WANTED)
        columns.append(column(sample, number % 3))
    rows = [np.hstack(columns[i : i + N_COLUMNS]) for i in range(0, len(columns), N_COLUMNS)]
    sheet = Image.fromarray(np.vstack(rows))
    sheet.quantize(128, dither=Image.Dither.NONE).save(args.out, optimize=True)


def column(sample: dict[str, torch.Tensor], axis: int) -> Pixels:
    """One draw's four pictures, one below the other, in the middle plane of an axis."""
    planes = {name: plane(tensor, axis) for name, tensor in sample.items()}
    brightest = max(float(np.percentile(planes["image"], 99.5)), 1e-6)
    clean = grey(planes["clean"], 0, max(float(np.percentile(planes["clean"], 99.5)), 1e-6))
    pictures = [
        grey(planes["image"], 0, brightest),
        coloured(planes["label"], clean),
        grey(planes["ct"], 0, 80),
        grey(planes["ct"], -750, 1750),
    ]
    return np.vstack([framed(picture) for picture in pictures])


def plane(tensor: torch.Tensor, axis: int) -> npt.NDArray[np.generic]:
    """The middle plane, anterior or superior up, the patient's right on the left."""
    where = [0.42, 0.45, 0.55][axis]
    middle = tensor[0].select(axis, int(tensor.shape[axis + 1] * where)).numpy()
    picture = np.rot90(middle)
    return picture if axis == 0 else picture[:, ::-1]


def grey(picture: npt.NDArray[np.generic], low: float, high: float) -> Pixels:
    scaled = np.clip((picture.astype(np.float32) - low) / (high - low), 0, 1)
    return np.repeat((255 * scaled).astype(np.uint8)[..., None], 3, -1)


def coloured(labels: npt.NDArray[np.generic], below: Pixels) -> Pixels:
    """Labels, each in a colour of its own, over a grey picture."""
    table = np.random.default_rng(5).integers(40, 256, (1000, 3))
    table[0] = 0
    colours = table[labels.astype(int)]
    mixed = np.where(labels[..., None] > 0, 0.55 * colours + 0.45 * below, below)
    return mixed.astype(np.uint8)


def framed(picture: Pixels, height: int = 156, width: int = 156) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((width, height), Image.Resampling.BILINEAR)
    frame = Image.new("RGB", (width + 2, height + 2))
    frame.paste(image, ((width - image.width) // 2 + 1, (height - image.height) // 2 + 1))
    return np.asarray(frame)


if __name__ == "__main__":
    main()
