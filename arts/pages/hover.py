"""Values that appear under the pointer, in charts without a script: marks that a style sheet uncovers.

Knows places in a picture and texts; not charts.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from arts.pages.html import Markup

_REACH = 10.0  # around a mark; marks nearer to each other than that share one text
_LETTER, _LINE, _PADDING = 6.7, 17.0, 9.0  # of the text: mean width of a letter at 12 px, height of a line


class Mark(NamedTuple):
    """A place in a picture, from its top left corner, and what is said there."""

    x: float
    y: float
    text: str


def hover_marks(marks: Iterable[Mark], *, width: float, height: float) -> Markup:
    """SVG to put last into a picture of that size."""
    return Markup("".join(_hit(group, width, height) for group in _neighbours(marks)))


def _neighbours(marks: Iterable[Mark]) -> list[list[Mark]]:
    """Marks that a pointer could not tell apart, upper ones first; equal texts once."""
    groups: list[list[Mark]] = []
    for mark in sorted(set(marks)):
        near = (g for g in groups if abs(g[0].x - mark.x) < _REACH and abs(g[0].y - mark.y) < _REACH)
        group = next(near, None)
        if group is None:
            groups.append([mark])
        else:
            group.append(mark)
    return [sorted(group, key=lambda mark: mark.y) for group in groups]


def _hit(marks: Sequence[Mark], width: float, height: float) -> str:
    x, y = marks[0].x, sum(mark.y for mark in marks) / len(marks)
    box_width = max(len(mark.text) for mark in marks) * _LETTER + 2 * _PADDING
    box_height = len(marks) * _LINE + _PADDING
    left = min(max(0.0, x - box_width / 2), max(0.0, width - box_width))
    top = y - box_height - 12 if y - box_height - 12 >= 0 else min(y + 14, height - box_height)
    lines = "".join(
        f'<text x="{left + _PADDING:.1f}" y="{top + _LINE * (number + 1) - 1:.1f}">{escape(mark.text)}</text>'
        for number, mark in enumerate(marks)
    )
    return (
        f'<g class="hit"><circle cx="{x:.1f}" cy="{y:.1f}" r="{_REACH}"/><g class="tip">'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box_width:.1f}" height="{box_height:.1f}" rx="6"/>{lines}</g></g>'
    )
