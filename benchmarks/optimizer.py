"""Muon beside AdamW for few steps of a small segmenter: the same first weights, the same windows.

A U-Net of four stages learns the 37 classes from heads rendered from anatomy/train at 3.4 mm, in
windows of 32^3, two a step. Rates rise over 30 steps and fall to 0 over the last half. Reported:
mean loss (Dice and cross-entropy) of steps 100 to 200 and of the last 100, and the loss on windows
of heads rendered from anatomy/validation; rates were not chosen by the latter.

Run from the repository root, with the data beside the checkout, or packed heads::

    python benchmarks/optimizer.py ../shared/data/anatomy/train ../shared/data/anatomy/validation
    python benchmarks/optimizer.py TRAIN VALIDATION --runs muon:0.01 adamw:0.005 --steps 400
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

from radloom.models.segmentation.classes import CLASSES
from radloom.models.training.batches import crop
from radloom.models.training.draws import generator_at
from radloom.models.training.muon import Muon
from radloom.models.training.settings import TrainingSettings
from radloom.models.training.sources import Source, open_source
from radloom.models.training.tasks.segmentation import Segmentation

RECIPE = {
    "grid": {"shape": [56, 60, 56], "spacing_mm": [3.2, 3.6], "offset": 0.3},
    "mr": {"physics_probability": 0.9},
    "mr_acquisition": {"nearly_clean": 0.6},
}
WINDOW = (32, 32, 32)
RUNS = ("adamw:0.002", "adamw:0.005", "adamw:0.01", "muon:0.005", "muon:0.01", "muon:0.02")
N_TRAIN, N_VALIDATION = 44, 8
TASK = Segmentation()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--runs", nargs="+", default=RUNS, help="OPTIMISER:RATE")
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    heads = samples(open_source(given.train, RECIPE), N_TRAIN)
    others = [windows(head, 1, seed) for seed, head in enumerate(unseen(given.validation))]
    print("| optimiser | rate | loss, steps 100 to 200 | loss, last 100 | loss, unseen |")
    print("|---|---|---|---|---|")
    for run in given.runs:
        name, rate = run.split(":")
        losses, network = learn(name, float(rate), heads, given.steps)
        early, late = (sum(part) / len(part) for part in (losses[100:200], losses[-100:]))
        unseen_loss = sum(loss_of(network, batch).item() for batch in others) / len(others)
        print(f"| {name} | {rate} | {early:.2f} | {late:.2f} | {unseen_loss:.2f} |", flush=True)


def samples(source: Source, count: int) -> list[dict[str, torch.Tensor]]:
    """Whole heads."""
    return [source.sample(TASK.wanted, generator_at(5, n), pair=False) for n in range(count)]


def unseen(folder: Path) -> list[dict[str, torch.Tensor]]:
    """Heads of the validation, by physics."""
    source = open_source(folder, {**RECIPE, "mr": {"physics_probability": 1.0}})
    return samples(source, N_VALIDATION)


def windows(head: dict[str, torch.Tensor], count: int, seed: int) -> dict[str, torch.Tensor]:
    """A batch of windows of one head."""
    generator = generator_at(seed, "windows")
    cut = [TASK.prepare(crop(head, WINDOW, generator), generator) for _ in range(count)]
    return {name: torch.stack([one[name] for one in cut]) for name in cut[0]}


def learn(
    name: str, rate: float, heads: list[dict[str, torch.Tensor]], steps: int
) -> tuple[list[float], torch.nn.Module]:
    """The loss of each step, and the network."""
    network = fresh_network()
    if name == "muon":
        optimizer: torch.optim.Optimizer = Muon(network.parameters(), lr=rate)
    else:
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    schedule = TrainingSettings(max_steps=steps, warmup_steps=30, decay_share=0.5)
    full = [group["lr"] for group in optimizer.param_groups]
    losses = []
    for step, batch in enumerate(batches(heads, steps)):
        for group, top in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = top * schedule.rate(step)
        loss = loss_of(network, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, network.eval()


def batches(heads: list[dict[str, torch.Tensor]], steps: int) -> Iterator[dict[str, torch.Tensor]]:
    """Two windows of two heads a step, the same for every run."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        pair = torch.randint(len(heads), (2,), generator=generator).tolist()
        parts = [windows(heads[n], 1, 2 * step + k) for k, n in enumerate(pair)]
        yield {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def loss_of(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Dice and cross-entropy."""
    return TASK.loss(network(batch["image"]), batch)["dice_ce"]


def fresh_network() -> torch.nn.Module:
    """The same first weights each time."""
    torch.manual_seed(0)
    return PlainConvUNet(
        1, 4, [12, 24, 48, 64], torch.nn.Conv3d, 3, [1, 2, 2, 2], [1, 2, 2, 2], len(CLASSES), 1,
        conv_bias=True, norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"affine": True},
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip


if __name__ == "__main__":
    main()
