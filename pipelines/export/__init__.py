"""What leaves the chain: files in BIDS-derivatives layout, and the tables of a run.

- `naming`: where an output goes;
- `writers`, `readers`: an output as files, and back, the same;
- `tsv`, `labels`, `dataset`: tables, lookup tables, what makes the folder a BIDS dataset;
- `tables`: ``studies.tsv``, ``manifest.json``, ``ingest.tsv`` from receipts;
- `summary`: what became of one study; `index`: of all, remembered.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radloom.pipelines.export.dataset import write_dataset
    from radloom.pipelines.export.naming import file_stem
    from radloom.pipelines.export.readers import READERS
    from radloom.pipelines.export.summary import StudySummary
    from radloom.pipelines.export.tables import RunTables, summarise, write_tables
    from radloom.pipelines.export.writers import Beside, Grid, write_output

__all__ = [
    "READERS",
    "Beside",
    "Grid",
    "RunTables",
    "StudySummary",
    "file_stem",
    "summarise",
    "write_dataset",
    "write_output",
    "write_tables",
]

_HOMES = {
    "READERS": "readers",
    "Beside": "writers",
    "Grid": "writers",
    "RunTables": "tables",
    "StudySummary": "summary",
    "file_stem": "naming",
    "summarise": "tables",
    "write_dataset": "dataset",
    "write_output": "writers",
    "write_tables": "tables",
}
"""Name -> the module that is imported when it is asked for: names alone need no torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
