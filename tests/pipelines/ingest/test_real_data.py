"""Scans of several vendors against what other tools and people say of them."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import dcm2niix
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames

from radloom.errors import SeriesRefused
from radloom.geometry import apply_affine, corners
from radloom.pipelines.ingest import discover, read_series
from radloom.pipelines.ingest.decoding import decode, open_image
from radloom.shapes import affine_of, array_of, spatial_shape

pytestmark = pytest.mark.real_data


def listed(folder: Path) -> list[tuple[str, str, str, tuple[int, int, int]]]:
    return [
        (s.status, s.reason, s.role, s.shape) for study in discover(folder) for s in study.series
    ]


def test_the_verdicts_on_the_studies(real_data):
    studies = real_data / "studies"
    assert listed(studies / "mprage") == [("accepted", "", "t1", (256, 256, 192))]
    assert listed(studies / "mr_sagittal_mixed") == [
        ("accepted", "", "t1", (256, 256, 35)),
        ("accepted", "diffusion", "", (128, 128, 25)),
    ]
    (tilted,) = discover(studies / "ct_head_tilt")
    assert tilted.series[0].reason == "gantry_tilt"
    assert "18.5 degrees" in tilted.series[0].detail
    one, two = discover(studies / "ms01")
    assert (one.key, two.key) == ("sub-ms01_ses-date1", "sub-ms01_ses-date2")
    assert [s.role for s in one.series] == [s.role for s in two.series] == ["flair", "t1", "t2"]


FAILING = {
    "gantrytilting": "gantry_tilt",
    "notavolume": "too_few_slices",
    "slicecount/001": "too_few_slices",
    "sliceorientation": "mixed_orientation",
}


@pytest.mark.parametrize(("folder", "reason"), FAILING.items())
def test_what_must_be_refused_is(real_data, folder, reason):
    found = listed(real_data / "dicom" / "vendors" / "failing" / folder)
    assert [(status, code) for status, code, _, _ in found] == [("rejected", reason)]


def sampled(array: np.ndarray, affine: np.ndarray, like_affine: np.ndarray, shape) -> np.ndarray:
    """`array` on a grid that holds the same voxels in another axis order."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    points = apply_affine(like_affine, index)
    voxels = apply_affine(np.linalg.inv(affine), points)
    nearest = np.round(voxels).astype(int)
    assert np.abs(voxels - nearest).max() < 0.02
    return array[nearest[..., 0], nearest[..., 1], nearest[..., 2]]


def read_only(folder: Path):
    (study,) = discover(folder)
    (series,) = [s for s in study.series if s.status == "accepted"]
    return read_series(study, series)


VENDORS = [
    "anatomical", "ge/anatomical", "ge/fmri", "generic/anatomical", "generic/compressed",
    "generic/compressed_j2k", "generic/compressed_jpeg", "generic/compressed_jpegls",
    "generic/compressed_rle", "hitachi/anatomical", "hyperfine/anatomical", "philips/anatomical",
    "philips_enhanced/anatomical", "philips_enhanced/fmri",
    "siemens/anatomical", "siemens_multiframe/anatomical",
]  # fmt: skip


@pytest.mark.parametrize("name", VENDORS)
def test_vendors_agree_with_their_ground_truth_in_world_space(real_data, name):
    folder = real_data / "dicom" / "vendors" / name
    truth = nib.load(folder / "001_ground_truth.nii.gz")
    expected = np.asarray(truth.dataobj, dtype=np.float32)
    volume = read_only(folder / "001")
    expected = expected if expected.ndim == 4 else expected[..., None]
    assert volume.shape[0] == expected.shape[3]
    for time, values in enumerate(array_of(volume)):
        there = sampled(values, affine_of(volume), truth.affine, expected.shape[:3])
        np.testing.assert_allclose(there, expected[..., time], rtol=1e-5, atol=1e-3)


def test_diffusion_frames_are_stacked_by_their_weighting(real_data):
    """The ground truth holds other noise than the frames, but for one direction of the four."""
    folder = real_data / "dicom" / "vendors" / "philips_enhanced" / "dti"
    truth = nib.load(folder / "001_ground_truth.nii.gz")
    volume = read_only(folder / "001")
    assert volume.meta["reasons"] == ("diffusion",)
    np.testing.assert_allclose(affine_of(volume), truth.affine, atol=1e-4)
    last_direction = np.asarray(truth.dataobj, np.float32)[..., 0]
    np.testing.assert_allclose(array_of(volume)[3], last_direction, rtol=1e-5)


def test_a_mosaic_whose_slice_count_is_gone_is_refused(real_data):
    found = listed(real_data / "dicom" / "vendors" / "siemens" / "fmri" / "001")
    assert [code for _, code, _, _ in found] == ["missing_geometry"]


LOSSLESS = ("JPLL", "JLSL", "J2KR", "RLE")


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_are_exact(real_data, syntax):
    imagecodecs = pytest.importorskip("imagecodecs")
    folder = real_data / "dicom" / "compressed"
    for path in sorted((folder / syntax).iterdir()):
        packed = (folder / "REF" / f"{path.name[:3]}_UNC.zst").read_bytes()
        reference = pydicom.dcmread(io.BytesIO(imagecodecs.zstd_decode(packed)))
        np.testing.assert_array_equal(open_image(path).pixel_array, reference.pixel_array)


def test_a_syntax_without_decoder_says_so(real_data):
    path = real_data / "dicom" / "odd" / "liver_deflate.dcm"
    with pytest.raises(SeriesRefused, match="codec_missing: TransferSyntaxUID"):
        open_image(path)


@pytest.mark.parametrize("name", ["MR1", "MR2", "NM1"])
def test_lossy_jpeg_of_twelve_bits_is_what_libjpeg_makes_of_it(real_data, name):
    imagecodecs = pytest.importorskip("imagecodecs")
    stored, dataset = decode(real_data / "dicom" / "compressed" / "JPLY" / f"{name}_JPLY")
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    np.testing.assert_array_equal(stored[0], imagecodecs.jpeg_decode(frame))
    assert stored.max() > 255


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mprage", "mr_sagittal_mixed/3_t1_fl2d_sag"])
def test_volumes_of_real_size_equal_dcm2niix_in_world_space(real_data, tmp_path, name):
    folder = real_data / "studies" / name
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-f", "out", "-o", str(tmp_path), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    other = nib.load(tmp_path / "out.nii")
    volume = read_only(folder)
    shape = spatial_shape(volume)
    there = sampled(np.asarray(other.dataobj, np.float32), other.affine, affine_of(volume), shape)
    np.testing.assert_array_equal(there, array_of(volume)[0])
    ours, theirs = corners(affine_of(volume), shape), corners(other.affine, other.shape)
    apart = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    assert apart.min(axis=1).max() < 0.02


def test_no_odd_file_stops_discovery_or_is_taken_for_a_volume(real_data):
    found = listed(real_data / "dicom" / "odd")
    assert len(found) > 20
    assert {status for status, _, _, _ in found} == {"rejected"}


def test_enhanced_files_are_split_or_kept_in_time(real_data):
    found = listed(real_data / "dicom" / "enhanced")
    assert sorted(found) == [
        ("accepted", "time_series", "", (64, 64, 6)),
        ("split", "split_series", "", (64, 64, 32)),
        ("split", "split_series", "", (64, 64, 32)),
    ]
