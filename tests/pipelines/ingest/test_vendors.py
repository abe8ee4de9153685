"""The page of real scanners' series holds: every accepted volume equals its reference."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

GEOMETRY_WARNINGS = ("gantry tilt", "Interslice", "not spatial", "spatial matrix", "mosaic up to")
"""What dcm2niix says where the places of voxels are not certain."""


@pytest.fixture(scope="module")
def vendors():
    return runpy.run_path(str(REPOSITORY / "benchmarks" / "vendors.py"))


@pytest.fixture(scope="module")
def rows(vendors, real_data):
    return list(vendors["compared"](real_data))


def test_every_accepted_series_equals_its_reference_in_world_space(rows):
    taken = [row for row in rows if row.verdict != "rejected"]
    assert len(taken) > 30
    assert [row for row in taken if not row.is_same] == []


def test_what_the_reference_splits_or_doubts_is_split_or_refused(rows):
    for row in rows:
        if any(words in row.other for words in GEOMETRY_WARNINGS):
            assert row.verdict == "rejected", row
        n_images = int(row.other.split()[0])
        if row.verdict == "accepted":
            assert n_images == 1, row


def test_the_page_says_what_is_so(vendors, rows):
    page = (REPOSITORY / "docs" / "reference" / "vendors.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ")][1:]
    written = {tuple(line.strip("| ").split(" | "))[:4] for line in lines}
    found = {vendors["identity"](row, n)[:4] for row, n in Counter(rows).items()}
    assert written == found
