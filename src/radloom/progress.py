"""How a run shows itself: a live view on a terminal, plain lines otherwise, and a log of lines."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from radloom.pipelines.engine.pace import Pace
    from radloom.pipelines.engine.worker import Outcome
    from radloom.pipelines.receipts.runlog import RunLog
    from radloom.pipelines.runner import Progress

__all__ = ["duration", "line", "listener", "pace_line"]

PACE_EVERY_S = 60.0
"""How often plain lines say how the run gets on."""

MANY = 200
"""Studies above which the terminal names only those that a person should look at."""

LOAD_EVERY_S = 15.0
"""How often the log says how busy the devices are, at most; `radloom status` reads it there."""

SHOWN = 8
"""Studies at work that the terminal names."""


@contextlib.contextmanager
def listener(console: Console, out: Path | None = None) -> Iterator[Callable[[Progress], None]]:
    """What the runner tells its news to while the block lasts.

    `out` gets a log, ``run.jsonl``, from the moment that the run knows its studies.
    """
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(_log(out)) if out is not None else None
        if console.is_terminal:
            view = _Terminal(console)
            live = Live(get_renderable=view.render, console=console, refresh_per_second=4)
            stack.enter_context(live)
            show = view.hear
        else:
            show = _Lines(console).hear

        def hear(news: Progress) -> None:
            show(news)
            if log is not None:
                log(news)

        yield hear


def line(outcome: Outcome, n_done: int, n_studies: int) -> str:
    """``[2/6] sub-A_ses-1 failed at register in 12 s: reason``."""
    where = f" at {outcome.stage}" if outcome.stage else ""
    flags = f", checks to look at: {outcome.flags}" if outcome.flags else ""
    faulty = f", series refused: {outcome.n_faulty}" if outcome.n_faulty else ""
    reason = f": {outcome.reason}" if outcome.reason else ""
    took = f"in {outcome.seconds:.0f} s"
    about = f"{outcome.study} {outcome.status}{where} {took}{faulty}{flags}{reason}"
    return f"[{n_done}/{n_studies}] {about}"


def pace_line(pace: Pace, n_done: int, n_studies: int) -> str:
    """``120 of 400 studies over (2 failed), 4 at work, 61 an hour, about 4 h 35 min left``."""
    counts = ((pace.n_failed, "failed"), (pace.n_skipped, "skipped"))
    sad = ", ".join(f"{n} {what}" for n, what in counts if n)
    parts = [f"{n_done} of {n_studies} studies over" + (f" ({sad})" if sad else "")]
    if pace.running:
        parts.append(f"{len(pace.running)} at work")
    if pace.studies_per_hour:
        parts.append(f"{pace.studies_per_hour:.3g} an hour")
    if pace.left_s is not None and n_done < n_studies:
        parts.append(f"about {duration(pace.left_s)} left")
    return ", ".join([*parts, *_loads(pace)])


def duration(seconds: float) -> str:
    """Seconds in the two largest units that fit.

    >>> duration(7), duration(200), duration(4020), duration(200_000)
    ('7 s', '3 min 20 s', '1 h 7 min', '2 d 7 h')
    """
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    left, parts = max(0, round(seconds)), list[str]()
    for size, unit in units:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part) or "0 s"


def _loads(pace: Pace) -> list[str]:
    return [f"{device} {load:.0%} busy" for device, load in pace.devices.items()]


@contextlib.contextmanager
def _log(out: Path) -> Iterator[Callable[[Progress], None]]:
    """Writes the news to the log, and how the block ended."""
    from radloom.pipelines.receipts.runlog import RunLog

    writer, started = _LogWriter(RunLog(out)), time.monotonic()
    outcome = "failed"
    try:
        yield writer.hear
        outcome = "done"
    except KeyboardInterrupt:
        outcome = "stopped"
        raise
    finally:
        writer.end(outcome, time.monotonic() - started)


class _LogWriter:
    """News of the runner as lines of a log."""

    def __init__(self, log: RunLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._due = 0.0
        self._dashboard = ""
        self._last: Progress | None = None

    def hear(self, news: Progress) -> None:
        self._last = news
        if news.event == "found":
            self._log.begin(news.n_studies)
        if news.pace.dashboard != self._dashboard:
            self._dashboard = news.pace.dashboard
            self._log.dashboard(self._dashboard)
        if news.event == "stage":
            self._log.enter(news.study, news.stage)
        if news.pace.devices and self._clock() >= self._due:
            self._due = self._clock() + LOAD_EVERY_S
            self._log.load(news.pace.devices)
        over = news.outcome
        if over is not None:
            self._log.over(
                over.study,
                over.status,
                stage=over.stage,
                seconds=over.seconds,
                reason=over.reason,
                flags=over.flags,
            )

    def end(self, outcome: str, seconds: float) -> None:
        """Nothing, where the run ended before it knew its studies."""
        last = self._last
        if last is not None:
            counts = {"failed": last.pace.n_failed, "skipped": last.pace.n_skipped}
            self._log.end(outcome, seconds, studies=last.n_studies, over=last.n_done, **counts)


class _Lines:
    """A line a study; how the run gets on once in a while."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._due = clock() + PACE_EVERY_S
        self._dashboard = ""

    def hear(self, news: Progress) -> None:
        if news.event == "found":
            self._say(f"{news.n_studies} studies")
        if news.pace.dashboard != self._dashboard:
            self._dashboard = news.pace.dashboard
            self._say(f"dashboard: {self._dashboard}")
        if news.outcome is not None:
            self._say(line(news.outcome, news.n_done, news.n_studies))
            if self._clock() >= self._due:
                self._due = self._clock() + PACE_EVERY_S
                self._say(pace_line(news.pace, news.n_done, news.n_studies))

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Terminal:
    """A bar over all studies, how fast it goes, how busy each device is, who is at work."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._started = clock()
        self._news: Progress | None = None
        self._heard = clock()
        self._lock = threading.Lock()

    def hear(self, news: Progress) -> None:
        """Stage news comes from another thread than the rest."""
        with self._lock:
            self._news, self._heard = news, self._clock()
        over = news.outcome
        if over is not None and (news.n_studies <= MANY or over.flags or over.status != "done"):
            text = line(over, news.n_done, news.n_studies)
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def render(self) -> RenderableType:
        """What stands below the lines at this moment."""
        with self._lock:
            news, now = self._news, self._clock()
            ago, since = now - self._heard, now - self._started
        if news is None:
            return Text(f"reading headers, {duration(since)}")
        rows: list[RenderableType] = [_bar(news, since), *_pace_rows(news.pace, ago)]
        rows += [_device_row(name, load) for name, load in news.pace.devices.items()]
        working = list(news.pace.running.items())
        rows += [Text(f"  {study} {stage}", style="dim") for study, stage in working[:SHOWN]]
        if len(working) > SHOWN:
            rows.append(Text(f"  and {len(working) - SHOWN} more at work", style="dim"))
        if news.pace.dashboard:
            rows.append(Text(f"dashboard: {news.pace.dashboard}", style="dim"))
        return Group(*rows)


def _bar(news: Progress, since: float) -> Table:
    counts = Text(f" {news.n_done}/{news.n_studies} ")
    if news.pace.n_failed:
        counts.append(f"{news.pace.n_failed} failed ", style="red")
    if news.pace.n_skipped:
        counts.append(f"{news.pace.n_skipped} skipped ", style="yellow")
    counts.append(duration(since), style="dim")
    bar = ProgressBar(total=max(news.n_studies, 1), completed=news.n_done, width=40)
    return _row(bar, counts)


def _pace_rows(pace: Pace, ago: float) -> list[RenderableType]:
    if not pace.studies_per_hour or pace.left_s is None:
        return []
    left = duration(pace.left_s - ago)
    return [Text(f"{pace.studies_per_hour:.3g} studies an hour, about {left} left")]


def _device_row(name: str, load: float) -> Table:
    bar = ProgressBar(total=1.0, completed=load, width=20)
    return _row(bar, Text(f" {name} {load:.0%} busy", style="dim"))


def _row(*cells: RenderableType) -> Table:
    table = Table.grid()
    table.add_row(*cells)
    return table
