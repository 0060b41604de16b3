"""How a matplotlib figure becomes inline SVG: colours and fonts are the page's, values appear under the pointer.

matplotlib is the extra `report`, and is used without its global state. Knows figures; not what is drawn on them.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from arts.pages.hover import Mark, hover_marks
from arts.pages.html import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib knows no CSS variables: each role is drawn in a colour that occurs nowhere else, and replaced in the SVG.
_ROLES = (
    "ink", "muted", "line", "card", "arts", "majority", "random", "oracle", "second", "third", "fourth", "fifth",
    "sixth",
)  # fmt: skip
COLOURS = {role: f"#0102{index:02x}" for index, role in enumerate(_ROLES, start=1)}
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 13,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.7,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


# Figures are drawn at the size they have on the page (72 units an inch), so that 13 is the size of the page's text.


class Point(NamedTuple):
    """A value of a chart in its own units, and the words for it."""

    x: float
    y: float
    text: str


def _import_matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ImportError('charts need matplotlib; run: pip install "arts-llm[report]"') from error
    return matplotlib


@contextmanager
def drawing(name: str) -> Iterator[Any]:
    """matplotlib with our settings, for a chart of that name: unique on a page, as the SVG's ids begin with it."""
    matplotlib = _import_matplotlib()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        yield matplotlib


def new_figure(matplotlib: Any, *, width_in: float, height_in: float) -> tuple["Figure", "Axes"]:
    figure: Figure = matplotlib.figure.Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def to_markup(figure: "Figure", axes: "Axes", name: str, description: str, points: Sequence[Point]) -> Markup:
    """The figure as an SVG element without prolog, metadata and fixed size, its ids prefixed with the chart's name.

    Args:
        points: values that are told under the pointer.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # A style inside the SVG would hold for the whole page; style.css has the two rules that matter.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font: \1 var(--sans)", svg)
    svg = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans)", svg)
    for role, placeholder in COLOURS.items():
        svg = svg.replace(placeholder, f"var(--{role})")
    svg = svg.replace("<svg", f'<svg class="chart" role="img" aria-label="{escape(description)}"', 1)
    return Markup(svg[: svg.rindex("</svg>")] + _hover(figure, axes, points) + "</svg>")


def _hover(figure: "Figure", axes: "Axes", points: Sequence[Point]) -> Markup:
    """Marks at the places of the points; the figure was saved before, so that its layout is final."""
    width, height = (72 * size for size in figure.get_size_inches())
    unit = 72 / figure.dpi  # an SVG of matplotlib has 72 units an inch, from the top; its pixels count from the bottom
    places = [axes.transData.transform((point.x, point.y)) * unit for point in points]
    marks = [Mark(float(x), height - float(y), point.text) for (x, y), point in zip(places, points, strict=True)]
    return hover_marks(marks, width=width, height=height)
