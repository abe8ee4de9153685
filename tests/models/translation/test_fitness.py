"""Heads pass on any grid; a CT, another body part, a cut head and noise do not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from radloom.models.translation.fitness import FITNESS_RANGES, fitness_of
from radloom.shapes import Volume, affine_of, array_of, make_volume
from radloom.transforms.nifti import read_nifti
from radloom.transforms.synthesis.phantom import HeadPhantom, render_ct, render_mr


def flags(volume: Volume) -> set[str]:
    found = asdict(fitness_of(volume))
    assert set(found) == set(FITNESS_RANGES)
    return {
        name
        for name, (low, high) in FITNESS_RANGES.items()
        if (low is not None and found[name] < low) or (high is not None and found[name] > high)
    }


def mr(values, affine) -> Volume:
    return make_volume(values, affine, modality="MR", units="arbitrary")


@pytest.fixture(scope="module")
def t1(head: HeadPhantom) -> Volume:
    return render_mr(head, "t1", generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("contrast", ["t1", "t2", "flair"])
def test_heads_of_every_contrast_pass(head, contrast) -> None:
    assert flags(render_mr(head, contrast, generator=torch.Generator().manual_seed(1))) == set()


def test_a_head_passes_lying_along_other_axes(t1) -> None:
    values, affine = array_of(t1)[0], affine_of(t1)
    turned = affine.copy()
    turned[:3, :3] = affine[:3, [1, 2, 0]]
    turned[:3, 0] *= -1
    turned[:3, 3] += affine[:3, 1] * (values.shape[1] - 1)
    sagittal = mr(np.ascontiguousarray(values[:, ::-1].transpose(1, 2, 0)), turned)
    assert flags(sagittal) == set()
    assert asdict(fitness_of(sagittal)) == pytest.approx(asdict(fitness_of(t1)), rel=0.1, abs=0.02)


def test_a_ct_is_none(head) -> None:
    ct = render_ct(head, generator=torch.Generator().manual_seed(0))
    assert "negative_share" in flags(mr(ct.as_tensor(), affine_of(ct)))
    assert "grey_spread" in flags(mr(ct.as_tensor() + 1024, affine_of(ct)))


@pytest.mark.parametrize(
    "part",
    [
        (slice(None), slice(None), slice(0, 0.75)),
        (slice(None), slice(0, 0.7), slice(None)),
        (slice(0.3, 1), slice(None), slice(None)),
    ],
    ids=["vertex", "face", "left"],
)
def test_cut_heads_are_named(t1, part) -> None:
    values = array_of(t1)[0]
    box = tuple(
        slice(int((s.start or 0) * n), int((1 if s.stop is None else s.stop) * n))
        for s, n in zip(part, values.shape, strict=True)
    )
    assert "cut" in flags(mr(values[box], affine_of(t1)))


def test_noise_and_nothing_are_no_heads(t1) -> None:
    noise = np.abs(np.random.default_rng(0).normal(size=t1.shape)).astype(np.float32)
    assert "likeness_of_neighbours" in flags(mr(noise, affine_of(t1)))
    assert "likeness_of_neighbours" in flags(mr(np.zeros((9, 9, 9)), np.eye(4)))


@pytest.mark.real_data
def test_a_body_is_no_head(real_data: Path) -> None:
    body = real_data / "real" / "body_ct"
    assert {"head_width", "cut"} <= flags(read_nifti(body / "example_ct.nii.gz"))
    assert {"head_width", "cut"} <= flags(read_nifti(body / "example_mr_sm.nii.gz"))


@pytest.mark.real_data
def test_clinical_scans_of_heads_pass(real_data: Path) -> None:
    for name in ("study1_T1W", "study1_T2W", "study1_FLAIR"):
        (path,) = (real_data / "studies" / "ms01").rglob(f"{name}.nii.gz")
        assert flags(read_nifti(path)) == set(), name
