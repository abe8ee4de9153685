from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from radloom.errors import ConfigError
from radloom.transforms.synthesis.anatomy import (
    Anatomy,
    anatomy_of_labels,
    anatomy_of_phantom,
    code_of,
)
from radloom.transforms.synthesis.anomalies import AnomalyRecipe
from radloom.transforms.synthesis.artefacts import MRAcquisitionParameters
from radloom.transforms.synthesis.ct import HU_LIMITS
from radloom.transforms.synthesis.parameters import from_plain, to_plain
from radloom.transforms.synthesis.phantom import make_head
from radloom.transforms.synthesis.sample import (
    TENSORS,
    GridRecipe,
    PairParameters,
    PairRecipe,
    SampleParameters,
    SampleRecipe,
    draw_grid,
    draw_pair,
    draw_sample,
    render_batch,
    render_pair,
    render_sample,
)
from radloom.transforms.synthesis.tissues import LABEL_NAMES, Code

RECIPE = SampleRecipe(grid=GridRecipe((56, 64, 60), (3.0, 3.0), offset=0.3))
N_DRAWS = 8


@pytest.fixture(scope="module")
def head() -> Anatomy:
    phantom = make_head(torch.Generator().manual_seed(4), spacing_mm=3.0)
    return anatomy_of_phantom("phantom", phantom)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def samples(head):
    drawn = [draw_sample(head, RECIPE, generator(seed)) for seed in range(N_DRAWS)]
    return [(p, render_sample(head, p)) for p in drawn]


def test_every_tensor_is_on_the_grid(samples):
    for _, sample in samples:
        assert set(sample) == set(TENSORS)
        assert {tuple(t.shape) for t in sample.values()} == {(1, *RECIPE.grid.shape)}
        assert all(torch.isfinite(t.float()).all() for t in sample.values())
        assert sample["label"].dtype == torch.int16
        assert sample["anomaly"].dtype == sample["structures"].dtype == torch.uint8


def test_labels_stay_in_the_table(samples):
    for _, sample in samples:
        assert set(sample["label"].unique().tolist()) <= set(LABEL_NAMES)
        assert (sample["label"] > 0).float().mean() > 0.05


def test_hu_stay_within_bounds_and_bone_is_bone(samples):
    for parameters, sample in samples:
        hu = sample["ct_hu"]
        assert HU_LIMITS[0] <= float(hu.min()) <= float(hu.max()) <= HU_LIMITS[1]
        codes = code_of(sample["structures"])
        untouched = sample["anomaly"] == 0
        assert hu[(codes == Code.BONE) & untouched].median() > 250, parameters.ct
        assert hu[(codes == Code.WHITE) & untouched].median() < 90


def test_noise_is_what_sigma_says(head):
    """Where signal is far above noise, round the root of the mean square of the magnitude."""
    seen = 0
    for seed in range(12):
        drawn = draw_sample(head, RECIPE, generator(seed))
        noise = drawn.mr_acquisition.noise
        if noise is None:
            continue
        drawn = replace(drawn, mr_acquisition=MRAcquisitionParameters(noise=noise))
        sample = render_sample(head, drawn, ("image", "clean", "sigma"))
        bright = (sample["clean"] > 6 * sample["sigma"]) & (sample["sigma"] > 0)
        if int(bright.sum()) < 3000:
            continue
        clean, sigma = sample["clean"][bright], sample["sigma"][bright]
        expected = (clean**2 + (2 * noise.n_coils - 1) * sigma**2).sqrt()
        error = (sample["image"][bright] - expected) / sigma
        assert 0.9 < float(error.square().mean().sqrt()) < 1.1, noise
        seen += 1
    assert seen >= 3


def test_the_same_draw_gives_the_same_bytes(head, samples):
    for seed in (0, 5):
        again = draw_sample(head, RECIPE, generator(seed))
        parameters, sample = samples[seed]
        assert again == parameters
        for name, tensor in render_sample(head, again).items():
            assert torch.equal(tensor, sample[name]), name


def test_parameters_go_through_json(head, samples):
    for parameters, sample in samples[:4]:
        back = from_plain(SampleParameters, json.loads(json.dumps(to_plain(parameters))))
        assert back == parameters
        assert torch.equal(render_sample(head, back, ("image",))["image"], sample["image"])


def test_what_is_wanted_does_not_change_what_comes(head, samples):
    parameters, sample = samples[2]
    for name in TENSORS:
        alone = render_sample(head, parameters, (name,))
        assert set(alone) == {name}
        assert torch.equal(alone[name], sample[name]), name


def test_a_batch_is_one_by_one(head, samples):
    batch = render_batch([head] * 3, [p for p, _ in samples[:3]], ("image", "ct", "label"))
    for number in range(3):
        for name, tensor in batch.items():
            assert torch.equal(tensor[number], samples[number][1][name])


def test_render_leaves_the_anatomy_alone(head):
    before = head.structures.clone()
    render_sample(head, draw_sample(head, RECIPE, generator(1)))
    assert torch.equal(before, head.structures)


def test_a_flip_keeps_left_on_the_left(head):
    recipe = replace(RECIPE, deformation=replace(RECIPE.deformation, rotation_degrees=(0, 0)))
    seen = set()
    for seed in range(8):
        drawn = draw_sample(head, recipe, generator(seed))
        labels = render_sample(head, drawn, ("label",))["label"][0]
        left, right = ((labels == v).nonzero()[:, 0].float().mean() for v in (2, 41))
        assert left < right  # RAS+: x grows to the right
        seen.add(drawn.deformation.flip)
    assert seen == {True, False}


def test_anomalies_are_seen_in_both_modalities(head):
    recipe = replace(RECIPE, anomalies=AnomalyRecipe(probability=1, radius_mm=(6, 10)))
    drawn = draw_sample(head, recipe, generator(3))
    with_them = render_sample(head, drawn, ("clean", "ct_hu", "anomaly"))
    mr, ct = (
        replace(part, anomaly_means=(), anomaly_deviations=()) for part in (drawn.mr, drawn.ct)
    )
    bare = replace(drawn, anomalies=(), mr=mr, ct=ct)
    without = render_sample(head, bare, ("clean", "ct_hu"))
    there = with_them["anomaly"] > 0
    assert there.any()
    for name in ("clean", "ct_hu"):
        apart = (with_them[name] - without[name]).abs()
        assert apart[there].mean() > 20 * apart[~there].mean()


def test_a_pair_comes_together_by_its_displacement(head):
    for seed in range(3):
        drawn = draw_pair(head, PairRecipe(sample=RECIPE), generator(seed))
        assert from_plain(PairParameters, json.loads(json.dumps(to_plain(drawn)))) == drawn
        pair = render_pair(head, drawn, ("image", "label"))
        before = dice(pair["fixed_label"], pair["moving_label"])
        warped = pulled(pair["moving_label"].float(), pair["displacement_mm"], drawn)
        assert dice(pair["fixed_label"], warped) > max(0.65, before + 0.2)
        back = pulled(pair["fixed_label"].float(), pair["inverse_mm"], drawn)
        assert dice(pair["moving_label"], back) > 0.65
        for first, second in ((pair["fixed_label"], warped), (pair["moving_label"], back)):
            a, b = ((t > 0) & (t < 100) for t in (first, second))
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.92


def pulled(volume: torch.Tensor, displacement_mm: torch.Tensor, drawn: PairParameters):
    """`volume` at x + displacement(x), nearest, by SciPy."""
    from scipy import ndimage

    spacing = np.array(drawn.fixed.grid.spacing_mm)[:, None, None, None]
    index = np.indices(volume.shape[1:]) + displacement_mm.numpy() / spacing
    return torch.from_numpy(ndimage.map_coordinates(volume[0].numpy(), index, order=0))[None]


def dice(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean over large structures; two samplings to the nearest voxel of 3 mm cost a quarter."""
    scores = []
    for label in (2, 41, 3, 42, 8, 47, 16):
        a, b = first == label, second == label
        if int(a.sum()) > 100:
            scores.append(float(2 * (a & b).sum() / (a.sum() + b.sum())))
    return float(np.mean(scores))


def test_grids_lie_in_the_head_and_may_have_thick_slices(head):
    recipe = GridRecipe((32, 32, 32), (1.0, 2.0), slice_probability=0.5, slice_mm=(4, 6))
    grids = [draw_grid(generator(seed), recipe, head) for seed in range(40)]
    thick = [max(g.spacing_mm) / min(g.spacing_mm) > 1.9 for g in grids]
    assert 8 < sum(thick) < 32
    assert {int(np.argmax(g.spacing_mm)) for g, t in zip(grids, thick, strict=True) if t} == {
        0,
        1,
        2,
    }
    half = np.array(head.grid.shape) * head.spacing_mm / 2
    for grid in grids:
        reach = np.abs(grid.centre_mm) + np.array(grid.shape) * grid.spacing_mm / 2
        assert (reach <= np.maximum(half, np.array(grid.shape) * grid.spacing_mm / 2) + 1e-6).all()


def test_larger_voxels_are_averages(head):
    """Not samples: the mean over a thick slice is the thick slice."""
    drawn = replace(
        draw_sample(head, RECIPE, generator(0)),
        anomalies=(),
        mr_acquisition=MRAcquisitionParameters(),
    )
    fine = replace(drawn, grid=replace(drawn.grid, spacing_mm=(3.0, 3.0, 3.0), shape=(40, 40, 40)))
    thick = replace(drawn, grid=replace(fine.grid, spacing_mm=(3.0, 3.0, 12.0), shape=(40, 40, 10)))
    mr = replace(drawn.mr, anomaly_means=(), anomaly_deviations=())
    one, four = (
        render_sample(head, replace(p, mr=mr), ("clean",))["clean"][0] for p in (thick, fine)
    )
    mean = four.unflatten(2, (10, 4)).mean(-1)
    sampled = four[:, :, 1::4]
    assert (one - mean).abs().mean() < 0.8 * (sampled - mean).abs().mean()


def test_wrong_anatomy_and_unknown_names_are_errors(head, samples):
    with pytest.raises(ConfigError, match="the anatomy 'phantom'"):
        render_sample(replace(head, name="other"), samples[0][0])
    with pytest.raises(ConfigError, match="got hounsfield"):
        render_sample(head, samples[0][0], ("hounsfield",))


@pytest.mark.gpu
def test_a_gpu_renders_the_same_head(head):
    """The shape is drawn on the CPU for both; noise is the device's own."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    drawn = draw_sample(head, RECIPE, generator(2))
    there = head.to("cuda")
    once, twice = (render_sample(there, drawn) for _ in range(2))
    for name, tensor in once.items():
        assert tensor.device.type == "cuda"
        assert torch.equal(tensor, twice[name]), name
    here = render_sample(head, drawn, ("label", "ct_hu"))
    assert (once["label"].cpu() == here["label"]).float().mean() > 0.999
    assert (once["ct_hu"].cpu() - here["ct_hu"]).abs().median() < 5


@pytest.mark.slow
@pytest.mark.real_data
def test_a_real_map_at_1_mm(real_data):
    import nibabel as nib

    image = nib.load(real_data / "anatomy" / "train" / "anatomy_03.nii.gz")
    labels = np.asarray(image.dataobj).astype(np.int16)
    anatomy = anatomy_of_labels("anatomy_03", labels, image.affine)
    recipe = SampleRecipe(grid=GridRecipe((192, 192, 192)))
    sample = render_sample(anatomy, draw_sample(anatomy, recipe, generator(2)))
    assert set(sample["label"].unique().tolist()) <= set(LABEL_NAMES)
    assert sample["image"].isfinite().all()
    assert float(sample["ct_hu"].max()) > 700
