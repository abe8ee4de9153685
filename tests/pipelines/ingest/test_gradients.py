"""Gradient tables against dcm2niix, on diffusion series as each maker writes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import dcm2niix
import nibabel as nib
import numpy as np
import pytest

from radloom.pipelines.ingest import discover
from radloom.pipelines.ingest.canon import canon_weighting
from radloom.pipelines.ingest.gradients import fsl_from_lps
from radloom.pipelines.ingest.headers import read_headers
from radloom.pipelines.ingest.pixels import read_with_facts
from radloom.shapes import affine_of, array_of

DIRECTIONS = np.array([[0.6, 0.48, 0.64], [-0.8, 0.36, 0.48], [0.0, -0.6, 0.8]])
B_VALUES = (0, 700, 1000, 1000)


def world(bvec, affine):
    """(N, 3) directions in RAS+ of an FSL table, whose first axis counts down if right-handed."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    local = np.array(bvec, dtype=float)
    if np.linalg.det(axes) > 0:
        local[:, 0] *= -1
    return local @ axes.T


def same_lines(a, b, atol):
    """Whether directions agree but for their sense, which diffusion does not know."""
    return all(
        min(np.abs(x - y).max(), np.abs(x + y).max()) < atol for x, y in zip(a, b, strict=True)
    )


def of_dcm2niix(folder: Path, out: Path):
    command = [dcm2niix.bin, "-z", "n", "-f", "out", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (image,) = out.glob("*.nii")
    table = np.loadtxt(image.with_suffix(".bvec")).reshape(3, -1).T
    return nib.load(image), np.loadtxt(image.with_suffix(".bval"), ndmin=1), table


def read_only(folder):
    (study,) = discover(folder)
    (series,) = study.series
    return read_with_facts(study, series)


def rotation(a, b):
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return turn @ tilt


def siemens(dataset, b, direction):
    dataset.Manufacturer = "SIEMENS"
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", b)
    if b:
        block.add_new(0x0E, "FD", direction.tolist())


def philips(dataset, b, direction):
    dataset.Manufacturer = "Philips Medical Systems"
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    imaging = dataset.private_block(0x2001, "Philips Imaging DD 001", create=True)
    imaging.add_new(0x03, "FL", float(b))
    block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    for element, value in zip((0xB0, 0xB1, 0xB2), direction if b else (0, 0, 0), strict=True):
        block.add_new(element, "FL", float(value))
    block.add_new(0x0E, "FL", 0.002)


def standard(dataset, b, direction):
    dataset.Manufacturer = "Canon Medical Systems"
    dataset.DiffusionBValue = float(b)
    dataset.DiffusionGradientOrientation = direction.tolist() if b else [0.0, 0.0, 0.0]


def ge(dataset, b, direction):
    dataset.Manufacturer = "GE MEDICAL SYSTEMS"
    acquired = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
    for element, value in zip((0xBB, 0xBC, 0xBD), direction if b else (0, 0, 0), strict=True):
        acquired.add_new(element, "DS", f"{value:.6f}")
    acquired.add_new(0xE0, "DS", "3")
    parameters = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
    parameters.add_new(0x39, "IS", [b, 8, 0, 0])


def united_imaging(dataset, b, direction):
    dataset.Manufacturer = "UIH"
    block = dataset.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x09, "FD", float(b))
    block.add_new(0x37, "FD", direction.tolist() if b else [0.0, 0.0, 0.0])


def canon(dataset, b, direction):
    """The gradient in words, and nothing at all where there is none."""
    dataset.Manufacturer = "CANON_MEC"
    if b:
        dataset.DiffusionBValue = float(b)
        dataset.ImageComments = "b={}({:.3f},{:.3f},{:.3f})".format(b, *direction)


def toshiba(dataset, b, direction):
    dataset.Manufacturer = "TOSHIBA_MEC"
    if b:
        dataset.DiffusionBValue = float(b)
        dataset.DiffusionGradientOrientation = direction.tolist()


def write(folder, series, maker, phase="COL", direction=None):
    directions = [np.zeros(3), *DIRECTIONS]
    for t, (b, g) in enumerate(zip(B_VALUES, directions, strict=True)):

        def edit(dataset, k, t=t, b=b, g=g):
            dataset.InstanceNumber = 1 + k + 6 * t
            dataset.InPlanePhaseEncodingDirection = phase
            dataset.PatientPosition = "HFS"
            maker(dataset, b, g)

        series(
            folder, series_uid="1.2.9", names=f"{t}_{{}}".format, seed=t, n=6, rows=16, columns=16,
            spacing=(2, 2), direction=direction, edit=edit, AcquisitionNumber=t + 1,
            ScanningSequence="EP", RepetitionTime=3000, EchoTime=70, SliceThickness=2,
            MRAcquisitionType="2D", SpacingBetweenSlices=2,
            ImageType=["ORIGINAL", "PRIMARY", "DIFFUSION"],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("maker", "phase"),
    [
        (siemens, "COL"),
        (philips, "COL"),
        (standard, "COL"),
        (ge, "COL"),
        (ge, "ROW"),
        (united_imaging, "COL"),
        (canon, "COL"),
        (canon, "ROW"),
        (toshiba, "COL"),
    ],
)
@pytest.mark.parametrize("oblique", [False, True])
def test_each_makers_gradients_are_those_of_dcm2niix(tmp_path, series, maker, phase, oblique):
    direction = rotation(0.4, 0.5) if oblique else None
    write(tmp_path / "in", series, maker, phase, direction)
    reading = read_only(tmp_path / "in")
    (tmp_path / "out").mkdir()
    image, b_values, table = of_dcm2niix(tmp_path / "in", tmp_path / "out")
    assert reading.volume.meta["reasons"] == ("diffusion",)
    assert reading.facts["DiffusionBValue"] == list(B_VALUES) == b_values.tolist()
    ours = world(reading.facts["DiffusionGradientOrientation"], affine_of(reading.volume))
    assert same_lines(ours, world(table, image.affine), 1e-4)
    if maker in (siemens, philips, standard, toshiba):  # the others count along the image's axes
        np.testing.assert_allclose(ours[1:], DIRECTIONS * (-1, -1, 1), atol=1e-5)


@pytest.mark.parametrize("image_type", [("M", "SE"), ("DIFFUSION",)])
def test_canon_says_b_in_words_alone_and_nothing_of_zero(tmp_path, series, image_type):
    def edit(dataset, b, direction):
        canon(dataset, b, direction)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", *image_type]
        if b:
            del dataset.DiffusionBValue

    write(tmp_path, series, edit)
    reading = read_only(tmp_path)
    assert reading.facts["DiffusionBValue"] == list(B_VALUES)
    found = np.array(reading.facts["DiffusionGradientOrientation"])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [0, 1, 1, 1], atol=1e-6)


@pytest.mark.parametrize(
    "comment", ["b=a lot", "b=700 of patient Doe", "ab=700(1,0,0)", "b=(1,0,0)"]
)
def test_other_comments_of_canon_say_nothing(comment):
    assert canon_weighting(comment, is_row=False) is None


def test_comments_of_other_makers_say_nothing(tmp_path, series):
    series(tmp_path, Manufacturer="SIEMENS", ImageComments="b=700(1,0,0)")
    (header, *_) = read_headers(tmp_path / "000.dcm", "000.dcm")
    assert header.b_value is None
    assert header.gradient is None


def test_ge_directions_turn_with_the_image(tmp_path, series):
    straight, turned = rotation(0, 0), rotation(0.4, 0.5)
    found = []
    for name, direction in (("a", straight), ("b", turned)):
        write(tmp_path / name, series, ge, "COL", direction)
        reading = read_only(tmp_path / name)
        table = reading.facts["DiffusionGradientOrientation"]
        found.append(world(table, affine_of(reading.volume)) * (-1, -1, 1))
    np.testing.assert_allclose(found[0] @ turned.T, found[1], atol=1e-5)


def test_volumes_stand_in_the_order_of_acquisition_with_their_gradients(tmp_path, series):
    write(tmp_path, series, siemens)
    volume = read_only(tmp_path).volume
    for t, values in enumerate(array_of(volume)):
        expected = np.random.default_rng(t).integers(0, 3000, (16, 16, 6))
        np.testing.assert_array_equal(values, expected)


def test_zeros_stay_zeros_and_lengths_become_one():
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    found = fsl_from_lps([(0, 0, 0), (3, 4, 0)], affine)
    np.testing.assert_allclose(found, [(0, 0, 0), (-0.6, 0.8, 0)])
    left_handed = np.diag([-2.0, 2.0, 3.0, 1.0])
    np.testing.assert_allclose(fsl_from_lps([(3, 4, 0)], left_handed), [(0.6, -0.8, 0)])


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name",
    ["studies/mr_sagittal_mixed/4_ep2d_diff_mddw_20_p2", "dicom/vendors/philips_enhanced/dti/001"],
)
def test_real_gradients_are_those_of_dcm2niix(real_data, tmp_path, name):
    reading = read_only(real_data / name)
    image, b_values, table = of_dcm2niix(real_data / name, tmp_path)
    order = np.argsort(b_values, kind="stable")  # dcm2niix puts Philips' b = 0 last
    assert reading.facts["DiffusionBValue"] == b_values[order].tolist()
    ours = world(reading.facts["DiffusionGradientOrientation"], affine_of(reading.volume))
    assert same_lines(ours, world(table[order], image.affine), 1e-4)
