"""Checkpoints: whole or not there, small files, nothing but tensors and plain values."""

from __future__ import annotations

import pytest
import torch

from radloom.errors import InputError
from radloom.models.training.parts import (
    MAX_PART_BYTES,
    latest_parts,
    read_parts,
    remove_old_parts,
    write_parts,
)


def state() -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "weights": {f"w{n}": torch.randn((n, 3), generator=generator) for n in range(5)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "groups": [{"lr": 1e-3}]},
        "others": [torch.arange(5), torch.ones(2, 2, dtype=torch.bfloat16), None, True, "x", 2.5],
    }


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b and type(a) is type(b)


def test_what_is_read_is_what_was_written(tmp_path) -> None:
    folder = write_parts(tmp_path, 7, state(), max_part_bytes=2**16 + 100)
    step, found = read_parts(folder)
    assert step == 7
    assert equal(state(), found)
    assert len(list(folder.glob("part-*.pt"))) > 1


def test_no_file_is_larger_than_16_mib(tmp_path) -> None:
    many = {f"w{n}": torch.zeros(3 * 2**20 + n) for n in range(4)}
    folder = write_parts(tmp_path, 1, many)
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert max(sizes) <= MAX_PART_BYTES
    assert len(sizes) == 5
    assert equal(many, read_parts(folder)[1])


def test_the_newest_counts_and_old_ones_go(tmp_path) -> None:
    assert latest_parts(tmp_path) is None
    for step in (9, 100, 30):
        write_parts(tmp_path, step, {})
    (tmp_path / ".step-00000999.new").mkdir()
    (tmp_path / "step-00000998").mkdir()
    assert latest_parts(tmp_path).name == "step-00000100"
    remove_old_parts(tmp_path, 2)
    assert latest_parts(tmp_path).name == "step-00000100"
    assert not (tmp_path / "step-00000009").exists()


def test_a_changed_or_missing_part_is_refused(tmp_path) -> None:
    folder = write_parts(tmp_path, 1, state())
    part = folder / "part-000.pt"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"<step-00000001/part-000.pt>.*copy the checkpoint anew"):
        read_parts(folder)
    part.unlink()
    with pytest.raises(InputError, match="expected the part that the manifest names"):
        read_parts(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"expected a checkpoint with manifest.json"):
        read_parts(folder)


def test_only_tensors_and_plain_values_are_taken(tmp_path) -> None:
    with pytest.raises(InputError, match="expected tensors and plain values"):
        write_parts(tmp_path, 1, {"odd": object()})
