from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from radloom.errors import ConfigError
from radloom.pipelines.engine import space
from radloom.pipelines.engine.space import (
    is_disk_trouble,
    require_space,
    require_writable,
    space_needed,
)
from radloom.pipelines.study import SeriesRecord, StudyRecord


def series(status: str) -> SeriesRecord:
    return SeriesRecord("1", "MR", "", status, shape=(100, 100, 100))  # type: ignore[arg-type]


def test_refused_series_and_stages_that_write_no_volume_take_nothing():
    record = StudyRecord("a", "1", "1", Path(), (series("accepted"), series("rejected")))
    one = space_needed([record], ["ingest"])
    assert one == 1_500_000
    assert space_needed([record, record], ["ingest", "denoise", "report"]) == 4 * one


def test_a_disk_without_room_is_refused_before_work_starts(tmp_path):
    require_space(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"expected at least 1000000\.0 GB free .* found"):
        require_space(tmp_path, 10**15)


def test_a_disk_that_takes_nothing_is_refused(tmp_path, monkeypatch):
    require_writable(tmp_path / "new")
    assert not list((tmp_path / "new").rglob(".probe*"))

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(space, "write_file", refuse)
    with pytest.raises(ConfigError, match=r"write to <.*>: Read-only file system"):
        require_writable(tmp_path)


def test_the_disk_is_told_from_the_study():
    assert is_disk_trouble("OSError: No space left on device")
    assert is_disk_trouble(os.strerror(errno.EROFS))
    assert not is_disk_trouble("FileNotFoundError: No such file or directory")
