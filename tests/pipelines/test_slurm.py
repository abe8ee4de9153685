"""One command through a real SLURM; the whole comparison is benchmarks/slurm/roundtrip.py."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "benchmarks" / "slurm"


@pytest.fixture
def roundtrip(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    if sys.platform != "linux":
        pytest.skip("SLURM needs Linux")
    import loopback
    import roundtrip

    if loopback.missing():
        pytest.skip(f"{', '.join(loopback.missing())}: not installed (Debian: slurm-wlm, munge)")
    if find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed (pip install 'radloom[cluster]')")
    return roundtrip


@pytest.mark.slow
def test_slurm_gives_the_same_files_also_when_a_job_is_cancelled(roundtrip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")  # short: a socket's path has at most 107 characters
    with roundtrip.loopback(folder / "s") as slurm:
        site = roundtrip.Site(folder, slurm)
        roundtrip.make_studies(site, 2, spacing_mm=4.0)
        local = roundtrip.run_locally(site)
        assert local.code == 0, local.said
        assert any(path.endswith(".nii.gz") for path in local.digests)
        cancelled = roundtrip.run_with_scancel(site)
        assert cancelled.code == 0, cancelled.said
        assert not slurm.jobs()
    assert cancelled.digests == local.digests


def test_the_page_has_the_file_that_is_tested():
    page = (REPOSITORY / "docs" / "how-to" / "slurm.md").read_text()
    assert f"```py\n{(FOLDER / 'workers.py').read_text()}```" in page
