from __future__ import annotations

import gzip
import hashlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st

from radloom.errors import InputError, ReasonCode, SeriesRefused
from radloom.geometry import affine_from_parts, as_stored, flip_lps_ras, parts_from_affine
from radloom.shapes import affine_of, array_of, make_label, make_volume
from radloom.transforms.nifti import PIECE, read_nifti, read_nifti_header, voxel_file, write_nifti

SHAPE = (3, 4, 5)


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def oblique(angle: float = 0.3) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return affine_from_parts((10, -20, 30), (0.9375, 1.1, 3.3), [[c, -s, 0], [s, c, 0], [0, 0, 1]])


def volume(shape=SHAPE, affine=None):
    affine = oblique() if affine is None else affine
    return make_volume(ramp(*shape), affine, modality="MR", units="arbitrary")


def refused(path, code: ReasonCode, match: str | None = None) -> None:
    with pytest.raises(SeriesRefused, match=match) as caught:
        read_nifti(path)
    assert caught.value.code is code
    assert path.name in caught.value.detail


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("shape", [SHAPE, (6, *SHAPE)])
def test_what_was_written_is_read_back_exactly(tmp_path, name, shape):
    write_nifti(volume(shape), tmp_path / name)
    back = read_nifti(tmp_path / name)
    np.testing.assert_array_equal(array_of(back), array_of(volume(shape)))
    np.testing.assert_array_equal(affine_of(back), affine_of(volume(shape)))
    header = read_nifti_header(tmp_path / name)
    assert header.shape == (shape if len(shape) == 3 else (*SHAPE, 6))
    np.testing.assert_array_equal(header.affine, affine_of(back))


@given(st.floats(-3.1, 3.1))
def test_nibabel_and_simpleitk_read_the_same_place_and_values(tmp_path_factory, angle):
    path = tmp_path_factory.mktemp("nifti") / "a.nii.gz"
    write_nifti(volume(affine=oblique(angle)), path)
    image = nib.load(path)
    assert np.array_equal(image.affine, as_stored(oblique(angle)))
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(image.get_qform(), image.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(image.dataobj), ramp(*SHAPE))
    itk_image = sitk.ReadImage(str(path))
    origin, spacing, direction = parts_from_affine(flip_lps_ras(oblique(angle)))
    np.testing.assert_allclose(itk_image.GetOrigin(), origin, atol=1e-4)
    np.testing.assert_allclose(itk_image.GetSpacing(), spacing, atol=1e-5)
    np.testing.assert_allclose(itk_image.GetDirection(), direction.ravel(), atol=1e-5)


def test_bytes_do_not_depend_on_name_place_or_time(tmp_path):
    (tmp_path / "other").mkdir()
    write_nifti(volume(), tmp_path / "a.nii.gz")
    write_nifti(volume(), tmp_path / "other" / "b.nii.gz")
    first, second = (tmp_path / p for p in ("a.nii.gz", "other/b.nii.gz"))
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (first, second)}
    assert len(digests) == 1
    assert first.read_bytes()[4:8] == bytes(4)


@pytest.mark.parametrize(("top", "dtype"), [(255, torch.uint8), (530, torch.uint16)])
def test_labels_keep_their_type_and_their_kind(tmp_path, top, dtype):
    array = np.zeros(SHAPE, int)
    array[1, 2, 3] = top
    write_nifti(make_label(array, oblique()), tmp_path / "a.nii.gz")
    back = read_nifti(tmp_path / "a.nii.gz")
    assert back.as_tensor().dtype == dtype
    np.testing.assert_array_equal(array_of(back)[0], array)
    assert read_nifti(tmp_path / "a.nii.gz", label=False).as_tensor().dtype == torch.float32
    assert nib.load(tmp_path / "a.nii.gz").header.get_intent()[0] == "label"


def test_scaled_integers_of_other_tools_become_their_values(tmp_path):
    image = nib.Nifti1Image(ramp(*SHAPE).astype(np.int16), oblique())
    image.header.set_slope_inter(2.5, -1024)
    nib.save(image, tmp_path / "a.nii.gz")
    expected = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(array_of(read_nifti(tmp_path / "a.nii.gz"))[0], expected)


def test_big_endian_and_nifti_2_are_read(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(ramp(*SHAPE).astype(">f4"), oblique(), header)
    nib.save(image, tmp_path / "big.nii")
    nib.save(nib.Nifti2Image(ramp(*SHAPE), oblique()), tmp_path / "two.nii.gz")
    for name in ("big.nii", "two.nii.gz"):
        np.testing.assert_array_equal(array_of(read_nifti(tmp_path / name))[0], ramp(*SHAPE))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_file_cut_anywhere_is_refused(tmp_path, name, kept):
    path = tmp_path / name
    write_nifti(volume(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(SeriesRefused) as caught:
        read_nifti(path)
    assert caught.value.code in (ReasonCode.TRUNCATED, ReasonCode.UNREADABLE)


def test_a_damaged_checksum_is_noticed(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_nifti(volume(), path)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    refused(path, ReasonCode.TRUNCATED, "damaged")


def test_something_else_is_refused(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(b"this is a letter, not a scan" * 40))
    refused(path, ReasonCode.UNREADABLE, "expected a NIfTI header")


def save(path, sform, sform_code, qform, qform_code):
    image = nib.Nifti1Image(ramp(*SHAPE), None)
    image.header.set_sform(sform, sform_code)
    image.header.set_qform(qform, qform_code)
    nib.save(image, path)
    return path


def test_no_geometry_at_all_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", np.eye(4), 0, np.eye(4), 0)
    refused(path, ReasonCode.MISSING_GEOMETRY, "left and right")


def test_the_qform_counts_where_there_is_no_sform(tmp_path):
    path = save(tmp_path / "a.nii", np.eye(4), 0, oblique(), 1)
    np.testing.assert_allclose(affine_of(read_nifti(path)), oblique(), atol=1e-4)


@pytest.mark.parametrize(("shift", "ok"), [(0.5, True), (1.5, False)])
def test_forms_of_one_space_must_agree_within_a_voxel(tmp_path, shift, ok):
    moved = oblique()
    moved[0, 3] += shift
    path = save(tmp_path / "a.nii", oblique(), 1, moved, 1)
    if ok:
        np.testing.assert_array_equal(affine_of(read_nifti(path)), as_stored(oblique()))
    else:
        refused(path, ReasonCode.INVALID_AFFINE, "1.50 mm apart")


def test_forms_of_two_spaces_may_differ_and_the_sform_counts(tmp_path):
    path = save(tmp_path / "a.nii", oblique(), 4, np.eye(4), 1)
    np.testing.assert_array_equal(affine_of(read_nifti(path)), as_stored(oblique()))


def test_a_singular_or_infinite_affine_is_refused(tmp_path):
    flat = np.diag([1.0, 1, 0, 1])
    refused(save(tmp_path / "a.nii", flat, 1, np.eye(4), 0), ReasonCode.INVALID_AFFINE)
    endless = np.eye(4)
    endless[0, 3] = np.inf
    refused(save(tmp_path / "b.nii", endless, 1, np.eye(4), 0), ReasonCode.INVALID_AFFINE)


def test_a_sheared_affine_survives_without_a_qform(tmp_path):
    sheared = np.eye(4)
    sheared[1, 2] = 0.3
    write_nifti(volume(affine=sheared), tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    assert int(image.header["qform_code"]) == 0
    np.testing.assert_array_equal(affine_of(read_nifti(tmp_path / "a.nii.gz")), as_stored(sheared))


def test_nan_is_refused_unless_the_caller_knows_what_it_stands_for(tmp_path):
    array = ramp(*SHAPE)
    array[0, 0, 0] = np.nan
    array[0, 0, 1] = np.inf
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(array, oblique()), path)
    refused(path, ReasonCode.NOT_FINITE, "2 voxels")
    back = array_of(read_nifti(path, nan_to=-1))[0]
    assert back[0, 0, :2].tolist() == [-1, -1]
    assert back[0, 0, 2] == 2


def test_colour_complex_and_vectors_are_refused(tmp_path):
    rgb = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, oblique()), tmp_path / "rgb.nii")
    refused(tmp_path / "rgb.nii", ReasonCode.COLOUR)
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.complex64), oblique()), tmp_path / "k.nii")
    refused(tmp_path / "k.nii", ReasonCode.NOT_AN_IMAGE)
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 1, 3), "f4"), oblique()), tmp_path / "field.nii")
    refused(tmp_path / "field.nii", ReasonCode.NOT_AN_IMAGE, "three or four axes")


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1e-3), ("micron", 1e3), ("mm", 1.0)])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_lengths_in_metres_and_micrometres_become_millimetres(tmp_path, unit, scale, form):
    affine = oblique()
    affine[:3] *= scale
    path = save(tmp_path / "a.nii", affine, form == "sform", affine, form == "qform")
    image = nib.load(path)
    image.header.set_xyzt_units(unit)
    again = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    nib.save(again, tmp_path / "b.nii")
    np.testing.assert_allclose(affine_of(read_nifti(tmp_path / "b.nii")), oblique(), atol=1e-4)
    assert read_nifti_header(tmp_path / "b.nii").unsaid == ()
    # SimpleITK converts by the same code, and only that of the form it reads.
    spacing = sitk.ReadImage(str(tmp_path / "b.nii")).GetSpacing()
    np.testing.assert_allclose(spacing, parts_from_affine(oblique())[1], rtol=1e-4)


def test_a_unit_that_makes_impossible_voxels_is_refused(tmp_path):
    header = nib.load(save(tmp_path / "a.nii", oblique(), 1, oblique(), 1)).header
    for code, match in ((1, "937.5 to 3300 mm by the affine and the unit code 1"), (7, "code 7")):
        header["xyzt_units"] = code
        nib.save(nib.Nifti1Image(ramp(*SHAPE), None, header), tmp_path / "b.nii")
        refused(tmp_path / "b.nii", ReasonCode.INVALID_AFFINE, match)


def test_forms_that_mirror_each_other_are_refused_whatever_their_codes(tmp_path):
    mirrored = oblique() @ np.diag([-1.0, 1, 1, 1])
    path = save(tmp_path / "a.nii", oblique(), 4, mirrored, 1)
    refused(path, ReasonCode.INVALID_AFFINE, "mirror images")


def test_the_header_says_which_space_and_what_is_unsaid(tmp_path):
    header = read_nifti_header(save(tmp_path / "a.nii", oblique(), 4, oblique(), 1))
    assert (header.space, header.unsaid) == ("sform MNI", ("spatial unit",))
    assert read_nifti_header(save(tmp_path / "b.nii", None, 0, oblique(), 2)).space == (
        "qform aligned"
    )
    write_nifti(volume(), tmp_path / "c.nii")
    assert read_nifti_header(tmp_path / "c.nii").unsaid == ()


@pytest.mark.parametrize(
    ("unit", "step", "expected"),
    [("sec", 2.5, 2.5), ("msec", 2500, 2.5), ("usec", 2.5e6, 2.5), ("hz", 3, None), (0, 2.5, None)],
)
def test_the_time_step_is_in_seconds_or_unknown(tmp_path, unit, step, expected):
    image = nib.Nifti1Image(ramp(*SHAPE, 6), oblique())
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = step
    nib.save(image, tmp_path / "a.nii.gz")
    header = read_nifti_header(tmp_path / "a.nii.gz")
    assert header.time_step_s == expected
    assert ("time unit" in header.unsaid) is (unit == 0)


@pytest.mark.parametrize("names", [("a.hdr", "a.img"), ("a.hdr", "a.img.gz")])
@pytest.mark.parametrize("offset", [0, 16])
def test_pairs_of_header_and_voxels_are_read(tmp_path, names, offset):
    pair = nib.Nifti1Pair(ramp(*SHAPE), oblique())
    pair.header["vox_offset"] = offset
    nib.save(pair, tmp_path / "a.img")
    if names[1].endswith(".gz"):
        raw = (tmp_path / "a.img").read_bytes()
        (tmp_path / "a.img.gz").write_bytes(gzip.compress(raw))
        (tmp_path / "a.img").unlink()
    path = tmp_path / names[0]
    np.testing.assert_array_equal(array_of(read_nifti(path))[0], ramp(*SHAPE))
    np.testing.assert_array_equal(affine_of(read_nifti(path)), as_stored(oblique()))
    assert voxel_file(path) == tmp_path / names[1]
    content = (tmp_path / names[1]).read_bytes()
    (tmp_path / names[1]).write_bytes(content[:-9])
    with pytest.raises(SeriesRefused) as caught:
        read_nifti(path)
    assert caught.value.code is ReasonCode.TRUNCATED
    (tmp_path / names[1]).unlink()
    refused(path, ReasonCode.TRUNCATED, "expected its voxels in <a.img>, got 0")


def test_a_header_under_the_wrong_ending_is_refused(tmp_path):
    nib.save(nib.Nifti1Pair(ramp(*SHAPE), oblique()), tmp_path / "a.img")
    (tmp_path / "a.hdr").rename(tmp_path / "b.nii")
    refused(tmp_path / "b.nii", ReasonCode.UNREADABLE, "voxels in another file")
    write_nifti(volume(), tmp_path / "c.nii")
    (tmp_path / "c.nii").rename(tmp_path / "c.hdr")
    refused(tmp_path / "c.hdr", ReasonCode.UNREADABLE, "voxels in the same file")


def test_analyze_is_refused_for_its_left_and_right(tmp_path):
    nib.save(nib.AnalyzeImage(ramp(*SHAPE), np.diag([-1.0, 1, 1, 1])), tmp_path / "a.img")
    refused(tmp_path / "a.hdr", ReasonCode.MISSING_GEOMETRY, "an Analyze header")


@pytest.mark.parametrize("code", [3, 5, 22, 24, 1005, 1006, 1007, 1009, 2003, 2006, 4321])
def test_maps_vectors_and_warps_are_no_images(tmp_path, code):
    image = nib.Nifti1Image(ramp(*SHAPE), oblique())
    image.header["intent_code"] = code
    nib.save(image, tmp_path / "a.nii")
    refused(tmp_path / "a.nii", ReasonCode.NOT_AN_IMAGE, f"intent code {code} ")


@pytest.mark.parametrize("code", [0, 1001, 1011, 2001])
def test_plain_intents_are_images(tmp_path, code):
    image = nib.Nifti1Image(ramp(*SHAPE), oblique())
    image.header["intent_code"] = code
    nib.save(image, tmp_path / "a.nii")
    assert not read_nifti_header(tmp_path / "a.nii").is_label
    np.testing.assert_array_equal(array_of(read_nifti(tmp_path / "a.nii"))[0], ramp(*SHAPE))


def test_labels_stored_as_floats_are_labels_if_they_are_whole(tmp_path):
    image = nib.Nifti1Image(ramp(*SHAPE), oblique())
    image.header.set_intent("label")
    nib.save(image, tmp_path / "a.nii")
    assert read_nifti_header(tmp_path / "a.nii").is_label
    assert read_nifti(tmp_path / "a.nii").as_tensor().dtype == torch.uint8
    halves = nib.Nifti1Image(ramp(*SHAPE) / 2, oblique(), image.header)
    nib.save(halves, tmp_path / "b.nii")
    refused(tmp_path / "b.nii", ReasonCode.NOT_AN_IMAGE, "whole numbers")


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_that_is_none_leaves_the_values(tmp_path, slope):
    write_nifti(volume(), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:120] = np.array([slope, 7], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_array_equal(array_of(read_nifti(tmp_path / "a.nii"))[0], ramp(*SHAPE))


@pytest.mark.parametrize("offset", [np.nan, np.inf, 1e9])
def test_an_offset_outside_of_the_file_is_refused(tmp_path, offset):
    write_nifti(volume(), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[108:112] = np.array([offset], "<f4").tobytes()  # vox_offset
    (tmp_path / "a.nii").write_bytes(content)
    is_place = np.isfinite(offset)
    code = ReasonCode.TRUNCATED if is_place else ReasonCode.UNREADABLE
    refused(tmp_path / "a.nii", code, "got 0; copy" if is_place else "vox_offset: expected bytes")


def test_an_intercept_that_is_no_number_is_refused(tmp_path):
    write_nifti(volume(), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:120] = np.array([2, np.nan], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    refused(tmp_path / "a.nii", ReasonCode.NOT_FINITE)


@pytest.mark.parametrize("dtype", [">i2", ">f4", ">f8", ">u1"])
def test_big_endian_of_every_kind_with_a_scale_equals_nibabel(tmp_path, dtype):
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(ramp(*SHAPE).astype(dtype), oblique(), header)
    image.header.set_data_dtype(dtype)
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").header.endianness == ">"
    expected = nib.load(tmp_path / "a.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(array_of(read_nifti(tmp_path / "a.nii.gz"))[0], expected)


def test_other_names_are_not_written(tmp_path):
    with pytest.raises(InputError, match=r"expected a name that ends in .nii"):
        write_nifti(volume(), tmp_path / "a.mha")


def test_every_real_nifti_is_read_or_refused_as_nibabel_sees_it(real_data):
    for path in sorted((real_data / "studies" / "ms01").rglob("*.nii.gz"))[:2]:
        image = nib.load(path)
        back = read_nifti(path)
        np.testing.assert_array_equal(affine_of(back), as_stored(image.affine))
        np.testing.assert_array_equal(array_of(back)[0], image.get_fdata(dtype=np.float32))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([-32768, 0, 32767], "<i2"),
        ([0, 1, 65535], "<u2"),
        ([-1, 0, 65535], "<f4"),
        ([0, 1, 1.5], "<f4"),
        ([-0.0, 1, 2], "<f4"),
        ([0, 1, 65536], "<f4"),
    ],
)
@pytest.mark.parametrize("n_times", [1, 3])
def test_whole_numbers_are_stored_short_where_a_read_gives_the_same_bits(
    tmp_path, values, dtype, n_times
):
    array = np.resize(np.array(values, dtype=np.float32), (n_times, 4, 3, 5))
    volume = make_volume(array, oblique(), modality="MR", units="arbitrary")
    write_nifti(volume, tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").get_data_dtype() == np.dtype(dtype)
    back = array_of(read_nifti(tmp_path / "a.nii.gz", label=False))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back.view(np.int32), array.view(np.int32))


def test_a_volume_larger_than_a_piece_is_written_whole(tmp_path):
    ramp_of_pieces = np.arange(130 * 130 * 130, dtype=np.float32).reshape(130, 130, 130) % 1000
    volume = make_volume(ramp_of_pieces, np.eye(4), modality="MR", units="arbitrary")
    write_nifti(volume, tmp_path / "a.nii.gz")
    assert ramp_of_pieces.size > 2 * PIECE
    stored = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(stored, ramp_of_pieces)
