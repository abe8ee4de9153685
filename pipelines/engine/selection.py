"""Which stages of a workflow a command runs, takes as they are, or does anew."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from radloom.errors import ConfigError
from radloom.pipelines.receipts.files import remove, write_file
from radloom.pipelines.stage import forget_stages

__all__ = ["EVERYTHING", "Selection", "finish_redo", "forget_for_redo", "select"]

_REDO = "redo.json"
"""Below OUT while stages are done anew: a run that was killed then goes on, and does not start
over."""


@dataclass(frozen=True)
class Selection:
    """What a command says of the stages of its workflow."""

    chosen: frozenset[str] | None = None
    """Stages to run where their receipts do not match; None: all. The others keep their results,
    which later stages take as they are."""
    required: frozenset[str] = frozenset()
    """Stages not chosen that must have results."""
    redo: frozenset[str] = frozenset()
    """Stages to run even where their receipts match."""
    prune: bool = False
    """Whether results of stages that the workflow does not have go."""


EVERYTHING = Selection()


def select(
    stages: Sequence[str],
    *,
    only: Iterable[str] = (),
    start: str = "",
    redo: Iterable[str] = (),
    prune: bool = False,
) -> Selection:
    """What the words of a command mean for a workflow's stages.

    Args:
        stages: names, in order.
        only: stages to run; empty: all.
        start: the first stage to run; empty: the first of all.
        redo: stages to run although nothing changed.
        prune: whether what other workflows left goes.

    Raises:
        ConfigError: a word that is no stage, both `only` and `start`, or a stage to do anew that
            is not to run.

    >>> sorted(select(["ingest", "denoise", "segment"], start="denoise").chosen)
    ['denoise', 'segment']
    """
    only, redo = tuple(only), tuple(redo)
    for option, names in (
        ("--only", only),
        ("--from", (start,) if start else ()),
        ("--redo", redo),
    ):
        for name in names:
            _require_stage(name, stages, option)
    if only and start:
        raise ConfigError("expected --only or --from, got both: name all stages in --only")
    chosen = frozenset(only) or None
    required = frozenset[str]()
    if start:
        chosen = frozenset(stages[stages.index(start) :])
        required = frozenset(stages[: stages.index(start)])
    left_out = sorted(frozenset(redo) - (frozenset(stages) if chosen is None else chosen))
    if left_out:
        raise ConfigError(
            f"expected --redo to name stages that run, got {left_out[0]!r}, which --only or --from "
            "leaves out"
        )
    return Selection(chosen, required, frozenset(redo), prune)


def forget_for_redo(out: Path, studies: Iterable[str], stages: frozenset[str]) -> None:
    """No results of `stages` in any of the studies; nothing, if a run that was killed did that.

    `finish_redo` ends it.
    """
    if not stages:
        return
    path = out / _REDO
    wanted = json.dumps(sorted(stages)).encode()
    try:
        if path.read_bytes() == wanted:
            return
    except OSError:
        pass
    for study in studies:
        forget_stages(out, study, stages)
    write_file(path, wanted)


def finish_redo(out: Path) -> None:
    """Every stage that was to be done anew has been."""
    remove(out / _REDO)


def _require_stage(name: str, stages: Sequence[str], option: str) -> None:
    if name not in stages:
        near = difflib.get_close_matches(name, stages, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(stages)
        raise ConfigError(f"expected {option} with a stage, got {name!r}: {hint}Known: {listed}")
