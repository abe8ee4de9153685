from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from radloom.errors import InputError
from radloom.transforms.synthesis.anatomy import (
    RIGHT,
    Anatomy,
    anatomy_of_labels,
    anatomy_of_phantom,
    coarsened,
    code_of,
    labels_of,
    mirrored,
    pack_anatomy,
    unpack_anatomy,
)
from radloom.transforms.synthesis.phantom import make_head
from radloom.transforms.synthesis.tissues import LABEL_NAMES, STRUCTURES, Code


def little_head() -> np.ndarray:
    """(40, 44, 48) RAS: skin, soft tissue, bone, fluid and two hemispheres of white matter."""
    i, j, k = np.indices((40, 44, 48))
    distance = np.sqrt(((i - 19.5) / 18) ** 2 + ((j - 21.5) / 20) ** 2 + ((k - 23.5) / 22) ** 2)
    labels = np.zeros(distance.shape, np.int16)
    for limit, label in ((1, 511), (0.93, 507), (0.75, 515), (0.65, 24), (0.55, 2)):
        labels[distance < limit] = label
    labels[(distance < 0.55) & (i > 19.5)] = 41
    return labels


def test_labels_of_the_table_come_back():
    labels = little_head()
    anatomy = anatomy_of_labels("little", labels, np.eye(4))
    back = labels_of(anatomy.structures).numpy()
    assert {2, 24, 41, 507, 511, 515} == set(np.unique(back)) - {0}
    assert (back == 2).sum() == (labels == 2).sum()
    assert (back == 41).sum() == (labels == 41).sum()
    assert (back > 0).sum() == (labels > 0).sum()


def test_soft_tissue_below_the_skin_is_fat():
    codes = code_of(anatomy_of_labels("little", little_head(), np.eye(4)).structures)
    assert (codes == Code.FAT).any()


@pytest.mark.parametrize("axes", ["LIA", "PSR", "LPS"])
def test_any_orientation_gives_the_same_head(axes):
    import nibabel as nib

    labels = little_head()
    expected = anatomy_of_labels("a", labels, np.eye(4)).structures
    image = nib.Nifti1Image(labels, np.eye(4))
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
        )
    )
    anatomy = anatomy_of_labels("a", np.asarray(turned.dataobj), turned.affine)
    assert torch.equal(anatomy.structures, expected)


def test_a_coarser_map_becomes_1_mm():
    anatomy = anatomy_of_labels("coarse", little_head(), np.diag([2.0, 2.0, 2.0, 1.0]))
    fine = anatomy_of_labels("fine", little_head(), np.eye(4))
    share = (anatomy.structures > 0).sum() / (fine.structures > 0).sum()
    assert 7.4 < share < 8.2


def test_a_speck_outside_the_head_goes():
    labels = little_head()
    labels[0, 0, 0] = 511
    anatomy = anatomy_of_labels("speck", labels, np.eye(4))
    assert torch.equal(
        anatomy.structures, anatomy_of_labels("speck", little_head(), np.eye(4)).structures
    )


def test_unknown_labels_and_empty_maps_are_refused():
    labels = little_head()
    labels[20, 20, 20] = 999
    with pytest.raises(InputError, match=r"<mine>.*labels of the table.*999"):
        anatomy_of_labels("mine", labels, np.eye(4))
    with pytest.raises(InputError, match="background alone"):
        anatomy_of_labels("empty", np.zeros((4, 4, 4), np.int16), np.eye(4))


def test_mirrored_swaps_sides_and_only_those():
    structures = torch.arange(len(Code), dtype=torch.uint8)
    swapped = mirrored(structures)
    assert torch.equal(code_of(swapped), structures)
    assert torch.equal(mirrored(swapped), structures)
    assert int(swapped[Code.WHITE]) == Code.WHITE + RIGHT
    assert int(swapped[Code.BONE]) == Code.BONE


def test_a_packed_anatomy_is_the_anatomy():
    anatomy = anatomy_of_labels("little", little_head(), np.eye(4))
    back = unpack_anatomy(pack_anatomy(anatomy))
    assert back.name == "little"
    assert torch.equal(back.structures, anatomy.structures)
    with pytest.raises(InputError, match="packed anatomy"):
        unpack_anatomy(b"PK\x03\x04 nothing")


def test_a_coarsened_head_is_the_same_head():
    anatomy = anatomy_of_labels("little", little_head(), np.eye(4))
    coarse = coarsened(anatomy, 2)
    assert coarse.spacing_mm == coarse.grid.spacing_mm[0] == 2
    assert coarse.structures.shape == tuple(n // 2 for n in anatomy.structures.shape)
    for code in (Code.WHITE, Code.BONE):
        volume = 8 * (code_of(coarse.structures) == code).sum()
        assert 0.9 < volume / (code_of(anatomy.structures) == code).sum() < 1.1
    back = unpack_anatomy(pack_anatomy(coarse))
    assert back.spacing_mm == 2


def test_the_grid_has_its_origin_in_the_middle():
    grid = Anatomy("a", torch.zeros((11, 21, 31), dtype=torch.uint8)).grid
    assert np.allclose(grid.affine @ [5, 10, 15, 1], [0, 0, 0, 1])


@pytest.mark.slow
def test_the_phantom_is_an_anatomy_with_the_labels_it_had():
    head = make_head(torch.Generator().manual_seed(3), spacing_mm=1.0)
    anatomy = anatomy_of_phantom("phantom_03", head)
    labels, counts = np.unique(labels_of(anatomy.structures).numpy(), return_counts=True)
    before, counts_before = np.unique(head.labels[0].numpy(), return_counts=True)
    assert list(labels) == list(before)
    assert list(counts[1:]) == list(counts_before[1:])


@pytest.mark.real_data
def test_a_real_map_keeps_every_structure(real_data):
    import nibabel as nib

    image = nib.load(real_data / "anatomy" / "train" / "anatomy_01.nii.gz")
    labels = np.asarray(image.dataobj).astype(np.int16)
    anatomy = anatomy_of_labels("anatomy_01", labels, image.affine)
    back = labels_of(anatomy.structures).numpy()
    assert set(np.unique(back)) <= set(LABEL_NAMES)
    for label in np.unique(labels):
        if label not in (0, 507, 511):
            assert (back == label).sum() > 0.97 * (labels == label).sum()
    codes = code_of(anatomy.structures)
    assert {Code.FAT, Code.LENS, Code.SCLERA, Code.CORD} <= set(codes.unique().tolist())


def test_the_page_on_labels_holds_them_all():
    page = Path(__file__).parents[3] / "docs" / "reference" / "labels.md"
    rows = [line.split("|") for line in page.read_text().splitlines() if re.match(r"\| \d", line)]
    written = {
        (int(left), int(right if right.strip() else left)): name.strip()
        for _, left, right, name, _ in rows
    }
    assert written == {s.label: s.name for s in STRUCTURES}
