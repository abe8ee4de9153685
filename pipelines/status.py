"""What has become of a run, also while it goes on: for people, and for scripts.

Nothing here imports what computes, and receipts are read only where they changed since the run's
driver last looked, so that the answer for ten thousand studies takes a second.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from radloom.pipelines.export.index import Index, Look
from radloom.pipelines.receipts.receipt import STAGES_FOLDER
from radloom.pipelines.receipts.runlog import tail_of_log

__all__ = ["RunStatus", "StudyStatus", "is_at_work", "read_status"]

STATES = ("done", "failed", "skipped", "at work", "waiting", "not finished")
"""In the order in which counts are named. ``waiting``: a run goes on and has not come to it;
``not finished``: no run goes on; the same command does it."""

_RATE_OVER = 50
"""Studies that the rate is taken over: the latest."""


@dataclass(frozen=True)
class StudyStatus:
    """One study."""

    study: str
    state: str
    """One of `STATES`."""
    stage: str = ""
    """Where it failed, or is."""
    flags: tuple[str, ...] = ()
    """Names of the checks out of range."""
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class RunStatus:
    """All studies of an output folder."""

    studies: tuple[StudyStatus, ...]
    at_work: bool
    """Whether a run goes on."""
    studies_per_hour: float = 0.0
    """Of the run that goes on, from its latest studies; 0 where that is not known."""
    dashboard: str = ""
    """Address of Dask's dashboard of the run that goes on."""
    devices: Mapping[str, float] = field(default_factory=dict)
    """Device -> share of its places that computed in the minute before the run last said so, 0 to
    1; of the run that goes on."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """State -> number of studies, in the order of `STATES`."""

    @property
    def n_flagged(self) -> int:
        """Studies that are done and have a check out of range."""
        return sum(study.state == "done" and bool(study.flags) for study in self.studies)

    @property
    def all_done(self) -> bool:
        """Whether there are studies, and every one is done."""
        return bool(self.studies) and self.counts.get("done", 0) == len(self.studies)

    @property
    def left_s(self) -> float | None:
        """Seconds until the last study is over, at this rate; None where there is none."""
        left = sum(self.counts.get(state, 0) for state in ("at work", "waiting"))
        return 3600 * left / self.studies_per_hour if self.studies_per_hour else None

    @property
    def to_look_at(self) -> tuple[StudyStatus, ...]:
        """Those at work, then those that did not come to a good end."""
        order = {state: place for place, state in enumerate(("at work", "failed", "skipped"))}
        found = [study for study in self.studies if study.state in order]
        return tuple(sorted(found, key=lambda study: (order[study.state], study.study)))

    def sentence(self) -> str:
        """``400 studies: 390 done (12 flagged), 3 failed, 4 at work, 3 waiting``."""
        counts = [f"{n:,} {state}" for state, n in self.counts.items() if n]
        if self.n_flagged:
            counts[0] += f" ({self.n_flagged:,} flagged)"
        studies = "study" if len(self.studies) == 1 else "studies"
        return f"{len(self.studies):,} {studies}: {', '.join(counts) or 'none'}"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "at_work": self.at_work,
            "counts": dict(self.counts),
            "flagged": self.n_flagged,
            "studies_per_hour": round(self.studies_per_hour, 3),
            "left_s": None if self.left_s is None else round(self.left_s),
            "dashboard": self.dashboard,
            "devices": dict(self.devices),
            "studies": [vars(study) for study in self.studies],
        }


def read_status(out: Path) -> RunStatus:
    """What has become of the studies below `out`; where no run does that, the index is kept."""
    at_work, index = is_at_work(out), Index.load(out)
    studies = tuple(_study(out, look, at_work) for look in index.look())
    if not at_work:
        with suppress(OSError):  # results that may only be read
            index.save()
    found = Counter(study.state for study in studies)
    counts = {state: found[state] for state in STATES if found[state]}
    if not at_work:
        return RunStatus(studies, at_work=False, counts=counts)
    events = _latest_run(tail_of_log(out))
    addresses = [str(event["address"]) for event in events if event["event"] == "dashboard"]
    return RunStatus(
        studies,
        at_work=True,
        studies_per_hour=_rate(events),
        dashboard=addresses[-1] if addresses else "",
        devices=_loads(events),
        counts=counts,
    )


def is_at_work(out: Path) -> bool:
    """Whether a run holds `out`. Its lock is taken and given back at once."""
    from filelock import FileLock, Timeout

    path = out / ".lock"
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that may only be read: marks must do
        return any((out / STAGES_FOLDER).glob("*/running.json"))


def _study(out: Path, look: Look, at_work: bool) -> StudyStatus:  # noqa: FBT001 - of this module
    row = look.summary
    if at_work and look.marked:
        stage = _running_stage(out, row.study)
        return StudyStatus(row.study, "at work", stage, row.flags, row.seconds)
    if not row.finished:
        return StudyStatus(row.study, "waiting" if at_work else "not finished")
    reason = "" if row.status == "done" else row.reason
    return StudyStatus(row.study, row.status, row.stage, row.flags, row.seconds, reason)


def _running_stage(out: Path, key: str) -> str:
    with suppress(OSError, ValueError, KeyError):
        said = json.loads((out / STAGES_FOLDER / key / "running.json").read_bytes())
        return str(said["stage"])
    return ""


def _latest_run(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [event for event in events if event.get("run") == events[-1].get("run")]


def _loads(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the log last said of each device; none where it said nothing."""
    said = [event["devices"] for event in events if event["event"] == "load"]
    return {str(name): float(share) for name, share in said[-1].items()} if said else {}


def _rate(events: Sequence[Mapping[str, Any]]) -> float:
    """Studies an hour, by the latest that were worked on; 0 where fewer than two are over."""
    over = list(_ends(events))[-_RATE_OVER:]
    if len(over) < 2:
        return 0.0
    now = datetime.now(timezone.utc)
    return 3600 * (len(over) - 1) / max((now - over[0]).total_seconds(), 1e-3)


def _ends(events: Sequence[Mapping[str, Any]]) -> Iterator[datetime]:
    """When each study was over that entered a stage in the same run."""
    entered = {event.get("study") for event in events if event["event"] == "enter"}
    for event in events:
        if event["event"] == "study" and event.get("study") in entered:
            with suppress(KeyError, ValueError):
                yield datetime.fromisoformat(str(event["time"]).replace("Z", "+00:00"))
