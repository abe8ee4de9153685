"""What is compared outlives a new contrast."""

from __future__ import annotations

import torch
from scipy import ndimage

from radloom.models.registration.descriptors import box_mean, mind_ssc, principal


def texture(seed: int = 0, shape=(20, 18, 16)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return box_mean(torch.rand((1, *shape), generator=generator), 1)[0]


def test_box_means_are_scipys():
    image = texture()
    expected = ndimage.uniform_filter(image.numpy(), 5, mode="nearest")
    torch.testing.assert_close(box_mean(image[None], 2)[0], torch.from_numpy(expected))


def test_a_new_scale_and_a_turned_contrast_change_nothing():
    image = texture()
    features = mind_ssc(image)
    assert features.shape == (12, *image.shape)
    assert float(features.min()) >= 0
    assert bool((features.amax(dim=0) == 1).all())
    torch.testing.assert_close(mind_ssc(5 - 3 * image), features, atol=1e-4, rtol=0)


def test_each_channel_is_one_pair_of_neighbours():
    """At a plane, the pairs that lie within it are alike, those across it are not."""
    image = torch.zeros(12, 12, 12)
    image[6:] = 1.0
    at_plane = mind_ssc(image, radius=0)[:, 6, 6, 6]
    alike = at_plane > 0.9
    # of the twelve, four join neighbours with the same first index, four the far side with the
    # voxel's own plane, which is on this side too
    assert int(alike.sum()) == 8
    assert float(at_plane[~alike].max()) < 0.1


def test_fewer_channels_keep_distances():
    generator = torch.Generator().manual_seed(1)
    few = torch.randn(3, 500, generator=generator)
    spread = torch.randn(8, 3, generator=generator)
    both = [
        torch.einsum("ab,bn->an", spread, values).reshape(8, 10, 10, 5)
        for values in (few, few.flip(1))
    ]
    mask = torch.ones(10, 10, 5, dtype=torch.bool)
    fixed, moving = principal(*both, 3, mask)
    assert fixed.shape == (3, 10, 10, 5)
    torch.testing.assert_close(
        (fixed - moving).square().sum(0), (both[0] - both[1]).square().sum(0), rtol=1e-3, atol=1e-3
    )
    assert principal(*both, 8, mask)[0] is both[0]
