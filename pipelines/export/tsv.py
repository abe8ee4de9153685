"""Tables as tab-separated text, and back with the same types.

BIDS: a header line, ``n/a`` for what is missing. The types stand in the JSON file beside the table,
as ``Format`` of each column; without them a series number ``007`` would come back as 7.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from radloom.errors import InputError
from radloom.pipelines.receipts.plain import from_json, is_numpy
from radloom.pipelines.study import Table

__all__ = [
    "Format",
    "as_written",
    "formats_of",
    "join_lines",
    "parse_tsv",
    "read_table",
    "sidecar_path",
    "to_tsv",
]

Format = Literal["string", "integer", "number", "bool", "array"]

MISSING = "n/a"


def formats_of(table: Table) -> dict[str, Format]:
    """Column -> the one format that holds all its values.

    Raises:
        InputError: the rows differ in their columns.
    """
    columns = tuple(table[0]) if table else ()
    for row in table:
        if tuple(row) != columns:
            raise InputError(f"expected rows with columns {columns}, got {tuple(row)}")
    return {column: _format([row[column] for row in table]) for column in columns}


def as_written(table: Table) -> Table:
    """The table as a read of its file gives it back: plain Python values, tuples, None, text."""
    formats = formats_of(table)
    return parse_tsv(to_tsv(table), formats)


def to_tsv(table: Table) -> bytes:
    """UTF-8 text: the names of the columns, then a line for each row."""
    formats = formats_of(table)
    lines = [formats, *([_cell(row[c], formats[c]) for c in formats] for row in table)]
    return join_lines(lines)


def join_lines(lines: Iterable[Iterable[str]]) -> bytes:
    """Lines of cells as tab-separated UTF-8."""
    return "".join("\t".join(cells) + "\n" for cells in lines).encode()


def parse_tsv(content: bytes, formats: Mapping[str, Format]) -> Table:
    """The rows of a table, its values in the types that `formats` tells."""
    lines = content.decode().split("\n")[:-1]
    columns = lines[0].split("\t") if lines and lines[0] else []
    return tuple(
        {
            column: _value(cell, formats.get(column, "string"))
            for column, cell in zip(columns, line.split("\t"), strict=True)
        }
        for line in lines[1:]
    )


def sidecar_path(path: Path) -> Path:
    """The JSON file beside a data file.

    >>> sidecar_path(Path("sub-a_T1w.nii.gz")).name
    'sub-a_T1w.json'
    """
    return path.with_name(path.name.split(".")[0] + ".json")


def read_table(path: Path) -> Table:
    """Rows, typed as the JSON file says."""
    said: Mapping[str, Any] = from_json(sidecar_path(path).read_bytes())
    columns = {key: value for key, value in said.items() if isinstance(value, Mapping)}
    formats = {key: value["Format"] for key, value in columns.items() if "Format" in value}
    return parse_tsv(path.read_bytes(), formats)


def _plain(value: Any) -> Any:
    if is_numpy(value):
        value = value.tolist()
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _format(values: Sequence[Any]) -> Format:
    known = [value for value in map(_plain, values) if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return "bool"
    if any(isinstance(value, bool) for value in known):
        return "string"
    if known and all(isinstance(value, int) for value in known):
        return "integer"
    if known and all(isinstance(value, (int, float)) for value in known):
        return "number"
    if known and all(isinstance(value, (list, tuple)) for value in known):
        return "array"
    return "string"


def _cell(value: Any, kind: Format) -> str:
    value = _plain(value)
    if value is None:
        return MISSING
    if kind == "number":
        return repr(float(value))
    if kind == "array":
        return json.dumps(value)
    if kind == "bool":
        return "true" if value else "false"
    return " ".join(str(value).split()) or MISSING


def _value(cell: str, kind: Format) -> Any:
    if cell == MISSING:
        return "" if kind == "string" else None
    if kind == "integer":
        return int(cell)
    if kind == "number":
        return float(cell)
    if kind == "bool":
        return cell == "true"
    return _tuples(json.loads(cell)) if kind == "array" else cell


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
