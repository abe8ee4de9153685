from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from radloom.errors import InputError
from radloom.shapes import affine_of, array_of
from radloom.voxels import Voxels

LEAN = """\
import sys
from radloom import cli
from radloom.pipelines import runner
from radloom.pipelines.engine import process, worker
from radloom.pipelines.export import readers, writers
from radloom.pipelines.ingest import discovery, pixels, stage
print([name for name in ("torch", "monai") if name in sys.modules])
"""


def test_a_volume_of_any_memory_layout_is_the_same_tensor():
    array = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    turned = np.asfortranarray(array)
    affine = np.diag([1.0, 2.0, 3.3, 1.0])
    voxels = Voxels(turned, affine, "MR", "arbitrary", "1.2", ("split_series",))
    volume = voxels.volume()
    np.testing.assert_array_equal(array_of(volume), array)
    assert volume.is_contiguous()
    np.testing.assert_array_equal(affine_of(volume), voxels.affine)
    assert volume.meta["series_uid"] == "1.2"
    assert volume.meta["reasons"] == ("split_series",)
    assert voxels.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.zeros((2, 3, 4), np.float32), np.eye(4), "C, I, J, K"),
        (np.zeros((1, 2, 3, 4)), np.eye(4), "float32"),
        (np.zeros((1, 2, 3, 4), np.float32), np.full((4, 4), np.nan), "finite"),
        (np.zeros((1, 2, 3, 4), np.float32), np.diag([1.0, 1, 0, 1]), "invertible"),
    ],
)
def test_what_is_no_volume_is_named(array, affine, message):
    with pytest.raises(InputError, match=message):
        Voxels(array, affine, "MR", "arbitrary")


def test_what_converts_imports_neither_torch_nor_monai():
    done = subprocess.run(
        [sys.executable, "-c", LEAN], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
