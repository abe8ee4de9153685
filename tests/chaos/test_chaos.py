"""A sample of ``chaos.py``: seven studies, six kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_run_that_loses_everything_in_turn_ends_as_one_that_loses_nothing():
    script = Path(__file__).with_name("chaos.py")
    done = subprocess.run(
        [
            *(sys.executable, script, "--studies", "7", "--kills", "6"),
            *("--seed", "3", "--stage-timeout", "8"),
        ],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the same bytes as undisturbed" in done.stdout
