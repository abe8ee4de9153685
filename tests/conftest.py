"""Fixtures that several rooms share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from radloom.pipelines.demo import DemoTruth
    from radloom.transforms.synthesis.phantom import HeadPhantom

STATUS = pytest.StashKey[int]()
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands remember between runs goes with the tests; their processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("LOCALAPPDATA", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a bundle's ``logging.conf`` gives the root logger goes with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans that lies beside the checkout; the test is skipped without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real scans (shared/data beside the checkout) are not here")
    return folder


@pytest.fixture(scope="session")
def demo_folder(demo_truth_and_folder: tuple[DemoTruth, Path]) -> Path:
    """A DICOM study of the phantom at 2 mm: t1, t2 and ct moved, flair, a localizer."""
    return demo_truth_and_folder[1]


@pytest.fixture(scope="session")
def demo_truth(demo_truth_and_folder: tuple[DemoTruth, Path]) -> DemoTruth:
    """What is in `demo_folder`."""
    return demo_truth_and_folder[0]


@pytest.fixture(scope="session")
def head(demo_truth: DemoTruth) -> HeadPhantom:
    """The phantom of `demo_folder`, 2 mm."""
    return demo_truth.head


@pytest.fixture(scope="session")
def demo_truth_and_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoTruth, Path]:
    from radloom.pipelines.demo import write_demo_study

    folder = tmp_path_factory.mktemp("demo")
    return write_demo_study(folder, seed=0, spacing_mm=2.0), folder


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two packed heads of the procedural phantom, 4 mm, for the generator."""
    import numpy as np
    import torch

    from radloom.transforms.synthesis.anatomy import RIGHT, Anatomy, pack_anatomy
    from radloom.transforms.synthesis.phantom import make_head
    from radloom.transforms.synthesis.tissues import STRUCTURES

    folder = tmp_path_factory.mktemp("heads")
    for seed in range(2):
        head = make_head(torch.Generator().manual_seed(seed), spacing_mm=4.0)
        codes = torch.where(head.share >= 0.5, head.top, head.under).numpy()
        left, right = (np.array([s.label[side] for s in STRUCTURES])[codes] for side in (0, 1))
        is_right = (left != right) & (head.labels[0].numpy() == right)
        structures = torch.from_numpy((codes + RIGHT * is_right).astype(np.uint8))
        anatomy = Anatomy(f"phantom_{seed}", structures, 4.0)
        (folder / f"{anatomy.name}.npz").write_bytes(pack_anatomy(anatomy))
    return folder


def pytest_sessionfinish(session, exitstatus):
    session.config.stash[STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """Ends the process with the tests' status, before the interpreter takes itself apart.

    With ITK, GDCM, PyTorch and TensorBoard in one process that part crashed now and then, after the
    summary of thousands of tests that had passed; nobody has traced it. How ``radloom`` itself ends
    is looked at by the tests that start it as a process.
    """
    status = config.stash.get(STATUS, None)
    if status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
