"""A bundle with nnU-Net's plans: one way for the stage, the bundle's own config and nnU-Net."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from radloom.errors import ConfigError, MissingWeights, OutOfMemory
from radloom.models.bundles import find_bundle
from radloom.models.segmentation import find_model
from radloom.models.segmentation.classes import CLASSES, mask_of
from radloom.models.segmentation.loading import network_of_plans
from radloom.models.segmentation.nnunet import NnunetOptions
from radloom.models.segmentation.planned import PlannedBundle, find_planned, is_planned
from radloom.models.training.ema import export_weights
from radloom.models.training.nnunet_folder import write_nnunet_folder
from radloom.pipelines.single import segment_file
from radloom.shapes import affine_of, array_of, make_volume
from radloom.transforms.nifti import write_nifti

CPU = torch.device("cpu")
OWN = find_bundle("brain_mr_segmentation")
NAME = "brain_mr_segmentation"
VALUES = np.array([item.label for item in CLASSES])


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def copy_of_ours(root: Path) -> Path:
    return Path(shutil.copytree(OWN, root / NAME, ignore=shutil.ignore_patterns("models")))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Our bundle with a small network and patch, weights drawn so that every class comes up."""
    folder = copy_of_ours(tmp_path_factory.mktemp("planned"))
    plans = read(folder / "configs" / "plans.json")
    (one,) = plans["configurations"].values()
    one["patch_size"] = [32, 32, 48]
    one["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 4, 8, 8, 8]
    (folder / "configs" / "plans.json").write_text(json.dumps(plans))
    metadata = read(folder / "configs" / "metadata.json")
    del metadata["refinement"], metadata["sides"]
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    write_weights(folder)
    return folder


@pytest.fixture(scope="module")
def refined(small, tmp_path_factory) -> Path:
    """The same, asked about both sides, labels brought to the image's edges, as in ours."""
    folder = Path(shutil.copytree(small, tmp_path_factory.mktemp("refined") / NAME))
    shutil.copyfile(OWN / "configs" / "metadata.json", folder / "configs" / "metadata.json")
    return folder


@pytest.fixture(scope="module")
def sided(small, tmp_path_factory) -> Path:
    """The same as `small`, asked about both sides of a head."""
    folder = Path(shutil.copytree(small, tmp_path_factory.mktemp("sided") / NAME))
    metadata = read(folder / "configs" / "metadata.json")
    metadata["sides"] = read(OWN / "configs" / "metadata.json")["sides"]
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def write_weights(folder: Path, gain: float = 8.0) -> None:
    """Weights by chance, balanced, the scores far apart so that float16 leaves few ties."""
    plans, dataset = (read(folder / "configs" / f"{name}.json") for name in ("plans", "dataset"))
    (one,) = plans["configurations"].values()
    torch.manual_seed(0)
    network = network_of_plans(plans, dataset).eval()
    last = network.decoder.seg_layers[-1]
    with torch.no_grad():
        last.weight *= gain
        last.bias.zero_()
        scores = network(torch.randn(1, 1, *one["patch_size"]))
        last.bias -= scores.mean(dim=(0, 2, 3, 4))
    (folder / "models").mkdir(exist_ok=True)
    export_weights(network, folder / "models" / "model.pt")


def head(shape=(61, 70, 58), affine=None):
    generator = np.random.default_rng(0)
    values = generator.normal(0, 1, shape).astype(np.float32)
    values[8:40, 10:50, 12:45] += 3
    affine = np.diag([-1.0, 1.2, 1.1, 1.0]) if affine is None else affine
    return make_volume(values, affine, modality="MR", units="arbitrary", series_uid="1.2")


def test_our_bundle_is_found_as_one_with_plans() -> None:
    folder = find_model(OWN)
    assert is_planned(OWN)
    assert isinstance(folder, PlannedBundle)
    assert folder.name == NAME
    assert folder.channel_names == ("MR",)
    assert folder.values == tuple(VALUES)
    assert folder.label_names == {item.label: item.name for item in CLASSES[1:]}
    assert folder.class_names == tuple(item.name for item in CLASSES)
    assert not is_planned(find_bundle("head_mr_denoising"))


def has_weights() -> bool:
    return (OWN / "models" / "model.pt").is_file()


def nnunet_says(small: Path, volume, work: Path) -> np.ndarray:
    """Labels (I, J, K) of nnU-Net's own prediction with the exported folder, numbered as ours."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder = write_nnunet_folder(small / "models" / "model.pt", work, small / "configs")
    write_nifti(volume, work / "case_0000.nii.gz")
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(device=CPU, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), ("all",))
        predictor.predict_from_files_sequential(
            [[str(work / "case_0000.nii.gz")]], [str(work / "theirs")]
        )
    return VALUES[np.asarray(nib.load(work / "theirs.nii.gz").dataobj)]


def test_labels_are_nnunets_own_by_their_numbers_in_results(small, tmp_path) -> None:
    volume = head()
    found = find_model(small).load(device=CPU).predict([volume])
    ours = array_of(found.label)[0]
    assert (ours == nnunet_says(small, volume, tmp_path)).mean() > 0.9999
    assert len(np.unique(ours)) > 20
    assert ours.dtype == np.uint16
    assert set(found.doubt) <= set(VALUES[1:])
    assert found.label.meta["series_uid"] == "1.2"
    np.testing.assert_array_equal(affine_of(found.label), affine_of(volume))


@pytest.mark.gpu
def test_a_gpu_in_half_precision_labels_as_the_cpu(small) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    volume = head()
    here, there = (
        array_of(find_model(small).load(device=torch.device(name)).segment([volume]))[0]
        for name in ("cpu", "cuda")
    )
    assert (here == there).mean() > 0.99


@pytest.mark.slow
def test_a_head_of_one_millimetre_equals_nnunets(small, tmp_path) -> None:
    volume = head((160, 192, 160), np.diag([-1.0, -1.0, 1.0, 1.0]))
    ours = array_of(find_model(small).load(device=CPU).segment([volume], n_threads=2))[0]
    assert (ours == nnunet_says(small, volume, tmp_path)).mean() > 0.9999


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning:monai.bundle")
@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_the_bundle_alone_writes_the_same_labels(small, tmp_path) -> None:
    from monai.bundle import run

    oblique = np.array([[-1.3, 0.1, 0, 9], [0.1, 0.2, 1.9, -4], [0, -1.4, 0.2, 1], [0, 0, 0, 1.0]])
    volume = head((50, 40, 31), oblique)
    write_nifti(volume, tmp_path / "mr.nii.gz")
    run(
        config_file=str(small / "configs" / "inference.yaml"),
        bundle_root=str(small),
        image=str(tmp_path / "mr.nii.gz"),
        output_dir=str(tmp_path),
        device="$torch.device('cpu')",
        **{"network_def#features_per_stage": [4, 4, 8, 8, 8]},
    )
    written = nib.load(tmp_path / "mr_dseg.nii.gz")
    ours = find_model(small).load(device=CPU).segment([volume])
    np.testing.assert_array_equal(np.asarray(written.dataobj), array_of(ours)[0])
    np.testing.assert_allclose(written.affine, affine_of(volume), atol=1e-5)
    assert written.get_data_dtype() == np.uint16


def test_labels_are_as_fine_as_the_image(small) -> None:
    """Along an axis of 1 mm, the 2 mm of the network leave no pairs of equal planes."""
    labels = array_of(find_model(small).load(device=CPU).segment([head(affine=np.eye(4))]))[0]
    steps = (labels[1:] != labels[:-1]).mean(axis=(1, 2))
    even, odd = steps[::2].mean(), steps[1::2].mean()
    assert 0.5 < even / odd < 2


@pytest.mark.parametrize("which", ["small", "refined"])
def test_neither_threads_nor_memory_nor_a_second_time_change_labels(which, request) -> None:
    volume, folder = head(), find_model(request.getfixturevalue(which))
    assert folder.parallel > 1
    model = folder.load(device=CPU)
    least = folder.least_memory(volume.shape[1:], (1.0, 1.2, 1.1))
    whole = model.predict([volume])
    for n_threads, memory in ((1, None), (2, None), (3, None), (3, least)):
        found = model.predict([volume], n_threads=n_threads, memory=memory)
        np.testing.assert_array_equal(array_of(found.label), array_of(whole.label))
        assert found.doubt == pytest.approx(whole.doubt)
    with pytest.raises(OutOfMemory, match="brain_mr_segmentation"):
        model.predict([volume], memory=least - 1)


def test_labels_are_refined_where_the_metadata_ask_for_it(small, refined) -> None:
    volume = head()
    chances = np.zeros((len(VALUES), *volume.shape[1:]))

    def take(place, values) -> None:
        chances[(slice(None), *place)] = values

    before, after = (find_model(folder).load(device=CPU) for folder in (small, refined))
    found = after.predict([volume], probabilities=take)
    plain, sharp = (array_of(label)[0] for label in (before.segment([volume]), found.label))
    np.testing.assert_array_equal(array_of(after.segment([volume])), array_of(found.label))
    changed = plain != sharp
    assert 0.01 < changed.mean() < 0.9
    index = np.searchsorted(VALUES, sharp)
    own = np.take_along_axis(chances, index[None], 0)[0]
    assert (own > 0.0015 * chances.max(0)).all()
    least, more = (
        find_model(folder).least_memory(plain.shape, (1, 1, 1)) for folder in (small, refined)
    )
    assert more > least


def test_regions_are_not_refined(refined, tmp_path) -> None:
    folder = Path(shutil.copytree(refined, tmp_path / NAME))
    dataset = read(folder / "configs" / "dataset.json")
    dataset["regions_class_order"] = [1]
    (folder / "configs" / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(ConfigError, match="expected no refinement of a model of regions"):
        _ = find_planned(folder).refinement


def test_the_hash_sees_weights_configs_and_options(small, tmp_path) -> None:
    copy = Path(shutil.copytree(small, tmp_path / NAME))
    first = find_planned(small).sha256()
    assert find_planned(copy).sha256() == first
    assert find_planned(small, NnunetOptions(step_size=0.75)).sha256() != first
    write_weights(copy, gain=2.0)
    assert find_planned(copy).sha256() != first


def test_what_does_not_fit_is_refused(small, tmp_path) -> None:
    copy = copy_of_ours(tmp_path)
    with pytest.raises(MissingWeights, match=r"models/model\.pt is absent"):
        find_planned(copy).load(device=CPU)
    (copy / "models").mkdir()
    shutil.copyfile(small / "models" / "model.pt", copy / "models" / "model.pt")
    with pytest.raises(ConfigError, match=r"does not fit the network of plans\.json"):
        find_planned(copy).load(device=CPU)
    metadata = read(copy / "configs" / "metadata.json")
    metadata["network_data_format"]["outputs"]["pred"]["label_values"][3] = 2
    (copy / "configs" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ConfigError, match="a number for each of the 37 classes, got 36"):
        _ = find_planned(copy).label_names
    plans = read(copy / "configs" / "plans.json")
    (copy / "configs" / "plans.json").write_text(json.dumps({**plans, "configurations": {}}))
    with pytest.raises(ConfigError, match="expected one configuration, got none"):
        find_planned(copy)
    with pytest.raises(ConfigError, match=r"expected a bundle with configs/plans\.json"):
        find_planned(tmp_path)


def test_the_command_writes_labels_volumes_and_probabilities(small, tmp_path) -> None:
    volume = head((44, 36, 30))
    write_nifti(volume, tmp_path / "mr.nii.gz")
    store = tmp_path / "p.zarr"
    given = {"model": small, "trust": False, "fast": True, "device": "cpu", "n_threads": 1}
    table, flagged = segment_file(
        tmp_path / "mr.nii.gz", tmp_path / "l.nii.gz", probabilities=store, **given
    )
    assert [check.name for check in flagged] == ["image_labelled_share"]  # it paints all
    first, *rows = (line.split("\t") for line in table.read_text().splitlines())
    assert first == ["label", "structure", "volume_ml", "n_voxels", "entropy"]
    assert [row[:2] for row in rows] == [[str(c.label), c.name] for c in CLASSES[1:]]
    labels = np.asarray(nib.load(tmp_path / "l.nii.gz").dataobj)
    assert sum(int(row[3]) for row in rows) == (labels > 0).sum()
    assert read(store / ".zarray")["shape"] == [37, 44, 36, 30]
    assert read(store / ".zattrs")["classes"] == [item.name for item in CLASSES]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "l.nii.gz", "l.tsv", "mr.nii.gz", "p.zarr",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"expected a new folder for probabilities, got <p\.z"):
        segment_file(tmp_path / "mr.nii.gz", tmp_path / "l.nii.gz", probabilities=store, **given)


def test_nothing_is_labelled_outside_the_mask_of_a_skull_stripped_head(refined) -> None:
    """Part of it is normalised in place on the way, so that outside it has two values."""
    volume = head()
    values = array_of(volume)[0]
    outside = np.ones(values.shape, bool)
    outside[10:50, 12:60, 9:48] = False
    values = np.where(outside, 0, 50 + 5 * values).astype(np.float32)
    masked = make_volume(values, affine_of(volume), modality="MR", units="arbitrary")
    labels = array_of(find_model(refined).load(device=CPU).segment([masked]))[0]
    assert not labels[outside].any()
    assert (labels[~outside] > 0).mean() > 0.5


def test_a_mirrored_head_has_mirrored_labels_of_the_other_side(small, sided) -> None:
    """One window, so that it and its mirror image lie alike."""
    other = {item.label: item.label for item in CLASSES}
    numbers = {item.name: item.label for item in CLASSES}
    for name, label in numbers.items():
        side, _, rest = name.partition(" ")
        if side in ("left", "right"):
            other[label] = numbers[{"left": "right", "right": "left"}[side] + " " + rest]
    volume = head((30, 32, 44), np.diag([2.0, 2.0, 2.0, 1.0]))
    mirrored = make_volume(
        volume.as_tensor().flip(1), affine_of(volume), modality="MR", units="arbitrary"
    )
    equal = []
    for folder in (small, sided):
        model = find_model(folder).load(device=CPU)
        straight, turned = (array_of(model.segment([v]))[0] for v in (volume, mirrored))
        assert len(np.unique(straight)) > 20
        expected = np.vectorize(other.get)(straight[::-1])
        equal.append((turned == expected).mean())
    assert equal[0] < 0.5 < 0.99 < equal[1]  # the rest are ties in half precision


def test_the_network_is_compiled_where_that_is_asked_for(small, monkeypatch) -> None:
    compiled = []

    def compile_(network):
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", compile_)
    find_planned(small).load(device=CPU)
    assert not compiled
    find_planned(small, NnunetOptions(compiled=True)).load(device=CPU)
    assert len(compiled) == 1


@pytest.mark.slow
@pytest.mark.skipif(not has_weights(), reason="the bundle has no weights here")
def test_the_weights_here_label_a_head_of_one_millimetre() -> None:
    """A phantom of the generator; fractions of a head that any usable network finds."""
    from radloom.transforms.synthesis.phantom import make_head, render_mr

    made = make_head(torch.Generator().manual_seed(1), spacing_mm=1.0)
    picture = render_mr(made, "t1", generator=torch.Generator().manual_seed(2))
    labels = array_of(find_model(OWN).load(device=CPU).segment([picture], n_threads=2))[0]
    true = array_of(made.labels)[0]
    inside = mask_of(labels, "intracranial"), (true > 0) & (true < 500)
    assert 2 * (inside[0] & inside[1]).sum() / (inside[0].sum() + inside[1].sum()) > 0.85
