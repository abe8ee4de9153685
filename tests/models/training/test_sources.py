"""Label maps, packed heads and the user's scans, by what the folder holds."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from radloom.errors import ConfigError, InputError
from radloom.models.training.anatomies import load_anatomies
from radloom.models.training.pack import main
from radloom.models.training.scans import Scans
from radloom.models.training.sources import open_source

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write(path, array, affine=AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def label_map(tmp_path):
    labels = np.zeros((40, 44, 36), np.int16)
    labels[4:36, 4:40, 4:34] = 511
    labels[7:33, 7:37, 7:31] = 515
    labels[9:31, 9:35, 9:29] = 24
    labels[12:20, 12:30, 12:26], labels[20:28, 12:30, 12:26] = 41, 2
    folder = tmp_path / "maps"
    write(folder / "one.nii.gz", labels)
    return folder


def test_label_maps_are_prepared_once(label_map, tmp_path) -> None:
    (head,) = load_anatomies(label_map, tmp_path / "cache")
    assert head.name == "one"
    (kept,) = (tmp_path / "cache").iterdir()
    before = kept.stat().st_mtime_ns
    (again,) = load_anatomies(label_map, tmp_path / "cache")
    assert torch.equal(head.structures, again.structures)
    assert kept.stat().st_mtime_ns == before


def test_the_packer_writes_what_training_reads(label_map, tmp_path) -> None:
    main([str(label_map), str(tmp_path / "packed")])
    (head,), (packed,) = load_anatomies(label_map), load_anatomies(tmp_path / "packed")
    assert torch.equal(head.structures, packed.structures)
    source = open_source(str(tmp_path / "packed"), {"grid": {"shape": [8, 8, 8]}})
    assert source.sample(("label",), generator(), pair=False)["label"].shape == (1, 8, 8, 8)


def test_an_image_is_no_label_map(tmp_path) -> None:
    write(tmp_path / "t1.nii.gz", np.full((4, 4, 4), 999, np.int16))
    with pytest.raises(InputError, match=r"<t1.nii.gz>.*list them in scans.tsv"):
        load_anatomies(tmp_path)


def test_folders_without_data_and_wrong_keys_are_refused(tmp_path, heads) -> None:
    assert open_source(None) is None
    with pytest.raises(ConfigError, match="<absent>, which is none"):
        open_source(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="expected label maps"):
        open_source(str(tmp_path))
    with pytest.raises(ConfigError, match=r"SampleRecipe: expected keys of .*got colour"):
        open_source(str(heads), {"colour": 1})


@pytest.fixture
def scans(tmp_path):
    """An MR of 2 mm and its CT of other spacing and axes, in one world; labels."""
    mr = np.zeros((20, 20, 20), np.float32)
    mr[5:15, 5:15, 5:15] = 400
    ct = np.full((10, 40, 40), -1000, np.int16)
    ct[:, 10:30, 10:30] = 50
    turned = np.array([[0, 0, 1.0, -0.5], [0, 1.0, 0, -0.5], [4.0, 0, 0, 1.0], [0, 0, 0, 1]])
    write(tmp_path / "mr.nii.gz", mr)
    write(tmp_path / "ct.nii.gz", ct, turned)
    write(tmp_path / "label.nii.gz", (mr > 0).astype(np.int16) * 17)
    return tmp_path


def test_listed_scans_come_on_one_grid(scans) -> None:
    rows = ["image\tct_hu\tlabel", "mr.nii.gz\tct.nii.gz\tlabel.nii.gz"]
    (scans / "scans.tsv").write_text("\n".join(rows))
    source = open_source(str(scans), scan_spacing_mm=1.0)
    found = source.sample(("image", "ct_hu", "label", "structures"), generator(), pair=False)
    assert {t.shape for t in found.values()} == {(1, 38, 38, 38)}
    assert "structures" not in found
    middle = (0, slice(15, 25), slice(15, 25), slice(15, 25))
    torch.testing.assert_close(found["image"][middle], torch.ones(10, 10, 10))
    torch.testing.assert_close(found["ct_hu"][middle], torch.full((10, 10, 10), 50.0))
    assert (found["label"][middle] == 17).all()
    assert float(found["ct_hu"][0, 2, 2, 20]) == -1000
    with pytest.raises(InputError, match=r"expected scans with image, clean, got 1 cases"):
        source.sample(("image", "clean"), generator(), pair=False)


def test_a_listed_file_must_be_there(scans) -> None:
    (scans / "scans.tsv").write_text("image\tct_hu\nmr.nii.gz\tother.nii.gz\n")
    with pytest.raises(InputError, match=r"<scans.tsv>: expected the file other.nii.gz"):
        open_source(str(scans))


def test_a_bids_tree_gives_pairs(scans, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("bids")
    for suffix, name in (("T1w", "mr"), ("T2w", "mr"), ("ct", "ct"), ("dseg", "label")):
        path = root / "sub-1" / "ses-1" / "anat" / f"sub-1_ses-1_{suffix}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((scans / f"{name}.nii.gz").read_bytes())
    source = open_source(str(root), scan_spacing_mm=2.0)
    assert isinstance(source, Scans)
    assert [sorted(case) for case in source.cases] == [
        ["ct_hu", "image", "label"],
        ["ct_hu", "image", "label"],
        ["fixed_image", "moving_image"],
    ]
    pair = source.sample(("image", "label"), generator(), pair=True)
    assert torch.equal(pair["fixed_image"], pair["moving_image"])
