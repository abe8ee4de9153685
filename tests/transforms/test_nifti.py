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
from radloom.transforms.nifti import read_nifti, read_nifti_header, write_nifti

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


def test_other_names_are_not_written(tmp_path):
    with pytest.raises(InputError, match=r"expected a name that ends in .nii"):
        write_nifti(volume(), tmp_path / "a.mha")


def test_every_real_nifti_is_read_or_refused_as_nibabel_sees_it(real_data):
    for path in sorted((real_data / "studies" / "ms01").rglob("*.nii.gz"))[:2]:
        image = nib.load(path)
        back = read_nifti(path)
        np.testing.assert_array_equal(affine_of(back), as_stored(image.affine))
        np.testing.assert_array_equal(array_of(back)[0], image.get_fdata(dtype=np.float32))
