"""Problems of a test set that are in a training set too, by their normalised text. Knows no file and no task.

MATH-500 is part of MATH's test set, data sets are built from one another, and a verifier cannot be measured on what it
was trained on.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

_DRESS = re.compile(r"\\(?:left|right|displaystyle|text|mathrm|mbox|[dt]frac|quad)(?![a-z])|\\[,;:! ]")


class Leak(NamedTuple):
    """A problem that is in both: its place in each, counted from 0, and its text in the test set."""

    train: int
    test: int
    text: str


def leaked(train_texts: Iterable[str], test_texts: Iterable[str]) -> list[Leak]:
    """The test problems that are in the training set too, each once, with the first place it is at there.

    Texts count as equal that differ in capitals, blanks, punctuation, and LaTeX that changes only the look.
    """
    first: dict[str, int] = {}
    for place, text in enumerate(train_texts):
        first.setdefault(normalised(text), place)
    leaks = []
    for place, text in enumerate(test_texts):
        found = first.get(normalised(text))
        if found is not None:
            leaks.append(Leak(found, place, text))
    return leaks


def normalised(text: str) -> str:
    """What of a problem's text counts: its letters, digits and operators."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _DRESS.sub(lambda match: "frac" if "frac" in match[0] else "", text)
    kept = "".join(sign for sign in text if sign.isalnum() or sign in "+-*/^=<>!|%")
    return kept or text  # a text of other signs only is itself
