"""Two processes on the CPU train together: each on its own samples, to the same weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from radloom.models.training.processes import processes

SCRIPT = """
import sys
from pathlib import Path
import torch
from radloom.models.training.batches import draw_batches
from radloom.models.training.run import Training, seeded
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.sources import open_source
from radloom.models.training.tasks.segmentation import Segmentation

heads, out = sys.argv[1:]
recipe = {"grid": {"shape": [16, 16, 16], "spacing_mm": [8.0, 8.0]}}

def training(name, **settings):
    seeded(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(6, 37, 1))
    return Training(
        network, Segmentation(), open_source(heads, recipe),
        torch.optim.AdamW(network.parameters(), lr=1e-2), str(Path(out) / name),
        TrainingSettings(max_steps=3, warmup_steps=1, validation_cases=3, accumulate=2, **settings),
        device="cpu")

torch.distributed.init_process_group("gloo")
training("whole").run()
training("parts", max_minutes=0.0).run()
last = training("parts")
last.run()
rank = torch.distributed.get_node_local_rank()
torch.save(last.network.state_dict(), Path(out) / f"rank{rank}.pt")
first = training("unused")
batches = draw_batches(first.source, first.task, first.settings, 0, rank)
losses = [first.task.loss(first.network(b["image"]), b)["dice_ce"] for b in batches]
torch.save(torch.stack(losses).mean().detach(), Path(out) / f"loss{rank}.pt")
torch.distributed.destroy_process_group()
"""


def rows(path: Path) -> list[list[str]]:
    cells = [line.split("\t") for line in path.read_text().splitlines()]
    return [[row[0], *row[2:]] for row in cells]


@pytest.mark.slow
def test_two_processes_learn_together_and_go_on_together(heads, tmp_path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(script), str(heads), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole, parts = (rows(tmp_path / name / "curve.tsv") for name in ("whole", "parts"))
    assert [row[0] for row in whole] == ["step", "1", "2", "3"]
    assert whole == parts
    weights = [torch.load(tmp_path / f"rank{n}.pt", weights_only=True) for n in range(2)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    losses = [float(torch.load(tmp_path / f"loss{n}.pt", weights_only=True)) for n in range(2)]
    assert losses[0] != losses[1]
    assert float(whole[1][2]) == pytest.approx(sum(losses) / 2, rel=1e-5)
    lines = (tmp_path / "whole" / "validation.jsonl").read_text().splitlines()
    assert len(lines) == 1


def test_one_process_is_the_first_of_one() -> None:
    with processes("cpu") as own:
        assert (own.rank, own.n, own.is_first) == (0, 1, True)
        assert own.any(True)
        assert not own.any(False)
        assert float(own.mean(torch.tensor(2.0))) == 2
