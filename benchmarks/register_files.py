"""Our transform files in ANTs: the same moving volume, resampled by ANTs and by us.

A T2 of the phantom is brought onto the oblique grid of a T1 through a rigid matrix (.tfm) and
through a displacement with a matrix before it (.nii.gz). ANTs (antspyx, in an interpreter of its
own) reads volumes and transform from files.

Reported: the largest and the median difference as a share of the volume's range, over voxels that
both see.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from radloom.geometry import affine_from_parts
from radloom.shapes import Volume, affine_of, array_of, spatial_shape
from radloom.transforms.itk_files import as_written, write_transform
from radloom.transforms.nifti import read_nifti, write_nifti
from radloom.transforms.spatial import Transform, grid_points, resample
from radloom.transforms.synthesis.phantom import make_head, render_mr

ANTS = """\
import sys
import ants
fixed, moving, transform, out = sys.argv[1:]
fixed, moving = ants.image_read(fixed), ants.image_read(moving)
warped = ants.apply_transforms(fixed, moving, [transform], interpolator="linear")
ants.image_write(warped, out)
"""


def turned(degrees: float, shift_mm: float) -> Transform:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians([degrees, -degrees, degrees])).as_matrix()
    matrix[:3, 3] = shift_mm, -shift_mm, shift_mm
    return Transform(matrix)


def bulged(grid: Volume) -> Transform:
    """A matrix after a smooth displacement of 6 mm."""
    points = grid_points(affine_of(grid), spatial_shape(grid))
    weight = 6.0 * np.exp(-(points**2).sum(-1) / (2 * 30.0**2))
    field = np.stack([weight, -0.5 * weight, 0.7 * weight])
    return Transform(turned(5, 4).matrix, field.astype(np.float32), affine_of(grid))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ants", type=Path, required=True, help="interpreter that has antspyx")


def run(options: argparse.Namespace) -> str:
    head = make_head(torch.Generator().manual_seed(5), spacing_mm=4.0)
    noise = torch.Generator().manual_seed(6)
    oblique = Rotation.from_euler("xyz", (8, -12, 15), degrees=True).as_matrix()
    grid = affine_from_parts(oblique @ [-90.0, -110, -100], (3, 3.5, 4), oblique)
    fixed = render_mr(head, "t1", generator=noise, grid_affine=grid, grid_shape=(60, 62, 50))
    moving = render_mr(head, "t2", generator=noise)
    lines = ["| | largest difference | median | voxels seen |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / "fixed.nii.gz", folder / "moving.nii.gz"]
        for path, volume in zip(paths, (fixed, moving), strict=True):
            write_nifti(volume, path)
        for title, transform in {"matrix": turned(10, 8), "displacement": bulged(fixed)}.items():
            written = as_written(transform)
            file, out = write_transform(written, folder / title), folder / f"{title}_ants.nii.gz"
            subprocess.run([options.ants, "-c", ANTS, *paths, file, out], check=True)
            theirs = array_of(read_nifti(out))[0]
            ours = array_of(resample(moving, written, affine_of(fixed), theirs.shape))[0]
            seen = (ours != 0) & (theirs != 0)
            apart = np.abs(ours - theirs)[seen] / np.ptp(array_of(moving))
            lines.append(
                f"| {title} | {apart.max():.1e} | {np.median(apart):.1e} | {seen.mean():.2f} |"
            )
    return "\n".join(lines)
