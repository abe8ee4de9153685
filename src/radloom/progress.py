"""How a run shows itself: a bar on a terminal, a line a study otherwise."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from radloom.pipelines.engine.worker import Outcome
    from radloom.pipelines.runner import Progress

__all__ = ["line", "listener"]


@contextlib.contextmanager
def listener(console: Console) -> Iterator[Callable[[Progress], None]]:
    """What the runner tells its news to while the block lasts."""
    if not console.is_terminal:
        yield lambda news: _print(console, news)
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    ]
    with Bars(*columns, console=console) as bars:
        yield _Terminal(bars).hear


def line(outcome: Outcome, n_done: int, n_studies: int) -> str:
    """``[2/6] sub-A_ses-1 failed at register in 12 s: reason``."""
    where = f" at {outcome.stage}" if outcome.stage else ""
    flags = f", checks to look at: {outcome.flags}" if outcome.flags else ""
    faulty = f", series refused: {outcome.n_faulty}" if outcome.n_faulty else ""
    reason = f": {outcome.reason}" if outcome.reason else ""
    took = f"in {outcome.seconds:.0f} s"
    about = f"{outcome.study} {outcome.status}{where} {took}{faulty}{flags}{reason}"
    return f"[{n_done}/{n_studies}] {about}"


def _print(console: Console, news: Progress) -> None:
    if news.outcome is not None:
        text = line(news.outcome, news.n_done, news.n_studies)
    elif news.event == "found":
        text = f"{news.n_studies} studies"
    else:
        return
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Terminal:
    """One bar for all studies, and which stage each study at work is in."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = bars.add_task("reading headers", total=None)
        self._at_work: dict[str, str] = {}
        self._lock = threading.Lock()

    def hear(self, news: Progress) -> None:
        """Stage news comes from another thread than the rest."""
        with self._lock:
            if news.event == "stage":
                self._at_work[news.study] = news.stage
            elif news.outcome is not None:
                self._at_work.pop(news.study, None)
                text = line(news.outcome, news.n_done, news.n_studies)
                self._bars.console.print(text, markup=False, highlight=False)
            working = ", ".join(f"{study} {stage}" for study, stage in self._at_work.items())
            self._bars.update(
                self._task,
                description=escape(working or "starting"),
                completed=news.n_done,
                total=news.n_studies,
            )
