from __future__ import annotations

import tempfile
import tracemalloc

import pytest

from radloom.errors import ReasonCode
from radloom.pipelines.ingest import discover, gathering
from radloom.pipelines.ingest.gathering import GatheredHeaders
from radloom.pipelines.ingest.headers import SliceHeader


def header(series: int, number: int) -> SliceHeader:
    return SliceHeader(
        f"{series}/{number}.dcm",
        series_uid=f"1.{series}",
        sop_uid=f"2.{series}.{number}",
        identifiers=("Doe",),
        facts={"EchoTime": 0.1},
        problem=ReasonCode.TRUNCATED if number == 1 else None,
    )


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_series_come_back_whole_and_in_order(monkeypatch, most):
    monkeypatch.setattr(gathering, "MOST_HELD", most)
    with GatheredHeaders() as headers:
        for number in range(20):
            for series in (3, 1, 2):
                headers.add(header(series, number))
        wanted = [[header(series, number) for number in range(20)] for series in (3, 1, 2)]
        assert list(headers) == wanted
        headers.add(header(1, 20))
        assert [len(series) for series in headers] == [20, 21, 20]


def test_where_nothing_can_be_put_away_headers_stay_in_memory(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gathering, "MOST_HELD", 4)
    with GatheredHeaders() as headers:
        for number in range(6):
            headers.add(header(1, number))
        monkeypatch.setattr(GatheredHeaders, "_write", full)
        for number in range(6, 20):
            headers.add(header(1, number))
        assert list(headers) == [[header(1, number) for number in range(20)]]


def test_nothing_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(gathering, "MOST_HELD", 2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with GatheredHeaders() as headers:
        for number in range(5):
            headers.add(header(1, number))
        assert len(list(headers)) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_put_away_changes_no_verdict(monkeypatch, tmp_path, series, t1_tags):
    """Two copies of one series, and one without UIDs, in folders between each other."""
    series(tmp_path / "a", series_uid="1.2.9", **t1_tags)
    series(tmp_path / "b", series_uid="1.2.10", SeriesNumber=2)
    series(tmp_path / "c", series_uid="1.2.9", **t1_tags)
    series(tmp_path / "d", edit=lambda d, k: d.__delattr__("SeriesInstanceUID"))
    (tmp_path / "a" / "003.dcm").write_bytes(b"")
    plain = discover(tmp_path)
    monkeypatch.setattr(gathering, "MOST_HELD", 3)
    assert repr(discover(tmp_path)) == repr(plain)


def test_headers_do_not_pile_up_in_memory(monkeypatch, tmp_path):
    """Twenty times as many series: what is held grows by their places alone."""
    monkeypatch.setattr(gathering, "MOST_HELD", 100)
    held = [_held(n_series) for n_series in (5, 100)]
    assert held[1] - held[0] < 95 * 2000  # of 95 x 40 headers, which take 600 bytes each


def _held(n_series: int) -> int:
    with GatheredHeaders() as headers:
        tracemalloc.start()
        for series in range(n_series):
            for number in range(40):
                headers.add(header(series, number))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return held
