"""What a bundle's metadata say of how MR becomes CT: contrasts, channels, what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from radloom.errors import ConfigError
from radloom.models.translation.attenuation import BONE_LINES

__all__ = ["ANY", "Declaration", "Missing", "read_declaration"]

ANY = "any"
"""The contrast of a channel that takes every MR."""

ROLES: Mapping[str, str] = {
    "t1": "t1", "t1w": "t1", "mprage": "t1", "t2": "t2", "t2w": "t2", "flair": "flair",
    "t2flair": "flair", "pd": "pd", "pdw": "pd", "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce",
}  # fmt: skip
"""A channel's name in lower case, letters and digits only -> the role that fills it."""

Missing = Literal["best", "told", "refuse"]
"""What is done about contrasts that a study lacks: ``best``: the network takes one, the best that
is there; ``told``: channels of the others are empty, and the network is told; ``refuse``: the study
is left out."""


@dataclass(frozen=True)
class Declaration:
    """Of one bundle; `metadata.json` -> ``radloom`` and ``network_data_format``."""

    contrasts: tuple[str, ...] = (ANY,)
    """The role of each channel, or `ANY`."""
    missing: Missing = "best"
    """``best`` where the network has one channel, else ``told`` or ``refuse``."""
    scores: tuple[int, int, int] | None = None
    """Channels of ``pred`` with the shares of air, soft tissue and bone."""
    uncertainty: int | None = None
    """Channel of ``pred`` with the expected absolute error in HU."""
    expected_error_hu: float | None = None
    """The largest mean expected error in a head that the validation saw; None: not known."""
    kvp: int = 120
    """Tube voltage that the HU belong to."""
    seen: tuple[str, ...] = ()
    """Roles that the training held; empty: not declared."""


def read_declaration(folder: Path) -> Declaration:
    """The declaration in a bundle's ``configs/metadata.json``.

    Raises:
        ConfigError: one that contradicts itself.
    """
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    shape = metadata.get("network_data_format", {})
    image = shape.get("inputs", {}).get("image", {})
    said: Mapping[str, Any] = metadata.get("radloom", {})
    names = _names(shape.get("outputs", {}).get("pred", {}))
    shares = [names.get(name) for name in ("air", "soft tissue", "bone")]
    contrasts = _contrasts(image, folder.name)
    missing = said.get("missing", "best" if len(contrasts) == 1 else "told")
    kvp = int(said.get("kvp", 120))
    if missing not in (("best",) if len(contrasts) == 1 else ("told", "refuse")):
        raise ConfigError(
            f"<{folder.name}>: expected missing of best (one channel), told or refuse (several), "
            f"got {missing!r} for {len(contrasts)}"
        )
    if kvp not in BONE_LINES:
        raise ConfigError(f"<{folder.name}>: expected kvp of {sorted(BONE_LINES)}, got {kvp}")
    error = said.get("expected_error_hu")
    return Declaration(
        contrasts=contrasts,
        missing=cast("Missing", missing),
        scores=cast("Any", tuple(shares)) if None not in shares else None,
        uncertainty=names.get("expected error"),
        expected_error_hu=None if error is None else float(error),
        kvp=kvp,
        seen=tuple(said.get("contrasts_seen", ())),
    )


def _names(pred: Mapping[str, Any]) -> dict[str, int]:
    """What a channel holds -> its number; words after the first comma are remarks."""
    defined = pred.get("channel_def", {})
    return {str(name).partition(",")[0].strip().lower(): int(n) for n, name in defined.items()}


def _contrasts(image: Mapping[str, Any], bundle: str) -> tuple[str, ...]:
    n = int(image.get("num_channels", 1))
    if n == 1:
        return (ANY,)
    defined = {int(k): str(v) for k, v in image.get("channel_def", {}).items()}
    names = [re.sub(r"[^a-z0-9]", "", defined.get(k, "").lower()) for k in range(n)]
    unknown = [name for name in names if name not in ROLES]
    if unknown:
        raise ConfigError(
            f"<{bundle}>: expected channel_def to name a contrast for each of {n} channels "
            f"({', '.join(sorted(set(ROLES.values())))}), got {unknown[0]!r}"
        )
    return tuple(ROLES[name] for name in names)
