r"""Are two mathematical answers the same? Equal texts and numbers are decided here, exactly; formulas by math-verify,
in a process that is killed where it takes too long.

No is the answer in doubt: to what is longer than 300 characters, to two answers where one was asked for, to `9 - 5`
where a number was, to roundings of an exact number, to what the library cannot read. Nothing that a model wrote is run.
"""

import re
import threading
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

from arts.functions import CallError, Predicate
from arts.tasks.answers import LONGEST_ANSWER, find_answer, to_number
from arts.tree import Verdict

LIMIT_S = 2.0  # processor seconds of one comparison; all but hostile ones take milliseconds
MEMORY_BYTES = 2 << 30
_DEEPEST, _DEEPEST_ROUND = 6, 3  # brackets inside brackets; the library takes time exponential in round ones

_SIGNS = {
    "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{MULTIPLICATION SIGN}": r"\times ", "\N{MIDDLE DOT}": r"\cdot ",
    "\N{DOT OPERATOR}": r"\cdot ", "\N{DIVISION SIGN}": r"\div ", "\N{GREEK SMALL LETTER PI}": r"\pi ",
    "\N{INFINITY}": r"\infty ",
    "\N{SUPERSCRIPT TWO}": "^2", "\N{SUPERSCRIPT THREE}": "^3", "\N{DEGREE SIGN}": r"^\circ ",
    "\N{LESS-THAN OR EQUAL TO}": r"\le ", "\N{GREATER-THAN OR EQUAL TO}": r"\ge ", "\N{NOT EQUAL TO}": r"\ne ",
    "\N{PLUS-MINUS SIGN}": r"\pm ", "\N{UNION}": r"\cup ", "\N{INTERSECTION}": r"\cap ", "\N{ELEMENT OF}": r"\in ",
    "\N{EMPTY SET}": r"\emptyset ", "\N{NO-BREAK SPACE}": " ", "\N{THIN SPACE}": " ", "\N{NARROW NO-BREAK SPACE}": " ",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_ROOT = re.compile(r"\N{SQUARE ROOT}\s*(?:\(([^()]*)\)|(\w+))")
_LAYOUT = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|q?quad)(?![a-zA-Z])|(?<!\\)\\[!,;: ]|~|\{,\}"
)
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]+)\}|([^\s{}\\]))\s*(?:\{([^{}]+)\}|([^\s{}\\]))")
_SHORT_ROOT = re.compile(r"\\sqrt\s*([^\s{}\[\\])")
_WORDS = re.compile(r"\\(?:text|mathrm|mbox|textbf|textit|mathbf|textrm|operatorname)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
_BASE = re.compile(r"\d_(\d+|\{\d+\})\s*$")
# Not worth a comparison, or read wrongly by the library, unless the gold answer has it too.
_REFUSED = (
    (r"[^ -~\n\t]|[\"`@#?]|__|\('|'\)", "signs that no formula has"),
    (r"\d\s+\d+(?!\s*/|\d)", "two numbers beside each other"),  # the library reads 29 in `14 15`, as in 3 1/2
    (r"\.\.\.|\\l?dots|\\cdots", "the answer goes on"),
    (r"\\(?:i*int|oint|prod|sum|lim)(?![a-z])", "working where a result was asked for"),
    (r"!\s*!|\d{4}\s*!", "factorials that nobody can work out"),
    (r"\^\s*\{?\s*[-+]?[\d.]+\s*\^|\^\s*\{?\s*[-+]?\d{5}|(?:\^[^^]*){5}\}\}", "powers that nobody can work out"),
    (r"(?:\\sqrt\s*\{[^{}]*){4}|(?:\\frac\s*\{[^{}]*\}\s*\{[^{}]*){4}", "fractions or roots nested too deeply"),
    (r"(?:[+-][^+-]*){16}|(?:,[^,]*){24}", "more terms than an answer has"),
)
_REFUSED_PATTERNS = [(re.compile(pattern), reason) for pattern, reason in _REFUSED]
_OPENING, _CLOSING = re.compile(r"(?<!\\)\{"), re.compile(r"(?<!\\)\}")
_WORKING = re.compile(r"[\d)}]\s*[+-]\s*[\d(\\]")  # a sum or difference, still to be worked out
_BETWEEN_DIGITS = re.compile(r"(?<=\d)\s+(?=\d)")
_UNIT = re.compile(r"(?<=[\d})])\s+([a-z]{2,}(?: [a-z]+){0,2})$", re.IGNORECASE)
_NO_UNIT = {"or", "and", "not", "to", "pi", "sqrt", "plus", "minus", "times", "over", "half", "dozen"}
_NO_UNIT |= {"hundred", "thousand", "million", "billion"}
_WORD = re.compile(r"[a-z ]*[a-z]{2}[a-z ]*", re.IGNORECASE)


def check_math(gold: str, answer: str | None) -> Verdict:
    """The verdict on an answer, as `find_answer` takes it from a solution. Its key for votes depends on it alone.

    Raises:
        ValueError: a formula is to be compared and math-verify is not installed.
    """
    if answer is None:
        return Verdict(False, None, "no answer in it")
    if len(answer) > LONGEST_ANSWER:
        return Verdict(False, None, f"the answer is longer than {LONGEST_ANSWER} characters")
    same, reason = _compare(gold, answer)
    return Verdict(same, answer_key(answer), "" if same else reason)


def judge_math(gold: str, solution: str) -> Verdict:
    """The verdict on a whole solution."""
    return check_math(gold, find_answer(solution))


def answer_key(answer: str) -> str | None:
    """What votes are counted by: the number where it is one, so that 0.50 and 1/2 are one, else the plain text."""
    plain = plain_formula(answer)
    quantity = _quantity(plain)
    return str(quantity.number) if quantity else _solid(plain) or None


@lru_cache(maxsize=1 << 17)
def _compare(gold: str, answer: str) -> tuple[bool, str]:
    """Is it the same, and why not."""
    expected, found = plain_formula(gold), plain_formula(answer)
    if not _solid(found):
        return False, "the answer is empty"
    if _solid(expected) == _solid(found):
        return True, ""
    quantities = _quantity(expected), _quantity(found)
    if quantities[0] and quantities[1]:
        return _same_quantity(quantities[0], quantities[1]), f"not {gold}"
    refused = _refusal(expected, found)
    if refused:
        return False, refused
    try:
        return _same_formula(expected, found), f"not {gold}"
    except CallError as error:
        return False, f"comparing it failed: {error}"


def plain_formula(text: str) -> str:
    """LaTeX without what only dresses it: dollars, spacing, `left` and `right`, degrees, `text`, kinds of fractions."""
    text = _SIGN.sub(lambda match: _SIGNS[match[0]], text.strip())
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = _full_stop(text.strip("*").strip())
    for start, end in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if len(text) > len(start + end) and text.startswith(start) and text.endswith(end):
            text = text[len(start) : -len(end)]
    text = text.replace(r"\$", "").replace(r"\%", "%").strip()
    text = _LAYOUT.sub(lambda match: "," if match[0] == "{,}" else "" if match[0] in (r"\!", r"\,") else " ", text)
    text = _SHORT_FRACTION.sub(_braced_fraction, _FRACTION.sub(r"\\frac", text))
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _full_stop(_DEGREES.sub("", _WORDS.sub(r" \1 ", text)).strip())
    return text[1] if re.fullmatch(r"\([A-Za-z]\)", text) else text  # a choice


def _full_stop(text: str) -> str:
    """Without the full stop of a sentence; three of them say something else."""
    return text if text.endswith("..") else text.removesuffix(".").rstrip()


def _braced_fraction(match: re.Match[str]) -> str:
    return rf"\frac{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}"


def _solid(text: str) -> str:
    """Without capitals and blanks; but 14 15 is not 1415."""
    return "".join(_BETWEEN_DIGITS.sub("_", text.casefold()).split())


class _Quantity(NamedTuple):
    number: Fraction
    unit: str
    "a word or two, `%`, or nothing"


def _quantity(text: str) -> _Quantity | None:
    """`12`, `50%`, `3 1/2 cups`; None for what is no number with at most a unit."""
    words = _UNIT.search(text)
    if words and not _NO_UNIT & set(words[1].lower().split()):
        text, unit = text[: words.start()], words[1].lower()
    else:
        unit = "%" if text.endswith("%") else ""
    number = to_number(text)
    return None if number is None else _Quantity(number, unit)


def _same_quantity(gold: _Quantity, answer: _Quantity) -> bool:
    """A unit may be left out. `50%` answers 50, as in "what percent", and 1/2."""
    if gold.unit == answer.unit or "%" not in (gold.unit, answer.unit):
        return gold.number == answer.number and (gold.unit == answer.unit or not (gold.unit and answer.unit))
    percent, other = (gold, answer) if gold.unit == "%" else (answer, gold)
    return other.number in (percent.number, percent.number / 100)


def _depth(text: str, opening: str, closing: str) -> int:
    depth = deepest = 0
    for sign in text:
        depth += (sign in opening) - (sign in closing)
        deepest = max(deepest, depth)
    return deepest


def _refusal(gold: str, answer: str) -> str:
    """Why an answer is not worth a comparison, or where the library is known to say yes to what is wrong."""
    if _depth(answer, "([{", ")]}") > _DEEPEST or _depth(answer, "(", ")") > _DEEPEST_ROUND:
        return "brackets nested too deeply"
    if len(_OPENING.findall(answer)) != len(_CLOSING.findall(answer)):
        return "braces that do not match"
    for pattern, reason in _REFUSED_PATTERNS:
        if pattern.search(answer) and not pattern.search(gold):
            return reason
    if _quantity(gold) and _WORKING.search(answer):
        return "working where a number was asked for"
    if _WORD.fullmatch(gold):
        return f"not {gold}"
    bases = _BASE.search(gold), _BASE.search(answer)
    if bases[0] and bases[1] and bases[0][1].strip("{}") != bases[1][1].strip("{}"):
        return "a number of another base"
    return ""


_starting = threading.Lock()
_library: Predicate | None = None


def _same_formula(gold: str, answer: str) -> bool:
    return require_library()(gold, answer)


def require_library() -> Predicate:
    """math-verify in its process, one for the whole program. Raises ValueError where it is not installed."""
    global _library
    with _starting:
        if _library is None:
            if find_spec("math_verify") is None:
                raise ValueError('comparing formulas needs math-verify: pip install "arts-llm[math]"')
            name = "arts.tasks.math_library:same_formula"
            _library = Predicate(name, limit_s=LIMIT_S, memory_bytes=MEMORY_BYTES)
        return _library
