"""What leaves the chain: files in BIDS-derivatives layout, and the tables of a run.

- `naming`: where an output goes;
- `writers`, `readers`: an output as files, and back, the same;
- `tsv`, `labels`, `dataset`: tables, lookup tables, what makes the folder a BIDS dataset;
- `tables`: ``studies.tsv``, ``manifest.json``, ``ingest.tsv`` from receipts.
"""

from radloom.pipelines.export.dataset import write_dataset
from radloom.pipelines.export.naming import file_stem
from radloom.pipelines.export.readers import READERS
from radloom.pipelines.export.tables import StudySummary, summarise, write_tables
from radloom.pipelines.export.writers import Beside, Grid, write_output

__all__ = [
    "READERS",
    "Beside",
    "Grid",
    "StudySummary",
    "file_stem",
    "summarise",
    "write_dataset",
    "write_output",
    "write_tables",
]
