"""Cut the text of a whole solution into steps: for solutions that somebody else drew, whose separator nobody told us.

Writers separate steps by headings, blank lines, lines, or not at all. `step_style` finds the coarsest that makes three
steps of a text; `step_ends` cuts there, never inside a formula or code, and cuts a step that is too long at the
next finer place. Joined the steps are the text. Live drawing knows its separator and cuts tokens:
`arts.proposers.steps`. Knows no tokenizer, but `token_counts` carries the ends over to tokens.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

Style = Literal["headings", "paragraphs", "lines", "sentences"]
"""What separates steps; each includes those before it."""

STYLES: tuple[Style, ...] = get_args(Style)
LONGEST_STEP = 1000  # characters, about 300 tokens
_FEWEST_STEPS = 3  # of a style, to be the style of a text

_ABBREVIATION = (
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\b[Ee]q)(?<!\b[Mm]rs)(?<!\b[MmDd]r)(?<!\b[Ff]ig)(?<!\b[Nn]o)(?<!\bvs)(?<!\bcf)"
)
_BOUNDARIES: dict[str, re.Pattern[str]] = {
    # Matches end where a step may begin.
    "headings": re.compile(r"\n(?=#{1,6} |\**Step \d+)"),
    "paragraphs": re.compile(r"\n(?:[ \t]*\n)+"),
    "lines": re.compile(r"\n+"),
    "sentences": re.compile(
        rf"(?<!\d)(?<!\n){_ABBREVIATION}[.!?][\"')\]*]*\s+(?=[A-Z\"'(\[$\\*\d]|<\w)"  # the usual sentence
        # Behind a number, but not behind that of a list: `2. Then`
        r"|(?<=[^\n]\d)(?<!\n\d\d)\.[\"')\]*]*\s+(?=[A-Z\"'(\[$\\*]|<\w)"
        r"|</think>\s*"
    ),
}
_BLANKS = re.compile(r"\s+")
_OPENING = re.compile(
    r"```|\[asy\]|\\begin\{([A-Za-z]+\*?)\}|\\\[|\\\(|\$\$|\$(?=[^\s$])|\\[A-Za-z]+\s*(?=\{)",
)
_CLOSING = {"```": "```", "[asy]": "[/asy]", "\\[": "\\]", "\\(": "\\)", "$$": "$$"}
# A dollar that closes a formula has no blank before and no digit behind it: "$5 or $6" holds none.
_DOLLAR = re.compile(r"(?<=[^\s\\])\$(?!\d)|\n\s*\n")
_BRACE = re.compile(r"(?<!\\)[{}]")
_SOMETHING = re.compile(r"\w")


def cut_steps(text: str, *, style: Style | None = None, max_chars: int = LONGEST_STEP) -> list[str]:
    """The steps of a solution, each with the separator behind it. Joined they are the text.

    Args:
        style: what separates steps; None to find out. Cut again in this style, a step stays whole.
        max_chars: characters of the longest step.
    """
    ends = step_ends(text, style=style, max_chars=max_chars)
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def step_ends(text: str, *, style: Style | None = None, max_chars: int = LONGEST_STEP) -> list[int]:
    """Where each step ends, in characters; the last is `len(text)`, and an empty text has none.

    Raises:
        ValueError: `max_chars` is below 1, or there is no such style.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars is {max_chars}; it must be at least 1")
    if style is not None and style not in STYLES:
        raise ValueError(f"style is {style!r}; allowed are {', '.join(STYLES)}")
    if not text:
        return []
    places = _Places(text, max_chars)
    ends: list[int] = []
    for end in _natural_ends(text, places, style or _style(text, places)):
        start = ends[-1] if ends else 0
        ends.extend(_forced_ends(start, end, places, max_chars))
        ends.append(end)
    return ends


def step_style(text: str) -> Style:
    """The coarsest style that makes at least three steps of the text; `sentences` where none does."""
    return _style(text, _Places(text, LONGEST_STEP))


def _style(text: str, places: "_Places") -> Style:
    for style in STYLES[:-1]:
        if len(_natural_ends(text, places, style)) >= _FEWEST_STEPS:
            return style
    return STYLES[-1]


def _natural_ends(text: str, places: "_Places", style: Style) -> list[int]:
    """Ends of steps whatever their length.

    A step says something: signs alone belong to what follows, at the end to what was before. One that ends with a colon
    goes on with what it announces.
    """
    ends, start = [], 0
    for place in places.of(style):
        if _SOMETHING.search(text, start, place) and not text[start:place].rstrip(" \n\t*").endswith(":"):
            ends.append(place)
            start = place
    if ends and not _SOMETHING.search(text, start):
        ends.pop()
    return [*ends, len(text)]


def _forced_ends(start: int, end: int, places: "_Places", max_chars: int) -> Iterator[int]:
    """Places to cut a step that is too long, as coarse as there are in its allowed part, but not at its beginning."""
    while end - start > max_chars:
        start = places.last(start + max(1, max_chars // 4), start + max_chars)
        yield start


class _Places:
    """Where a text may be cut, by kind of separator: not inside a formula or code of at most `longest` characters."""

    def __init__(self, text: str, longest: int) -> None:
        spans = list(protected_spans(text, longest))
        self._text = text
        self._starts, self._ends = [start for start, _ in spans], [end for _, end in spans]
        self._of: dict[str, list[int]] = {}

    def _span_at(self, place: int) -> int | None:
        """The span with a place strictly inside."""
        index = bisect_left(self._starts, place) - 1
        return index if index >= 0 and place < self._ends[index] else None

    def of(self, kind: str) -> list[int]:
        """Places behind separators of the kind and of all coarser ones, inside the text."""
        if kind not in self._of:
            kinds = STYLES[: STYLES.index(kind) + 1] if kind in STYLES else ()
            patterns = [_BOUNDARIES[name] for name in kinds] or [_BLANKS]
            found = {match.end() for pattern in patterns for match in pattern.finditer(self._text)}
            self._of[kind] = sorted(
                place for place in found if 0 < place < len(self._text) and self._span_at(place) is None
            )
        return self._of[kind]

    def last(self, low: int, high: int) -> int:
        """The last place from `low` to `high`, of the coarsest kind that has one; `high` itself, or the start of the
        formula that it is in, where there is none."""
        for kind in (*STYLES[1:], "blanks"):
            places = self.of(kind)
            index = bisect_right(places, high) - 1
            if index >= 0 and places[index] >= low:
                return places[index]
        span = self._span_at(high)
        return high if span is None else self._starts[span]


def protected_spans(text: str, longest: int = LONGEST_STEP) -> Iterator[tuple[int, int]]:
    r"""Where formulas and code are: `$...$`, `$$...$$`, `\(...\)`, `\[...\]`, environments, commands with what is in
    their braces, code fences and `[asy]`. What never closes, or only after `longest` characters, is none.

    Yields:
        (first character, one behind the last), from left to right; they do not overlap.
    """
    place = 0
    while match := _OPENING.search(text, place):
        end = _closing(text, match, min(len(text), match.start() + longest))
        if end is None:
            place = match.end()
        else:
            yield match.start(), end
            place = end


def _closing(text: str, match: re.Match[str], limit: int) -> int | None:
    opening = match[0]
    if opening in _CLOSING:
        found = text.find(_CLOSING[opening], match.end(), limit)
        return None if found < 0 else found + len(_CLOSING[opening])
    if opening == "$":
        dollar = _DOLLAR.search(text, match.end(), limit)
        return dollar.end() if dollar and dollar[0] == "$" else None
    if match[1]:
        marks = re.compile(rf"\\(begin|end)\{{{re.escape(match[1])}\}}")
        return _nested(text, marks, "begin", match.start(), limit)
    end = _nested(text, _BRACE, "{", match.end(), limit)
    while end is not None and text.startswith("{", end):  # the denominator behind the numerator
        further = _nested(text, _BRACE, "{", end, limit)
        if further is None:
            break
        end = further
    return end


def _nested(text: str, marks: re.Pattern[str], opening: str, start: int, limit: int) -> int | None:
    """Where what opens at `start` is closed, others of its kind inside it closed as well."""
    depth = 0
    for mark in marks.finditer(text, start, limit):
        depth += 1 if (mark[1] if mark.re.groups else mark[0]) == opening else -1
        if depth == 0:
            return mark.end()
    return None


def token_counts(ends: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Ends of steps counted in tokens, for a text that a fast tokenizer has cut.

    A token that reaches over the end of a step belongs to that step, as when drawing. Two steps that share their last
    token are one, so that no step is without a token.

    Args:
        ends: as `step_ends` gives them.
        offsets: the tokenizer's `offset_mapping`: first character of each token, and one behind its last. Special
            tokens, which are empty, belong to the step before them.

    Returns:
        How many tokens each step ends with, rising; the last is `len(offsets)`.
    """
    counts: list[int] = []
    place = 0
    for end in ends:
        while place < len(offsets) and (offsets[place][0] < end or offsets[place][0] == offsets[place][1]):
            place += 1
        if place > (counts[-1] if counts else 0):
            counts.append(place)
    if counts:
        counts[-1] = len(offsets)
    return counts
