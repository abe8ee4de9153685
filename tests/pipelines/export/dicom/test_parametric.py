from collections.abc import Callable
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest

from radloom.errors import StageFailed
from radloom.geometry import flip_lps_ras
from radloom.models.translation.tissues import CLASS_NAMES
from radloom.pipelines.export.dicom.derived import derived_series
from radloom.pipelines.export.dicom.heading import file_bytes, read_file_bytes
from radloom.pipelines.export.dicom.parametric import (
    check_parametric_map,
    parametric_map_dataset,
    parametric_series,
)
from radloom.pipelines.export.dicom.result import Desk
from radloom.pipelines.export.dicom.segmentation import segmentation_series
from radloom.pipelines.export.dicom.structure_set import structure_set_series
from radloom.pipelines.study import Output, Study
from radloom.shapes import affine_of, array_of, like, make_label


def test_attenuation_map_keeps_every_bit_and_its_unit(
    study: Study, desk: Desk, validate: Callable[[bytes], list[str]]
) -> None:
    t1 = study.latest("t1").volume
    values = np.random.default_rng(0).uniform(0, 0.17, t1.shape).astype(np.float32)
    volume = like(t1, values, units="arbitrary")
    source = desk.source("t1")
    heading = desk.heading("parametric", "mu", "Attenuation map", "digest", source)
    dataset = parametric_map_dataset(volume, heading, source)
    content = file_bytes(dataset)
    assert content == file_bytes(parametric_map_dataset(volume, heading, source))
    read = hd.imread(BytesIO(content)).get_volume()
    for index in ((0, 0, 0), (19, 23, 6), (3, 14, 5)):
        place = flip_lps_ras(affine_of(t1)) @ [*index, 1]
        at = np.linalg.solve(read.affine, place)[:3]
        np.testing.assert_allclose(at, np.rint(at), atol=1e-3)
        assert read.array[tuple(np.rint(at).astype(int))] == array_of(volume)[(0, *index)]
    assert sorted(read.array.ravel()) == sorted(array_of(volume).ravel())
    mapping = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "/cm"
    assert dataset.ContentQualification == "RESEARCH"
    assert "InstanceCreationDate" not in dataset
    back = read_file_bytes(content)
    assert list(check_parametric_map([back], volume=volume, grid=source, where="mu")) == []
    with pytest.raises(StageFailed, match=r"mu, slice \d: a read gives others"):
        check_parametric_map([back], volume=like(t1, values + 1), grid=source, where="mu")
    assert validate(content) == []


def test_maps_of_a_study_become_series_and_no_images(
    study: Study, desk: Desk, validate: Callable[[bytes], list[str]]
) -> None:
    t1 = study.latest("t1").volume
    values = np.random.default_rng(0).uniform(0, 0.17, t1.shape).astype(np.float32)
    mu = like(t1, values, modality="CT", units="1/cm")
    error = like(t1, 500 * values, modality="CT", units="HU")
    results = study.with_outputs(
        "translate",
        (
            Output("volume", "ct", "attenuation", mu, space="t1"),
            Output("volume", "ct", "uncertainty", error, space="t1"),
        ),
    )
    assert list(derived_series(results, desk)) == []
    tissues = make_label(np.arange(values.size).reshape(values.shape) % 3, affine_of(t1))
    label = Output("label", "ct", "tissues", tissues, space="t1", label_names=CLASS_NAMES)
    labelled = study.with_outputs("translate", (label,))
    assert list(structure_set_series(labelled, desk)) == []
    (segmentation,) = segmentation_series(labelled, desk)
    codes = [
        item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning
        for item in segmentation.datasets[0].SegmentSequence
    ]
    assert codes == ["Soft tissue", "Bone"]
    series = list(parametric_series(results, Desk(results, "fingerprint")))
    units = ("/cm", "[hnsf'U]")
    for one, unit, volume in zip(series, units, (mu, error), strict=True):
        (dataset,) = one.datasets
        assert (one.kind, one.role, one.space) == ("parametric", "ct", "t1")
        assert dataset.SOPClassUID.name == "Parametric Map Storage"
        assert dataset.FrameOfReferenceUID == desk.source("t1").frame_of_reference_uid
        mapping = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == unit
        content = file_bytes(dataset)
        assert list(one.check([read_file_bytes(content)])) == []
        assert validate(content) == []
        frames = np.frombuffer(dataset.FloatPixelData, "<f4")
        np.testing.assert_allclose(np.sort(frames), np.sort(array_of(volume).ravel()))
