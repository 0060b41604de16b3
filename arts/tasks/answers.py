"""The answer in the text of a solution, and whether two answers are the same. Exact forms only: integers, decimals,
fractions, texts. Knows no task and no model.
"""

import re
from fractions import Fraction

_BOXED = re.compile(r"\\boxed\s*\{")
_MARK = re.compile(r"####|answer\s*(?:is|:)\s*:?", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?(?:/\d+)?|-?\.\d+")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}(?:\^\{?\d\}?)?|\^\\circ|\^\{\\circ\}")
_OPERATION = re.compile(r"[\^*+_]|\\[a-zA-Z]|\bor\b|\band\b")  # beside a number: it is not the whole answer
_LONGEST = 300  # characters; no answer is longer, and some that are take for ever to compare


def find_answer(solution: str) -> str | None:
    r"""The last `\boxed{...}`, else what stands behind the last `####` or `answer is`; None where there is none."""
    boxed = _last_boxed(solution)
    if boxed is not None:
        return boxed.strip() or None
    marks = list(_MARK.finditer(solution))
    return solution[marks[-1].end() :].strip().partition("\n")[0].strip(" *.") or None if marks else None


def _last_boxed(text: str) -> str | None:
    """What the last box holds, braces inside it matched."""
    starts = [match.end() for match in _BOXED.finditer(text)]
    for start in reversed(starts):
        depth = 1
        for place in range(start, min(len(text), start + 10 * _LONGEST)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start:place]
    return None


def find_number(solution: str) -> Fraction | None:
    """The number of the answer; where none is marked as such, the last number of the text.

    What is marked must be one number, behind an optional `x =` and before an optional unit; anything else is none.
    """
    marked = find_answer(solution)
    if marked is None:
        numbers = _NUMBER.findall(_plain_math(solution))
        return to_number(numbers[-1]) if numbers else None
    plain = _plain_math(marked)
    numbers = _NUMBER.findall(plain)
    if len(numbers) != 1 or _OPERATION.search(plain.replace(numbers[0], "", 1)):
        return None
    return to_number(numbers[0])


def _plain_math(text: str) -> str:
    """LaTeX that only dresses a number, taken off: fractions, groups of digits, units, signs."""
    text = text.replace("\N{MINUS SIGN}", "-").replace("{,}", ",").replace("\\,", "").replace("\\!", "")
    text = _FRACTION.sub(r"\1/\2", text)
    return _UNIT.sub(" ", text)


def to_number(text: str) -> Fraction | None:
    """`1,234.5`, `3/4`, `-7`, `$12`, `40%`, `1.5e3`: the number itself; None for what is none."""
    plain = _plain_math(text).strip().strip("$%.\\ ").replace(",", "").replace(" ", "")
    exponent = plain.lower().partition("e")[2].lstrip("+-")
    if not plain or len(plain) > _LONGEST or len(exponent) > 3:
        return None
    try:
        return Fraction(plain)
    except (ValueError, ZeroDivisionError):
        return None


def same_text(one: str, other: str) -> bool:
    """Equal up to capitals, blanks, and `$`, `*`, `.` at the ends."""
    return plain_text(one) == plain_text(other)


def plain_text(text: str) -> str:
    return " ".join(text.strip(" \t\n$*.").casefold().split())
