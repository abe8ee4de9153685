"""Which role a volume plays in a study: tags of the acquisition first, words last.

A rule that is not sure gives no role; the volume is converted all the same, and the name of the
rule stands in `radloom inspect`. The ranges are those of clinical protocols at 1.5 T and 3 T, wide
where vendors differ and with gaps between, so that a sequence in a gap is left alone. Source of the
contrasts: Bernstein, King, Zhou, Handbook of MRI Pulse Sequences (2004), chapters 6, 14 and 16.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from radloom.pipelines.export.naming import ROLE_PARTS

__all__ = ["Acquisition", "Role", "entities_of_role", "role_of", "role_of_words"]


class Role(NamedTuple):
    """A role, or none, and the rule that said so."""

    role: str
    rule: str


@dataclass(frozen=True)
class Acquisition:
    """What the rules look at."""

    modality: str
    tags: Mapping[str, Any] = field(default_factory=dict)
    """By DICOM keyword; times in ms."""
    image_type: tuple[str, ...] = ()
    words: str = ""
    """Series description, or file name."""
    extent_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    is_split: bool = False
    """Whether it is an echo or a component of a series that holds several."""

    def number(self, keyword: str) -> float | None:
        """A tag as a number, its first value; None where absent."""
        value: Any = self.tags.get(keyword)
        value = value[0] if isinstance(value, list) and value else value
        try:
            return float(value) if value not in (None, "", []) else None
        except (TypeError, ValueError):
            return None

    def sequences(self) -> set[str]:
        """ScanningSequence (0018,0020): SE, IR, GR, EP, RM."""
        value = self.tags.get("ScanningSequence", [])
        return {str(v).strip().upper() for v in (value if isinstance(value, list) else [value])}


DERIVED_TYPES = {
    "ADC", "EADC", "FA", "TRACEW", "COLFA", "TENSOR", "SUBTRACTION", "SUB", "MIP", "MINIP", "MNIP",
    "PROJECTION IMAGE", "T1 MAP", "T2 MAP", "T2_STAR MAP", "PERFUSION", "RCBF", "RCBV", "CBF",
    "CBV", "MTT", "TTP", "ASL", "PHASE MAP", "P", "PHASE", "B0 MAP", "FIELD_MAP", "SWI",
}  # fmt: skip
"""Values of ImageType (0008,0008) from the third on that mean a computed map."""

NO_ROLE_WORDS = re.compile(
    r"adc|trace|(^|[^a-z])(fa|mip|minip|asl|pwi|dwi|dti|swi|swan|venbold|tof|mra|mrv|pca|epi)"
    r"([^a-z]|$)|bold|diff|perf|angio|phase|field.?map|b0.?map|b1.?map|t1.?map|t2.?map|t2.?star|"
    r"t2\*|swi|(^|[^a-z0-9])b[01]([^a-z0-9]|$)|locali[sz]er|scout|survey|(^|[^a-z])(seg|mask|label|labels|aseg|gt|lesion|dseg|"
    r"brainmask|prob|probseg)([^a-z]|$)|subtract|screen"
)
"""Words of maps, masks and sequences that no stage takes."""

WORD_ROLES = (
    ("flair", re.compile(r"flair|dark.?fluid")),
    ("t1ce", re.compile(
        r"t1.*(post|contrast|gado?|(^|[^a-z])(ce|gd|km|c\+)([^a-z]|$)|\+c)|"
        r"(post|contrast|gado?|(^|[^a-z])(ce|gd|km)([^a-z])).*t1|t1c([^a-z]|$)|t1gd|t1ce"
    )),
    ("t1", re.compile(r"t1|mp2?rage|bravo|spgr|(^|[^a-z])tfl([^a-z]|$)|(^|[^a-z])tfe([^a-z]|$)")),
    ("t2", re.compile(r"t2")),
    ("pd", re.compile(r"(^|[^a-z])pd(w|[^a-z]|$)|proton")),
    ("ct", re.compile(r"(^|[^a-z])ct([^a-z]|$)")),
    ("pet", re.compile(r"(^|[^a-z])(pet|fdg|suv)([^a-z]|$)")),
)  # fmt: skip
"""Role -> words, in the order in which they are tried."""

HEAD_WORDS = re.compile(r"head|brain|skull|neuro|cerebr|cran|kopf|schaedel|tete")
"""Words for the head in BodyPartExamined (0018,0015) and descriptions."""

OTHER_PARTS = re.compile(
    r"abdom|chest|thora|lung|pelvi|spine|knee|liver|cardi|heart|body|shoulder|ankle|wrist|elbow|"
    r"breast|prostat|kidney|pancrea|(^|[^a-z])(hip|leg|arm|foot|hand)([^a-z]|$)"
)
"""Words for the rest of the body."""

HEAD_CT_EXTENT_MM = 320.0
"""Widest field of view of a head CT; scans of the trunk start near 350 mm."""

CONTRAST_WORDS = WORD_ROLES[1][1]


def entities_of_role(role: str) -> dict[str, str]:
    """BIDS datatype, suffix and entities of a role; empty for none."""
    return dict(ROLE_PARTS.get(role, {}))


def role_of(acquisition: Acquisition) -> Role:
    """The role of one 3D volume from its tags and words.

    >>> role_of(Acquisition("MR", {"ScanningSequence": ["GR", "IR"], "RepetitionTime": 2300,
    ...                            "EchoTime": 2.9, "InversionTime": 900})).role
    't1'
    """
    words = acquisition.words.lower()
    derived = DERIVED_TYPES.intersection(acquisition.image_type[2:])
    if derived:
        return Role("", f"ImageType: {', '.join(sorted(derived))}")
    if NO_ROLE_WORDS.search(words):
        return Role("", "name: not a structural scan")
    part = str(acquisition.tags.get("BodyPartExamined", "")).lower()
    if OTHER_PARTS.search(part) and not HEAD_WORDS.search(part):
        return Role("", "BodyPartExamined: not the head")
    if acquisition.modality == "CT":
        return _ct(acquisition, f"{part} {words}")
    if acquisition.modality == "PT":
        return Role("pet", "Modality: PT")
    role = _mr(acquisition)
    if role.role == "t1" and acquisition.tags.get("ContrastBolusAgent"):
        return Role("t1ce", f"{role.rule}; ContrastBolusAgent")
    if role.role == "t1" and CONTRAST_WORDS.search(words):
        return Role("t1ce", f"{role.rule}; name: contrast agent")
    return role


def role_of_words(words: str) -> Role:
    """The role that a description or file name speaks of; none where two exclude each other.

    >>> role_of_words("study1_T2W").role, role_of_words("sub-1_T1w_mask").role
    ('t2', '')
    """
    words = words.lower()
    if NO_ROLE_WORDS.search(words):
        return Role("", "name: not a structural scan")
    for role, pattern in WORD_ROLES:
        found = pattern.search(words)
        if found:
            return Role(role, f"name: {found.group().strip('_-. ')}")
    return Role("", "nothing names a role")


def _ct(acquisition: Acquisition, words: str) -> Role:
    if HEAD_WORDS.search(words):
        return Role("ct", "Modality: CT; name or body part: head")
    if OTHER_PARTS.search(words):
        return Role("", "name or body part: not the head")
    wide = max(acquisition.extent_mm[:2])
    if 0 < wide <= HEAD_CT_EXTENT_MM:
        return Role("ct", f"Modality: CT; field of view of {wide:.0f} mm")
    return Role("", f"a field of view of {wide:.0f} mm, and nothing says head")


class _Rule(NamedTuple):
    """Ranges of TR, TE, TI in ms and flip angle in degrees; None: any."""

    role: str
    tr: tuple[float, float] | None = None
    te: tuple[float, float] | None = None
    ti: tuple[float, float] | None = None
    fa: tuple[float, float] | None = None

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether each value lies in its range."""
        return all(low <= values[name] <= high for name, (low, high) in self.ranges().items())

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Name -> range, where there is one."""
        every = {"TR": self.tr, "TE": self.te, "TI": self.ti, "FA": self.fa}
        return {name: limits for name, limits in every.items() if limits is not None}

    def text(self) -> str:
        """The rule for people."""
        return ", ".join(
            f"{name} {low:g} to {high:g}" if high < _NO_LIMIT else f"{name} from {low:g}"
            for name, (low, high) in self.ranges().items()
        )


_NO_LIMIT = 1e9

_INVERSION_RULES = (
    _Rule("flair", ti=(1500, 3500), te=(60, 700), tr=(4000, _NO_LIMIT)),
    _Rule("t1", ti=(300, 1400), te=(0, 30), tr=(3, 3500)),
)

_SPIN_ECHO_RULES = (
    _Rule("t2", te=(70, 700), tr=(2000, _NO_LIMIT)),
    _Rule("t1", te=(1, 30), tr=(100, 1100)),
    _Rule("pd", te=(1, 45), tr=(1800, _NO_LIMIT)),
)

_GRADIENT_ECHO_RULES = (
    _Rule("t1", te=(0.5, 10), tr=(3, 50), fa=(7, 90)),
    _Rule("t1", te=(0.5, 10), tr=(3, 600), fa=(45, 90)),
)


def _mr(acquisition: Acquisition) -> Role:
    sequences = acquisition.sequences()
    if "EP" in sequences:
        return Role("", "ScanningSequence: EP")
    keywords = {"TR": "RepetitionTime", "TE": "EchoTime", "TI": "InversionTime", "FA": "FlipAngle"}
    values = {name: acquisition.number(k) or 0.0 for name, k in keywords.items()}
    rules: Sequence[_Rule] = ()
    if values["TR"] and values["TE"]:
        rules = _rules(sequences, values["TI"], is_split=acquisition.is_split)
    for rule in rules:
        if rule.holds(values):
            return Role(rule.role, rule.text())
    words = role_of_words(acquisition.words)
    if words.role in ("ct", "pet"):
        return Role("", f"{words.rule}, but Modality: MR")
    return words


def _rules(sequences: set[str], ti: float, *, is_split: bool) -> Sequence[_Rule]:
    if "IR" in sequences or ti >= 300:
        return _INVERSION_RULES
    if "GR" in sequences:
        # Several gradient echoes are a field map or a T2* measurement.
        return () if is_split else _GRADIENT_ECHO_RULES
    return _SPIN_ECHO_RULES if "SE" in sequences else ()
