from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

from radloom.errors import InputError, ReasonCode, SeriesRefused
from radloom.geometry import apply_affine, flip_lps_ras
from radloom.pipelines.ingest import discover, read_image, read_series
from radloom.shapes import affine_of, array_of, require_volume


def read_only(folder):
    (study,) = discover(folder)
    (series,) = study.series
    return read_series(study, series)


def rotation(a, b, c):
    result = np.eye(3)
    for axis, angle in enumerate((a, b, c)):
        i, j = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    step=st.floats(0.5, 6),
    n=st.integers(3, 6),
    order=st.randoms(use_true_random=False),
)
def test_voxels_and_places_are_exact_in_any_direction_and_order(
    tmp_path_factory, series, angles, step, n, order
):
    folder = tmp_path_factory.mktemp("series")
    direction = rotation(*angles)
    numbers = order.sample(range(1000), n)
    stored = series(
        folder, direction=direction, step=step, n=n, names=lambda k: f"{numbers[k]:04d}",
        edit=lambda d, k: setattr(d, "InstanceNumber", numbers[n - 1 - k]),
    )  # fmt: skip
    volume = require_volume(read_only(folder))
    np.testing.assert_array_equal(array_of(volume)[0], stored)
    affine_lps = flip_lps_ras(affine_of(volume))
    expected = np.array((-30.0, 20.0, 5.0)) + direction @ (2 * 1.1, 3 * 0.9, (n - 1) * step)
    np.testing.assert_allclose(apply_affine(affine_lps, (2, 3, n - 1)), expected, atol=1e-4)
    assert np.linalg.det(affine_of(volume)) > 0


def test_simpleitk_reads_the_same_voxels_at_the_same_places(tmp_path, series):
    series(tmp_path, modality="CT", direction=rotation(0.2, -0.4, 2.0), n=6)
    volume = read_only(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    other = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    for index in np.ndindex(4, 6, 6):
        point = np.array(image.TransformIndexToPhysicalPoint([int(i) for i in index]))
        inverse = np.linalg.inv(affine_of(volume))
        i, j, k = np.round(apply_affine(inverse, point * (-1, -1, 1))).astype(int)
        assert array_of(volume)[0, i, j, k] == other[index]


def test_ct_is_in_hu_with_each_slices_own_rescaling(tmp_path, series):
    def edit(dataset, k):
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + k / 4, -1000 - k

    stored = series(tmp_path, modality="CT", edit=edit).astype(float)
    volume = read_only(tmp_path)
    expected = stored * (1 + np.arange(5) / 4) - 1000 - np.arange(5)
    np.testing.assert_allclose(array_of(volume)[0], expected, rtol=1e-6)
    assert (volume.meta["units"], volume.meta["modality"]) == ("HU", "CT")


def test_pet_is_in_becquerel_with_each_slices_own_slope(tmp_path, series):
    def edit(dataset, k):
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.1 * (k + 1), 0

    stored = series(tmp_path, modality="PT", Units="BQML", edit=edit).astype(float)
    volume = read_only(tmp_path)
    np.testing.assert_allclose(array_of(volume)[0], stored * 0.1 * np.arange(1, 6), rtol=1e-6)
    assert volume.meta["units"] == "Bq/mL"


def test_inverted_display_and_windows_do_not_touch_the_values(tmp_path, series):
    stored = series(
        tmp_path, PhotometricInterpretation="MONOCHROME1", WindowCenter=40, WindowWidth=80
    )
    np.testing.assert_array_equal(array_of(read_only(tmp_path))[0], stored)


def test_a_series_without_uids_of_class_and_frame_is_read(tmp_path, series):
    def edit(dataset, k):
        del dataset.FrameOfReferenceUID
        dataset.PixelSpacing = [0.9, 1.1 + 1e-6 * k]

    stored = series(tmp_path, edit=edit)
    np.testing.assert_array_equal(array_of(read_only(tmp_path))[0], stored)


def test_run_length_encoding_is_exact_and_a_cut_stream_is_refused(tmp_path, series):
    stored = series(tmp_path)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(array_of(read_only(tmp_path))[0], stored)
    last = tmp_path / "003.dcm"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) - 30])
    (study,) = discover(tmp_path)
    assert study.series[0].reason == "truncated"


def test_damage_inside_a_compressed_stream_is_refused_on_reading(tmp_path, series):
    series(tmp_path)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        data = bytearray(dataset.PixelData)
        start = data.index(b"\xfe\xff\x00\xe0", 8) + 8  # the frame, after the offset table
        data[start : start + 64] = bytes(64)
        dataset.PixelData = bytes(data)
        dataset.save_as(path)
    (study,) = discover(tmp_path)
    assert study.series[0].status == "accepted"
    with pytest.raises(SeriesRefused, match="cannot be decoded") as caught:
        read_series(study, study.series[0])
    assert caught.value.code is ReasonCode.UNREADABLE


def test_files_that_change_after_discovery_are_refused(tmp_path, series):
    series(tmp_path)
    (study,) = discover(tmp_path)
    cut = tmp_path / "002.dcm"
    cut.write_bytes(cut.read_bytes()[:-10])
    with pytest.raises(SeriesRefused) as caught:
        read_series(study, study.series[0])
    assert caught.value.code is ReasonCode.TRUNCATED
    cut.unlink()
    with pytest.raises(SeriesRefused) as caught:
        read_series(study, study.series[0])
    assert caught.value.code in (ReasonCode.UNREADABLE, ReasonCode.MISSING_SLICE)


def test_a_rejected_series_is_never_read(tmp_path, series):
    series(tmp_path, n=2)
    with pytest.raises(SeriesRefused, match="too_few_slices"):
        read_only(tmp_path)


def test_split_echoes_are_read_apart(tmp_path, series):
    stored = [
        series(tmp_path, series_uid="1.2.9", names=f"{e}_{{}}".format, seed=e, EchoTime=e)
        for e in (10, 90)
    ]
    (study,) = discover(tmp_path)
    for record, values in zip(study.series, stored, strict=True):
        np.testing.assert_array_equal(array_of(read_series(study, record))[0], values)


def test_a_time_series_is_one_4d_volume_on_the_grid_of_the_headers(tmp_path, series):
    stored = [
        series(
            tmp_path,
            series_uid="1.2.9",
            names=f"{t}_{{}}".format,
            seed=t,
            rows=16,
            columns=16,
            spacing=(2, 2),
            TemporalPositionIdentifier=t + 1,
            NumberOfTemporalPositions=3,
            AcquisitionNumber=t + 1,
            Manufacturer="Philips",
            edit=lambda d, k, t=t: setattr(d, "InstanceNumber", 5 * t + k + 1),
        )
        for t in range(3)
    ]
    volume = read_only(tmp_path)
    np.testing.assert_array_equal(array_of(volume), np.stack(stored))
    assert volume.meta["reasons"] == ("time_series",)
    np.testing.assert_allclose(affine_of(volume)[:3, 3], (30, -20, 5), atol=1e-4)


def test_read_image_takes_files_and_folders_of_one_series(tmp_path, series):
    stored = series(tmp_path / "dicom")
    np.testing.assert_array_equal(array_of(read_image(tmp_path / "dicom"))[0], stored)
    image = sitk.GetImageFromArray(stored.transpose(2, 1, 0).astype(np.float32))
    image.SetOrigin((1, 2, 3))
    for name in ("a.nrrd", "a.mha", "a.nii.gz"):
        sitk.WriteImage(image, str(tmp_path / name))
        volume = read_image(tmp_path / name)
        np.testing.assert_array_equal(array_of(volume)[0], stored)
        np.testing.assert_allclose(affine_of(volume)[:3, 3], (-1, -2, 3))
    series(tmp_path / "dicom", names="b{}".format)
    with pytest.raises(InputError, match="got 2 volumes"):
        read_image(tmp_path / "dicom")
    with pytest.raises(InputError, match="nothing there"):
        read_image(tmp_path / "none.nii")


def test_a_cut_nrrd_is_refused(tmp_path):
    image = sitk.GetImageFromArray(np.ones((20, 20, 20), np.float32))
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(image, str(path), useCompression=False)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SeriesRefused) as caught:
        read_image(path)
    assert caught.value.code is ReasonCode.TRUNCATED


def test_a_ct_file_without_air_has_no_certain_units(tmp_path):
    sitk.WriteImage(
        sitk.GetImageFromArray(np.full((5, 5, 5), 100, np.int16)), str(tmp_path / "ct.mha")
    )
    with pytest.raises(SeriesRefused, match="ambiguous_units"):
        read_image(tmp_path / "ct.mha")
