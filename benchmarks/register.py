"""Registration: rigid, deformable, real pairs, and what elastix costs, against today's tools.

Each part is a module beside this one and says in its docstring what it measures. Run from the
repository root, with the data beside the checkout or their folder named::

    python benchmarks/register.py rigid --moves 100
    python benchmarks/register.py real --pictures FOLDER
    python benchmarks/register.py deformable
    python benchmarks/register.py threads
    python benchmarks/register.py files --ants PYTHON
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import os
import platform
import sys
from pathlib import Path

PARTS = {
    "rigid": "register_rigid",
    "real": "register_real",
    "deformable": "register_deformable",
    "threads": "register_threads",
    "files": "register_files",
}
"""Part -> module with ``add_arguments(parser)`` and ``run(options)``, which gives a text."""


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    part = parser.parse_known_args(given[:1])[0].part
    module = importlib.import_module(PARTS[part])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    module.add_arguments(parser)
    options = parser.parse_args(given)
    if not options.data.is_dir():
        parser.error(f"expected a folder of data, got --data {options.data}")
    options.run = module.run
    return options


def main() -> None:
    options = arguments(sys.argv[1:])
    print(
        f"{dt.date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}\n"
    )
    print(options.run(options))


if __name__ == "__main__":
    main()
