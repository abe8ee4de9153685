"""Series that hold several volumes: each comes back exactly, however its files are mixed."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from radloom.geometry import apply_affine, flip_lps_ras
from radloom.pipelines.ingest import discover, inspect_rows, read_series
from radloom.pipelines.ingest.pixels import read_with_facts
from radloom.shapes import affine_of, array_of


@dataclass(frozen=True)
class Scene:
    """How one series was acquired and how its files were mixed."""

    directions: np.ndarray
    spacing: tuple[float, float]
    step: float
    n: int
    shuffle: Random = field(compare=False)


@st.composite
def scenes(draw):
    angles = draw(st.tuples(*[st.floats(-3.1, 3.1)] * 3))
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [n for n in range(3) if n != axis]
        one = np.eye(3)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    spacing = draw(st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)))
    rounded = (round(spacing[0], 4), round(spacing[1], 4))
    step, n = round(draw(st.floats(0.5, 6)), 4), draw(st.integers(3, 5))
    return Scene(turn, rounded, step, n, draw(st.randoms(use_true_random=False)))


SPLITS = {
    "echo": ("MR", [{"EchoTime": 10}, {"EchoTime": 20.5}, {"EchoTime": 31}]),
    "part": ("MR", [{"ImageType": ["ORIGINAL", "PRIMARY", c]} for c in "MPRI"]),
    "water": ("MR", [{"ImageType": ["DERIVED", "PRIMARY", "M", "DIXON", c]} for c in "WF"]),
    "kernel": ("CT", [{"ConvolutionKernel": k} for k in ("B30f", "B70f")]),
    "inversion": ("MR", [{"InversionTime": t} for t in (700, 2500)]),
    "flip": ("MR", [{"FlipAngle": a} for a in (4, 18)]),
    "phase": ("CT", [{"AcquisitionNumber": t} for t in (2, 5)]),
    "echo and part": ("MR", [
        {"EchoTime": e, "ImageType": ["ORIGINAL", "PRIMARY", c]}
        for e, c in itertools.product((5, 10), "MP")
    ]),
}  # fmt: skip

IN_TIME = {
    "position": ("MR", [{"TemporalPositionIdentifier": t} for t in (1, 2, 10)]),
    "trigger": ("MR", [{"TriggerTime": t} for t in (0, 55.5, 111)]),
    "acquisition": ("MR", [{"AcquisitionNumber": t} for t in (1, 2, 11)]),
    "clock": ("MR", [
        {"AcquisitionDate": d, "AcquisitionTime": t}
        for d, t in (("20200101", "235958"), ("20200102", "000001.5"), ("20200102", "000005"))
    ]),
    "many": ("CT", [{"AcquisitionNumber": t} for t in range(12)]),
}  # fmt: skip


def write(folder: Path, series, scene: Scene, modality: str, variants) -> list[np.ndarray]:
    """One series with every variant at every position, in names and numbers that say nothing."""
    numbers = list(range(1, scene.n * len(variants) + 1))
    scene.shuffle.shuffle(numbers)
    stored = []
    for v, tags in enumerate(variants):
        own = numbers[v * scene.n : (v + 1) * scene.n]
        stored.append(
            series(
                folder, modality=modality, series_uid="1.2.9", seed=v, n=scene.n,
                direction=scene.directions, spacing=scene.spacing, step=scene.step,
                names=lambda k, own=own: f"{own[k]:04d}",
                edit=lambda d, k, own=own: setattr(d, "InstanceNumber", own[k]),
                **tags,
            )
        )  # fmt: skip
    return stored


def require_place(volume, scene: Scene) -> None:
    affine_lps = flip_lps_ras(affine_of(volume))
    last = (3, 5, scene.n - 1)
    rows, columns = scene.spacing
    expected = np.array((-30.0, 20.0, 5.0)) + scene.directions @ (
        last[0] * columns, last[1] * rows, last[2] * scene.step
    )  # fmt: skip
    np.testing.assert_allclose(apply_affine(affine_lps, last), expected, atol=1e-3)


def as_arrays(modality: str, stored: list[np.ndarray]) -> list[np.ndarray]:
    shift = -1024.0 if modality == "CT" else 0.0
    return [values.astype(np.float32) + shift for values in stored]


FEW = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PLAIN = Scene(np.eye(3), (1.0, 1.0), 2.0, 3, Random(0))


@FEW
@given(scene=scenes(), name=st.sampled_from(sorted(SPLITS)))
@example(scene=PLAIN, name="echo and part")
@example(scene=PLAIN, name="water")
@example(scene=PLAIN, name="phase")
def test_mixed_volumes_come_back_exactly(tmp_path_factory, series, scene, name):
    folder = tmp_path_factory.mktemp("mixed")
    modality, variants = SPLITS[name]
    expected = as_arrays(modality, write(folder, series, scene, modality, variants))
    (study,) = discover(folder)
    assert [s.status for s in study.series] == ["split"] * len(variants)
    assert len({str(sorted(s.entities.items())) for s in study.series}) == len(variants)
    assert all(f"one of {2 if name == 'echo and part' else len(variants)}" in s.detail
               for s in study.series)  # fmt: skip
    found = []
    for record in study.series:
        volume = read_series(study, record)
        require_place(volume, scene)
        (index,) = [i for i, e in enumerate(expected) if np.array_equal(e, array_of(volume)[0])]
        found.append(index)
    assert sorted(found) == list(range(len(variants)))


@FEW
@given(scene=scenes(), name=st.sampled_from(sorted(IN_TIME)))
@example(scene=PLAIN, name="clock")
@example(scene=PLAIN, name="many")
@example(scene=PLAIN, name="trigger")
def test_mixed_moments_come_back_in_their_order(tmp_path_factory, series, scene, name):
    folder = tmp_path_factory.mktemp("moments")
    modality, variants = IN_TIME[name]
    expected = as_arrays(modality, write(folder, series, scene, modality, variants))
    (study,) = discover(folder)
    (record,) = study.series
    assert (record.status, record.reason) == ("accepted", "time_series")
    assert record.headers["NumberOfVolumes"] == len(variants)
    reading = read_with_facts(study, record)
    require_place(reading.volume, scene)
    np.testing.assert_array_equal(array_of(reading.volume), np.stack(expected))
    if name == "clock":
        assert reading.facts["VolumeTiming"] == [0.0, 3.5, 7.0]


@FEW
@given(scene=scenes())
def test_weightings_and_their_repeats_come_back_exactly(tmp_path_factory, series, scene):
    folder = tmp_path_factory.mktemp("weightings")
    variants = [
        {"DiffusionBValue": b, "DiffusionGradientOrientation": g, "AcquisitionNumber": a}
        for b, g, a in (
            (0.0, [0.0, 0.0, 0.0], 1), (1000.0, [1.0, 0.0, 0.0], 2), (1000.0, [0.0, 1.0, 0.0], 3),
            (0.0, [0.0, 0.0, 0.0], 4),
        )
    ]  # fmt: skip
    stored = write(folder, series, scene, "MR", variants)
    (study,) = discover(folder)
    (record,) = study.series
    assert record.reason == "diffusion"
    reading = read_with_facts(study, record)
    require_place(reading.volume, scene)
    values = array_of(reading.volume)
    order = [next(i for i, e in enumerate(stored) if np.array_equal(e, v)) for v in values]
    assert sorted(order) == [0, 1, 2, 3]
    b_values = [variants[i]["DiffusionBValue"] for i in order]
    assert reading.facts["DiffusionBValue"] == b_values
    for i, (x, y, z) in zip(order, reading.facts["DiffusionGradientOrientation"], strict=True):
        axes = affine_of(reading.volume)[:3, :3] / np.linalg.norm(
            affine_of(reading.volume)[:3, :3], axis=0
        )
        world = axes @ (-x, y, z) * (-1, -1, 1)
        expected = variants[i]["DiffusionGradientOrientation"]
        np.testing.assert_allclose(world, expected, atol=1e-5)


def lose(dataset, path, scene):
    path.unlink()


def double(dataset, path, scene):
    dataset.SOPInstanceUID = "1.2.99.1"
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(path.with_name("copy"))


def move(dataset, path, scene):
    place = np.array(dataset.ImagePositionPatient, dtype=float)
    moved = place + scene.directions[:, 2] * scene.step * 0.3
    dataset.ImagePositionPatient = [f"{value:.6f}" for value in moved]
    dataset.save_as(path)


def slip(dataset, path, scene):
    place = np.array(dataset.ImagePositionPatient, dtype=float) + scene.directions[:, 0] * 0.5
    dataset.ImagePositionPatient = [f"{value:.6f}" for value in place]
    dataset.save_as(path)


def turn(dataset, path, scene):
    cosines = np.array(dataset.ImageOrientationPatient, dtype=float)
    dataset.ImageOrientationPatient = [f"{-value:.8f}" for value in cosines]
    dataset.save_as(path)


def stretch(dataset, path, scene):
    dataset.PixelSpacing = [value * 1.01 for value in dataset.PixelSpacing]
    dataset.save_as(path)


FAULTS = {
    lose: "missing_slice", double: "duplicate_slice", move: "uneven_spacing", slip: "gantry_tilt",
    turn: "mixed_orientation", stretch: "mixed_size",
}  # fmt: skip


def spoil(folder: Path, scene: Scene, fault, seed: int) -> float:
    """Does it to one inner slice; gives the slice's position along the normal in mm."""
    inner = []
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        place = np.array(dataset.ImagePositionPatient, dtype=float) - (-30.0, 20.0, 5.0)
        depth = float(place @ scene.directions[:, 2]) / scene.step
        if 0.5 < depth < scene.n - 1.5:
            inner.append((path, dataset))
    path, dataset = Random(seed).choice(inner)
    place = np.array(dataset.ImagePositionPatient, dtype=float)
    fault(dataset, path, scene)
    return float(place @ scene.directions[:, 2])


@settings(
    max_examples=24, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    scene=scenes(), fault=st.sampled_from(sorted(FAULTS, key=lambda f: f.__name__)),
    seed=st.integers(0, 99),
)  # fmt: skip
@example(scene=PLAIN, fault=lose, seed=0)
@example(scene=PLAIN, fault=double, seed=0)
@example(scene=PLAIN, fault=move, seed=0)
@example(scene=PLAIN, fault=slip, seed=0)
def test_a_fault_of_any_one_slice_is_found_and_named(tmp_path_factory, series, scene, fault, seed):
    folder = tmp_path_factory.mktemp("spoilt")
    scene = replace(scene, n=scene.n + 2)
    write(folder, series, scene, "CT", [{}])
    depth = spoil(folder, scene, fault, seed)
    (study,) = discover(folder)
    (record,) = study.series
    assert (record.status, record.reason) == ("rejected", FAULTS[fault])
    if fault in (lose, double):
        assert any(
            abs(float(number) - depth) < 0.051
            for number in re.findall(r"-?\d+(?:\.\d+)?", record.detail)
        ), (record.detail, depth)


@FEW
@given(scene=scenes(), name=st.sampled_from(sorted(IN_TIME)), seed=st.integers(0, 99))
def test_a_4d_series_that_lost_any_image_is_refused(tmp_path_factory, series, scene, name, seed):
    folder = tmp_path_factory.mktemp("spoilt")
    scene = replace(scene, n=scene.n + 1)
    modality, variants = IN_TIME[name]
    write(folder, series, scene, modality, variants)
    spoil(folder, scene, lose, seed)
    (study,) = discover(folder)
    assert {s.status for s in study.series} == {"rejected"}
    assert {s.reason for s in study.series} <= {"missing_slice", "duplicate_slice"}


@FEW
@given(scene=scenes(), name=st.sampled_from(sorted(SPLITS)), seed=st.integers(0, 99))
def test_of_mixed_volumes_only_the_whole_ones_are_read(tmp_path_factory, series, scene, name, seed):
    folder = tmp_path_factory.mktemp("spoilt")
    scene = replace(scene, n=scene.n + 2)
    modality, variants = SPLITS[name]
    expected = as_arrays(modality, write(folder, series, scene, modality, variants))
    spoil(folder, scene, lose, seed)
    (study,) = discover(folder)
    whole = [s for s in study.series if s.status != "rejected"]
    assert len(whole) in (0, len(variants) - 1)
    for record in whole:
        volume = read_series(study, record)
        require_place(volume, scene)
        assert any(np.array_equal(e, array_of(volume)[0]) for e in expected)


def test_two_kernels_between_each_others_slices_never_make_one_volume(tmp_path, series):
    for number, kernel in enumerate(("B30f", "B70f")):
        series(
            tmp_path, modality="CT", series_uid="1.2.9", names=f"{number}_{{}}".format, seed=number,
            origin=(0.0, 0.0, number * 1.0), ConvolutionKernel=kernel,
        )  # fmt: skip
    (study,) = discover(tmp_path)
    assert [(s.status, s.shape, s.entities["rec"]) for s in study.series] == [
        ("split", (4, 6, 5), "b30f"),
        ("split", (4, 6, 5), "b70f"),
    ]


def test_the_same_volume_twice_under_other_uids_is_refused_by_its_positions(tmp_path, series):
    for number in range(2):
        series(
            tmp_path, series_uid="1.2.9", names=f"{number}_{{}}".format, seed=number,
            edit=lambda d, k: setattr(d, "InstanceNumber", 1),
        )  # fmt: skip
    (study,) = discover(tmp_path)
    assert [(s.status, s.reason) for s in study.series] == [("rejected", "duplicate_slice")]
    assert "5.00" in study.series[0].detail


def test_inspect_says_why_a_series_was_split(tmp_path, series):
    write(tmp_path, series, PLAIN, *SPLITS["echo"])
    rows = inspect_rows(discover(tmp_path))
    assert sorted(row["detail"] for row in rows) == [
        f"EchoTime (0018,0081): {ms} ms, one of 3 in the series" for ms in ("10.0", "20.5", "31.0")
    ]


@pytest.mark.parametrize("low", [4.6, 4.6005])
def test_rounded_echo_times_are_one_echo(tmp_path, series, low):
    series(tmp_path, edit=lambda d, k: setattr(d, "EchoTime", low + 0.0009 * k))
    (study,) = discover(tmp_path)
    assert [s.status for s in study.series] == ["accepted"]


def test_three_directions_of_many_slices_are_named_by_their_planes(tmp_path, series):
    planes = {"coronal": [0, 2, 1], "sagittal": [1, 2, 0], "transverse": [0, 1, 2]}
    for number, axes in enumerate(planes.values()):
        series(
            tmp_path, series_uid="1.2.9", names=f"{number}_{{}}".format, seed=number, n=12,
            direction=np.eye(3)[:, axes],
        )  # fmt: skip
    (study,) = discover(tmp_path)
    assert sorted(s.entities["acq"] for s in study.series) == sorted(planes)


@pytest.mark.parametrize("shift", [0.05, 1.5])
def test_moments_that_lie_beside_each_other_never_make_one_image(tmp_path, series, shift):
    for number in range(2):
        series(
            tmp_path, series_uid="1.2.9", names=f"{number}_{{}}".format, seed=number,
            origin=(-30.0 + shift * number, 20.0, 5.0), TemporalPositionIdentifier=number + 1,
        )  # fmt: skip
    (study,) = discover(tmp_path)
    found = [(s.status, s.reason) for s in study.series]
    alike = shift < 0.1
    assert found == [("accepted", "time_series") if alike else ("rejected", "missing_geometry")]


def mosaics(folder: Path, series, n: int, tiles: int = 7, **tags) -> np.ndarray:
    """`n` mosaics of `tiles` slices of 8 by 8, with a private element that says how many."""

    def edit(dataset, k):
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", tiles)
        dataset.ImagePositionPatient = [-24.0, -24.0, 5.0]
        dataset.InstanceNumber = dataset.AcquisitionNumber = k + 1 + tags.get("seed", 0) * n
        dataset.SpacingBetweenSlices = 3

    kind = tags.pop("kind", "M")
    return series(
        folder, series_uid="1.2.9", n=n, rows=24, columns=24, spacing=(2, 2), edit=edit,
        ImageType=["ORIGINAL", "PRIMARY", kind, "ND", "MOSAIC"], Manufacturer="SIEMENS",
        names=f"{kind}{{}}".format, **tags,
    )  # fmt: skip


def test_mosaics_are_taken_apart_and_magnitude_is_kept_from_phase(tmp_path, series):
    stored = {
        label: mosaics(tmp_path, series, 3, kind=kind, seed=seed)
        for seed, (kind, label) in enumerate((("M", "mag"), ("P", "phase")))
    }
    (study,) = discover(tmp_path)
    assert [(s.status, s.reason) for s in study.series] == [("split", "time_series")] * 2
    for record in study.series:
        volume = read_series(study, record)
        assert volume.shape == (3, 8, 8, 7)
        picture = stored[record.entities["part"]]
        for t, k in itertools.product(range(3), range(7)):
            row, column = divmod(k, 3)
            tile = picture[column * 8 : column * 8 + 8, row * 8 : row * 8 + 8, t]
            np.testing.assert_array_equal(array_of(volume)[t, :, :, k], tile)
        corner = np.array([-24.0 + 16, -24.0 + 16, 5.0])
        found = flip_lps_ras(affine_of(volume))[:3, 3]
        np.testing.assert_allclose(found, corner, atol=1e-4)


def test_the_water_image_of_a_series_with_fat_is_the_t1(tmp_path, series):
    for seed, word in enumerate(("WATER", "FAT")):
        series(
            tmp_path, series_uid="1.2.9", names=f"{word}{{}}".format, seed=seed,
            ImageType=["DERIVED", "PRIMARY", "DIXON", word], ScanningSequence="GR",
            RepetitionTime=6, EchoTime=2.5, FlipAngle=9,
        )  # fmt: skip
    (study,) = discover(tmp_path)
    assert {s.entities["rec"]: s.role for s in study.series} == {"water": "t1", "fat": ""}
