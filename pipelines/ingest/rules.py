"""The file of role rules: its format, and reading it.

The rules that ship with Radloom are the file ``roles.yaml`` beside this module, whose head explains
the format; `builtin_text` is that file. A user's file has the same format and takes their place, or
goes before them with ``then_builtin: true``.
"""

from __future__ import annotations

import functools
import json
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from radloom.errors import ConfigError

__all__ = [
    "MADE_KEYWORDS",
    "ROLE_KEYWORDS",
    "Range",
    "Refinement",
    "RoleRules",
    "Rule",
    "When",
    "builtin_rules",
    "builtin_text",
    "load_rules",
]

ROLE_KEYWORDS = (
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "ContrastBolusAgent",
    "ProtocolName",
    "SequenceName",
    "BodyPartExamined",
    "EchoTrainLength",
    "PulseSequenceName",
    "AcquisitionContrast",
    "EchoPulseSequence",
    "InversionRecovery",
    "EchoPlanarPulseSequence",
    "TimeOfFlightContrast",
    "AngioFlag",
    "CorrectedImage",
    "ConvolutionKernel",
    "Manufacturer",
)
"""DICOM keywords that role rules may look at; none names a person, a place or a date."""

MADE_KEYWORDS = ("EPIFactor", "DiffusionBValue")
"""Names that stand for a vendor's private attribute as well."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression, got {text!r}: {error}") from None
    return text


def _ordered(limits: tuple[float, float | None]) -> tuple[float, float | None]:
    low, high = limits
    if high is not None and high < low:
        raise ValueError(f"expected [lowest, highest], got [{low:g}, {high:g}]")
    return limits


def _known_keywords(tags: dict[str, str]) -> dict[str, str]:
    unknown = sorted(set(tags) - {*ROLE_KEYWORDS, *MADE_KEYWORDS})
    if unknown:
        known = ", ".join((*ROLE_KEYWORDS, *MADE_KEYWORDS))
        raise ValueError(f"unknown keyword {unknown[0]!r}; known: {known}")
    return tags


Pattern: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(_pattern)]
Range: TypeAlias = Annotated[tuple[float, float | None], AfterValidator(_ordered)]
Sequence: TypeAlias = Literal["SE", "IR", "GR", "EP", "RM"]
RoleName: TypeAlias = Literal["t1", "t1ce", "t2", "flair", "pd", "ct", "pet", "none"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class When(_Strict):
    """Conditions, all of which must hold; None asks for nothing. See the head of ``roles.yaml``."""

    modality: tuple[str, ...] | None = None
    sequence: tuple[Sequence, ...] | None = None
    not_sequence: tuple[Sequence, ...] | None = None
    tr_ms: Range | None = None
    te_ms: Range | None = None
    ti_ms: Range | None = None
    flip_degrees: Range | None = None
    echo_train: Range | None = None
    b_value: Range | None = None
    width_mm: Range | None = None
    image_type: tuple[str, ...] | None = None
    contrast_agent: bool | None = None
    is_split: bool | None = None
    tags: Annotated[dict[str, Pattern], AfterValidator(_known_keywords)] = Field(
        default_factory=dict
    )
    words: Pattern | None = None
    not_words: Pattern | None = None
    body: Pattern | None = None
    not_body: Pattern | None = None


class Rule(_Strict):
    """One rule: what it is called, the role that it gives, and when it holds."""

    rule: str = Field(min_length=1)
    role: RoleName
    when: When


class Refinement(_Strict):
    """A rule for volumes that have the role `of` already."""

    rule: str = Field(min_length=1)
    of: RoleName
    role: RoleName
    when: When


class RoleRules(_Strict):
    """A file of role rules."""

    then_builtin: bool = False
    rules: tuple[Rule, ...] = ()
    refine: tuple[Refinement, ...] = ()


@functools.cache
def builtin_text() -> str:
    """The rules that ship with Radloom, as the text of their file."""
    file = resources.files("radloom.pipelines.ingest").joinpath("roles.yaml")
    return file.read_text(encoding="utf-8")


@functools.cache
def builtin_rules() -> RoleRules:
    """The rules that ship with Radloom."""
    return _parse(builtin_text(), "the built-in role rules")


def load_rules(path: Path | None) -> RoleRules:
    """The rules of a file, Radloom's own appended where it says so; None: Radloom's own.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a wrong value, or a name given twice.
    """
    if path is None:
        return builtin_rules()
    if not path.is_file():
        raise ConfigError(f"expected a file of role rules, got <{path}>, which is not there")
    own = _parse(path.read_text(encoding="utf-8"), f"<{path.name}>")
    if not own.then_builtin:
        return own
    shipped = builtin_rules()
    joined = RoleRules(
        then_builtin=True, rules=own.rules + shipped.rules, refine=own.refine + shipped.refine
    )
    _require_unique(joined, f"<{path.name}> and the built-in rules")
    return joined


def _parse(text: str, where: str) -> RoleRules:
    import yaml

    try:
        rules = RoleRules.model_validate_json(json.dumps(yaml.safe_load(text) or {}))
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"{where}: expected plain YAML, got: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error.errors()[0])}") from None
    if not rules.rules and not rules.then_builtin:
        raise ConfigError(f"{where}: expected at least one rule, got none")
    _require_unique(rules, where)
    return rules


def _require_unique(rules: RoleRules, where: str) -> None:
    names = [rule.rule for rule in rules.rules] + [rule.rule for rule in rules.refine]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: expected each rule's name once, got {twice[0]!r} again")


def _explain(first: Any) -> str:
    """The first thing that pydantic found, as: where, expected, got."""
    at = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "extra_forbidden":
        kinds: dict[Any, type[BaseModel]] = {"when": When, "rules": Rule, "refine": Refinement}
        inner: type[BaseModel] = RoleRules
        for part in first["loc"][:-1]:
            inner = kinds.get(part, inner)
        return f"unknown key {at!r}; known: {', '.join(inner.model_fields)}"
    return f"{at}: {first['msg']}, got {first['input']!r}"
