"""Fixtures that several rooms share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from radloom.pipelines.demo import DemoTruth
    from radloom.transforms.synthesis.phantom import HeadPhantom

REPOSITORY = Path(__file__).resolve().parents[1]


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
