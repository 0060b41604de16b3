"""The answer in the text of a solution, and whether two answers are the same. Exact forms only: integers, decimals,
fractions, texts. Knows no task and no model; `arts.tasks.math_answer` compares formulas.
"""

import re
from fractions import Fraction

LONGEST_ANSWER = 300  # characters; no answer is longer, and some that are take for ever to compare

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\f?boxed\s*\{")
_MARK = re.compile(r"####|answer\s*(?:is|:)\s*:?|^A:(?=.*\Z)", re.IGNORECASE | re.MULTILINE)
_FORMULA = re.compile(r"\s*(?:\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\])", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?]\s+(?=[A-Z\"'(\[])")
_MIXED = re.compile(r"(-?)(\d+) +(\d+)/(\d+)")  # 3 1/2
_NUMBER = re.compile(r"-?\d+ +\d+/\d+|-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?(?:/\d+)?|-?\.\d+")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}(?:\^\{?\d\}?)?|\^\\circ|\^\{\\circ\}")
_OPERATION = re.compile(r"[\^*+_]|\\[a-zA-Z]|\bor\b|\band\b")  # beside a number: it is not the whole answer
_GROUPED = re.compile(r"(?<!\d)(\d{1,3})((?:,\d{3})+|(?: \d{3})+)(?![\d,])")


def find_answer(solution: str) -> str | None:
    r"""The answer that a solution marks as such, None where there is none.

    The last whole `<answer>...</answer>` comes first, then the last `\boxed{...}`, then what stands behind the last
    `####`, `answer is`, `Answer:`, or `A:` in the last line. A box inside a tag is opened.
    """
    tagged = find_tagged(solution)
    boxed = _last_boxed(solution if tagged is None else tagged)
    if tagged is not None and boxed is None:
        return tagged or None
    if boxed is not None:
        return boxed.strip() or None
    marks = list(_MARK.finditer(solution.rstrip()))
    return _first_statement(solution[marks[-1].end() :]) if marks else None


def find_tagged(solution: str) -> str | None:
    """What the last whole `<answer>...</answer>` holds; None where there is none."""
    tagged = _TAGGED.findall(solution)
    return tagged[-1].strip() if tagged else None


def _last_boxed(text: str) -> str | None:
    """What the last box holds, braces inside it matched."""
    starts = [match.end() for match in _BOXED.finditer(text)]
    for start in reversed(starts):
        depth = 1
        for place in range(start, min(len(text), start + 10 * LONGEST_ANSWER)):
            if text[place - 1] == "\\" and text[place - 2 : place] != "\\\\":
                continue  # `\{` is a sign of the answer, not a brace around it
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start:place]
    return None


def _first_statement(text: str) -> str | None:
    """A formula at the start of a text, else its first sentence or line."""
    text = text.lstrip(" \t\n*:")
    formula = _FORMULA.match(text[: 2 * LONGEST_ANSWER])
    rest = text[formula.end() :].partition("\n")[0] if formula else ""
    if formula and not re.match(r"\s*[\w$\\(=+/-]", rest):
        return next(group for group in formula.groups() if group).strip() or None
    line = text.partition("\n")[0]
    return _SENTENCE_END.split(line, maxsplit=1)[0].strip(" *.") or None


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
    text = _FRACTION.sub(r" \1\2/\3\4", text)
    return _UNIT.sub(" ", text)


def to_number(text: str) -> Fraction | None:
    """`1,234.5`, `3/4`, `-7`, `$12`, `40%`, `1.5e3`: the number itself; None for what is none."""
    if len(text) > LONGEST_ANSWER:
        return None
    plain = _plain_math(text).strip("$%\\ \t\n").removesuffix(".").rstrip("$%\\ ")
    plain = _GROUPED.sub(lambda match: re.sub("[, ]", "", match[0]), plain)
    plain = re.sub(r"(?<=^[-+]) +| *(/) *", r"\1", plain)
    mixed = _MIXED.fullmatch(plain)
    if mixed and 0 < int(mixed[3]) < int(mixed[4]):
        plain = f"{mixed[1]}{int(mixed[2]) * int(mixed[4]) + int(mixed[3])}/{mixed[4]}"
    exponent = plain.lower().partition("e")[2].lstrip("+-")
    if not plain or len(exponent) > 3 or "_" in plain:  # 11_2 is a number of base two
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
