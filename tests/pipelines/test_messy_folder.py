"""A folder as people have it: what is whole is done, what is not is refused by its code."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pydicom
import pytest

WORKFLOW = """
name: short
stages:
  - stage: ingest
  - stage: denoise
    parameters: {method_mr: tv, method_other: tv}
  - stage: report
"""


def patient(
    source: Path, uids: Sequence[str], folder: Path, number: int, *, flat: bool = False
) -> dict[str, list[Path]]:
    """The series `uids` of the demo study as another patient's; series -> files in slice order."""
    written: dict[str, list[tuple[float, Path]]] = {uid: [] for uid in uids}
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        try:
            ds = pydicom.dcmread(path)
        except pydicom.errors.InvalidDicomError:
            continue
        uid = str(ds.get("SeriesInstanceUID", ""))
        if uid not in written:
            continue
        ds.PatientID, ds.PatientName = f"MRN-{number}-4711", f"Secret^Name{number}"
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(ds, keyword, f"{getattr(ds, keyword)}.{number}"[-64:].lstrip("."))
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        series = folder if flat else folder / f"series {list(uids).index(uid)}"
        series.mkdir(parents=True, exist_ok=True)
        out = series / f"IM {sum(map(len, written.values())):04d}"
        ds.save_as(out)
        written[uid].append((float(ds.ImagePositionPatient[2]), out))
    return {uid: [path for _, path in sorted(files)] for uid, files in written.items()}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.slow
def test_a_messy_folder(tmp_path, demo_folder, demo_truth):
    root, out = tmp_path / "studies", tmp_path / "out"
    uid = demo_truth.series_uids
    patient(demo_folder, [uid["t1"]], root / "Müller, Anna 日本" / "Kopf MR", 1)
    patient(demo_folder, [uid["t1"], uid["ct"]], root / "shared folder", 2, flat=True)
    hole = patient(demo_folder, [uid["flair"]], root / "hole", 3)[uid["flair"]]
    hole[len(hole) // 2].unlink()
    short = patient(demo_folder, [uid["t2"]], root / "short", 4)[uid["t2"]]
    short[3].write_bytes(short[3].read_bytes()[:-400])
    empty = patient(demo_folder, [uid["t1"]], root / "with an empty file", 5)[uid["t1"]]
    (empty[0].parent / "empty.dcm").touch()
    (root / "notes.txt").write_text("not an image")
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "nowhere").symlink_to(root / "absent")
    closed = root / "closed"
    patient(demo_folder, [uid["t1"]], closed, 6)
    closed.chmod(0)
    workflow = tmp_path / "short.yaml"
    workflow.write_text(WORKFLOW)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "radloom", "run", root, out, "--workflow", workflow],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        closed.chmod(0o755)

    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    studies = rows_of(out / "studies.tsv")
    n_open = 1 if os.geteuid() == 0 else 0  # root enters the closed folder
    assert sorted(row["status"] for row in studies) == ["done"] * (3 + n_open) + ["skipped"] * 2
    reasons = " ".join(row["reason"] for row in studies if row["status"] == "skipped")
    assert "missing_slice" in reasons
    assert "truncated" in reasons
    series = {row["series_uid"]: row for row in rows_of(out / "ingest.tsv")}
    refused = {row["reason"] for row in series.values() if row["status"] == "rejected"}
    assert {"missing_slice", "truncated"} <= refused
    accepted = [row for row in series.values() if row["status"] == "accepted"]
    assert len(accepted) == 4 + n_open
    assert all((out / row["path"]).is_file() for row in accepted)
    text = "".join(
        path.read_text(encoding="utf-8", errors="replace")
        for path in out.rglob("*")
        if path.suffix in (".json", ".tsv", ".html", ".log", ".yaml")
    )
    for secret in ("Secret^", "MRN-", "Anna 日本", "Müller"):
        assert secret not in text + done.stdout + " ".join(map(str, out.rglob("*")))
