from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from radloom.errors import ConfigError, StageFailed
from radloom.models.registration.elastix import read_parameter_file, register
from radloom.models.registration.itk_elastix import (
    displacement_transform,
    linear_transform,
    parse_parameters,
)
from radloom.models.registration.similarity import Similarity
from radloom.models.registration.start import find_start
from radloom.shapes import affine_of, array_of, make_label, make_volume, spatial_shape
from radloom.transforms.itk_files import as_written
from radloom.transforms.spatial import Transform, grid_points

HARD = ((10, -8, 15.3), (15, -14, 14))
AFFINE_NUMBERS = ("1.1", "0.02", "0", "-0.03", "0.9", "0.1", "0", "0.05", "1.05", "-7", "8", "9")


def test_a_still_head_stays(scene, fixed):
    found = register(fixed, scene.picture("t2", spacing=(2, 2, 4), seed=1))
    assert scene.error_mm(found, Transform.identity()) < 0.3


@pytest.mark.parametrize("kind", ["t2", "ct"])
def test_a_turned_head_comes_home(scene, fixed, kind):
    """20 degrees and 25 mm; the CT shows another field of view, without the neck."""
    truth = scene.move(*HARD)
    view = {"spacing": (1.5, 1.5, 5)}
    if kind == "ct":
        view = {"spacing": (2, 2, 3), "extent": (280, 280, 150), "centre": (5, 0, 40)}
    found = register(fixed, scene.picture(kind, moved=truth, seed=2, **view))
    assert found.is_affine
    linear = found.matrix[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-12)
    assert scene.error_mm(found, truth) < 0.5


def test_volumes_far_apart_in_the_scanners_worlds_come_home(scene, fixed):
    truth = scene.move((5, 0, 3), (180, -90, 400))
    moving = scene.picture("t2", moved=truth, centre=(180, -90, 400))
    assert scene.error_mm(register(fixed, moving, fast=True), truth) < 0.8


@pytest.mark.slow
def test_an_oblique_and_a_sheared_grid_make_no_difference(scene, fixed):
    truth = scene.move((5, -4, 4.8), (6, -6, 5))
    turn = scene.move((20, 10, -15), (0, 0, 0)).matrix[:3, :3]
    oblique = scene.picture("t2", moved=truth, direction=turn[:, [2, 0, 1]], seed=3)
    assert scene.error_mm(register(fixed, oblique, fast=True), truth) < 0.6
    shear = np.eye(3)
    shear[1, 2] = 0.3
    sheared = scene.picture("t2", moved=truth, direction=shear, seed=3)
    assert scene.error_mm(register(fixed, sheared, fast=True), truth) < 0.6


@pytest.mark.slow
def test_an_affine_map_is_never_less_alike_than_the_rigid_one(scene, fixed):
    matrix = scene.move((5, -4, 4.8), (6, -6, 5)).matrix @ np.diag([1.05, 0.96, 1.03, 1])
    moving = scene.picture("t2", moved=Transform(matrix), seed=4)
    rigid, affine = (register(fixed, moving, transform=kind) for kind in ("rigid", "affine"))
    judge = Similarity.of(fixed, moving, n_points=20_000, seed=5)
    assert judge.measure(affine)[0] > judge.measure(rigid)[0]
    assert (
        scene.error_mm(affine, Transform(matrix)) < 0.7 < scene.error_mm(rigid, Transform(matrix))
    )


@pytest.mark.slow
def test_a_deformable_map_finds_a_bulge_without_folds(scene, fixed, tmp_path, monkeypatch):
    bulge = scene.bulge(height_mm=6.0)
    moving = scene.picture("t1", moved=bulge, seed=6)
    monkeypatch.chdir(tmp_path)
    found = register(fixed, moving, transform="deformable")
    assert list(tmp_path.iterdir()) == []  # elastix leaves files where it runs unless told
    assert found.displacement_mm is not None
    assert spatial_shape(fixed) == found.displacement_mm.shape[1:]
    assert as_written(found) is found
    assert found.folded_share() == 0.0
    assert scene.error_mm(found, bulge) < 0.9 * scene.error_mm(Transform.identity(), bulge)
    judge = Similarity.of(fixed, moving, n_points=20_000, seed=5)
    assert judge.measure(found)[0] > judge.measure(Transform.identity())[0] + 0.01


@pytest.mark.slow
def test_results_do_not_depend_on_threads_or_processes(scene, fixed, tmp_path):
    """Bit by bit: again in this process, and in another that has one core and one thread."""
    moving = scene.picture("t2", moved=scene.move(*HARD), seed=2)
    here = register(fixed, moving, transform="affine", n_threads=2, fast=True)
    again = register(fixed, moving, transform="affine", n_threads=1, fast=True)
    np.testing.assert_array_equal(here.matrix, again.matrix)
    for name, volume in {"fixed": fixed, "moving": moving}.items():
        np.savez(tmp_path / name, values=array_of(volume), affine=affine_of(volume))
    script = f"""
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
import numpy as np
from radloom.models.registration.elastix import register
from radloom.shapes import make_volume
made = []
for name in ("fixed", "moving"):
    file = np.load(os.path.join({str(tmp_path)!r}, name + ".npz"))
    made.append(make_volume(file["values"], file["affine"], modality="MR", units="arbitrary"))
found = register(*made, transform="affine", fast=True)
np.save(os.path.join({str(tmp_path)!r}, "found.npy"), found.matrix)
"""
    environment = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=300)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), here.matrix)


def test_the_input_is_not_changed(scene):
    fixed, moving = scene.picture("t1", spacing=(5, 5, 5)), scene.picture("t2", spacing=(5, 5, 5))
    before = [array_of(v).copy() for v in (fixed, moving)]
    register(fixed, moving, fast=True)
    for volume, values in zip((fixed, moving), before, strict=True):
        np.testing.assert_array_equal(array_of(volume), values)


@pytest.mark.slow
def test_masks_say_where_to_look(scene, fixed):
    """The halves of the moving head were moved apart; the mask says which one counts."""
    up, down = scene.move((0, 0, 0), (0, 0, 5)), scene.move((0, 0, 0), (0, 0, -5))
    moving = scene.picture("t2", moved=up, seed=7)
    right = grid_points(affine_of(moving), spatial_shape(moving))[..., 0] > 0
    values = np.where(right, array_of(moving)[0], array_of(scene.picture("t2", moved=down))[0])
    torn = make_volume(values, affine_of(moving), modality="MR", units="arbitrary")
    for truth, side in ((up, right), (down, ~right)):
        moving_mask = make_label(side.astype(np.uint8), affine_of(torn))
        fixed_side = grid_points(affine_of(fixed), spatial_shape(fixed))[..., 0] > 0
        fixed_side = fixed_side if truth is up else ~fixed_side
        fixed_mask = make_label(fixed_side.astype(np.uint8), affine_of(fixed))
        found = register(fixed, torn, fixed_mask=fixed_mask, moving_mask=moving_mask)
        assert scene.error_mm(found, truth) < 1.5  # half a head, torn in its middle: 1.1, 1.2


def test_a_parameter_file_of_the_users_is_run_as_it_stands(scene, fixed, tmp_path):
    path = tmp_path / "shift.txt"
    path.write_text(
        '(Transform "TranslationTransform")\n(Metric "AdvancedMeanSquares")\n'
        '(Registration "MultiResolutionRegistration")\n(NumberOfResolutions 2)\n'
        '(Optimizer "AdaptiveStochasticGradientDescent")\n(MaximumNumberOfIterations 150)\n'
        '(FixedImagePyramid "FixedSmoothingImagePyramid") // as in the manual\n'
        '(MovingImagePyramid "MovingSmoothingImagePyramid")\n(ImageSampler "RandomCoordinate")\n'
        '(Interpolator "LinearInterpolator")\n(ResampleInterpolator "FinalLinearInterpolator")\n'
        '(Resampler "DefaultResampler")\n(HowToCombineTransforms "Compose")\n'
        '(NumberOfSpatialSamples 2000)\n(NewSamplesEveryIteration "true")\n'
        '(AutomaticTransformInitialization "false")\n(WriteResultImage "false")\n'
    )
    truth = scene.move((0, 0, 0), (4, -3, 2))
    found = register(fixed, scene.picture("t1", moved=truth, seed=8), parameter_files=[path])
    np.testing.assert_array_equal(found.matrix[:3, :3], np.eye(3))
    np.testing.assert_allclose(found.matrix[:3, 3], truth.matrix[:3, 3], atol=0.3)


def test_what_elastix_refuses_is_said_with_its_own_words(fixed, tmp_path):
    path = tmp_path / "odd.txt"
    path.write_text('(Transform "EulerTransform")\n(Metric "NoSuchMetric")\n')
    with pytest.raises(StageFailed, match=r"elastix gave up: .*NoSuchMetric"):
        register(fixed, fixed, parameter_files=[path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(Metric)", r"<a.txt> line 1: expected one \(Key value ...\) a line"),
        ('\n(A "b")\n(A "c")', "line 3: .* each key once"),
        ("hello", "line 1"),
        ("// nothing", "got no parameter"),
    ],
)
def test_what_is_no_parameter_file_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_parameters(text, "a.txt")


def test_a_missing_parameter_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"<none.txt>: expected an elastix parameter file"):
        read_parameter_file(tmp_path / "none.txt")


def test_an_unknown_transform_is_refused(fixed):
    with pytest.raises(ConfigError, match=r"expected transform of .*'rigid'.*, got 'curly'"):
        register(fixed, fixed, transform="curly")


def euler_stage(zyx: str) -> dict[str, tuple[str, ...]]:
    return {
        "Transform": ("EulerTransform",),
        "HowToCombineTransforms": ("Compose",),
        "CenterOfRotationPoint": ("10", "-20", "30.5"),
        "ComputeZYX": (zyx,),
        "TransformParameters": ("0.1", "-0.2", "0.3", "4", "5", "-6"),
        "InitialTransformParameterFileName": ("NoInitialTransform",),
        "Size": ("9", "9", "9"),
        "Index": ("0", "0", "0"),
        "Spacing": ("1", "1", "1"),
        "Origin": ("0", "0", "0"),
        "Direction": ("1", "0", "0", "0", "1", "0", "0", "0", "1"),
        "UseDirectionCosines": ("true",),
        "ResampleInterpolator": ("FinalLinearInterpolator",),
        "Resampler": ("DefaultResampler",),
        "NumberOfParameters": ("6",),
        "FixedImageDimension": ("3",),
        "MovingImageDimension": ("3",),
        "FixedInternalImagePixelType": ("float",),
        "MovingInternalImagePixelType": ("float",),
    }


@pytest.mark.parametrize("zyx", ["false", "true"])
def test_the_matrix_of_a_chain_is_what_transformix_does(scene, zyx):
    """Two independent ways through LPS, centres of rotation and the order of the stages."""
    affine = euler_stage("false") | {
        "Transform": ("AffineTransform",),
        "NumberOfParameters": ("12",),
        "TransformParameters": AFFINE_NUMBERS,
    }
    maps = [euler_stage(zyx), affine]
    matrix = linear_transform(maps)
    grid = scene.move((10, 20, 30), (-5, 6, 7)).matrix @ np.diag([2, 3, 4, 1.0])
    field = displacement_transform(maps, grid, (5, 6, 7))
    points = grid_points(grid, (5, 6, 7))
    np.testing.assert_allclose(field.apply(points), matrix.apply(points), atol=1e-4)


def test_a_curved_stage_has_no_matrix():
    spline = euler_stage("false") | {"Transform": ("BSplineTransform",)}
    assert linear_transform([euler_stage("false"), spline]) is None


def test_the_start_alone_is_within_the_reach_of_elastix(scene, fixed):
    truth = scene.move(*HARD)
    start = find_start(fixed, scene.picture("ct", moved=truth, seed=2))
    assert scene.error_mm(start, truth) < 5.0
