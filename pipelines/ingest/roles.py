"""Which role a volume plays in a study: tags of the acquisition first, words last.

The rules are data (`radloom.pipelines.ingest.rules`); this module holds an acquisition against
them. Where none holds there is no role; the volume is converted all the same, and `radloom inspect`
shows the rule behind each role, the values that it looked at, and what the name says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from radloom.pipelines.export.naming import ROLE_PARTS
from radloom.pipelines.ingest.rules import Range, RoleRules, When, builtin_rules

__all__ = ["Acquisition", "Role", "entities_of_role", "role_of", "role_of_words"]

NO_AGENT = re.compile(r"^\W*$|^(none|no|n|nil|false|0|ohne|without.*|unenhanced)$")
"""Values of ContrastBolusAgent (0018,0010) that say there was none."""


class Role(NamedTuple):
    """A role, or none, and the rule that said so."""

    role: str
    rule: str


@dataclass(frozen=True)
class Acquisition:
    """What the rules look at."""

    modality: str
    """DICOM code; empty where unknown."""
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

    def text(self, keyword: str) -> str:
        r"""A tag in lower case, several values joined by ``\``; empty where absent."""
        value = self.tags.get(keyword)
        values = value if isinstance(value, list) else [value]
        return "\\".join(str(v).strip().lower() for v in values if v is not None)

    @property
    def name(self) -> str:
        """Description in lower case, the protocol's name where there is none."""
        return (self.words or self.text("ProtocolName")).lower()

    @property
    def sequences(self) -> frozenset[str]:
        """ScanningSequence (0018,0020): SE, IR, GR, EP, RM.

        Enhanced MR says the same in EchoPulseSequence (0018,9008), InversionRecovery (0018,9009)
        and EchoPlanarPulseSequence (0018,9018), DICOM PS3.3 C.8.13.4.
        """
        named = set(self.text("ScanningSequence").upper().split("\\"))
        pulse = self.text("EchoPulseSequence")
        named |= {"SE"} if pulse in ("spin", "both") else set()
        named |= {"GR"} if pulse in ("gradient", "both") else set()
        named |= {"IR"} if self.text("InversionRecovery") == "yes" else set()
        named |= {"EP"} if self.text("EchoPlanarPulseSequence") == "yes" else set()
        return frozenset(named - {""})

    @property
    def has_agent(self) -> bool:
        """Whether the header names a contrast agent."""
        return not NO_AGENT.search(self.text("ContrastBolusAgent"))


def entities_of_role(role: str) -> dict[str, str]:
    """BIDS datatype, suffix and entities of a role; empty for none."""
    return dict(ROLE_PARTS.get(role, {}))


def role_of(acquisition: Acquisition, rules: RoleRules | None = None) -> Role:
    """The role of one 3D volume from its tags and words; rules None: those that ship with Radloom.

    >>> role_of(Acquisition("MR", {"ScanningSequence": ["GR", "IR"], "RepetitionTime": 2300,
    ...                            "EchoTime": 2.9, "InversionTime": 900}))
    Role(role='t1', rule='inversion recovery gradient echo: TR 2300, TE 2.9, TI 900')
    """
    rules = rules or builtin_rules()
    for rule in rules.rules:
        if not _holds(rule.when, acquisition):
            continue
        found, text = rule.role, rule.rule + _facts(rule.when, acquisition)
        for refinement in rules.refine:
            if refinement.of == found and _holds(refinement.when, acquisition):
                found = refinement.role
                text += f"; {refinement.rule}{_facts(refinement.when, acquisition)}"
                break
        role = "" if found == "none" else found
        return Role(role, text + _contradiction(role, rule.when, acquisition, rules))
    return Role("", "nothing names a role")


def role_of_words(words: str, rules: RoleRules | None = None) -> Role:
    """The role that a file's name speaks of where nothing else is known.

    >>> role_of_words("study1_T2W").role, role_of_words("sub-1_T1w_mask").role
    ('t2', '')
    """
    return role_of(Acquisition("", words=words), rules)


def _contradiction(role: str, when: When, acquisition: Acquisition, rules: RoleRules) -> str:
    """What the name alone would have said, if that is another role than the tags gave."""
    if not role or when.words or not acquisition.name:
        return ""
    named = next(
        (r for r in rules.rules if _is_by_name(r.when) and _holds(r.when, acquisition)), None
    )
    if named is None or named.role in ("none", role) or role == "t1ce":
        return ""
    return f"; the name speaks of {named.role}, tags come first"


def _is_by_name(when: When) -> bool:
    asked = {name for name, value in when if value not in (None, {})}
    return "words" in asked and asked <= {"modality", "words", "not_words"}


_RANGES: Mapping[str, tuple[str, Callable[[Acquisition], float | None]]] = {
    "tr_ms": ("TR", lambda a: a.number("RepetitionTime")),
    "te_ms": ("TE", lambda a: a.number("EchoTime")),
    "ti_ms": ("TI", lambda a: a.number("InversionTime") or 0.0),
    "flip_degrees": ("flip angle", lambda a: a.number("FlipAngle")),
    "echo_train": ("echo train", lambda a: a.number("EchoTrainLength")),
    "b_value": ("b", lambda a: a.number("DiffusionBValue")),
    "width_mm": ("width", lambda a: max(a.extent_mm[:2]) or None),
}
"""Condition -> what it is called, and the number that it looks at."""


def _holds(when: When, acquisition: Acquisition) -> bool:
    return (
        _right_kind(when, acquisition)
        and all(
            _within(getattr(when, name), get(acquisition)) for name, (_, get) in _RANGES.items()
        )
        and all(re.search(p, acquisition.text(k)) for k, p in when.tags.items())
        and _says(when.words, when.not_words, acquisition.name)
        and _says(when.body, when.not_body, acquisition.text("BodyPartExamined"))
    )


def _right_kind(when: When, acquisition: Acquisition) -> bool:
    sequences = acquisition.sequences
    return (
        (when.modality is None or acquisition.modality in when.modality)
        and sequences.issuperset(when.sequence or ())
        and sequences.isdisjoint(when.not_sequence or ())
        and (when.image_type is None or _any_of(when.image_type, acquisition.image_type[2:]))
        and when.contrast_agent in (None, acquisition.has_agent)
        and when.is_split in (None, acquisition.is_split)
    )


def _any_of(wanted: Iterable[str], values: Iterable[str]) -> bool:
    return not {v.upper() for v in wanted}.isdisjoint(v.upper() for v in values)


def _within(limits: Range | None, value: float | None) -> bool:
    if limits is None:
        return True
    low, high = limits
    return value is not None and value >= low and (high is None or value <= high)


def _says(wanted: str | None, unwanted: str | None, text: str) -> bool:
    if wanted is not None and not re.search(wanted, text):
        return False
    return unwanted is None or not re.search(unwanted, text)


def _facts(when: When, acquisition: Acquisition) -> str:
    """The values that a rule looked at, for people."""
    found = [
        f"{label} {get(acquisition):g}"
        for name, (label, get) in _RANGES.items()
        if getattr(when, name) is not None and (name != "ti_ms" or get(acquisition))
    ]
    found += [f"{keyword} {acquisition.text(keyword)}" for keyword in when.tags]
    if when.image_type:
        named = {v.upper() for v in when.image_type}.intersection(acquisition.image_type[2:])
        found.append(f"ImageType {', '.join(sorted(named))}")
    match = re.search(when.words, acquisition.name) if when.words else None
    if match and match.group().strip():
        found.append(f"'{match.group().strip(' _-.')}'")
    return f": {', '.join(found)}" if found else ""
