"""A sample of the cases of `fuzz_ingestion.py`; the whole of it is run by hand."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz_ingestion.py")

CASES = 250


def fuzz(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time are Linux's")
def test_damaged_copies_of_pydicoms_own_files_get_a_verdict_each():
    text = fuzz("--cases", CASES, "--seed", 2)
    assert f"{CASES} cases, 0 failures" in text
    assert "unreadable" in text


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time are Linux's")
def test_damaged_copies_of_real_series_get_a_verdict_each(real_data):
    text = fuzz("--data", real_data, "--cases", CASES, "--seed", 3)
    assert f"{CASES} cases, 0 failures" in text
    assert "accepted" in text
    assert "truncated" in text


def test_the_same_number_makes_the_same_damage(tmp_path):
    spec = importlib.util.spec_from_file_location("fuzz_ingestion", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_ingestion"] = module
    spec.loader.exec_module(module)
    seeds = module.find_seeds(None)
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        said = [module.make_case(seeds, number, 1, tmp_path / name) for number in range(12)]
        contents.append((said, [f.read_bytes() for f in sorted((tmp_path / name).iterdir())]))
    assert contents[0] == contents[1]
    assert len(set(contents[0][0])) > 8
