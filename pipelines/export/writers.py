"""One output of a stage as files, and as what a read of those files gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from radloom.errors import GridMismatch, InputError
from radloom.geometry import Affine, corners, same_grid
from radloom.pipelines.export.naming import file_stem
from radloom.pipelines.export.readers import sidecar_path
from radloom.pipelines.export.tsv import as_written, formats_of, to_tsv
from radloom.pipelines.receipts.files import sha256_of, sync
from radloom.pipelines.receipts.plain import from_json, to_json
from radloom.pipelines.study import Data, Kind, Output, StudyRecord
from radloom.transforms.nifti import read_nifti_header, write_array, write_nifti
from radloom.voxels import Voxels

if TYPE_CHECKING:  # a run of ingestion alone never imports torch
    from radloom.shapes import Volume

__all__ = ["STORED_AFFINE_TOLERANCE_MM", "Beside", "Grid", "write_output"]

STORED_AFFINE_TOLERANCE_MM = 1e-4
"""What a file's grid may differ by, at any corner, from the grid in memory."""

PNG = b"\x89PNG\r\n\x1a\n"


Source: TypeAlias = "Data | Voxels"


@dataclass(frozen=True)
class Grid:
    """A grid known without its voxels."""

    affine: Affine
    """(4, 4) voxel -> RAS+ mm."""
    shape: tuple[int, int, int]
    """(I, J, K)."""


@dataclass(frozen=True)
class Beside:
    """What the rest of the study adds to one output's files."""

    sources: tuple[str, ...] = ()
    """Files that it was made from, relative to OUT."""
    space_file: str = ""
    """The volume on whose grid it lies, relative to OUT; empty: its own."""
    grid: Grid | None = None
    """The grid that it must lie on."""


_ALONE = Beside()


def write_output(
    output: Output, record: StudyRecord, folder: Path, *, beside: Beside = _ALONE
) -> Output:
    """The output as a resumed run would read it, with `files` (path -> sha256) now below `folder`.

    Args:
        output: what a stage gave.
        record: whose it is.
        folder: paths in `files` are relative to it; the data's file comes first.
        beside: sources, and the grid that a volume or label must lie on.

    Raises:
        GridMismatch: a volume or label lies on another grid than the one it claims.
        InputError: the data are not of the output's kind, or break the contract of volumes.
    """
    stem = folder.joinpath(file_stem(output, record))
    stem.parent.mkdir(parents=True, exist_ok=True)
    sidecar = cast("Mapping[str, Any]", from_json(to_json(output.sidecar)))
    data, paths = _WRITERS[output.kind](replace(output, sidecar=sidecar), stem, beside)
    for path in paths:
        sync(path)
    main, *others = paths
    ordered = (main, *sorted(others))
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in ordered}
    return replace(output, source=data, sidecar=sidecar, files=files)


def _write_volume(output: Output, stem: Path, beside: Beside) -> tuple[Source, list[Path]]:
    if isinstance(output.source, Voxels):
        return _write_voxels(output.source, output, stem, beside)
    from radloom.shapes import affine_of, make_volume, require_volume, spatial_shape

    given = require_volume(output.volume, _where(output))
    volume = make_volume(given, affine_of(given), **_known_meta(given))
    grid = Grid(affine_of(volume), spatial_shape(volume))
    _require_grid(grid, output, beside)
    path = stem.with_name(stem.name + ".nii.gz")
    write_nifti(volume, path)
    _require_stored(grid, path)
    said = _write_sidecar(output, path, beside, _volume_facts(_known_meta(volume)))
    return volume, [path, said, *_write_gradients(output.sidecar, stem)]


def _write_voxels(
    voxels: Voxels, output: Output, stem: Path, beside: Beside
) -> tuple[Voxels, list[Path]]:
    """A volume that is NumPy still, and stays so."""
    if not np.isfinite(voxels.array).all():
        raise InputError(f"{_where(output)}: expected finite values, got NaN or infinity")
    grid = Grid(voxels.affine, voxels.shape)
    _require_grid(grid, output, beside)
    path = stem.with_name(stem.name + ".nii.gz")
    write_array(voxels.array, voxels.affine, path)
    _require_stored(grid, path)
    said = _write_sidecar(output, path, beside, _volume_facts(voxels.meta))
    return voxels, [path, said, *_write_gradients(output.sidecar, stem)]


def _write_gradients(sidecar: Mapping[str, Any], stem: Path) -> list[Path]:
    """The gradient table of a diffusion series as FSL has it: a line of b-values, three of axes."""
    values, directions = (sidecar.get(key) for key in GRADIENT_KEYS)
    if values is None or directions is None:
        return []
    tables = {".bval": [values], ".bvec": list(zip(*directions, strict=True))}
    paths = [stem.with_name(stem.name + suffix) for suffix in tables]
    for path, lines in zip(paths, tables.values(), strict=True):
        text = "".join(" ".join(f"{value:.7g}" for value in line) + "\n" for line in lines)
        path.write_text(text, encoding="ascii", newline="\n")
    return paths


GRADIENT_KEYS = ("DiffusionBValue", "DiffusionGradientOrientation")
"""Of a sidecar: b-values in s/mm2, and directions in FSL's convention, one a volume."""


def _write_label(output: Output, stem: Path, beside: Beside) -> tuple[Data, list[Path]]:
    from radloom.pipelines.export.labels import lookup_tsv
    from radloom.shapes import affine_of, make_label, spatial_shape

    given = output.volume
    series_uid = str(given.meta.get("series_uid", ""))
    label = make_label(given, affine_of(given), series_uid=series_uid).to(given.device)
    grid = Grid(affine_of(label), spatial_shape(label))
    _require_grid(grid, output, beside)
    path = stem.with_name(stem.name + ".nii.gz")
    write_nifti(label, path)
    _require_stored(grid, path)
    _require_same_voxels(label, path)
    lookup = stem.with_name(stem.name + ".tsv")
    lookup.write_bytes(lookup_tsv(label, output.label_names))
    facts = {"SeriesInstanceUID": series_uid or None}
    return label, [path, lookup, _write_sidecar(output, path, beside, facts)]


def _write_transform(output: Output, stem: Path, beside: Beside) -> tuple[Data, list[Path]]:
    from radloom.transforms import itk_files

    path = itk_files.write_transform(output.transform, stem.with_name(stem.name + ".tfm"))
    said = _write_sidecar(output, path, beside, {})
    return itk_files.as_written(output.transform), [path, said]


def _write_table(output: Output, stem: Path, beside: Beside) -> tuple[Data, list[Path]]:
    table = output.table
    path = stem.with_name(stem.name + ".tsv")
    path.write_bytes(to_tsv(table))
    columns = {name: {"Format": kind} for name, kind in formats_of(table).items()}
    return as_written(table), [path, _write_sidecar(output, path, beside, columns)]


def _write_report(output: Output, stem: Path, _: Beside) -> tuple[Data, list[Path]]:
    content = _bytes(output)
    if not content.startswith(PNG):
        raise InputError(f"{_where(output)}: expected a PNG, got {content[:8]!r}")
    return _write_bytes(content, stem, ".png")


def _write_dicom(output: Output, stem: Path, _: Beside) -> tuple[Data, list[Path]]:
    content = _bytes(output)
    if content[128:132] != b"DICM":
        raise InputError(f"{_where(output)}: expected a DICOM file, got none")
    return _write_bytes(content, stem, ".dcm")


_WRITERS: Mapping[Kind, Callable[[Output, Path, Beside], tuple[Source, list[Path]]]] = {
    "volume": _write_volume,
    "label": _write_label,
    "transform": _write_transform,
    "table": _write_table,
    "report": _write_report,
    "dicom": _write_dicom,
}


def _bytes(output: Output) -> bytes:
    if not isinstance(output.data, bytes):
        raise InputError(f"{_where(output)}: expected bytes, got {type(output.data).__name__}")
    return output.data


def _write_bytes(content: bytes, stem: Path, suffix: str) -> tuple[Data, list[Path]]:
    path = stem.with_name(stem.name + suffix)
    path.write_bytes(content)
    return content, [path]


def _write_sidecar(output: Output, path: Path, beside: Beside, facts: Mapping[str, Any]) -> Path:
    common: dict[str, Any] = {}
    if beside.sources:
        common["Sources"] = [f"bids::{source}" for source in beside.sources]
    if beside.space_file:
        common["SpatialReference"] = f"bids::{beside.space_file}"
    content = {**common, **output.sidecar, **facts}
    said = sidecar_path(path)
    said.write_bytes(to_json({key: value for key, value in content.items() if value is not None}))
    return said


def _volume_facts(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a read needs; None leaves a fact out, also where the stage named it."""
    return {
        "Modality": meta["modality"],
        "Units": meta["units"],
        "SeriesInstanceUID": meta["series_uid"] or None,
        "ReasonCodes": list(meta["reasons"]) or None,
    }


def _known_meta(volume: Volume) -> dict[str, Any]:
    return {key: volume.meta[key] for key in ("modality", "units", "series_uid", "reasons")}


def _where(output: Output) -> str:
    return f"{output.kind} {output.name!r} of role {output.role!r}"


def _require_grid(own: Grid, output: Output, beside: Beside) -> None:
    grid = beside.grid
    if grid is None:
        return
    if not same_grid(own.affine, own.shape, grid.affine, grid.shape):
        claimed = output.space or output.role
        raise GridMismatch(
            f"{_where(output)}: expected the grid of {claimed!r} {grid.shape}, got {own.shape} or "
            "another affine; give it as a volume on its own grid, or resample it"
        )


def _require_stored(own: Grid, path: Path) -> None:
    stored, shape = read_nifti_header(path), own.shape
    if stored.shape[:3] != shape or not np.allclose(
        corners(stored.affine, shape),
        corners(own.affine, shape),
        rtol=0,
        atol=STORED_AFFINE_TOLERANCE_MM,
    ):
        raise GridMismatch(
            f"<{path.name}>: expected the file to hold grid {shape}, a read gives {stored.shape}"
        )


def _require_same_voxels(label: Volume, path: Path) -> None:
    import nibabel as nib

    from radloom.shapes import array_of

    stored = np.asarray(nib.load(path).dataobj)
    if not np.array_equal(stored, array_of(label)[0]):
        raise InputError(f"<{path.name}>: a read does not give the labels that were written")
