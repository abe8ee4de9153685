"""One study of three stages as a run leaves it, its receipts written by `run_stage`'s functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from radloom.pipelines.receipts.files import sha256_of, write_file
from radloom.pipelines.receipts.receipt import Check, OutputRecord, Receipt, write_receipt
from radloom.pipelines.receipts.records import write_record
from radloom.pipelines.study import SeriesRecord, StudyRecord

KEY = "sub-a_ses-1"
HOME = "sub-a/ses-1/anat"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    make_results(out)
    return out


@pytest.fixture
def make() -> Callable[..., None]:
    return make_results


def make_results(out: Path, subject: str = "a", *, salt: str = "") -> None:
    """ingest -> denoise (t1 alone) -> segment with weights; only ingest touches the t2."""
    key, home = f"sub-{subject}_ses-1", f"sub-{subject}/ses-1/anat"
    series = tuple(
        SeriesRecord(
            f"1.2.{n}", "MR", "DOE^JANE", "accepted", role=role, role_rule=f"name: {role}",
            shape=(10, 20, 30), spacing=(1.0, 1.0, 2.5), files=("DOE/1.dcm",),
        )
        for n, role in enumerate(("t1", "t2"), 1)
    )  # fmt: skip
    write_record(out, StudyRecord(subject, "1", "1.2", Path("/data/DOE"), series, salt=salt))

    def output(kind: str, role: str, name: str, stem: str, **said: object) -> OutputRecord:
        files = {}
        for path in (f"{home}/{stem}.nii.gz", f"{home}/{stem}.json"):
            write_file(out / path, f"{subject} {path}".encode())
            files[path] = sha256_of(out / path)
        return OutputRecord(kind, role, name, path=f"{home}/{stem}.nii.gz", files=files, **said)

    def put(stage: str, position: int, inputs: dict[str, str], *outputs: OutputRecord) -> None:
        receipt = Receipt(
            key, stage, "done", position=position, fingerprint=f"{position}" * 64, inputs=inputs,
            outputs=outputs, parameters={"method": f"{stage} method"}, seconds=position + 1.5,
            checks=(Check(f"{stage}_noise", 0.5 * position, 0.0, 0.7, "HU", "Look."),),
            device="cpu", versions={"radloom": "0.1.0"}, platform={"system": "Linux", "cores": 2},
            peak_memory_bytes=2**31,
        )  # fmt: skip
        write_receipt(out / "stages" / key / stage / "stage.json", receipt)

    t1 = output("volume", "t1", "ingested", "T1w", series_uid="1.2.1")
    t2 = output("volume", "t2", "ingested", "T2w", series_uid="1.2.2")
    put("ingest", 0, {"9" * 64: "8" * 64, "series 1.2.1 77": "66"}, t1, t2)
    clean = output("volume", "t1", "denoised", "desc-denoised_T1w", series_uid="1.2.1")
    put("denoise", 1, dict(t1.files), clean)
    weights = {"Model": "brain", "ModelSHA256": "ab" * 32}
    label = output("label", "t1", "brain", "dseg", sidecar=weights)
    put("segment", 2, dict(clean.files), label)
