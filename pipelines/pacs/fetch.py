"""Studies from a PACS into the folder in which instances arrive, complete or not at all.

A study becomes visible to a run when every instance that the PACS lists is there. What has arrived
stays, so that the same command again asks only for the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from radloom.errors import PacsFailed
from radloom.pipelines.pacs.head import InstanceHead
from radloom.pipelines.pacs.inbox import Arrival, Inbox, digest_of
from radloom.pipelines.pacs.limits import DEFAULT_LIMITS, Limits
from radloom.pipelines.pacs.peer import Delivery, Listing, Peer, Wanted, retrying
from radloom.pipelines.pacs.query import Query

__all__ = ["FetchSummary", "fetch"]

_MOST_STRANGERS = 100
"""Instances that nobody asked for, after which a peer is not listened to any longer."""

_MOST_ROUNDS = 1000

_MOST_IN_VAIN = 5
"""Studies one after the other that fail without bringing anything: the PACS is gone."""


@dataclass(frozen=True)
class FetchSummary:
    """What came of a query."""

    studies: Path
    """The folder to run on."""
    n_studies: int
    n_new: int
    """Instances that arrived now."""
    failures: tuple[str, ...] = ()
    """Why a study is not complete; one line a study, without what names anybody."""

    def sentence(self) -> str:
        """``3 of 4 studies fetched, 512 new instances``."""
        n_done = self.n_studies - len(self.failures)
        return f"{n_done} of {self.n_studies} studies fetched, {self.n_new} new instances"


def fetch(
    peer: Peer,
    query: Query,
    root: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    on_study: Callable[[int, int], None] = lambda _done, _all: None,
    sleep: Callable[[float], None] = time.sleep,
) -> FetchSummary:
    """Every study that matches, complete, below ``root/studies``.

    Args:
        peer: where from.
        query: which.
        root: the folder in which instances arrive; made where absent, never below a run's OUT.
        limits: how much the peer may send.
        on_study: told how many studies of how many are over.
        sleep: waits between attempts.

    Raises:
        PacsFailed: the PACS does not say which studies match.
        ConfigError: the folder cannot be used.
    """
    with Inbox(root, limits).opened() as inbox:
        studies = retrying(lambda: peer.find_studies(query), limits, sleep)
        failures: list[str] = []
        n_new = n_in_vain = 0
        for number, uid in enumerate(studies, 1):
            study = _Study(peer, query, inbox, uid, sleep)
            problem = "not tried, for those before it brought nothing"
            if n_in_vain < _MOST_IN_VAIN:
                problem = study.fetch()
                n_in_vain = n_in_vain + 1 if problem and not study.n_new else 0
            if problem:
                failures.append(f"study {number} of {len(studies)}: {problem}")
            n_new += study.n_new
            on_study(number, len(studies))
    return FetchSummary(inbox.studies, len(studies), n_new, tuple(failures))


class _Study:
    """One study on its way."""

    def __init__(
        self, peer: Peer, query: Query, inbox: Inbox, uid: str, sleep: Callable[[float], None]
    ) -> None:
        self._peer, self._query, self._inbox, self._uid = peer, query, inbox, uid
        self._sleep = sleep
        self._n_strangers = 0
        self._wanted: set[str] = set()
        self.n_new = 0

    def fetch(self) -> str:
        """The study as far as it can be had; why it is not complete, or nothing."""
        try:
            self._fetch()
        except PacsFailed as error:
            return str(error)
        return ""

    def _fetch(self) -> None:
        """All that the PACS lists; rounds that bring something cost no attempt."""
        limits = self._inbox.limits
        listing = retrying(
            lambda: self._peer.find_instances(self._uid, self._query), limits, self._sleep
        )
        n_listed = sum(map(len, listing.values()))
        if n_listed > limits.study_instances:
            raise PacsFailed(f"{n_listed} instances, more than {limits.study_instances}")
        left = limits.attempts
        for _ in range(_MOST_ROUNDS):
            n_before, problem = self.n_new, self._round(listing)
            if not self._missing(listing):
                self._inbox.publish(self._uid)
                return
            left = limits.attempts if self.n_new > n_before else left - 1
            if left <= 0 or not problem.passing:
                break
            self._sleep(limits.wait_s * 2 ** (limits.attempts - left))
        n_missing = sum(map(len, self._missing(listing).values()))
        raise PacsFailed(f"{n_missing} of {n_listed} instances missing: {problem}")

    def _round(self, listing: Listing) -> PacsFailed:
        """Each series that lacks something, once; the last problem, if any."""
        problem = PacsFailed("the PACS lists more than it sends", passing=True)
        for series, missing in self._missing(listing).items():
            whole = len(missing) == len(listing[series])
            self._wanted = missing
            try:
                self._peer.retrieve(
                    Wanted(
                        self._uid,
                        series,
                        None if whole else tuple(sorted(missing)),
                        tuple(sorted(set(listing[series].values()))),
                    ),
                    Delivery(self._inbox.arrival, self._take, self._inbox.receiving),
                )
            except PacsFailed as error:
                problem = error
                if not error.passing:
                    break
        return problem

    def _missing(self, listing: Listing) -> dict[str, set[str]]:
        present = self._inbox.present(self._uid)
        missing = {
            series: {uid for uid in instances if digest_of(uid) not in known}
            for series, instances in listing.items()
            if (known := present.get(digest_of(series), set())) is not None
        }
        return {series: uids for series, uids in missing.items() if uids}

    def _take(self, arrival: Arrival, head: InstanceHead) -> None:
        """One instance that is wanted in its place; any other dropped."""
        arrival.close()
        if head.study_uid != self._uid or head.sop_uid not in self._wanted:
            arrival.discard()
            self._n_strangers += head.study_uid != self._uid
            if self._n_strangers > _MOST_STRANGERS:
                raise PacsFailed("the PACS sends instances that nobody asked for")
            return
        self.n_new += self._inbox.keep(arrival, head, finished=False)
