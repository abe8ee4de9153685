"""What was found out from some elements of a file, for the next file that holds the same there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from radloom.pipelines.ingest.elements import Elements

__all__ = ["Remembered"]

MOST_ANSWERS = 1 << 11
"""After which all is forgotten: series come one after the other."""

MOST_QUESTIONS = 16
"""Sets of tags; a file of another maker makes a function look at others."""


class Remembered:
    """A function of a data set that is called once for all data sets that look alike to it.

    The slices of a series differ in position and time, and agree in nearly all else. While the
    function runs on a data set, the tags that it asks for are recorded; its answer then holds for
    every data set that has the same bytes, or nothing, under each of them. So an answer is never
    wrong, whatever the function looks at, as long as it looks at nothing but the data set.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._answers: dict[tuple[bytes, ...], dict[tuple[Any, ...], Any]] = {}
        self._n = 0

    def __call__(self, dataset: Any) -> Any:
        """The function's answer. Nobody may change it: others get the same object."""
        if not isinstance(dataset, Elements):
            return self._function(dataset)
        for tags, answers in self._answers.items():
            known = answers.get((dataset.kind, dataset.contents(tags)), self)
            if known is not self:
                return known
        same, asked = dataset.recorded()
        answer = self._function(same)
        if self._n > MOST_ANSWERS or len(self._answers) > MOST_QUESTIONS:
            self._answers, self._n = {}, 0
        tags = tuple(sorted(asked))
        key = (dataset.kind, dataset.contents(tags))
        self._answers.setdefault(tags, {})[key] = answer
        self._n += 1
        return answer
