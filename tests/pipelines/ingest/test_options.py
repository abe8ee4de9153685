"""Stacks that lean or are uneven: refused by default, straightened and marked where asked for."""

from __future__ import annotations

import subprocess

import nibabel as nib
import numpy as np
import pytest
import torch

from radloom.errors import SeriesRefused
from radloom.geometry import apply_affine, spacing_of
from radloom.pipelines.ingest import IngestStage, discover, read_series
from radloom.pipelines.ingest.options import IngestOptions
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Study
from radloom.pipelines.workflow import load_workflow
from radloom.shapes import affine_of, array_of
from radloom.transforms.dicom import Repairs

CONTEXT = Context(torch.device("cpu"), torch.Generator())
BOTH = IngestOptions(repairs=Repairs(tilt=True, spacing=True))
TILT = np.radians(18.5)
ROWS, COLUMNS = 40, 36
TABLE = (0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0)

POSTURES = {
    # PatientPosition: row and column direction of the slices in LPS.
    "HFS": ((1, 0, 0), (0, 1, 0)),
    "FFS": ((1, 0, 0), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, -1, 0)),
    "FFP": ((-1, 0, 0), (0, -1, 0)),
    "HFDR": ((0, 1, 0), (-1, 0, 0)),
    "HFDL": ((0, -1, 0), (1, 0, 0)),
    "FFDR": ((0, 1, 0), (-1, 0, 0)),
    "FFDL": ((0, -1, 0), (1, 0, 0)),
    # Planes other than axial, of a patient on the back.
    "HFS sagittal": ((0, 1, 0), (0, 0, -1)),
    "HFS coronal": ((1, 0, 0), (0, 0, -1)),
    "FFS sagittal, rows upward": ((0, 1, 0), (0, 0, 1)),
    "HFS oblique": ((0.8, 0.6, 0), (0, 0, -1)),
    "HFS doubly oblique": ((0.36, 0.48, -0.8), (-0.8, 0.6, 0)),
}


def scene(points_lps: np.ndarray) -> np.ndarray:
    """A ramp through a ball of bone: linear wherever it is looked at."""
    return np.round(1000 + points_lps @ (4.0, -3.0, 2.0))


@pytest.fixture
def tilted(tmp_path, series):
    """Writes an axial CT whose gantry leans, at the given positions along the table."""

    def write(table=TABLE, angle=TILT, folder="in", **tags):
        row = np.array([1.0, 0.0, 0.0])
        column = np.array([0.0, np.cos(angle), -np.sin(angle)])
        normal = np.cross(row, column)
        direction = np.stack([row, column, normal], axis=1)

        def edit(dataset, k):
            corner = np.array([-16.0, -20.0, 10.0 + table[k]])
            dataset.ImagePositionPatient = [f"{value:.7f}" for value in corner]
            i, j = np.meshgrid(np.arange(COLUMNS), np.arange(ROWS), indexing="ij")
            points = corner + i[..., None] * 0.9 * row + j[..., None] * 0.8 * column
            dataset.PixelData = (scene(points) + 1024).astype(np.uint16).T.tobytes()

        series(
            tmp_path / folder,
            modality="CT",
            n=len(table),
            rows=ROWS,
            columns=COLUMNS,
            spacing=(0.8, 0.9),
            direction=direction,
            edit=edit,
            BodyPartExamined="HEAD",
            **tags,
        )
        return tmp_path / folder

    return write


def read(folder, options):
    (study,) = discover(folder, options=options)
    (record,) = study.series
    return record, read_series(study, record)


def test_by_default_a_tilted_series_is_refused_and_told_what_may_be_done(tilted):
    (study,) = discover(tilted())
    (record,) = study.series
    assert (record.status, record.reason) == ("rejected", "gantry_tilt")
    assert "leans by 18.5 degrees" in record.detail
    assert "gantry_tilt: correct" in record.detail
    with pytest.raises(SeriesRefused, match="gantry_tilt"):
        read_series(study, record)


@pytest.mark.parametrize("angle", [TILT, -TILT])
def test_tilt_corrected_values_lie_where_they_were(tilted, angle):
    folder = tilted(angle=angle)
    record, volume = read(folder, IngestOptions(repairs=Repairs(tilt=True)))
    assert (record.status, record.reason, record.role) == ("accepted", "tilt_corrected", "ct")
    assert (record.reader, record.units) == ("straightening", "HU")
    assert "sheared back by 18.5 degrees" in record.detail
    assert volume.meta["reasons"] == ("tilt_corrected",)
    array, affine = array_of(volume)[0], affine_of(volume)
    assert array.shape == record.shape
    np.testing.assert_allclose(spacing_of(affine), (0.9, 0.8, 4.0 * np.cos(angle)), rtol=1e-6)
    axes = affine[:3, :3] / spacing_of(affine)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    index = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), axis=-1)
    expected = scene(apply_affine(affine, index) * (-1, -1, 1))
    held = array > array.min()
    assert held.mean() > 0.75
    np.testing.assert_allclose(array[held], expected[held], atol=1.1)  # rounded to whole HU twice


def test_uneven_slices_are_interpolated_where_allowed_and_marked(tilted):
    folder = tilted(table=(0.0, 4.0, 8.0, 9.0, 16.0, 23.0, 30.0), angle=0.0)
    (study,) = discover(folder)
    assert study.series[0].reason == "uneven_spacing"
    assert "overlap at 18.00 and 19.00 mm" in study.series[0].detail
    record, volume = read(folder, IngestOptions(repairs=Repairs(spacing=True)))
    assert record.reason == "spacing_resampled"
    array, affine = array_of(volume)[0], affine_of(volume)
    assert array.shape == (COLUMNS, ROWS, 14)
    index = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), axis=-1)
    expected = scene(apply_affine(affine, index) * (-1, -1, 1))
    np.testing.assert_allclose(array, expected, atol=1.1)
    assert record.headers["SliceDistancesAcquired"] == [1.0, 7.0]
    assert record.headers["NumberOfSlicesAcquired"] == 7
    assert record.headers["Resampled"] is True


def test_a_tilted_time_series_stays_refused_for_its_tilt(tmp_path, series):
    turn = np.array([[1, 0, 0], [0, np.cos(TILT), np.sin(TILT)], [0, -np.sin(TILT), np.cos(TILT)]])
    for t in range(3):
        series(
            tmp_path,
            series_uid="1.2.9",
            direction=turn,
            names=f"{t}_{{}}".format,
            seed=t,
            TemporalPositionIdentifier=t + 1,
            edit=lambda d, k, t=t: (
                setattr(d, "InstanceNumber", 5 * t + k + 1),
                setattr(d, "ImagePositionPatient", [0, 0, 4.0 * k]),
            ),
        )
    for options in (IngestOptions(), BOTH):
        (study,) = discover(tmp_path, options=options)
        (record,) = study.series
        assert (record.status, record.reason) == ("rejected", "gantry_tilt")


def test_a_direction_that_is_none_costs_its_own_series_alone(tmp_path, series):
    series(tmp_path / "good")
    bent = [0.2, 0.0, 0.0, 0.0, 0.3, 0.0]
    series(
        tmp_path / "bent",
        edit=lambda d, k: setattr(d, "ImageOrientationPatient", bent) if k == 2 else None,
    )
    (study,) = discover(tmp_path)
    found = sorted((s.status, s.reason) for s in study.series)
    assert found == [("accepted", "not_a_head_volume"), ("rejected", "missing_geometry")]


def test_missing_slices_are_never_made_up(tilted):
    (study,) = discover(tilted(table=(0.0, 4.0, 8.0, 16.0, 20.0), angle=0.0), options=BOTH)
    assert (study.series[0].status, study.series[0].reason) == ("rejected", "missing_slice")
    assert "none at 22.00 mm" in study.series[0].detail


def test_the_stage_asks_through_the_workflow_and_marks_the_sidecar(tilted, tmp_path):
    stages = load_workflow(
        "head", only=("ingest",), parameters={"ingest": {"gantry_tilt": "correct"}}
    ).stages
    (stage,) = stages
    assert isinstance(stage, IngestStage)
    assert stage.options == IngestOptions(repairs=Repairs(tilt=True))
    assert stage.fingerprint() != IngestStage().fingerprint()
    tilted()
    tilted(folder="in/straight", angle=0.0, SeriesNumber=2)
    (record,) = discover(tmp_path / "in", options=stage.options)
    result = stage.run(Study(record), CONTEXT)
    volumes = {o.entities.get("run", ""): o for o in result.outputs if o.kind == "volume"}
    assert len(volumes) == 2
    marked = [o.sidecar.get("GantryTiltCorrected") for o in volumes.values()]
    assert sorted(m is None for m in marked) == [False, True]
    assert 18.5 in marked
    rows = {row["reason"]: row for row in result.outputs[-1].table}
    assert "sheared back by 18.5 degrees" in rows["tilt_corrected"]["detail"]
    plain = IngestStage().input_hashes(Study(discover(tmp_path / "in")[0]))
    assert plain != stage.input_hashes(Study(record))


@pytest.mark.parametrize("posture", POSTURES)
def test_every_posture_keeps_values_where_the_patient_is(tmp_path, series, posture):
    """Feet first, prone and decubitus show in the cosines alone, and nothing else may matter."""
    row, column = (np.array(axis, float) for axis in POSTURES[posture])
    direction = np.stack([row, column, np.cross(row, column)], axis=1)
    order = -1 if posture.startswith("FF") else 1
    stored = series(
        tmp_path,
        modality="CT",
        direction=direction,
        PatientPosition=posture.split()[0],
        edit=lambda d, k: setattr(d, "InstanceNumber", 10 + order * k),
    )
    _, volume = read(tmp_path, IngestOptions())
    np.testing.assert_array_equal(array_of(volume)[0], stored.astype(np.float32) - 1024)
    expected = (np.array((-30.0, 20.0, 5.0)) + direction @ (3 * 1.1, 4 * 0.9, 2 * 2.0)) * (
        -1,
        -1,
        1,
    )
    np.testing.assert_allclose(apply_affine(affine_of(volume), (3, 4, 2)), expected, atol=1e-4)
    assert np.linalg.det(affine_of(volume)) > 0


@pytest.mark.real_data
def test_a_real_tilted_head_equals_dcm2niix_in_world_space(real_data, tmp_path):
    """GE head CT: tilt 18.5 degrees, slice distances 1.1 to 7.4 mm along the table."""
    import dcm2niix

    folder = real_data / "studies" / "ct_head_tilt"
    record, volume = read(folder, BOTH)
    assert record.reason == "tilt_corrected"
    assert record.headers["GantryTiltCorrected"] == 18.5
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-f", "out", "-o", str(tmp_path), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    other = nib.load(tmp_path / "out_Tilt_Eq_1.nii")
    theirs, ours = np.asarray(other.dataobj, np.float32), array_of(volume)[0][:, ::-1]
    assert theirs.shape == ours.shape
    flipped = affine_of(volume)
    flipped[:3, 3] += flipped[:3, 1] * (ours.shape[1] - 1)
    flipped[:3, 1] *= -1
    np.testing.assert_allclose(flipped, other.affine, atol=1e-3)
    # GE fills outside of the scanned circle with -1500; both tools mix that in at its rim alone,
    # and dcm2niix rounds to whole numbers after each of its two steps.
    inside = (theirs > -1100) & (ours > -1100)
    assert inside.mean() > 0.5
    apart = np.abs(theirs - ours)[inside]
    assert np.percentile(apart, 98) < 1.0
    assert np.median(apart) < 0.5
