"""Charts as inline SVG that takes its colours and fonts from the page, so it is right in light and in dark.

Drawn by matplotlib (extra `report`), without its global state. Values are fractions and are shown in percent, but
for spreads. Knows series, bars and colours by role; not what is measured.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from arts.pages.html import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib knows no CSS variables: each role is drawn in a colour that occurs nowhere else, and replaced in the SVG.
_ROLES = ("ink", "muted", "line", "card", "arts", "majority", "random", "oracle", "second", "third")
_PLACEHOLDERS = {role: f"#0102{index:02x}" for index, role in enumerate(_ROLES, start=1)}
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 13,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "text.color": _PLACEHOLDERS["ink"],
    "axes.edgecolor": _PLACEHOLDERS["line"],
    "axes.labelcolor": _PLACEHOLDERS["muted"],
    "xtick.color": _PLACEHOLDERS["line"],
    "ytick.color": _PLACEHOLDERS["line"],
    "xtick.labelcolor": _PLACEHOLDERS["muted"],
    "ytick.labelcolor": _PLACEHOLDERS["muted"],
    "grid.color": _PLACEHOLDERS["line"],
    "grid.linewidth": 0.7,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


# Figures are drawn at the size they have on the page (72 units an inch), so that 13 is the size of the page's text.


@dataclass(frozen=True)
class Style:
    """How one selector looks everywhere on a page."""

    role: str
    "colour, by its name in style.css"
    dashed: bool = False


@dataclass(frozen=True)
class Series:
    label: str
    style: Style
    x: Sequence[float]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Spread:
    """A distribution at every x: its median, the middle half, and the middle four fifths."""

    label: str
    style: Style
    x: Sequence[float]
    median: Sequence[float]
    half: tuple[Sequence[float], Sequence[float]]
    "ends of the middle half"
    most: tuple[Sequence[float], Sequence[float]]
    "ends of the middle four fifths"


@dataclass(frozen=True)
class Bar:
    label: str
    style: Style
    value: float
    low: float
    high: float


def line_chart(name: str, series: Sequence[Series], *, x_label: str, y_label: str) -> Markup:
    """Lines over a logarithmic x axis, each with its interval as a band and its name at the end.

    Args:
        name: unique on the page; the SVG's ids begin with it.
    """
    matplotlib = _import_matplotlib()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure, axes = _new_figure(matplotlib, width_in=13.6, height_in=5.4)
        axes.set_xscale("log", base=2)
        for one in series:
            color = _PLACEHOLDERS[one.style.role]
            axes.fill_between(one.x, one.low, one.high, color=color, alpha=0.13, linewidth=0)
            axes.plot(
                one.x, one.value, color=color, linewidth=2, linestyle=(0, (4, 2)) if one.style.dashed else "-",
                marker="o", markersize=4.5,
            )  # fmt: skip
        ticks = sorted({x for one in series for x in one.x})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set_xlim(ticks[0] / 1.04, ticks[-1] * 1.04)
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        _label_ends(axes, series, ticks[-1])
        return _to_markup(figure, name, f"{y_label}, by {x_label}")


def bar_chart(name: str, bars: Sequence[Bar], *, x_label: str) -> Markup:
    """Horizontal bars from 0, each with its interval as a whisker and its value written out."""
    matplotlib = _import_matplotlib()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure, axes = _new_figure(matplotlib, width_in=6.4, height_in=1.0 + 0.52 * len(bars))
        for y, bar in enumerate(bars):
            color = _PLACEHOLDERS[bar.style.role]
            look: dict[str, Any] = {"color": color} if not bar.style.dashed else {"color": "none", "edgecolor": color}
            axes.barh(
                y, bar.value, height=0.56, linewidth=1.6, linestyle=(0, (4, 2)) if bar.style.dashed else "-", **look
            )
            axes.plot([bar.low, bar.high], [y, y], color=_PLACEHOLDERS["ink"], linewidth=1.3, alpha=0.75)
            end = (max(bar.high, bar.value, 0.0), y)
            axes.annotate(f"{100 * bar.value:.1f}%", end, xytext=(7, 0), textcoords="offset points", va="center")
        axes.axvline(0, color=_PLACEHOLDERS["muted"], linewidth=0.9)
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.tick_params(axis="y", labelcolor=_PLACEHOLDERS["ink"], length=0)
        axes.invert_yaxis()
        top = max(0.05, *(max(bar.high, bar.value) for bar in bars))
        axes.set_xlim(min(0.0, *(bar.low for bar in bars)) * 1.1, top * 1.2)
        axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        low, high = axes.get_xlim()
        # The axis is longer than 100%, so that the values written behind the bars have room.
        axes.set_xticks([tick for tick in matplotlib.ticker.MaxNLocator(6).tick_values(low, high) if low <= tick <= 1])
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_label)
        return _to_markup(figure, name, x_label)


def reliability_chart(name: str, series: Sequence[Series], *, x_label: str, y_label: str) -> Markup:
    """What came against the chance that was stated, intervals as whiskers; on the diagonal the two agree."""
    matplotlib = _import_matplotlib()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure, axes = _new_figure(matplotlib, width_in=6.4, height_in=5.4)
        axes.plot([0, 1], [0, 1], color=_PLACEHOLDERS["muted"], linewidth=1.1, linestyle=(0, (1, 2)))
        for one in series:
            color = _PLACEHOLDERS[one.style.role]
            axes.vlines(one.x, one.low, one.high, color=color, linewidth=1.3, alpha=0.5)
            axes.plot(
                one.x, one.value, color=color, linewidth=1.4 if one.style.dashed else 2, marker="o", markersize=5,
                linestyle=(0, (4, 2)) if one.style.dashed else "-", label=one.label,
                markerfacecolor=_PLACEHOLDERS["card"] if one.style.dashed else color,
            )  # fmt: skip
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        axes.grid()
        axes.legend(loc="upper left", frameon=False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _to_markup(figure, name, f"{y_label}, by {x_label}")


def spread_chart(name: str, spreads: Sequence[Spread], *, x_label: str, y_label: str) -> Markup:
    """Medians over a whole-numbered x axis, with two bands each, around a line at 0."""
    matplotlib = _import_matplotlib()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure, axes = _new_figure(matplotlib, width_in=6.4, height_in=5.4)
        axes.axhline(0, color=_PLACEHOLDERS["muted"], linewidth=1.1, linestyle=(0, (1, 2)))
        for one in spreads:
            color = _PLACEHOLDERS[one.style.role]
            axes.fill_between(one.x, *one.most, color=color, alpha=0.10, linewidth=0)
            axes.fill_between(one.x, *one.half, color=color, alpha=0.18, linewidth=0)
            axes.plot(one.x, one.median, color=color, linewidth=2, marker="o", markersize=4.5, label=one.label)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(10, integer=True))
        axes.grid(axis="y")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(spreads), frameon=False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _to_markup(figure, name, f"{y_label}, by {x_label}")


def _import_matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ImportError('charts need matplotlib; run: pip install "arts-llm[report]"') from error
    return matplotlib


def _new_figure(matplotlib: Any, *, width_in: float, height_in: float) -> tuple["Figure", "Axes"]:
    figure: Figure = matplotlib.figure.Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label_ends(axes: "Axes", series: Sequence[Series], x: float) -> None:
    """Write each name right of its line, moved apart where lines end close together."""
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    ordered = sorted(series, key=lambda one: one.value[-1])
    heights: list[float] = []
    for one in ordered:
        heights.append(max(one.value[-1], heights[-1] + gap if heights else low))
    # Pushing upwards only would leave the top label outside: give back what exceeds the axis, from the top down.
    ceiling = high
    for index in reversed(range(len(heights))):
        heights[index] = min(heights[index], ceiling)
        ceiling = heights[index] - gap
    for one, height in zip(ordered, heights, strict=True):
        axes.annotate(
            f"{one.label}  {100 * one.value[-1]:.1f}%", (x, height), xytext=(12, 0), textcoords="offset points",
            va="center", color=_PLACEHOLDERS[one.style.role], annotation_clip=False,
        )  # fmt: skip


def _to_markup(figure: "Figure", name: str, description: str) -> Markup:
    """The figure as an SVG element without prolog, metadata and fixed size, its ids prefixed with the chart's name."""
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
    for role, placeholder in _PLACEHOLDERS.items():
        svg = svg.replace(placeholder, f"var(--{role})")
    return Markup(svg.replace("<svg", f'<svg class="chart" role="img" aria-label="{escape(description)}"', 1))
