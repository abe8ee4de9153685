"""Bundles: found, trusted or not, and run on a volume in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch, list_data_collate

from radloom.errors import ConfigError, InputError, MissingWeights, NotTrusted
from radloom.models import bundles
from radloom.models.bundles import find_bundle, is_shipped, list_bundles, load_bundle
from radloom.shapes import affine_of, array_of, make_volume, spatial_shape
from radloom.transforms.nifti import write_nifti

CPU = torch.device("cpu")
AFFINE = np.array(
    [[-1.5, 0.2, 0.1, 40], [0.2, 1.4, 0.3, -20], [-0.1, -0.3, 2.5, 10], [0, 0, 0, 1.0]]
)


SAME = {"_target_": "torch.nn.Threshold", "threshold": -1e9, "value": 0.0}
"""Gives a copy: MONAI weighs windows in place, and Identity would hand it the image itself."""


def volume(seed: int = 0, affine: np.ndarray = AFFINE):
    image = np.random.default_rng(seed).normal(100, 20, (40, 44, 30)).astype(np.float32)
    image[10:30, 12:30, 8:22] += 120
    return make_volume(image, affine, modality="MR", units="arbitrary", series_uid="1.2.3")


def test_an_unknown_bundle_is_an_error_and_a_planned_one_misses_its_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(bundles, "bundles_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"expected one of Radloom's bundles .*, got 'nothing'"):
        find_bundle("nothing")
    with pytest.raises(MissingWeights, match="does not hold the bundle 'brain_mr_segmentation'"):
        find_bundle("brain_mr_segmentation")


def test_own_bundles_lie_beside_the_room_of_the_models() -> None:
    folder = bundles.bundles_folder()
    assert folder.name == "bundles"
    assert folder.parent == Path(bundles.__file__).resolve().parents[1]
    assert all(is_shipped(find_bundle(name)) for name in list_bundles())


def test_a_bundle_from_outside_needs_trust(write_bundle, tmp_path) -> None:
    folder = write_bundle(tmp_path / "outside")
    with pytest.raises(NotTrusted, match=r"<outside> can run code.*give --trust"):
        load_bundle(folder, device=CPU)
    assert load_bundle(folder, device=CPU, trust=True).name == "outside"


def test_no_code_of_an_untrusted_bundle_runs(write_bundle, tmp_path) -> None:
    mark = tmp_path / "ran"
    folder = write_bundle(
        tmp_path / "outside", network_def=f"$__import__('pathlib').Path({str(mark)!r}).touch()"
    )
    with pytest.raises(NotTrusted):
        load_bundle(folder, device=CPU)
    assert not mark.exists()


def test_a_bundle_of_ours_is_trusted(write_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bundles, "bundles_folder", tmp_path.resolve)
    write_bundle(tmp_path / "ours")
    assert list_bundles() == ("ours",)
    assert load_bundle(find_bundle("ours"), device=CPU).name == "ours"


def test_missing_weights_are_told_apart(write_bundle, tmp_path) -> None:
    folder = write_bundle(tmp_path / "empty", weights=False)
    with pytest.raises(MissingWeights, match=r"<empty> has no weights: models/model.pt is absent"):
        load_bundle(folder, device=CPU, trust=True)


def test_weights_hold_tensors_only_even_with_trust(write_bundle, tmp_path) -> None:
    folder = write_bundle(tmp_path / "pickled")
    torch.save({"model": Path("x")}, folder / "models" / "model.pt")
    with pytest.raises(NotTrusted, match=r"model.pt.*pathlib"):
        load_bundle(folder, device=CPU, trust=True)


def test_weights_that_do_not_fit_are_refused(write_bundle, tmp_path) -> None:
    folder = write_bundle(tmp_path / "other", n_out=5)
    with pytest.raises(ConfigError, match="weights do not fit network_def"):
        load_bundle(folder, device=CPU, trust=True)


def test_the_hash_sees_configs_and_weights(write_bundle, tmp_path) -> None:
    one = write_bundle(tmp_path / "one")
    same = write_bundle(tmp_path / "same")
    other = write_bundle(tmp_path / "other", seed=1)
    hashes = [bundles.bundle_sha256(folder) for folder in (one, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    config = one / "configs" / "inference.json"
    config.write_text(config.read_text() + " ")
    assert bundles.bundle_sha256(one) != hashes[0]


def by_monai(folder: Path, image: Path) -> np.ndarray:
    """``pred`` of a file as MONAI's own workflow computes it: readers, evaluator's steps, post."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    network.eval()
    post = parser.get_parsed_content("postprocessing")
    post.transforms = tuple(t for t in post.transforms if type(t).__name__ != "SaveImaged")
    data = parser.get_parsed_content("preprocessing")({"image": str(image)})
    batch = list_data_collate([data])
    with torch.no_grad():
        batch["pred"] = parser.get_parsed_content("inferer")(batch["image"], network)
    return np.asarray(post(decollate_batch(batch)[0])["pred"])


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_prediction_equals_monais_from_the_file(write_bundle, tmp_path) -> None:
    folder, image = write_bundle(tmp_path / "bundle"), volume()
    write_nifti(image, tmp_path / "image.nii.gz")
    pred = load_bundle(folder, device=CPU, trust=True).predict([image])
    np.testing.assert_array_equal(array_of(pred), by_monai(folder, tmp_path / "image.nii.gz"))
    np.testing.assert_array_equal(affine_of(pred), affine_of(image))
    assert len(np.unique(array_of(pred))) > 1
    assert not (folder / "eval").exists()


@pytest.mark.parametrize("affine", [AFFINE, np.diag([1.0, 1, 1, 1]), np.diag([-1.0, -1, 2, 1])])
def test_a_bundle_without_inversion_is_inverted(write_bundle, tmp_path, affine) -> None:
    """The image itself, through a network that changes nothing, comes back where it was."""
    folder = write_bundle(tmp_path / "plain", labels=("same",), post=[], network_def=SAME)
    torch.save({}, folder / "models" / "model.pt")
    config = json.loads((folder / "configs" / "inference.json").read_text())
    del config["preprocessing"]["transforms"][-1]
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    image = make_volume(ramp((40, 44, 30)), affine, modality="MR", units="arbitrary")
    pred = load_bundle(folder, device=CPU, trust=True).predict([image])
    assert spatial_shape(pred) == spatial_shape(image)
    inside = (slice(None), *[slice(4, -4)] * 3)
    np.testing.assert_allclose(array_of(pred)[inside], array_of(image)[inside], atol=1.5)


def ramp(shape: tuple[int, int, int]) -> np.ndarray:
    """Different slopes along I, J, K: interpolation keeps it, a flip or a swap does not."""
    i, j, k = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return (10.0 * i + 3.0 * j + 1.0 * k).astype(np.float32)


def test_channels_are_counted(write_bundle, tmp_path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "two", n_in=2), device=CPU, trust=True)
    with pytest.raises(InputError, match=r"<two>: expected 2 volume\(s\), one a channel, got 1"):
        bundle.predict([volume()])
    assert spatial_shape(bundle.predict([volume(0), volume(1)])) == (40, 44, 30)


def test_a_bundle_may_have_scripts_of_its_own(write_bundle, tmp_path) -> None:
    found = []
    for name, value in (("one", 1.0), ("two", 2.0)):
        folder = write_bundle(
            tmp_path / name, labels=("x",), post=[], network_def={"_target_": "scripts.net.Fill"}
        )
        (folder / "scripts").mkdir()
        (folder / "scripts" / "__init__.py").touch()
        (folder / "scripts" / "net.py").write_text(
            "import torch\nclass Fill(torch.nn.Module):\n"
            f"    def forward(self, x):\n        return torch.full_like(x, {value})\n"
        )
        torch.save({}, folder / "models" / "model.pt")
        pred = load_bundle(folder, device=CPU, trust=True).predict([volume()])
        found.append(float(array_of(pred)[0, 20, 20, 15]))
    assert found == [1.0, 2.0]


def test_the_input_is_left_alone(write_bundle, tmp_path) -> None:
    image = volume()
    before, history = array_of(image).copy(), list(image.applied_operations)
    load_bundle(write_bundle(tmp_path / "b"), device=CPU, trust=True).predict([image])
    np.testing.assert_array_equal(array_of(image), before)
    assert image.applied_operations == history
