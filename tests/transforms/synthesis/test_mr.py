from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch

from radloom.transforms.synthesis.mr import (
    CONTRASTS,
    MRParameters,
    MRRecipe,
    draw_mr,
    render_mr_signal,
)
from radloom.transforms.synthesis.parameters import from_plain, to_plain
from radloom.transforms.synthesis.tissues import CODES, Code


@dataclass(frozen=True)
class Spot:
    kind: str = "tumour"
    t1_ms: float = 1600.0
    t2_ms: float = 140.0
    density: float = 0.9
    texture: float = 0.05


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(name: str, n: int = 60) -> list[MRParameters]:
    return [draw_mr(generator(seed), CONTRASTS[name]) for seed in range(n)]


def codes() -> torch.Tensor:
    """A block of each structure, 6 voxels wide."""
    line = torch.arange(CODES).repeat_interleave(6)
    return line[None, None, :].expand(24, 24, -1).to(torch.uint8).contiguous()


PLAIN = {"texture_gain": (0.0, 0.0), "gradient": (0.0, 0.0)}


@pytest.mark.parametrize("name", CONTRASTS)
def test_parameters_come_back_from_json(name):
    drawn = draw_mr(generator(), CONTRASTS[name], [Spot(), Spot("cyst")])
    assert from_plain(MRParameters, json.loads(json.dumps(to_plain(drawn)))) == drawn
    assert len(drawn.means) == len(drawn.deviations) == len(drawn.gradients) == CODES
    assert len(drawn.anomaly_means) == len(drawn.anomaly_deviations) == 2


def test_recipes_come_back_from_json():
    recipe = MRRecipe(protocols=("flair",))
    assert from_plain(MRRecipe, json.loads(json.dumps(to_plain(recipe)))) == recipe


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("t1", (Code.FAT, Code.WHITE, Code.CORTEX, Code.CSF)),
        ("t2", (Code.CSF, Code.CORTEX, Code.WHITE, Code.MUSCLE, Code.BONE)),
        ("flair", (Code.LESION, Code.CORTEX, Code.CSF)),
        ("flair", (Code.LESION, Code.WHITE, Code.CSF)),
        ("pd", (Code.CORTEX, Code.WHITE, Code.BONE)),
        ("t2star", (Code.CORTEX, Code.PALLIDUM)),
        ("stir", (Code.CORTEX, Code.FAT)),
        ("double_inversion", (Code.CORTEX, Code.WHITE)),
        ("balanced", (Code.CSF, Code.WHITE)),
    ],
)
def test_tissues_are_as_bright_as_readers_expect(name, order):
    levels = [[drawn.means[code] for code in order] for drawn in draws(name)]
    assert sum(level == sorted(level, reverse=True) for level in levels) >= 0.95 * len(levels)


def test_cortex_is_a_little_brighter_than_white_matter_on_flair():
    ratios = [d.means[Code.CORTEX] / d.means[Code.WHITE] for d in draws("flair")]
    assert 1.05 < sorted(ratios)[30] < 1.4
    assert min(ratios) > 0.85


def test_fat_suppression_takes_fat_and_leaves_brain():
    for drawn in draws("t2_fat_suppressed"):
        assert drawn.fat_suppression > 0
        assert drawn.means[Code.FAT] < 0.65 * drawn.means[Code.WHITE]


def test_agent_brightens_what_has_blood_and_not_the_brain():
    recipe = replace(CONTRASTS["t1"], **PLAIN)
    for seed in range(40):
        plain = draw_mr(generator(seed), recipe)
        with_agent = draw_mr(generator(seed), replace(recipe, agent_probability=1.0))
        assert with_agent.agent_mm > 0
        gain = [b / a if a else 1.0 for a, b in zip(plain.means, with_agent.means, strict=True)]
        assert gain[Code.SINUS] > 1.2 * gain[Code.WHITE]
        assert gain[Code.MUCOSA] > 1.2 * gain[Code.WHITE]


def test_every_contrast_is_scaled_to_its_brightest_tissue():
    for name in CONTRASTS:
        for drawn in draws(name, 10):
            assert all(0 <= mean < 30 for mean in drawn.means)
            assert any(mean == pytest.approx(1) for mean in drawn.means)


def test_random_intensities_spread_and_air_is_mostly_black():
    drawn = draws("random", 200)
    black = sum(d.means[Code.AIR] == 0 for d in drawn)
    assert 160 < black < 199
    brighter = sum(d.means[Code.WHITE] > d.means[Code.CORTEX] for d in drawn)
    assert 70 < brighter < 130
    assert all(d.means[Code.AIR] == d.means[Code.CAVITY] for d in drawn)


def test_render_without_texture_is_the_means():
    drawn = draw_mr(generator(), replace(CONTRASTS["t1"], **PLAIN))
    signal = render_mr_signal(codes(), drawn)
    assert signal.shape == codes().shape
    assert signal.dtype == torch.float32
    assert torch.equal(signal, torch.tensor(drawn.means)[codes().int()])


def test_texture_has_the_deviation_drawn():
    drawn = draw_mr(generator(4), replace(CONTRASTS["t2"], gradient=(0.0, 0.0)))
    signal = render_mr_signal(torch.full((64, 64, 64), int(Code.MUSCLE)), drawn)
    assert float(signal.std()) == pytest.approx(drawn.deviations[Code.MUSCLE], rel=0.2)
    assert float(signal.mean()) == pytest.approx(drawn.means[Code.MUSCLE], rel=0.05)


def test_one_draw_gives_one_image_and_another_another():
    one, again, other = (
        render_mr_signal(codes(), draw_mr(generator(seed), MRRecipe())) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert float(one.min()) >= 0


def test_anomalies_look_as_their_relaxation_says():
    spots = [Spot(t1_ms=3500, t2_ms=1500, density=1.0), Spot(t1_ms=350, t2_ms=50)]
    for seed in range(20):
        t2 = draw_mr(generator(seed), CONTRASTS["t2"], spots)
        assert t2.anomaly_means[0] > t2.means[Code.CORTEX] > t2.anomaly_means[1]
        t1 = draw_mr(generator(seed), CONTRASTS["t1"], spots)
        assert t1.anomaly_means[1] > t1.means[Code.WHITE] > t1.anomaly_means[0]


def test_flow_darkens_blood_in_spin_echoes_and_may_brighten_it_in_gradient_echoes():
    still = {"void": (1.0, 1.0), "inflow": (1.0, 1.0)}
    for name, least, most in (("t2", 0.0, 0.36), ("t1_mprage", 0.5, 1.8), ("balanced", 0.5, 1.8)):
        for seed in range(20):
            recipe = CONTRASTS[name]
            flowing = draw_mr(generator(seed), recipe).means
            standing = draw_mr(generator(seed), replace(recipe, **still)).means
            arterial, white = (flowing[code] / standing[code] for code in (Code.ARTERY, Code.WHITE))
            assert least <= arterial / white <= most


def test_anomalies_take_up_agent_by_their_kind():
    recipe = replace(CONTRASTS["t1ce"], enhancing_probability=0.0)
    plain = replace(recipe, agent_probability=0.0)
    spots = [Spot("rim"), Spot("tumour")]
    for seed in range(20):
        before = draw_mr(generator(seed), plain, spots).anomaly_means
        after = draw_mr(generator(seed), recipe, spots).anomaly_means
        assert after[0] / after[1] > 1.05 * before[0] / before[1]
