"""Free text: reduced to words that say how an image was made, and searched for identifiers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

__all__ = ["clean_words", "holds_identifier", "identifier_words"]

MOST_DIGITS = 3
"""Digits that a word may hold: sizes and times have so many, numbers of patients have more."""

SHORTEST_IDENTIFIER = 3
"""Letters below which a part of a name is no longer looked for in what stays."""


def clean_words(text: str, vocabulary: Collection[str], identifiers: Iterable[str] = ()) -> str:
    """The words of `text` that stand in the vocabulary, and short numbers; the rest is left out.

    >>> clean_words("T1_mprage sag DOE 4711 p2 1mm", {"t1", "t", "mprage", "sag", "p", "mm"})
    'T1 mprage sag p2 1mm'
    """
    hidden = {word.lower() for word in identifiers}
    found = re.findall(r"[^\W_]+", text, re.ASCII)
    return " ".join(w for w in found if w.lower() not in hidden and _is_known(w, vocabulary))


def _is_known(word: str, vocabulary: Collection[str]) -> bool:
    word = word.lower()
    if sum(c.isdigit() for c in word) > MOST_DIGITS:
        return False
    return word.isdigit() or word in vocabulary or word.strip("0123456789") in vocabulary


def identifier_words(values: Iterable[str]) -> frozenset[str]:
    """Each value, and the parts of it that may stand alone, in lower case.

    >>> sorted(identifier_words(["Doe^Jane", "4711-A"]))
    ['4711', '4711 a', '4711-a', '4711a', 'doe', 'doe jane', 'doejane', 'jane']
    """
    found = set()
    for value in values:
        parts = re.findall(r"[^\W_]+", value.lower())
        found |= {value.lower().strip(), " ".join(parts), "".join(parts), *parts}
    return frozenset(w for w in found if len(w) >= SHORTEST_IDENTIFIER and "^" not in w)


def holds_identifier(text: str, identifiers: Collection[str]) -> bool:
    """Whether one of the identifiers stands in `text`; one of three letters only as a word.

    >>> holds_identifier("head of DOEJANE", {"doejane"}), holds_identifier("does", {"doe"})
    (True, False)
    """
    text = text.lower()
    words = set(re.findall(r"[^\W_]+", text))
    return any(i in words or (len(i) > SHORTEST_IDENTIFIER and i in text) for i in identifiers)
