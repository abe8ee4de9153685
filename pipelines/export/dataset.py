"""What makes OUT a BIDS derivative dataset: its description, and what validators pass by."""

from __future__ import annotations

from pathlib import Path

from radloom import __version__
from radloom.pipelines.receipts.files import write_file
from radloom.pipelines.receipts.plain import to_json

__all__ = ["BIDS_VERSION", "write_dataset"]

BIDS_VERSION = "1.10.0"

IGNORED = (
    "stages/",
    "/*.tsv",
    "/*.html",
    "/*.jsonl",
    "/*.yaml",
    "/report/",
    "/logs/",
    "/sent/",
    "/manifest.json",
    "**/figures/",
    "**/dicom/",
    "**/ct/",
    "**/other/",
    "**/*_table.*",
)
"""What is no BIDS: receipts, tables, report and logs at the root, datatypes that BIDS lacks."""


def write_dataset(out: Path) -> None:
    """``dataset_description.json`` and ``.bidsignore``, the same bytes for the same version."""
    description = {
        "Name": "Radloom derivatives",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "Radloom", "Version": __version__}],
    }
    write_file(out / "dataset_description.json", to_json(description))
    write_file(out / ".bidsignore", "".join(f"{line}\n" for line in IGNORED).encode())
