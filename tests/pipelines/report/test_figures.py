"""What the pictures show: sides, proportions, windows, colours, bytes."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch

from radloom.geometry import Affine, apply_affine
from radloom.pipelines.report.canvas import N_GREYS, N_HUES, hue_index, palette
from radloom.pipelines.report.figures import (
    draw_denoise,
    draw_ingest,
    draw_register,
    draw_segment,
    draw_translate,
    label_hues,
)
from radloom.pipelines.report.pictures import GRIDS
from radloom.pipelines.report.planes import PLANES, View, foreground, head_view, sample_planes
from radloom.pipelines.report.windows import BONE, BRAIN, residual_window, robust_window
from radloom.shapes import Volume, like, make_label, make_volume

VIEW = View((0.0, 0.0, 0.0), (-80.0, -100.0, -90.0), (80.0, 100.0, 90.0), 1.0)


def grid(orientation: str, spacing: tuple[float, float, float]) -> tuple[Affine, tuple[int, ...]]:
    """A grid that covers the view, its axes along `orientation`, or turned about all axes."""
    signs = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1), "LAS": (-1, 1, 1), "oblique": (1, 1, 1)}
    matrix = np.diag(signs[orientation]) * np.asarray(spacing, dtype=float)
    if orientation == "oblique":
        a, b = np.radians(20), np.radians(-15)
        turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        matrix = turn_z @ turn_x @ matrix
    shape = tuple(int(n) for n in np.ceil(240 / np.asarray(spacing)))
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = -matrix @ ((np.asarray(shape) - 1) / 2)
    return affine, shape


def world(affine: Affine, shape: tuple[int, ...]) -> np.ndarray:
    return apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def head_array(points: np.ndarray) -> np.ndarray:
    """A bright ellipsoid of a head's size; values rise a little from inferior to superior."""
    inside = ((points / (70, 90, 80)) ** 2).sum(axis=-1) <= 1
    return np.where(inside, 100 + points[..., 2] / 10, 0).astype(np.float32)


def head_volume(
    orientation: str = "RAS", spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)
) -> Volume:
    affine, shape = grid(orientation, spacing)
    return make_volume(head_array(world(affine, shape)), affine, modality="MR", units="arbitrary")


def pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def indices(png: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)))


ORIENTATIONS = ["RAS", "LPS", "LAS", "oblique"]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("marker", "plane", "row_above_middle", "column_left_of_middle"),
    [
        ((-40, 0, 0), "axial", None, False),  # patient's left: right-hand side
        ((40, 0, 0), "axial", None, True),
        ((0, 50, 0), "axial", True, None),  # anterior: up
        ((-40, 0, 0), "coronal", None, False),
        ((0, 0, 50), "coronal", True, None),  # superior: up
        ((0, 50, 0), "sagittal", None, True),  # anterior: left
        ((0, 0, -50), "sagittal", False, None),
    ],
)
def test_marker_lies_where_the_convention_puts_it(
    orientation, marker, plane, row_above_middle, column_left_of_middle
):
    affine, shape = grid(orientation, (3.0, 3.0, 3.0))
    blob = np.linalg.norm(world(affine, shape) - marker, axis=-1) < 8
    picture = sample_planes(blob.astype(np.float32), affine, VIEW)[plane]
    rows, columns = np.nonzero(np.nan_to_num(picture) > 0.5)
    assert rows.size > 100
    middle_row, middle_column = (np.asarray(picture.shape) - 1) / 2
    if row_above_middle is not None:
        assert (rows.mean() < middle_row) == row_above_middle
    if column_left_of_middle is not None:
        assert (columns.mean() < middle_column) == column_left_of_middle


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_left_marker_is_on_the_right_of_the_finished_picture(orientation):
    volume = head_volume(orientation)
    affine, shape = grid(orientation, (2.0, 2.0, 2.0))
    points = world(affine, shape)
    array = head_array(points) * 0.5
    array[np.linalg.norm(points - (-45, 0, 0), axis=-1) < 10] = 200
    picture = pixels(draw_ingest(like(volume, array)))[..., 0]
    axial = picture[25:, 6 : picture.shape[1] // 3 - 12]  # below the text, without letters
    columns = np.nonzero(axial > 200)[1]
    assert np.median(columns) > axial.shape[1] / 2 + 20


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (3.0, 1.0, 1.0), (2.0, 2.0, 2.0)])
def test_a_ball_is_round_whatever_the_voxels(spacing):
    affine, shape = grid("LPS", spacing)
    ball = (np.linalg.norm(world(affine, shape), axis=-1) < 50).astype(np.float32)
    for picture in sample_planes(ball, affine, VIEW).values():
        rows, columns = np.nonzero(np.nan_to_num(picture) > 0.5)
        assert np.ptp(rows) + 1 == pytest.approx(100, abs=4)
        assert np.ptp(columns) + 1 == pytest.approx(100, abs=4)


def test_planes_have_the_size_of_the_view_and_nothing_beyond_the_grid():
    affine, shape = grid("RAS", (4.0, 4.0, 4.0))
    wide = View((0.0, 0.0, 0.0), (-200.0, -100.0, -90.0), (200.0, 100.0, 90.0), 1.0)
    planes = sample_planes(np.ones(shape, np.float32), affine, wide)
    assert planes["axial"].shape == (200, 400)
    assert planes["sagittal"].shape == (180, 200)
    assert np.isnan(planes["axial"][:, :79]).all()
    assert (planes["axial"][:, 80:320] == 1).all()


def test_slices_pass_through_the_head_not_the_middle_of_the_array():
    affine, shape = grid("RAS", (4.0, 4.0, 4.0))
    points = world(affine, shape)
    array = (((points - (30, -20, 25)) / (60, 60, 70)) ** 2).sum(axis=-1) <= 1
    noise = np.random.default_rng(0).rayleigh(3, shape)
    mask, coarse_affine, _ = foreground(100 * array + noise, affine, modality="MR")
    assert head_view(mask, coarse_affine).centre == pytest.approx((30, -20, 25), abs=4)


def test_the_neck_does_not_pull_the_planes_down():
    affine, shape = grid("RAS", (3.0, 3.0, 3.0))
    points = world(affine, shape) - (0, 0, 40)
    head = ((points / (70, 90, 75)) ** 2).sum(axis=-1) <= 1
    neck = (np.hypot(points[..., 0], points[..., 1]) < 60) & (points[..., 2] < 0)
    mask, coarse_affine, _ = foreground(100.0 * (head | neck), affine, modality="MR")
    view = head_view(mask, coarse_affine)
    assert view.centre[2] > 25
    assert view.high[2] - view.low[2] < 235


def test_an_empty_volume_is_drawn_all_the_same():
    volume = head_volume()
    assert draw_ingest(like(volume, np.zeros(volume.shape[1:])))[:4] == b"\x89PNG"


def test_greys_end_at_the_window():
    grey = BRAIN.grey(np.array([-1000, 0, 40, 80, 3000, np.nan]))
    assert grey.tolist() == [0, 0, N_GREYS // 2, N_GREYS - 1, N_GREYS - 1, 0]


def test_ct_has_a_brain_window_above_a_bone_window():
    affine, shape = grid("RAS", (3.0, 3.0, 3.0))
    points = world(affine, shape)
    radius = np.sqrt(((points / (70, 90, 80)) ** 2).sum(axis=-1))
    hu = np.select([radius < 0.85, radius < 1], [40.0, 1000.0], -1000.0)
    picture = indices(draw_ingest(make_volume(hu, affine, modality="CT", units="HU")))
    half = picture.shape[0] // 2
    brain, bone = picture[25 : half - 8], picture[half + 25 : -8]
    middle = slice(40, 150)  # of the axial plane, near its centre
    assert np.median(brain[100:140, middle]) == 32  # 40 HU: the middle of W 80 L 40
    assert np.median(bone[100:140, middle]) == 17  # 40 HU in -500..1500
    assert (brain == N_GREYS - 1).mean() > 2 * (bone == N_GREYS - 1).mean()
    assert BONE.grey(np.array([1000.0]))[0] == 48
    assert (bone == 48).sum() > 1000  # the skull is grey, not white, in the bone window


def test_windows_ignore_what_shines_at_the_rim():
    volume = head_volume()
    affine, shape = grid("RAS", (2.0, 2.0, 2.0))
    points = world(affine, shape)
    radius = np.sqrt(((points / (70, 90, 80)) ** 2).sum(axis=-1))
    array = np.select([radius < 0.9, radius < 1], [100 + points[..., 2] / 2, 1000.0], 0.0)
    picture = indices(draw_ingest(like(volume, array)))
    brain = picture[110:150, 80:150]
    assert np.median(brain) == pytest.approx(N_GREYS / 2, abs=6)  # up to the fat: at 6


def test_residual_is_symmetric_about_grey():
    window = residual_window(np.array([-4.0, 3.0, 4.0]), robust_window(np.array([0.0, 100.0])))
    assert window.low == -window.high
    assert window.grey(np.array([0.0]))[0] == N_GREYS // 2
    assert "\u00b1" in window.text
    assert "contrast" in window.text


def test_time_series_shows_its_first_frame():
    volume = head_volume()
    array = np.asarray(volume[0])
    series = like(volume, np.stack([array, array[::-1] * 3]))
    first = indices(draw_ingest(volume))
    assert np.array_equal(indices(draw_ingest(series))[24:], first[24:])


def test_labels_are_coloured_where_they_are():
    volume = head_volume("LPS")
    affine, shape = grid("LPS", (2.0, 2.0, 2.0))
    points = world(affine, shape)
    label = np.zeros(shape, np.int32)
    label[np.linalg.norm(points - (-35, 0, 0), axis=-1) < 15] = 17  # patient's left
    label[np.linalg.norm(points - (35, 0, 0), axis=-1) < 15] = 300
    names = {17: "Left hippocampus", 300: "Right thalamus"}
    picture = indices(draw_segment(volume, make_label(label, affine), names))
    top, bottom = np.split(picture[: picture.shape[0] // 2 * 2], 2)
    assert (top < N_GREYS).all()
    hues = label_hues(names)
    columns = {}
    for value, hue in hues.items():
        shades = (bottom >= hue_index(hue, 0)) & (bottom < hue_index(hue))
        rows, where = np.nonzero(shades[:, :190])  # the axial plane
        assert rows.size == pytest.approx(np.pi * 15**2, rel=0.1)
        columns[value] = where.mean()
    assert columns[17] > columns[300] + 50
    legend = bottom[:, -210:]
    assert all((legend == hue_index(hue)).sum() == 11 * 11 for hue in hues.values())


def test_left_and_right_share_a_colour_and_names_keep_theirs():
    names = {4: "Left-Lateral-Ventricle", 43: "Right-Lateral-Ventricle", 10: "left thalamus"}
    hues = label_hues(names)
    assert hues[4] == hues[43] != hues[10]
    assert label_hues({**names, 99: "other"})[10] == hues[10]
    assert len({tuple(rgb) for rgb in palette()[[hue_index(h) for h in range(N_HUES)]]}) == N_HUES


def test_contours_show_the_shift_before_and_not_after():
    fixed = head_volume()
    affine, _ = grid("RAS", (2.0, 2.0, 2.0))
    moved = affine.copy()
    moved[0, 3] += 12
    moving = make_volume(np.asarray(fixed[0]), moved, modality="MR", units="arbitrary")
    picture = indices(draw_register(fixed, moving, fixed))
    height, half = picture.shape[0] // 3, picture.shape[1] // 2
    before = picture[height : 2 * height, half : half + 146] == hue_index(0)  # axial
    after = picture[2 * height :, half : half + 146] == hue_index(0)
    assert before.sum() > 200
    assert after.sum() > 200
    left_rim_before, left_rim_after = np.nonzero(before)[1].max(), np.nonzero(after)[1].max()
    # 12 mm towards +x, the patient's right, is to the left of the picture, at 1.2 mm
    assert left_rim_before - left_rim_after == pytest.approx(-10, abs=1)


def test_every_picture_has_the_cells_that_the_page_expects():
    volume = head_volume()
    label = make_label(np.asarray(volume[0]) > 50, grid("RAS", (2.0, 2.0, 2.0))[0])
    hu = like(volume, np.asarray(volume[0]) - 60, modality="CT", units="HU")
    drawn = {
        "denoise": draw_denoise(volume, volume),
        "register": draw_register(volume, volume, volume),
        "translate": draw_translate(volume, hu),
        "segment": draw_segment(volume, label, {}),
    }
    assert set(drawn) == set(GRIDS)
    for stage, png in drawn.items():
        height, width = indices(png).shape
        assert height % len(GRIDS[stage]) == 0
        assert width % len(GRIDS[stage][0]) == 0


def test_bytes_are_the_same_each_time_and_hold_nothing_but_pixels():
    first, second = draw_ingest(head_volume("oblique")), draw_ingest(head_volume("oblique"))
    assert first == second
    chunks, place = [], 8
    while place < len(first):
        length = int.from_bytes(first[place : place + 4], "big")
        chunks.append(first[place + 4 : place + 8])
        place += 12 + length
    assert chunks == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]


def test_png_holds_the_indices_that_were_set():
    from radloom.pipelines.report.canvas import _png

    given = np.random.default_rng(1).integers(0, 256, (37, 53)).astype(np.uint8)
    assert np.array_equal(indices(_png(given)), given)


def test_inputs_are_not_changed():
    volume = head_volume()
    before = volume.clone()
    draw_denoise(volume, volume)
    draw_register(volume, volume, volume)
    assert torch.equal(volume.as_tensor(), before.as_tensor())


@pytest.mark.parametrize("plane", PLANES)
def test_letters_name_opposite_directions(plane):
    letters = PLANES[plane].letters
    assert {frozenset(letters[:2]), frozenset(letters[2:])} <= {
        frozenset("RL"), frozenset("AP"), frozenset("SI")
    }  # fmt: skip
    names = {0: "RL", 1: "AP", 2: "SI"}
    assert letters == names[PLANES[plane].columns] + names[PLANES[plane].rows]


@pytest.mark.slow
def test_a_head_of_one_millimetre_takes_seconds_and_kilobytes():
    volume = head_volume("LPS", (1.0, 1.0, 1.0))
    noise = np.random.default_rng(2).normal(0, 3, volume.shape[1:]).astype(np.float32)
    noisy = like(volume, np.asarray(volume[0]) + noise)
    start = time.perf_counter()
    pictures = [
        draw_ingest(noisy),
        draw_denoise(noisy, volume),
        draw_register(volume, noisy, volume),
    ]
    assert time.perf_counter() - start < 10
    assert max(map(len, pictures)) < 250_000
