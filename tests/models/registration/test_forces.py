"""Forces point the way that a head was moved, whatever its contrast."""

from __future__ import annotations

import pytest
import torch

from radloom.models.registration.forces import forces, forces_of_shares


def blobs(shift: float, *, inverted: bool = False) -> torch.Tensor:
    """(I, J, K) smooth things, moved along I."""
    axes = torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij")
    image = torch.zeros(32, 32, 32)
    for centre, width in (((16, 16, 16), 9.0), ((12, 13, 18), 4.0), ((19, 20, 13), 4.0)):
        square = sum(
            (axis - place - (shift if n == 0 else 0)) ** 2
            for n, (axis, place) in enumerate(zip(axes, centre, strict=True))
        )
        image = image + torch.exp(-square / (2 * width**2))
    return 2.0 - image if inverted else image


@pytest.mark.parametrize("inverted", [False, True])
def test_they_point_where_the_moving_head_lies(inverted) -> None:
    """On the map that lays one on the other, `moving` is looked at further along I."""
    pair = torch.stack([blobs(0.0), blobs(2.0, inverted=inverted)])[None]
    found = forces(pair, 2, 2)
    assert found.shape == (1, 6, 16, 16, 16)
    middle = found[0, :, 4:12, 4:12, 4:12].flatten(1).mean(1)
    for along_i, *others in (middle[:3].tolist(), middle[3:].tolist()):
        assert along_i > 0.05
        assert all(abs(other) < 0.5 * along_i for other in others)


def test_equal_heads_give_none() -> None:
    pair = torch.stack([blobs(0.0), blobs(0.0)])[None].expand(2, 2, 32, 32, 32)
    found = forces(pair, 2, 3)
    assert found.shape == (2, 9, 16, 16, 16)
    assert float(found.abs().max()) < 1e-4


def test_shares_of_structures_point_the_same_way() -> None:
    """As the images do, and whatever else is in the image."""
    fixed, moving = (
        torch.stack([(image > level).float() for level in (0.4, 1.2)])[None]
        for image in (blobs(0.0), blobs(2.0))
    )
    pooled = [torch.nn.functional.avg_pool3d(part[0], 2)[None] for part in (fixed, moving)]
    found = forces_of_shares(*pooled, 2)
    assert found.shape == (1, 6, 16, 16, 16)
    middle = found[0].flatten(1).mean(1)
    for along_i, *others in (middle[:3].tolist(), middle[3:].tolist()):
        assert along_i > 0.01
        assert all(abs(other) < 0.3 * along_i for other in others)
    assert not forces_of_shares(pooled[0], pooled[0], 2).any()
