from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radloom.errors import GridMismatch, InputError
from radloom.geometry import flip_lps_ras, parts_from_affine
from radloom.pipelines.export import READERS, Beside, Grid, write_output
from radloom.pipelines.export.labels import colour_of
from radloom.pipelines.export.tsv import as_written, formats_of, parse_tsv, to_tsv
from radloom.pipelines.study import Output, StudyRecord
from radloom.shapes import affine_of, array_of, make_label, make_volume
from radloom.transforms.spatial import Transform

RECORD = StudyRecord("x", "1", "1.2", Path(), ())
PNG = b"\x89PNG\r\n\x1a\n"
COS, SIN = np.cos(0.4), np.sin(0.4)
GRIDS = {
    "RAS": np.array([[1.0, 0, 0, -7], [0, 1.2, 0, 11], [0, 0, 2.5, 3], [0, 0, 0, 1]]),
    "LPS": np.array([[-1.0, 0, 0, 7], [0, -1.2, 0, 11], [0, 0, 2.5, 3], [0, 0, 0, 1]]),
    "ASR": np.array([[0.0, 0, 2.5, 7], [1.2, 0, 0, 11], [0, 1.0, 0, 3], [0, 0, 0, 1]]),
    "oblique": np.array(
        [[COS, -1.2 * SIN, 0, 5.5], [SIN, 1.2 * COS, 0, -3.25], [0, 0, 2.5, 90], [0, 0, 0, 1]]
    ),
}


@pytest.fixture(params=sorted(GRIDS))
def affine(request) -> np.ndarray:
    return GRIDS[request.param]


def itk_points(image: sitk.Image) -> list[tuple[float, ...]]:
    last = [n - 1 for n in image.GetSize()]
    return [image.TransformIndexToPhysicalPoint(i) for i in ([0, 0, 0], last, [last[0], 0, 1])]


def expected_points(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    last = [n - 1 for n in shape]
    index = np.array([[0, 0, 0], last, [last[0], 0, 1]])
    lps = flip_lps_ras(affine)
    return index @ lps[:3, :3].T + lps[:3, 3]


def test_a_volume_lies_where_it_lay_for_simpleitk_and_nibabel(tmp_path, affine):
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    volume = make_volume(values, affine, modality="MR", units="arbitrary", series_uid="1.9")
    output = write_output(Output("volume", "t1", "ingested", volume), RECORD, tmp_path)
    path = tmp_path / next(iter(output.files))
    image, other = sitk.ReadImage(str(path)), nib.load(path)
    assert np.array_equal(sitk.GetArrayFromImage(image).T, values)
    assert np.allclose(itk_points(image), expected_points(affine, values.shape), atol=1e-4)
    assert other.get_data_dtype() == np.float32
    assert np.array_equal(other.affine, affine_of(volume))
    read = READERS["volume"](path)
    assert read.meta["series_uid"] == "1.9"
    assert np.array_equal(array_of(read), array_of(output.volume))


@pytest.mark.parametrize("top", [4, 255, 40_000])
def test_labels_are_exact_and_named(tmp_path, affine, top):
    values = np.random.default_rng(1).integers(0, top, size=(5, 6, 7)).astype(np.uint16)
    values[0, 0, 0] = top
    output = Output("label", "t1", "head", make_label(values, affine), label_names={1: "skull"})
    written = write_output(output, RECORD, tmp_path)
    main, *_ = (tmp_path / path for path in written.files)
    image = sitk.ReadImage(str(main))
    assert np.array_equal(sitk.GetArrayFromImage(image).T, values)
    assert np.allclose(itk_points(image), expected_points(affine, values.shape), atol=1e-4)
    assert nib.load(main).get_data_dtype() == (np.uint8 if top < 256 else np.uint16)
    read = READERS["label"](main)
    assert read.dtype == written.volume.dtype
    assert np.array_equal(array_of(read), array_of(written.volume))
    lines = main.with_name(main.name.replace(".nii.gz", ".tsv")).read_text().splitlines()
    assert lines[0] == "index\tname\tcolor"
    assert f"1\tskull\t{colour_of(1)}" in lines
    assert {int(line.split("\t")[0]) for line in lines[1:]} == (set(values.ravel()) | {1}) - {0}


def test_a_series_of_volumes_keeps_its_channels(tmp_path):
    values = np.random.default_rng(2).normal(size=(3, 5, 6, 7)).astype(np.float32)
    volume = make_volume(values, GRIDS["LPS"], modality="MR", units="arbitrary")
    output = Output("volume", "", "ingested", volume, entities={"suffix": "bold"})
    written = write_output(output, RECORD, tmp_path)
    path = tmp_path / next(iter(written.files))
    assert nib.load(path).shape == (5, 6, 7, 3)
    assert np.array_equal(array_of(READERS["volume"](path)), values)


def test_a_rigid_transform_maps_points_as_simpleitk_does(tmp_path):
    matrix = np.array([[COS, -SIN, 0, 4.5], [SIN, COS, 0, -1 / 3], [0, 0, 1, 7], [0, 0, 0, 1]])
    output = Output("transform", "t2", "moving_from_fixed", Transform(matrix), space="t1")
    path = tmp_path / next(iter(write_output(output, RECORD, tmp_path).files))
    point = np.array([10.0, -20, 30, 1])
    flip = np.diag([-1.0, -1, 1, 1])
    mapped = sitk.ReadTransform(str(path)).TransformPoint((flip @ point)[:3].tolist())
    assert np.allclose(mapped, (flip @ matrix @ point)[:3], atol=1e-9)
    assert np.array_equal(READERS["transform"](path).matrix, matrix)


def test_a_displacement_is_handed_on_as_its_file_gives_it(tmp_path):
    field = np.random.default_rng(3).normal(size=(3, 5, 6, 7)).astype(np.float32)
    matrix = np.eye(4)
    matrix[:3, 3] = 1, 2, 3
    given = Transform(matrix, field, GRIDS["oblique"])
    output = Output("transform", "t2", "moving_from_fixed", given, space="t1")
    written = write_output(output, RECORD, tmp_path)
    path = tmp_path / next(iter(written.files))
    assert path.name.endswith("_xfm.nii.gz")
    read = READERS["transform"](path)
    assert np.array_equal(read.matrix, written.transform.matrix)
    assert np.array_equal(read.displacement_mm, written.transform.displacement_mm)
    assert np.array_equal(read.grid_affine, written.transform.grid_affine)


CELLS = st.one_of(
    st.none(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    st.lists(st.integers(), max_size=3),
)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=4))
def test_a_table_read_twice_is_the_same(cells):
    rows = tuple({"a": a, "b": b} for a, b in cells)
    once = as_written(rows)
    assert parse_tsv(to_tsv(rows), formats_of(rows)) == once
    assert len(once) == len(rows)
    assert as_written(once) == once


def test_tables_keep_types(tmp_path):
    rows = (
        {"uid": "007", "n": np.int64(3), "ml": np.float32(0.5), "ok": True, "shape": (2, 3)},
        {"uid": "", "n": 4, "ml": float("nan"), "ok": None, "shape": [4, 5]},
    )
    output = write_output(Output("table", "", "series", rows), RECORD, tmp_path)
    expected = (
        {"uid": "007", "n": 3, "ml": 0.5, "ok": True, "shape": (2, 3)},
        {"uid": "", "n": 4, "ml": None, "ok": None, "shape": (4, 5)},
    )
    assert output.table == expected
    path = tmp_path / next(iter(output.files))
    assert READERS["table"](path) == expected
    assert path.read_text().splitlines()[0] == "uid\tn\tml\tok\tshape"
    said = json.loads(path.with_suffix(".json").read_bytes())
    assert said["uid"] == {"Format": "string"}


def test_rows_that_differ_in_columns_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected rows with columns"):
        write_output(Output("table", "", "x", ({"a": 1}, {"b": 1})), RECORD, tmp_path)


def test_hashes_are_those_of_the_files(tmp_path):
    output = write_output(Output("report", "", "x", PNG + b"1"), RECORD, tmp_path)
    ((path, sha256),) = output.files.items()
    assert hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() == sha256
    assert READERS["report"](tmp_path / path) == PNG + b"1"


def nan_volume():
    volume = make_volume(np.zeros((2, 2, 2)), np.eye(4), modality="MR", units="arbitrary")
    volume[0, 0, 0, 0] = float("nan")
    return volume


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Output("report", "", "x", b"GIF"), "expected a PNG"),
        (Output("dicom", "", "x", bytes(200)), "expected a DICOM file"),
        (Output("report", "", "x", ()), "expected bytes"),
        (Output("volume", "t1", "x", nan_volume()), "expected finite values"),
    ],
)
def test_data_of_another_kind_are_refused(tmp_path, output, message):
    with pytest.raises(InputError, match=message):
        write_output(output, RECORD, tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.integers(0, 2), st.floats(0.01, 5), st.sampled_from(sorted(GRIDS)))
def test_another_grid_is_refused(tmp_path, axis, shift, name):
    moved = GRIDS[name].copy()
    moved[axis, 3] += shift
    label = make_label(np.zeros((2, 3, 4), np.uint8), moved)
    beside = Beside(grid=Grid(GRIDS[name], (2, 3, 4)))
    with pytest.raises(GridMismatch, match="expected the grid of 't1'"):
        write_output(Output("label", "t1", "x", label), RECORD, tmp_path, beside=beside)


def test_facts_of_the_volume_outrank_the_sidecar(tmp_path):
    volume = make_volume(np.ones((2, 2, 2)), np.eye(4), modality="CT", units="HU")
    sidecar = {"Units": "wrong", "ReasonCodes": ["stale"], "KVP": 120.0}
    output = Output("volume", "ct", "ingested", volume, sidecar=sidecar)
    written = write_output(output, RECORD, tmp_path)
    _, beside = written.files
    said = json.loads((tmp_path / beside).read_bytes())
    assert said == {"KVP": 120.0, "Modality": "CT", "Units": "HU"}


def test_a_volume_that_is_not_contiguous_is_handed_on_contiguous(tmp_path):
    volume = make_volume(np.ones((2, 3, 4)), np.eye(4), modality="CT", units="HU")
    turned = make_volume(torch.zeros(4, 3, 2), np.eye(4), modality="CT", units="HU")
    turned.data = volume.as_tensor().permute(0, 3, 2, 1)
    written = write_output(Output("volume", "ct", "ingested", turned), RECORD, tmp_path)
    assert written.volume.is_contiguous()


def test_real_size(tmp_path):
    """A 1 mm head: the parts that could grow with size, once."""
    values = np.random.default_rng(5).integers(0, 60, size=(192, 224, 192)).astype(np.uint8)
    label = make_label(values, parts(GRIDS["oblique"]))
    written = write_output(Output("label", "t1", "head", label), RECORD, tmp_path)
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / next(iter(written.files)))))
    assert np.array_equal(read.T, values)


def parts(affine: np.ndarray) -> np.ndarray:
    origin, _, direction = parts_from_affine(affine)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = direction, origin
    return matrix
