"""Large cohorts: a page a study, a table in pages, nothing inlined but text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from radloom.pipelines.receipts.receipt import Check, OutputRecord, Receipt, write_receipt
from radloom.pipelines.receipts.records import write_record
from radloom.pipelines.report.bars import N_BINS, N_NAMED, bins_of
from radloom.pipelines.report.canvas import _png
from radloom.pipelines.report.cohort import CheckSpread, read_cohort, read_studies
from radloom.pipelines.report.page import MANY, write_report
from radloom.pipelines.report.render import as_data
from radloom.pipelines.study import SeriesRecord, StudyRecord

HOSTILE = "</script><script>document.title='owned'</script><!--"
PLANTED = ("DOE^JOHN", "MRN123456")


def study(out: Path, number: int, *, value: float | None = None, description: str = "T1") -> str:
    label = f"{number:04}"
    key = f"sub-{label}_ses-1"
    series = SeriesRecord(
        "1.2", "MR", description, "accepted", role="t1", files=(f"{PLANTED[0]}/1.dcm",),
        headers={"PatientID": PLANTED[1]},
    )  # fmt: skip
    write_record(out, StudyRecord(label, "1", "1", Path(f"/{PLANTED[0]}"), (series,)))
    png = f"sub-{label}/ses-1/figures/a_report.png"
    (out / png).parent.mkdir(parents=True, exist_ok=True)
    (out / png).write_bytes(_png(np.zeros((12, 24), dtype=np.uint8)))
    volume = OutputRecord("volume", "t1", "ingested", path=f"{key}.nii", files={f"{key}.nii": "0"})
    picture = OutputRecord(
        "report", "t1", "a", path=png, files={png: "1"}, sidecar={"stage": "ingest"}
    )
    check = Check("t1_noise", number % 7 if value is None else value, 0.0, 10.0, meaning="Noise.")
    for position, (stage, outputs) in enumerate((("ingest", (volume,)), ("report", (picture,)))):
        receipt = Receipt(
            key, stage, "done", position=position, outputs=outputs, checks=(check,), seconds=1.5,
            versions={"radloom": "0.1.0"},
        )  # fmt: skip
        write_receipt(out / "stages" / key / stage / "stage.json", receipt)
    return key


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for number in range(MANY + 2):
        study(tmp_path, number, value=99.0 if number == 3 else None)
    return tmp_path


class Parsed(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements:
            self.texts.append((self.elements[-1][0], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def rows_of(page: str) -> list[list[object]]:
    data = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page, re.DOTALL)
    return json.loads(data[1])


def test_a_page_for_each_study_and_one_over_all(out):
    page = write_report(out).read_text(encoding="utf-8")
    names = [f"sub-{number:04}_ses-1" for number in range(MANY + 2)]
    assert sorted(path.stem for path in (out / "report").iterdir()) == names
    rows = rows_of(page)
    assert [row[0] for row in rows] == names
    assert rows[3][:7] == [names[3], "flagged", "MR", ["t1"], 1, 0, ""]
    assert rows[3][8] == ["t1 noise"]
    hrefs = {a["href"] for a in Parsed(page).all("a")}
    assert {f"report/{name}.html" for name in names[:100]} <= hrefs
    assert "data:image" not in page


def test_the_pages_of_studies_lead_to_each_other_and_to_their_files(out):
    write_report(out)
    for number in (0, 20, MANY + 1):
        path = out / "report" / f"sub-{number:04}_ses-1.html"
        parsed = Parsed(path.read_text(encoding="utf-8"))
        ids = {attributes["id"] for _, attributes in parsed.elements if "id" in attributes}
        for a in parsed.all("a"):
            target, _, anchor = a["href"].partition("#")
            if target.endswith(".nii"):
                assert target.startswith("../sub-")  # the volumes are not there in this test
            else:
                assert not target or (path.parent / target).is_file(), target
            assert not anchor or anchor in ids
        turns = {a["rel"]: a["href"] for a in parsed.all("a") if "rel" in a}
        assert ("prev" in turns, "next" in turns) == (number > 0, number <= MANY)


def test_pictures_are_linked_and_read_when_they_come_into_view(out):
    write_report(out)
    path = out / "report" / "sub-0007_ses-1.html"
    (image,) = Parsed(path.read_text(encoding="utf-8")).all("img")
    assert image["loading"] == "lazy"
    assert (image["width"], image["height"]) == ("24", "12")
    assert (path.parent / image["src"]).is_file()


def test_only_the_pages_of_studies_that_changed_are_written_anew(out):
    write_report(out)
    before = {path.stem: path.stat().st_mtime_ns for path in (out / "report").iterdir()}
    write_report(out)
    assert before == {path.stem: path.stat().st_mtime_ns for path in (out / "report").iterdir()}
    study(out, 11, value=5.5)
    write_report(out)
    now = {path.stem: path.stat().st_mtime_ns for path in (out / "report").iterdir()}
    assert {stem for stem in now if now[stem] != before[stem]} == {"sub-0011_ses-1"}
    assert "5.5" in (out / "report" / "sub-0011_ses-1.html").read_text()


def test_pages_go_with_their_studies(out):
    write_report(out)
    shutil.rmtree(out / "stages" / "sub-0005_ses-1")
    page = write_report(out)
    assert not (out / "report" / "sub-0005_ses-1.html").exists()
    neighbour = Parsed((out / "report" / "sub-0004_ses-1.html").read_text())
    assert {"rel": "next", "href": "sub-0006_ses-1.html"} in neighbour.all("a")
    for number in range(40):
        shutil.rmtree(out / "stages" / f"sub-{number:04}_ses-1", ignore_errors=True)
    assert "sub-0045_ses-1" in write_report(out).read_text()
    assert not (out / "report").exists()
    assert page.is_file()


def test_foreign_text_is_inert_in_the_data_too(out):
    study(out, 2, description=HOSTILE)
    place = out / "stages" / "sub-0009_ses-1" / "ingest" / "stage.json"
    write_receipt(place, Receipt("sub-0009_ses-1", "ingest", "failed", reason=HOSTILE))
    page = write_report(out).read_text(encoding="utf-8")
    assert rows_of(page)[9][7] == HOSTILE
    for text in (page, *(path.read_text() for path in (out / "report").iterdir())):
        assert HOSTILE not in text
        assert "owned" not in "".join(data for tag, data in Parsed(text).texts if tag == "title")
        policy = next(m["content"] for m in Parsed(text).all("meta") if "http-equiv" in m)
        assert "unsafe-inline" not in policy.split("script-src")[1]
        assert not [k for _, attrs in Parsed(text).elements for k in attrs if k.startswith("on")]


def test_nothing_is_fetched_and_no_identifier_shows(out):
    write_report(out)
    for path in (out / "report.html", *(out / "report").iterdir()):
        page = path.read_text(encoding="utf-8")
        addresses = [a[k] for _, a in Parsed(page).elements for k in ("src", "href") if k in a]
        assert not [a for a in addresses if re.match(r"(?i)\s*(https?:|ftp:|//|javascript:)", a)]
        assert not [planted for planted in (*PLANTED, str(out)) if planted in page]


@pytest.mark.parametrize("value", ["<", "</script>", "a & b", "\u2028", "<!--", ["<b>"]])
def test_data_cannot_end_its_element_and_comes_back_the_same(value):
    text = str(as_data(value))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_a_histogram_counts_every_study_and_names_those_farthest_out():
    rng = np.random.default_rng(0)
    values = tuple((f"s{n}", float(v), n < 3) for n, v in enumerate(rng.normal(0, 1, 5000)))
    spread = CheckSpread("denoise", Check("noise", 0.0, -2.0, 2.0), values, 3)
    bins = bins_of(spread)
    heights = [100 - int(v) for v in re.findall(r"V(\d+)h1", str(bins["path"]))]
    assert len(heights) == N_BINS
    assert max(heights) == 100
    named = {key for key, *_ in bins["dots"]}
    assert len(named) == N_NAMED
    assert {"s0", "s1", "s2"} <= named
    farthest = max(values, key=lambda item: abs(item[1]))[0]
    assert farthest in named


def test_totals_of_a_stream_are_those_of_the_whole(out):
    from radloom.pipelines.report.cohort import Totals

    totals = Totals()
    for one in read_studies(out):
        totals.add(one)
    whole = read_cohort(out).totals
    assert totals.counts == whole.counts == {"done": MANY + 1, "flagged": 1}
    assert totals.spreads == whole.spreads
    assert totals.seconds == pytest.approx(3.0 * (MANY + 2))
    assert len(totals.spreads[0].values) == MANY + 2


def test_a_browser_turns_the_pages_of_the_table(out, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("needs chromium, which is not installed")
    for number in range(MANY + 2, 230):
        study(out, number)
    page = write_report(out)

    def dom(address: str) -> str:
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--enable-logging=stderr",
             f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", address],
            capture_output=True, text=True, timeout=240, check=True,
        )  # fmt: skip
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    def studies(text: str) -> list[str]:
        table = text.partition("</table>")[0]
        return re.findall(r'<a href="report/(sub-\d+)_ses-1.html">', table)

    assert studies(dom(page.as_uri())) == [f"sub-{n:04}" for n in range(100)]
    third = dom(page.as_uri() + "#page=3")
    assert studies(third) == [f"sub-{n:04}" for n in range(200, 230)]
    assert "rows 201 to 230 of 230" in third
    assert studies(dom(page.as_uri() + "#state=flagged")) == ["sub-0003"]
    assert studies(dom(page.as_uri() + "#find=0012+done")) == ["sub-0012"]
    assert studies(dom(page.as_uri() + "#sort=study.down"))[:2] == ["sub-0229", "sub-0228"]
    alone = dom((page.parent / "report" / "sub-0003_ses-1.html").as_uri())
    assert 'id="theme"' in alone
    assert "t1 noise" in alone
