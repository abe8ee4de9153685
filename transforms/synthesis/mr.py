"""MR of any contrast: what each structure of a head looks like, drawn, and laid over its voxels.

Two ways to a contrast: by physics, from T1, T2, T2* and density under a protocol that is drawn with
its timing, field strength, fat suppression, contrast agent and flow; or at random, a number for
each tissue, which teaches a network to rely on no contrast (Billot et al. 2023,
doi:10.1016/j.media.2023.102789; Hoffmann et al. 2022, doi:10.1109/TMI.2021.3116879).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import torch

from radloom.transforms.synthesis.composition import Composition, mixed, partner_values, spread
from radloom.transforms.synthesis.contrast import MRSequence, mr_signal
from radloom.transforms.synthesis.draws import (
    Range,
    chance,
    choose,
    log_uniform,
    normal,
    seed,
    uniform,
)
from radloom.transforms.synthesis.fields import smooth_noise
from radloom.transforms.synthesis.protocols import GRADIENT_ECHOES, draw_sequence
from radloom.transforms.synthesis.relaxation import FIELDS_T, KIN, TISSUES_MR, relaxation_of
from radloom.transforms.synthesis.texture import (
    TextureParameters,
    TextureRecipe,
    draw_texture,
    texture_field,
)
from radloom.transforms.synthesis.tissues import CODES, STRUCTURES, Code, Relaxation

__all__ = [
    "CONTRASTS",
    "MRParameters",
    "MRRecipe",
    "MRTissue",
    "draw_mr",
    "render_mr_signal",
]


class MRTissue(Protocol):
    """What MR needs of an anomaly."""

    @property
    def kind(self) -> str:
        """What it is."""

    @property
    def t1_ms(self) -> float:
        """T1 at 3 T."""

    @property
    def t2_ms(self) -> float:
        """T2."""

    @property
    def density(self) -> float:
        """Protons that give signal, relative to water."""

    @property
    def texture(self) -> float:
        """Deviation of the signal within it, relative to its mean."""


@dataclass(frozen=True)
class MRRecipe:
    """What a contrast is drawn from."""

    physics_probability: float = 0.6
    """Of a contrast by physics; else at random."""
    protocols: tuple[str, ...] = (
        "t1_spin_echo",
        "t1_mprage",
        "t1_mprage",
        "t1_spoiled",
        "t1_spoiled_2d",
        "t1_inversion_recovery",
        "pd_spin_echo",
        "pd_spoiled",
        "t2_spin_echo",
        "t2_spin_echo",
        "t2_balanced",
        "flair",
        "flair",
        "stir",
        "double_inversion",
        "t2star",
        "susceptibility",
    )
    """Names of `PROTOCOLS`; one that stands twice comes twice as often."""
    fields_t: tuple[float, ...] = FIELDS_T
    relaxation_deviation: float = 0.04
    """Of the logarithm of a tissue's T1 and T2 round its table value; half as much in the brain,
    whose tissues go together, 0.3 times in water; of the density 0.4 times."""
    magnetisation_transfer: Range = (0.1, 0.3)
    """Share of white matter's T1 that the sequence does not see, half of it in cortex: T1 of white
    matter at 3 T is read as 0.6 to 1.1 s (Asslaender 2024, arXiv:2409.05318)."""
    grey_t2_loss: Range = (0.0, 0.15)
    """Share by which T2 of grey matter is shorter than its table value, which Stanisz measured on
    tissue; in heads it is read down to 0.23 (Cox and Gowland 2010, doi:10.1002/mrm.22522)."""
    fat_suppression_probability: float = 0.15
    fat_suppression: Range = (0.7, 1.0)
    """Share of the fat's signal that goes."""
    agent_probability: float = 0.15
    """Of contrast agent, in T1-weighted protocols."""
    agent_mm: Range = (0.3, 1.0)
    """Contrast agent in blood, mmol/l."""
    enhancing_probability: float = 0.4
    """Of a tumour or lesion to take up agent where there is some; a tumour's rim always does."""
    void: Range = (0.0, 0.35)
    """Signal left of arterial blood in spin echoes; venous blood up to 0.6 of it."""
    inflow: Range = (0.5, 1.8)
    """Gain of arterial blood in gradient echoes and balanced states."""
    related_probability: float = 0.6
    """At random: of related structures looking alike."""
    related_deviation: Range = (0.02, 0.12)
    """At random: how far related structures lie apart, of the full range."""
    bright_air_probability: float = 0.1
    """At random: of air that is not black."""
    texture: TextureRecipe = field(default_factory=TextureRecipe)
    texture_gain: Range = (0.5, 2.0)
    """Of the texture's deviation in `tissues`; zeros: none."""
    gradient: Range = (0.0, 0.06)
    """Deviation of the slow change within a tissue, relative to its mean."""
    gradient_mm: Range = (30.0, 70.0)
    """Distance of its knots."""


@dataclass(frozen=True)
class MRParameters:
    """One drawn contrast; tuples over structures are indexed by `Code`."""

    protocol: str
    """A name of `PROTOCOLS`, or random."""
    means: tuple[float, ...]
    """Signal of each structure; about 1 is the brightest common tissue."""
    deviations: tuple[float, ...]
    """Of the texture within each structure."""
    gradients: tuple[float, ...]
    """Deviation of the slow change within each structure."""
    anomaly_means: tuple[float, ...]
    """In the order of the anomalies."""
    anomaly_deviations: tuple[float, ...]
    texture: TextureParameters
    gradient_seed: int
    gradient_mm: float
    sequence: MRSequence | None = None
    """Its timing; None at random."""
    field_t: float = 0.0
    """Field strength; 0 at random."""
    fat_suppression: float = 0.0
    """Share of the fat's signal that is gone."""
    agent_mm: float = 0.0
    """Contrast agent in blood, mmol/l."""


def draw_mr(
    generator: torch.Generator, recipe: MRRecipe, anomalies: Sequence[MRTissue] = ()
) -> MRParameters:
    """A contrast for one head and its anomalies.

    Example:
        >>> t1 = draw_mr(torch.Generator().manual_seed(0), CONTRASTS["t1"])
        >>> t1.means[Code.WHITE] > t1.means[Code.CORTEX] > t1.means[Code.CSF]
        True
    """
    if chance(generator, recipe.physics_probability):
        look = _draw_physics(generator, recipe, anomalies)
    else:
        look = _draw_random(generator, recipe, anomalies)
    scale = 1 / _brightest(look.means)
    means = tuple(scale * mean for mean in look.means)
    anomaly_means = tuple(scale * mean for mean in look.anomaly_means)
    gain = uniform(generator, recipe.texture_gain)
    slow = uniform(generator, recipe.gradient)
    return MRParameters(
        protocol=look.protocol,
        means=means,
        deviations=tuple(
            gain * mean * structure.tissue.texture
            for mean, structure in zip(means, STRUCTURES, strict=True)
        ),
        gradients=tuple(slow * mean for mean in means),
        anomaly_means=anomaly_means,
        anomaly_deviations=tuple(
            gain * mean * anomaly.texture
            for mean, anomaly in zip(anomaly_means, anomalies, strict=True)
        ),
        texture=draw_texture(generator, recipe.texture),
        gradient_seed=seed(generator),
        gradient_mm=log_uniform(generator, recipe.gradient_mm),
        sequence=look.sequence,
        field_t=look.field_t,
        fat_suppression=look.fat_suppression,
        agent_mm=look.agent_mm,
    )


def render_mr_signal(
    codes: torch.Tensor,
    parameters: MRParameters,
    composition: Composition | None = None,
    *,
    spacing_mm: float = 1.0,
) -> torch.Tensor:
    """(I, J, K) float32 signal, before any scanner: 0 for none, about 1 for the brightest tissue.

    Args:
        codes: (I, J, K) integers, `Code` of each voxel, without the side.
        parameters: the contrast.
        composition: of the same voxels; None: each voxel is its structure alone.
        spacing_mm: of the voxels.
    """
    shape = (codes.shape[0], codes.shape[1], codes.shape[2])
    signal = mixed(codes, parameters.means, _partner_gains(parameters.means), composition)
    if any(parameters.deviations):
        texture = texture_field(shape, parameters.texture, codes.device, spacing_mm=spacing_mm)
        signal.addcmul_(spread(codes, parameters.deviations), texture)
    if any(parameters.gradients):
        knots = (parameters.gradient_mm / spacing_mm,) * 3
        slow = smooth_noise(shape, knots, parameters.gradient_seed, codes.device)
        signal.addcmul_(spread(codes, parameters.gradients), slow[0])
    return signal.clamp_min_(0)


def _partner_gains(means: Sequence[float]) -> list[float]:
    """What each structure gains where it is its partner; fat in marrow lies between trabeculae."""
    partners = partner_values(means)
    partners[Code.MARROW] *= _FATTY_MARROW
    return [partner - mean for partner, mean in zip(partners, means, strict=True)]


@dataclass(frozen=True)
class _Look:
    """Means before scaling, and how they came about."""

    protocol: str
    means: tuple[float, ...]
    anomaly_means: tuple[float, ...]
    sequence: MRSequence | None = None
    field_t: float = 0.0
    fat_suppression: float = 0.0
    agent_mm: float = 0.0


_FATTY_MARROW = 0.7
"""Signal of fatty marrow relative to fat; set."""
_R1_AGENT = 4.9
"""Relaxivities of gadobutrol in plasma, l/(mmol s); Szomolanyi et al. 2019,
doi:10.1097/RLI.0000000000000577."""
_R2_AGENT = 6.0
"""Set."""
_WATER_T1_MS = 4300.0
_INFLOW_KINDS = GRADIENT_ECHOES | {"balanced"}
"""Kinds that show fresh blood bright; the others lose blood that flows on before its echo."""
_WATER = {Code.CSF, Code.VITREOUS} | {code for code, kin in KIN.items() if kin == Code.CSF}
_LOOSE = tuple(
    0.3 if code in _WATER else 0.5 if TISSUES_MR[code].solid > 0 else 1.0 for code in Code
)
"""How much a tissue differs between subjects, relative to the most."""
_ALWAYS_ENHANCING = ("rim", "vessel")
_ENHANCING = ("tumour", "lesion", "any")
"""Kinds of anomaly that may take up agent."""


def _draw_physics(
    generator: torch.Generator, recipe: MRRecipe, anomalies: Sequence[MRTissue]
) -> _Look:
    protocol, field_t = choose(generator, recipe.protocols), choose(generator, recipe.fields_t)
    sequence = draw_sequence(generator, protocol, field_t)
    gradient_echo = sequence.kind in GRADIENT_ECHOES
    suppression = uniform(generator, recipe.fat_suppression)
    if not chance(generator, recipe.fat_suppression_probability) or protocol == "stir":
        suppression = 0.0
    agent = uniform(generator, recipe.agent_mm)
    if not chance(generator, recipe.agent_probability) or not protocol.startswith("t1"):
        agent = 0.0
    flow = _draw_flow(generator, recipe, spin_echo=sequence.kind not in _INFLOW_KINDS)

    body = _draw_body(generator, recipe, field_t, gradient_echo=gradient_echo)
    means = tuple(
        flow.get(code, 1.0)
        * (1 - suppression * tissue.fat)
        * mr_signal(_enhanced(body[code], agent * tissue.uptake), sequence)
        for code, tissue in zip(Code, TISSUES_MR, strict=True)
    )
    anomaly_means = tuple(
        mr_signal(
            _enhanced(
                _anomalous(anomaly, field_t),
                agent * _takes_up(generator, recipe, anomaly),
            ),
            sequence,
        )
        for anomaly in anomalies
    )
    return _Look(protocol, means, anomaly_means, sequence, field_t, suppression, agent)


def _draw_body(
    generator: torch.Generator, recipe: MRRecipe, field_t: float, *, gradient_echo: bool
) -> tuple[Relaxation, ...]:
    """The tissues of one subject; kin vary together, and a little apart."""
    deviation = recipe.relaxation_deviation
    t1_of_all = normal(generator, deviation / 2)
    unseen = uniform(generator, recipe.magnetisation_transfer)
    grey_loss = uniform(generator, recipe.grey_t2_loss)
    own = {code: [normal(generator, deviation * _LOOSE[code]) for _ in range(3)] for code in Code}
    body = []
    for code in Code:
        kin = KIN.get(code, code)
        t1, t2, density = (
            math.exp(shared + (0.2 * apart if kin != code else 0.0))
            for shared, apart in zip(own[kin], own[code], strict=True)
        )
        values = relaxation_of(code, field_t, gradient_echo=gradient_echo)
        t1 *= math.exp(t1_of_all * (code not in _WATER)) * (1 - unseen * TISSUES_MR[code].solid)
        t2 *= 1 - grey_loss * _greyness(code)
        body.append(Relaxation(values.t1_ms * t1, values.t2_ms * t2, values.density * density**0.4))
    return tuple(body)


def _greyness(code: Code) -> float:
    """1 in cortex, 0 in white matter and outside the brain."""
    solid = TISSUES_MR[code].solid
    return 2 * (1 - solid) if solid > 0 else 0.0


def _draw_flow(
    generator: torch.Generator, recipe: MRRecipe, *, spin_echo: bool
) -> Mapping[Code, float]:
    """What flow makes of the signal of blood."""
    void, inflow = uniform(generator, recipe.void), uniform(generator, recipe.inflow)
    venous = uniform(generator, (recipe.void[0], 0.6) if spin_echo else (0.6, 1.3))
    arterial = void if spin_echo else inflow
    return {Code.ARTERY: arterial, Code.VESSEL: arterial, Code.SINUS: venous}


def _anomalous(anomaly: MRTissue, field_t: float) -> Relaxation:
    """An anomaly's tissue; as all tissue but water it relaxes faster at the lower field."""
    shorter = 0.0 if field_t == FIELDS_T[1] else 0.17 * max(0.0, 1 - anomaly.t1_ms / _WATER_T1_MS)
    return Relaxation(anomaly.t1_ms * (1 - shorter), anomaly.t2_ms, anomaly.density)


def _takes_up(generator: torch.Generator, recipe: MRRecipe, anomaly: MRTissue) -> float:
    """Agent in an anomaly, relative to blood."""
    some = chance(generator, recipe.enhancing_probability) and anomaly.kind in _ENHANCING
    return uniform(generator, (0.3, 1.0)) * (some or anomaly.kind in _ALWAYS_ENHANCING)


def _enhanced(tissue: Relaxation, agent_mm: float) -> Relaxation:
    t1_rate = 1 / tissue.t1_ms + agent_mm * _R1_AGENT / 1000
    t2_rate = 1 / tissue.t2_ms + agent_mm * _R2_AGENT / 1000
    return Relaxation(1 / t1_rate, 1 / t2_rate, tissue.density)


_RELATED: tuple[tuple[Code, ...], ...] = (
    (Code.AIR, Code.CAVITY),
    (Code.BONE, Code.TOOTH, Code.DURA),
    (Code.SKIN, Code.FAT, Code.MARROW),
    (Code.MUSCLE, Code.EYE_MUSCLE, Code.GLAND, Code.DISC, Code.SCLERA, Code.LENS),
    (Code.MUCOSA, Code.CHOROID, Code.TEMPORAL_CHOROID),
    (Code.ARTERY, Code.VESSEL, Code.SINUS),
    (
        Code.CSF,
        Code.VITREOUS,
        Code.VENTRICLE,
        Code.TEMPORAL_HORN,
        Code.THIRD_VENTRICLE,
        Code.FOURTH_VENTRICLE,
        Code.FIFTH_VENTRICLE,
    ),
    (
        Code.CORTEX,
        Code.CEREBELLAR_CORTEX,
        Code.HIPPOCAMPUS,
        Code.AMYGDALA,
        Code.CAUDATE,
        Code.ACCUMBENS,
        Code.PUTAMEN,
    ),
    (Code.THALAMUS, Code.PALLIDUM, Code.VENTRAL_DC),
    (
        Code.WHITE,
        Code.CEREBELLAR_WHITE,
        Code.BRAINSTEM,
        Code.CORD,
        Code.NERVE,
        Code.OPTIC_NERVE,
        Code.CHIASM,
    ),
    (Code.LESION,),
)
"""Structures that look alike in most contrasts."""


def _draw_random(
    generator: torch.Generator, recipe: MRRecipe, anomalies: Sequence[MRTissue]
) -> _Look:
    related = chance(generator, recipe.related_probability)
    apart = uniform(generator, recipe.related_deviation)
    air = uniform(generator, (0.0, 1.0)) * chance(generator, recipe.bright_air_probability)
    means = [0.0] * CODES
    for group in _RELATED:
        centre = uniform(generator, (0.0, 1.0))
        for code in group:
            near = abs(centre + normal(generator, apart))
            means[code] = near if related else uniform(generator, (0.0, 1.0))
    means[Code.AIR] = means[Code.CAVITY] = air
    anomaly_means = tuple(uniform(generator, (0.0, 1.0)) for _ in anomalies)
    return _Look("random", tuple(means), anomaly_means)


_SHARES: Mapping[Code, float] = {
    Code.SKIN: 0.0922,
    Code.FAT: 0.1289,
    Code.MUSCLE: 0.2088,
    Code.MUCOSA: 0.0099,
    Code.BONE: 0.1141,
    Code.MARROW: 0.0241,
    Code.VITREOUS: 0.0023,
    Code.ARTERY: 0.0024,
    Code.SINUS: 0.0071,
    Code.CSF: 0.0919,
    Code.CORTEX: 0.1263,
    Code.WHITE: 0.1194,
    Code.VENTRICLE: 0.0085,
    Code.THALAMUS: 0.0036,
    Code.CAUDATE: 0.0019,
    Code.PUTAMEN: 0.0026,
    Code.HIPPOCAMPUS: 0.0018,
    Code.VENTRAL_DC: 0.0022,
    Code.BRAINSTEM: 0.0057,
    Code.CEREBELLAR_CORTEX: 0.0306,
    Code.CEREBELLAR_WHITE: 0.0073,
}
"""Of the volume of a head, the larger structures; means of three heads."""


def _brightest(means: Sequence[float]) -> float:
    """The signal that 1 % of a common head lies above; 1 where there is none."""
    brightest_first = sorted(_SHARES, key=lambda code: -means[code])
    above = 0.0
    for code in brightest_first:
        above += _SHARES[code]
        if above > 0.01:
            return means[code] or 1.0
    return 1.0


def _only(*protocols: str, agent: float = 0.0, fat_suppression: float = 0.0) -> MRRecipe:
    return MRRecipe(
        physics_probability=1.0,
        protocols=protocols,
        agent_probability=agent,
        fat_suppression_probability=fat_suppression,
    )


CONTRASTS: Mapping[str, MRRecipe] = MappingProxyType(
    {
        "t1": _only("t1_mprage", "t1_spoiled", "t1_spin_echo"),
        "t1_mprage": _only("t1_mprage"),
        "t1_spin_echo": _only("t1_spin_echo"),
        "t1ce": _only("t1_mprage", "t1_spoiled", "t1_spin_echo", agent=1.0),
        "t2": _only("t2_spin_echo", fat_suppression=0.2),
        "t2_fat_suppressed": _only("t2_spin_echo", fat_suppression=1.0),
        "flair": _only("flair", fat_suppression=0.5),
        "pd": _only("pd_spin_echo"),
        "t2star": _only("t2star", "susceptibility"),
        "stir": _only("stir"),
        "double_inversion": _only("double_inversion"),
        "balanced": _only("t2_balanced"),
        "random": MRRecipe(physics_probability=0.0),
    }
)
"""Recipes of one contrast each, by name."""
