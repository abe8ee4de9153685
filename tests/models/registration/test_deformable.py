"""Deformations that are known are found, on any grid, there and back, without folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from radloom.errors import ConfigError, MissingWeights, StageFailed
from radloom.models.registration import deformable
from radloom.models.registration.coarse import clipped
from radloom.models.registration.deformable import deform, registrar_for
from radloom.models.registration.learned import Registrar, network_grid
from radloom.models.registration.network import RegistrationNetwork
from radloom.models.registration.structures import Segmenter
from radloom.models.registration.working_grid import grid_round
from radloom.shapes import affine_of, array_of, make_label, make_volume, spatial_shape
from radloom.transforms.spatial import Transform, grid_points

AXIS = np.linspace(-20, 20, 5)
KNOWN = Registrar(RegistrationNetwork(torch.nn.Identity()), (96, 112, 96), (2.0, 2.4))
"""Its grid is that of the networks here."""
BULGE = np.stack(np.meshgrid(20 + AXIS, 10 + AXIS, 10 + AXIS), -1).reshape(-1, 3)
"""Points where the known deformation is large."""
OBLIQUE = Rotation.from_rotvec(np.radians([8, -12, 5])).as_matrix()


@pytest.fixture(scope="module")
def bulged(scene):
    return scene.bulge(height_mm=8.0)


@pytest.fixture(scope="module")
def far_bulged(scene):
    """Farther than the search reaches."""
    return scene.bulge(height_mm=20.0)


@pytest.fixture(scope="module")
def found(scene, fixed, bulged):
    """T2 of the deformed and turned head, on an oblique grid of its own."""
    turn = scene.move((4, -3, 5), (12, -6, 8))
    moving = scene.picture(
        "t2", moved=turn @ bulged, spacing=(2.5, 3.5, 3.0), direction=OBLIQUE, seed=4,
        extent=(240, 270, 240), centre=(12, 0, 8),
    )  # fmt: skip
    return moving, turn @ bulged, turn, deform(fixed, moving, turn, fast=True)


def test_another_contrast_s_bulge_is_found(scene, found):
    _, truth, affine, deformation = found
    errors = [
        np.linalg.norm(way.apply(BULGE) - truth.apply(BULGE), axis=1).mean()
        for way in (affine, deformation.moving_from_fixed)
    ]
    assert errors[0] > 6
    assert errors[1] < 0.5 * errors[0]
    assert deformation.start == "search"
    assert deformation.refined_mm < 5


def test_the_field_lies_on_the_fixed_grid_the_way_back_on_the_moving_one(fixed, found):
    moving, _, _, deformation = found
    for transform, volume in (
        (deformation.moving_from_fixed, fixed),
        (deformation.fixed_from_moving, moving),
    ):
        assert transform.displacement_mm.shape[1:] == spatial_shape(volume)
        np.testing.assert_array_equal(transform.grid_affine, affine_of(volume))
        np.testing.assert_array_equal(transform.matrix, np.eye(4))
        assert transform.folded_share() == 0


def test_there_and_back_ends_where_it_began(found):
    deformation = found[3]
    axis = np.linspace(-50, 50, 7)
    points = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    there = deformation.moving_from_fixed.apply(points)
    again = deformation.fixed_from_moving.apply(there)
    assert np.median(np.linalg.norm(again - points, axis=1)) < 0.3
    assert deformation.inconsistency_mm < 0.4


@pytest.mark.slow
def test_the_number_of_threads_changes_no_bit(fixed, found):
    moving, _, affine, once = found
    twice = deform(fixed, moving, affine, fast=True, n_threads=2)
    np.testing.assert_array_equal(
        once.moving_from_fixed.displacement_mm, twice.moving_from_fixed.displacement_mm
    )
    np.testing.assert_array_equal(
        once.fixed_from_moving.displacement_mm, twice.fixed_from_moving.displacement_mm
    )


class Hill(torch.nn.Module):
    """A velocity of the middle along R, whatever it is shown."""

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in pair.shape[2:]], indexing="ij")
        hill = 4 * torch.exp(-4 * sum(axis**2 for axis in axes))
        return torch.stack([hill, 0 * hill, 0 * hill])[None]


@pytest.fixture
def registrar() -> Registrar:
    return Registrar(RegistrationNetwork(Hill()), shape=(96, 96, 96), spacing_mm=(2.0, 2.4))


def test_the_network_s_velocity_becomes_mm_in_the_world(scene, registrar):
    """Its 4 voxels at the middle are 4 times its 2 mm or more, along R, on an LPS grid too."""
    fixed = scene.picture("t1", direction=np.diag([-1, -1, 1]))
    found = deform(
        fixed,
        scene.picture("t2"),
        Transform.identity(),
        method="voxelmorph",
        registrar=registrar,
        fast=True,
    )
    field = found.moving_from_fixed.displacement_mm
    assert found.start == "network"
    assert found.refined_mm == 0
    assert float(np.abs(field[1:]).max()) < 1e-3
    assert 7.5 < float(field[0].max()) < 10
    home = found.fixed_from_moving.apply(found.moving_from_fixed.apply([[0, 5, 0]]))
    np.testing.assert_allclose(home, [[0, 5, 0]], atol=0.2)


class Told(torch.nn.Module):
    """A velocity (1, 3, I, J, K) that somebody found before."""

    def __init__(self, velocity: torch.Tensor) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        return self.velocity


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["far", "nan"])
def test_hybrid_never_gets_worse_by_a_network(fixed, found, fault):
    """A network that errs, or gives no numbers, leaves what the search alone finds, to the bit."""
    moving, _, affine, alone = found
    velocity = Hill()(torch.zeros(1, 2, 96, 96, 96))
    told = Told(6 * velocity if fault == "far" else velocity * float("nan"))
    registrar = Registrar(RegistrationNetwork(told), shape=(96, 96, 96), spacing_mm=(2.0, 2.4))
    helped = deform(fixed, moving, affine, registrar=registrar, fast=True)
    assert helped.start == "search"
    np.testing.assert_array_equal(
        alone.moving_from_fixed.displacement_mm, helped.moving_from_fixed.displacement_mm
    )
    if fault == "nan":
        with pytest.raises(StageFailed, match="voxelmorph: expected displacements up to"):
            deform(fixed, moving, affine, method="voxelmorph", registrar=registrar, fast=True)


@pytest.mark.slow
def test_hybrid_goes_on_from_a_network_that_knows_better(scene, fixed, far_bulged):
    """The truth, as a network's velocity, against a search that does not reach so far."""
    bulged = far_bulged
    moving = scene.picture("t2", moved=bulged, seed=4)
    grid = network_grid(grid_round(clipped(fixed), spacing_mm=2.0)[0], KNOWN)
    points = grid_points(grid.affine, grid.shape)
    ddf = (bulged.apply(points) - points) / grid.spacing_mm
    velocity = torch.from_numpy(np.moveaxis(ddf, -1, 0).astype(np.float32))[None]
    registrar = Registrar(RegistrationNetwork(Told(velocity)), KNOWN.shape, KNOWN.spacing_mm)
    found = deform(fixed, moving, Transform.identity(), registrar=registrar, fast=True)
    assert found.start == "network"
    errors = np.linalg.norm(found.moving_from_fixed.apply(BULGE) - bulged.apply(BULGE), axis=1)
    assert errors.mean() < 5


def test_what_the_mask_leaves_out_is_not_compared(scene, fixed):
    """A copper wire beside the head, masked out, bends nothing."""
    values = array_of(fixed)[0].copy()
    values[5:9, 20:60, 20:50] = 900.0
    other = scene.picture("t1", seed=5)
    mask = np.zeros(spatial_shape(fixed), np.uint8)
    mask[14:-8, 8:-8, 8:-8] = 1
    spoiled = make_volume(values, affine_of(fixed), modality="MR", units="arbitrary")
    found = deform(
        spoiled,
        other,
        Transform.identity(),
        fixed_mask=make_label(mask, affine_of(fixed)),
        fast=True,
    )
    assert scene.error_mm(found.moving_from_fixed, Transform.identity()) < 0.9


def test_impossible_asks_are_refused(fixed):
    with pytest.raises(ConfigError, match="expected a method of"):
        registrar_for("guess", torch.device("cpu"))
    with pytest.raises(MissingWeights, match="expected a network"):
        deform(fixed, fixed, Transform.identity(), method="voxelmorph")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_twice(scene, fixed, bulged):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    moving = scene.picture("t2", moved=bulged, seed=4)
    fields = [
        deform(fixed, moving, Transform.identity(), device=torch.device("cuda"), fast=True)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*(found.moving_from_fixed.displacement_mm for found in fields))


def test_where_a_device_is_full_the_cpu_does_the_work_networks_included(
    scene, fixed, monkeypatch
) -> None:
    asked = []

    class Full(deformable._Task):
        def run(self, method, registrar, segmenter):
            asked.append((self.device, registrar, segmenter))
            if self.device.type != "cpu":
                raise torch.OutOfMemoryError("full")
            return "found"

    monkeypatch.setattr(deformable, "_Task", Full)
    there = torch.device("meta")
    networks = [torch.nn.Conv3d(1, 1, 1) for _ in range(2)]
    found = deform(
        fixed, fixed, Transform.identity(), device=there,
        registrar=Registrar(networks[0], (96, 112, 96), (2.0, 2.4), device=there),
        segmenter=Segmenter(networks[1], device=there),
    )  # fmt: skip
    assert found == "found"
    assert [task[0] for task in asked] == [there, torch.device("cpu")]
    for one in asked[1][1:]:
        assert one.device == torch.device("cpu")
        assert next(one.network.parameters()).device == one.device
