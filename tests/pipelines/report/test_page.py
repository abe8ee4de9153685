"""The page: complete, inert, anonymous, self-contained."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from radloom.pipelines.receipts.receipt import Check, OutputRecord, Receipt, write_receipt
from radloom.pipelines.receipts.records import write_record
from radloom.pipelines.report.bars import bar_of
from radloom.pipelines.report.canvas import _png
from radloom.pipelines.report.cohort import read_cohort, scale_of
from radloom.pipelines.report.page import render_page, write_report
from radloom.pipelines.study import SeriesRecord, StudyRecord

PLANTED = ("DOE^JOHN", "Doe_John", "MRN123456", "19551231", "1.2.840.99.7")
HOSTILE = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'


def put(out: Path, study: str, stage: str, position: int = 0, **values: object) -> None:
    given = {"status": "done", "fingerprint": "f" * 64, "seconds": 2.5,
             "versions": {"radloom": "0.1.0"}, "position": position, **values}  # fmt: skip
    receipt = Receipt(study=study, stage=stage, **given)
    write_receipt(out / "stages" / study / stage / "stage.json", receipt)


def record(out: Path, subject: str, *series: SeriesRecord) -> None:
    write_record(
        out, StudyRecord(subject, "1", PLANTED[4], Path(f"/data/{PLANTED[0]}/MRN123456"), series)
    )


def accepted(description: str = "MPRAGE") -> SeriesRecord:
    return SeriesRecord(
        PLANTED[4] + ".1", "MR", description, "accepted", role="t1", role_rule="sequence",
        shape=(256, 240, 176), spacing=(1.0, 1.0, 1.2), files=("Doe_John/1.dcm",),
        headers={"PatientName": PLANTED[0], "PatientID": PLANTED[2], "BirthDate": PLANTED[3]},
    )  # fmt: skip


def refused() -> SeriesRecord:
    return SeriesRecord(
        PLANTED[4] + ".2", "CT", "Head tilted", "rejected", "gantry_tilt",
        "expected a straight stack, got 18.5 degrees", files=("Doe_John/2.dcm",),
    )  # fmt: skip


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """One study done, one flagged with a picture, one failed, one skipped, one not finished."""
    png = _png(np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(6, axis=0))
    path = "sub-flagged/ses-1/figures/sub-flagged_ses-1_mod-T1w_desc-denoise_report.png"
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(png)
    volume = OutputRecord(
        kind="volume", role="t1", name="ingested", series_uid=PLANTED[4] + ".1",
        path="sub-x/ses-1/anat/x_T1w.nii.gz", files={"sub-x/ses-1/anat/x_T1w.nii.gz": "aa"},
    )  # fmt: skip
    picture = OutputRecord(
        kind="report", role="t1", name="denoise", path=path, files={path: "bb"},
        sidecar={"stage": "denoise"},
    )  # fmt: skip
    for name in ("done", "flagged", "failed"):
        record(tmp_path, name, accepted(HOSTILE if name == "flagged" else "MPRAGE"), refused())
        put(tmp_path, f"sub-{name}_ses-1", "ingest", outputs=(volume,), peak_memory_bytes=2**30)
    good = Check("t1_residual", 0.05, high=0.1, unit="r", meaning="Left in the residual.")
    bad = Check("t1_residual", 0.5, high=0.1, unit="r", meaning="Look at the residual.")
    lost = Check("t1_noise", math.nan, low=0.0, meaning="Noise level.")
    put(tmp_path, "sub-done_ses-1", "denoise", 1, checks=(good,), parameters={"method": "nlm"})
    put(tmp_path, "sub-done_ses-1", "translate", 2, status="skipped", reason="no weights yet")
    put(tmp_path, "sub-flagged_ses-1", "denoise", 1, checks=(bad, lost))
    put(tmp_path, "sub-flagged_ses-1", "report", 2, outputs=(picture,))
    put(tmp_path, "sub-failed_ses-1", "register", 1, status="failed",
        reason="elastix gave up & stopped", trace=("register.py:10 run",))  # fmt: skip
    record(tmp_path, "skipped", refused())
    record(tmp_path, "begun", accepted())
    return tmp_path


class Parsed(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_every_study_with_what_became_of_it(out):
    page = write_report(out).read_text(encoding="utf-8")
    parsed = Parsed(page)
    states = {d["id"]: d["data-state"] for d in parsed.all("details") if "data-state" in d}
    assert states == {
        "sub-begun_ses-1": "failed",
        "sub-done_ses-1": "done",
        "sub-failed_ses-1": "failed",
        "sub-flagged_ses-1": "flagged",
        "sub-skipped_ses-1": "skipped",
    }
    for text in ("Failed in register.", "elastix gave up & stopped", "no weights yet",
                 "gantry tilt", "got 18.5 degrees", "256 \u00d7 240 \u00d7 176", "1 \u00d7 1.2",
                 "at most 0.1", "not a number", "Left in the residual.", "f" * 64, "1.0 GiB",
                 "register.py:10 run", "nlm"):  # fmt: skip
        assert text in parsed.text, text
    assert [i["alt"] for i in parsed.all("img")] == [
        "sub-flagged_ses-1, denoise, T1: axial, coronal and sagittal planes; "
        "before, after, residual"
    ]


def test_foreign_text_is_inert(out):
    page = write_report(out).read_text(encoding="utf-8")
    parsed = Parsed(page)
    assert HOSTILE not in page
    assert "&lt;script&gt;document.title" in page
    assert len(parsed.all("script")) == 1
    assert not [k for _, attrs in parsed.elements for k in attrs if k.startswith("on")]
    (policy,) = (m["content"] for m in parsed.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_no_identifier_reaches_the_page(out):
    page = write_report(out).read_text(encoding="utf-8")
    for planted in PLANTED:
        assert planted.lower() not in page.lower()
    assert str(out) not in page


def test_nothing_is_fetched(out):
    page = write_report(out).read_text(encoding="utf-8")
    parsed = Parsed(page)
    addresses = [a[k] for _, a in parsed.elements for k in ("src", "href", "action") if k in a]
    assert addresses
    assert not [a for a in addresses if re.match(r"(?i)\s*(https?:|ftp:|//|javascript:)", a)]
    assert all(i["src"].startswith("data:image/png;base64,") for i in parsed.all("img"))
    assert not parsed.all("link")
    assert "@import" not in page
    assert "url(" not in page


def test_files_are_linked_relative_to_the_page(out):
    hrefs = [a["href"] for a in Parsed(write_report(out).read_text(encoding="utf-8")).all("a")]
    assert "sub-x/ses-1/anat/x_T1w.nii.gz" in hrefs
    ids = {a["id"] for _, a in Parsed(write_report(out).read_text()).elements if "id" in a}
    assert {h[1:] for h in hrefs if h.startswith("#")} <= ids


def test_large_cohorts_link_their_pictures(out):
    page = render_page(read_cohort(out), inline_limit_bytes=10)
    (image,) = Parsed(page).all("img")
    assert image["src"].startswith("sub-flagged/ses-1/figures/")
    assert (out / image["src"]).is_file()
    assert "keep this page beside" in page


def test_same_bytes_each_time_and_no_half_files(out):
    first = write_report(out).read_bytes()
    assert write_report(out).read_bytes() == first
    assert [p.name for p in out.iterdir() if p.name.startswith("report")] == ["report.html"]


def test_no_studies_at_all(tmp_path):
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "No study was found" in page
    assert "<table" not in page


def test_a_picture_that_was_deleted_is_left_out(out):
    next(out.glob("**/figures/*.png")).unlink()
    assert not Parsed(write_report(out).read_text(encoding="utf-8")).all("img")


def test_checks_across_studies(out):
    (spread,) = read_cohort(out).totals.spreads
    assert spread.check.name == "t1_residual"
    assert spread.check.value == pytest.approx(0.275)
    assert spread.n_flagged == 1
    page = write_report(out).read_text(encoding="utf-8")
    assert page.count('class="dot') == 2
    assert page.count('class="dot out"') == 1


@pytest.mark.parametrize(
    "check",
    [
        Check("both", 0.5, 0.0, 1.0),
        Check("above", 7.0, 0.0, 1.0),
        Check("below", -7.0, 0.0, 1.0),
        Check("one side", 3.0, low=2.0),
        Check("no range", 3.0),
        Check("zero", 0.0, high=0.0),
        Check("lost", math.nan, 0.0, 1.0),
        Check("infinite", math.inf, 0.0, 1.0),
    ],
)
def test_the_mark_is_inside_the_band_exactly_when_the_value_is_in_range(check):
    low, high = scale_of(check)
    assert low < high
    bar = bar_of(check)
    assert 0 <= bar["start"] <= bar["start"] + bar["width"] <= 100
    if math.isfinite(check.value):
        assert 0 <= bar["mark"] <= 100
        inside = bar["start"] <= bar["mark"] <= bar["start"] + bar["width"]
        assert inside != check.flagged
    else:
        assert bar["mark"] < 0


def test_headings_alternatives_and_labels_for_those_who_cannot_see(out):
    parsed = Parsed(write_report(out).read_text(encoding="utf-8"))
    assert parsed.all("html")[0]["lang"] == "en"
    assert all(i["alt"] for i in parsed.all("img"))
    assert all("scope" in th for th in parsed.all("th"))
    assert len(parsed.all("table")) == len(parsed.all("caption"))
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_a_browser_renders_it_without_errors(out, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("needs chromium, which is not installed")
    page = write_report(out)
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    assert "owned" not in re.search(r"<title>(.*)</title>", done.stdout)[1]
    assert '<div id="filters" class="filters" role="group"' in done.stdout  # the script ran
    assert "CONSOLE" not in done.stderr, done.stderr
