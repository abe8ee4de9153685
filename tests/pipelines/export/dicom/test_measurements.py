from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest

from radloom.errors import StageFailed
from radloom.pipelines.export.dicom.heading import file_bytes, read_file_bytes
from radloom.pipelines.export.dicom.measurements import measurement_series
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries
from radloom.pipelines.export.dicom.segmentation import segmentation_series
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.study import Output, Study
from radloom.shapes import affine_of, make_label, spatial_shape

ROWS = (
    {"label": 10, "structure": "Left-Thalamus", "volume_ml": 7.1234, "n_voxels": 100},
    {"label": 999, "structure": "Some very odd structure " * 4, "volume_ml": 0.0, "n_voxels": 0},
)
CHECKS = (
    Check("t1_noise_before", 12.5, low=0.0, high=10.0, unit="HU", meaning="Noise."),
    Check("t2_moved_mm", 3.25, high=80.0, unit="mm"),
    Check("t2_peak", float("nan"), low=0.0),
)


@pytest.fixture
def measured(study: Study) -> Study:
    table = Output("table", "t1", "volumes", ROWS)
    return study.with_outputs("segment", (table,)).with_outputs("register", (), CHECKS)


def _series(study: Study) -> ObjectSeries:
    (series,) = measurement_series(study, Desk(study, "f"))
    return series


def test_highdicom_reads_the_volumes_and_checks(measured: Study) -> None:
    series = _series(measured)
    (dataset,) = series.datasets
    back = read_file_bytes(file_bytes(dataset))
    report = hd.sr.srread(BytesIO(file_bytes(dataset))).content
    groups = report.get_image_measurement_groups()
    numbers = {}
    for group in groups:
        for measurement in group.get_measurements():
            key = (group.tracking_identifier[:40], measurement.name.meaning)
            numbers[key] = (measurement.value, measurement.unit.value)
    assert numbers["Left-Thalamus", "Volume"] == (7.1234, "mL")
    assert numbers["stage register", "t1_noise_before"] == (12.5, "[hnsf'U]")
    assert numbers["stage register", "t2_moved_mm"] == (3.25, "mm")
    assert numbers["stage ingest", "series_read"] == (3.0, "1")
    assert ("stage register", "t2_peak") not in numbers
    verdicts = {g.tracking_identifier: g.get_qualitative_evaluations() for g in groups}
    assert verdicts["stage register"][0].value.meaning == "Out of range: look"
    assert verdicts["stage ingest"][0].value.meaning == "In range"
    assert list(series.check([back])) == []


def test_volumes_refer_to_segments_where_there_are_any(measured: Study) -> None:
    t1 = measured.latest("t1").volume
    labels = np.zeros(spatial_shape(t1), dtype=np.uint8)
    labels[4:9, 5:12, 2:5] = 10
    label = Output("label", "t1", "model", make_label(labels, affine_of(t1)),
                   label_names={10: "Left-Thalamus"})  # fmt: skip
    study = measured.with_outputs("labelled", (label,))
    desk = Desk(study, "f")
    (segmentation,) = segmentation_series(study, desk)
    desk.made["segmentation", "t1"] = [
        read_file_bytes(file_bytes(ds)) for ds in segmentation.datasets
    ]
    (series,) = measurement_series(study, desk)
    (dataset,) = series.datasets
    content = hd.sr.srread(BytesIO(file_bytes(dataset))).content
    (group,) = content.get_volumetric_roi_measurement_groups()
    uid = desk.made["segmentation", "t1"][0].SOPInstanceUID
    assert group.referenced_segment.referenced_sop_instance_uid == uid
    assert "halamus" in group.finding_type.meaning


def test_another_number_is_found(measured: Study) -> None:
    series = _series(measured)
    other = replace(CHECKS[1], value=3.26)
    changed = measured.with_outputs("register", (), (CHECKS[0], other))
    (dataset,) = _series(changed).datasets
    with pytest.raises(StageFailed, match=r"number 6: a read gives 3.26, expected 3.25"):
        series.check([read_file_bytes(file_bytes(dataset))])


def test_uids_follow_the_numbers(measured: Study) -> None:
    (dataset,), (again,) = _series(measured).datasets, _series(measured).datasets
    assert file_bytes(dataset) == file_bytes(again)
    changed = measured.with_outputs("register", (), CHECKS[:1])
    (other,) = _series(changed).datasets
    assert other.SOPInstanceUID != dataset.SOPInstanceUID


def test_checkers_find_no_error(
    measured: Study, validate: Callable[[bytes], list[str]], dsrdump: Callable[[bytes], str]
) -> None:
    (dataset,) = _series(measured).datasets
    assert validate(file_bytes(dataset)) == []
    text = dsrdump(file_bytes(dataset))
    assert '"7.1234" (mL,UCUM,"milliliter")' in text
    assert "for research use" in text
