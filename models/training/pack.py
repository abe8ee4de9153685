"""Label maps, and phantoms beside them, packed: ``python -m radloom.models.training.pack``.

A packed head is about 0.6 MB and loads at once.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from radloom.models.training.anatomies import load_anatomies
from radloom.transforms.synthesis.anatomy import Anatomy, anatomy_of_phantom, pack_anatomy
from radloom.transforms.synthesis.phantom import make_head

__all__ = ["main", "pack", "phantom"]

_log = logging.getLogger(__name__)


def pack(label_maps: Path, out: Path, *, phantoms: int = 0, seed: int = 0) -> list[Path]:
    """Write every head of `label_maps`, and so many phantoms, as packed anatomies into `out`.

    Raises:
        InputError: no head in the folder, or labels that the table does not have.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = [_write(anatomy, out) for anatomy in load_anatomies(label_maps)]
    return written + [_write(phantom(seed + n), out) for n in range(phantoms)]


def phantom(seed: int) -> Anatomy:
    """A procedural head with random parameters, at 1 mm; about a minute on one core."""
    head = make_head(torch.Generator().manual_seed(seed), spacing_mm=1.0)
    return anatomy_of_phantom(f"phantom_{seed:03d}", head)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m radloom.models.training.pack")
    parser.add_argument("label_maps", type=Path, help="folder of .nii.gz label maps or .npz heads")
    parser.add_argument("out", type=Path, help="folder for the packed heads")
    parser.add_argument("--phantoms", type=int, default=0, help="procedural heads to add")
    parser.add_argument("--seed", type=int, default=0, help="of the first phantom")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    written = pack(given.label_maps, given.out, phantoms=given.phantoms, seed=given.seed)
    _log.info("%d heads in <%s>", len(written), given.out.name)


def _write(anatomy: Anatomy, out: Path) -> Path:
    path = out / f"{anatomy.name}.npz"
    path.write_bytes(pack_anatomy(anatomy))
    _log.info("%s", path.name)
    return path


if __name__ == "__main__":
    main()
