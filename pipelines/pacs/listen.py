"""A listener: studies that are pushed to us go through a workflow once they have settled.

An instance is acknowledged when it is on the disk in its place. Which studies have been run is
told by files beside them, so that a listener that was killed takes up what it had not run, and
instances that come late have their study run again. The workflow runs in a process of its own, one
study at a time: nothing that happens to it reaches what is being received.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.guard import Guard
from radloom.pipelines.pacs.head import InstanceHead
from radloom.pipelines.pacs.identity import TLS
from radloom.pipelines.pacs.inbox import Arrival, Inbox, digest_of
from radloom.pipelines.pacs.limits import DEFAULT_LIMITS, Limits
from radloom.pipelines.pacs.peer import Delivery
from radloom.pipelines.pacs.scp import STORED, Scp, receive, storage_contexts
from radloom.pipelines.receipts.files import write_file
from radloom.pipelines.receipts.plain import from_json, to_json

__all__ = ["Listener", "Ran", "Settings", "content_of"]

Ran: TypeAlias = Literal["over", "again"]
"""over: the run ended, whatever became of the study; again: it has to be tried once more."""

_TICK_S: Final = 0.2
_ATTEMPTS: Final = 3
"""Runs of one content that end without a result before it is left for the next start."""


@dataclass(frozen=True)
class Settings:
    """Where and to whom a listener listens."""

    port: int
    """0: one that is free."""
    host: str = "127.0.0.1"
    ae_title: str = "RADLOOM"
    allow: tuple[str, ...] = ()
    """AE titles that may send; empty: any."""
    settle_s: float = 60.0
    """Without a new instance, and with nobody connected who sent one, a study is complete."""
    tls: TLS | None = None
    limits: Limits = DEFAULT_LIMITS


@dataclass
class _Study:
    """What is known of a study that is not run yet."""

    last_s: float
    """When its last instance came, on the monotonic clock."""
    senders: set[int] = field(default_factory=set)
    """Associations that brought some and are still open."""
    attempts: int = 0


class Listener:
    """A Storage SCP and what it runs."""

    def __init__(
        self,
        root: Path,
        settings: Settings,
        run: Callable[[Path], Ran],
        on_news: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing listens yet.

        Args:
            root: the folder in which instances arrive.
            settings: where and to whom to listen.
            run: carries the study in a folder through the workflow; runs in the caller's thread.
            on_news: told in words what happens, without what names anybody.
        """
        self._inbox = Inbox(root, settings.limits)
        self._settings = settings
        self._run = run
        self._say = on_news
        self._lock = threading.Lock()
        self._waiting: dict[str, _Study] = {}
        self._guards: dict[int, Guard] = {}
        self._stop = threading.Event()

    def stop(self) -> None:
        """Has `serve` end soon."""
        self._stop.set()

    def serve(self, ready: Callable[[int], None] = lambda _: None) -> None:
        """Listens and runs until `stop`.

        Args:
            ready: told the port once somebody can connect.

        Raises:
            ConfigError: the folder or the port is not to be had.
        """
        from pynetdicom import build_context, evt
        from pynetdicom.sop_class import Verification

        server = Scp(
            ae_title=self._settings.ae_title,
            host=self._settings.host,
            port=self._settings.port,
            contexts=[build_context(Verification), *storage_contexts()],
            on_event=[
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_CONN_CLOSE, self._on_close),
                (evt.EVT_ABORTED, self._on_close),
                (evt.EVT_RELEASED, self._on_close),
            ],
            limits=self._settings.limits,
            folder=self._inbox.receiving,
            allow=self._settings.allow,
            tls=self._settings.tls,
            known=self._on_open,
        )
        with self._inbox.opened():
            self._recover()
            self._serve(server, ready)

    def _serve(self, server: Scp, ready: Callable[[int], None]) -> None:
        with server.running() as port:
            ready(port)
            while not self._stop.wait(_TICK_S):
                self.run_settled()

    def _recover(self) -> None:
        """Studies whose content is not what was last run wait anew."""
        now = time.monotonic()
        for folder in sorted(self._inbox.studies.iterdir()):
            if folder.is_dir() and self._state(folder.name) != _digest(content_of(folder)):
                self._waiting[folder.name] = _Study(now)

    def _on_open(self, association: Any, guard: Guard) -> None:
        with self._lock:
            self._guards[id(association)] = guard

    def _on_close(self, event: Any) -> None:
        with self._lock:
            self._guards.pop(id(event.assoc), None)
            for study in self._waiting.values():
                study.senders.discard(id(event.assoc))

    def _on_store(self, event: Any) -> int:
        sender = id(event.assoc)
        delivery = Delivery(
            self._inbox.arrival,
            lambda arrival, head: self._take(arrival, head, sender),
            self._inbox.receiving,
        )
        status = receive(event, delivery)
        guard = self._guards.get(sender)
        if status == STORED and guard is not None:
            guard.useful()
        return status

    def _take(self, arrival: Arrival, head: InstanceHead, sender: int) -> None:
        name = digest_of(head.study_uid)
        with self._lock:
            if name not in self._waiting and len(self._waiting) >= self._settings.limits.studies:
                raise PacsFailed("too many studies wait: not taken")
        is_news = self._inbox.keep(arrival, head, finished=True)
        with self._lock:
            study = self._waiting.get(name)
            if study is None:
                if not is_news:
                    return
                study = self._waiting[name] = _Study(0.0)
            study.last_s = time.monotonic()
            study.attempts = 0 if is_news else study.attempts
            if sender in self._guards:
                study.senders.add(sender)

    def run_settled(self) -> None:
        """Each study that has settled, through the workflow, one after the other."""
        for name in self._settled():
            if self._stop.is_set():
                return
            folder = self._inbox.studies / name
            content = content_of(folder)
            self._say(f"study {name[:8]} has settled with {len(content)} instances")
            if self._run(folder) == "over":
                self._remember(name, content)
            else:
                self._put_off(name)

    def _settled(self) -> list[str]:
        now = time.monotonic()
        with self._lock:
            return [
                name
                for name, study in self._waiting.items()
                if not study.senders and now - study.last_s >= self._settings.settle_s
            ]

    def _remember(self, name: str, content: dict[str, str]) -> None:
        """The study as run, unless more has come meanwhile: then it waits on."""
        state = {"content": _digest(content)}
        write_file(self._inbox.state / f"{name}.json", to_json(state))
        with self._lock:
            if content_of(self._inbox.studies / name) == content:
                self._waiting.pop(name, None)

    def _put_off(self, name: str) -> None:
        with self._lock:
            study = self._waiting[name]
            study.attempts += 1
            study.last_s = time.monotonic()
            if study.attempts >= _ATTEMPTS:
                del self._waiting[name]
                self._say(f"study {name[:8]} is left for the next start of the listener")

    def _state(self, name: str) -> str:
        try:
            return str(from_json((self._inbox.state / f"{name}.json").read_bytes())["content"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def content_of(folder: Path) -> dict[str, str]:
    """Path below `folder` -> size and time of change of each instance of a study."""
    found = {}
    for path in sorted(folder.glob("*/*.dcm")):
        about = path.stat()
        found[path.relative_to(folder).as_posix()] = f"{about.st_size} {about.st_mtime_ns}"
    return found


def _digest(content: dict[str, str]) -> str:
    return hashlib.sha256(to_json(content)).hexdigest()
