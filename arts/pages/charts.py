"""Charts of results: lines with intervals, bars, reliability diagrams, spreads.

Values are fractions and are shown in percent, but for spreads; each appears in words under the pointer. Knows series,
bars and colours by role; not what is measured, and not how a figure gets onto a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arts.pages.figure import COLOURS, Point, drawing, new_figure, to_markup
from arts.pages.html import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_TICKS = 10


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


def line_chart(name: str, series: Sequence[Series], *, x_label: str, y_label: str, x_name: str = "k = {:g}") -> Markup:
    """Lines over a logarithmic x axis, each with its interval as a band (at a lone point a whisker), its name behind.

    Args:
        name: unique on the page; the SVG's ids begin with it.
        x_name: how a value of x reads under the pointer.
    """
    with drawing(name) as matplotlib:
        figure, axes = new_figure(matplotlib, width_in=13.6, height_in=5.4)
        axes.set_xscale("log", base=2)
        for one in series:
            color = COLOURS[one.style.role]
            axes.fill_between(one.x, one.low, one.high, color=color, alpha=0.13, linewidth=0)
            if len(one.x) == 1:
                axes.vlines(one.x, one.low, one.high, color=color, linewidth=1.3, alpha=0.5)
            axes.plot(
                one.x, one.value, color=color, linewidth=2, linestyle=(0, (4, 2)) if one.style.dashed else "-",
                marker="o", markersize=4.5,
            )  # fmt: skip
        found = sorted({x for one in series for x in one.x})
        ticks = found if len(found) <= _MAX_TICKS and all(x == int(x) for x in found) else _round_ticks(found)
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set_xlim(found[0] / 1.04, found[-1] * 1.04)
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        _label_ends(axes, series, found[-1])
        points = [point for one in series for point in _points(one, x_name)]
        return to_markup(figure, axes, name, f"{y_label}, by {x_label}", points)


def bar_chart(name: str, bars: Sequence[Bar], *, x_label: str) -> Markup:
    """Horizontal bars from 0, each with its interval as a whisker and its value written out."""
    with drawing(name) as matplotlib:
        figure, axes = new_figure(matplotlib, width_in=6.4, height_in=1.0 + 0.52 * len(bars))
        for y, bar in enumerate(bars):
            color = COLOURS[bar.style.role]
            look: dict[str, Any] = {"color": color} if not bar.style.dashed else {"color": "none", "edgecolor": color}
            axes.barh(
                y, bar.value, height=0.56, linewidth=1.6, linestyle=(0, (4, 2)) if bar.style.dashed else "-", **look
            )
            axes.plot([bar.low, bar.high], [y, y], color=COLOURS["ink"], linewidth=1.3, alpha=0.75)
            end = (max(bar.high, bar.value, 0.0), y)
            axes.annotate(f"{100 * bar.value:.1f}%", end, xytext=(7, 0), textcoords="offset points", va="center")
        axes.axvline(0, color=COLOURS["muted"], linewidth=0.9)
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.tick_params(axis="y", labelcolor=COLOURS["ink"], length=0)
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
        points = [
            Point((bar.low + bar.high) / 2, y, f"{bar.label}: {_shown(bar.value, bar.low, bar.high)}")
            for y, bar in enumerate(bars)
        ]
        return to_markup(figure, axes, name, x_label, points)


def reliability_chart(name: str, series: Sequence[Series], *, x_label: str, y_label: str) -> Markup:
    """What came against the chance that was stated, intervals as whiskers; on the diagonal the two agree."""
    with drawing(name) as matplotlib:
        figure, axes = new_figure(matplotlib, width_in=6.4, height_in=5.4)
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1.1, linestyle=(0, (1, 2)))
        for one in series:
            color = COLOURS[one.style.role]
            axes.vlines(one.x, one.low, one.high, color=color, linewidth=1.3, alpha=0.5)
            axes.plot(
                one.x, one.value, color=color, linewidth=1.4 if one.style.dashed else 2, marker="o", markersize=5,
                linestyle=(0, (4, 2)) if one.style.dashed else "-", label=one.label,
                markerfacecolor=COLOURS["card"] if one.style.dashed else color,
            )  # fmt: skip
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        axes.grid()
        axes.legend(loc="upper left", frameon=False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        points = [
            Point(x, value, f"{one.label}: stated {100 * x:.1f}%, right {_shown(value, low, high)}")
            for one in series
            for x, value, low, high in zip(one.x, one.value, one.low, one.high, strict=True)
        ]
        return to_markup(figure, axes, name, f"{y_label}, by {x_label}", points)


def spread_chart(name: str, spreads: Sequence[Spread], *, x_label: str, y_label: str) -> Markup:
    """Medians over a whole-numbered x axis, with two bands each, around a line at 0."""
    with drawing(name) as matplotlib:
        figure, axes = new_figure(matplotlib, width_in=6.4, height_in=5.4)
        axes.axhline(0, color=COLOURS["muted"], linewidth=1.1, linestyle=(0, (1, 2)))
        for one in spreads:
            color = COLOURS[one.style.role]
            axes.fill_between(one.x, *one.most, color=color, alpha=0.10, linewidth=0)
            axes.fill_between(one.x, *one.half, color=color, alpha=0.18, linewidth=0)
            axes.plot(one.x, one.median, color=color, linewidth=2, marker="o", markersize=4.5, label=one.label)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(10, integer=True))
        axes.grid(axis="y")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(spreads), frameon=False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        points = [
            Point(x, one.median[i], f"{one.label}, {x:g} above: {one.median[i]:+.2f} "
                   f"[{one.most[0][i]:.2f}, {one.most[1][i]:.2f}]".replace("-", "−"))
            for one in spreads
            for i, x in enumerate(one.x)
        ]  # fmt: skip
        return to_markup(figure, axes, name, f"{y_label}, by {x_label}", points)


def _round_ticks(found: Sequence[float]) -> list[float]:
    """Round numbers between the smallest and the largest value, as close together as fits."""
    for factors in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):
        steps = [factor * 10.0**power for power in range(8) for factor in factors]
        ticks = [step for step in steps if found[0] <= step <= found[-1]]
        if len(ticks) <= _MAX_TICKS:
            break
    return ticks or [found[0], found[-1]]


def _points(series: Series, x_name: str) -> list[Point]:
    return [
        Point(x, value, f"{series.label}, {x_name.format(x)}: {_shown(value, low, high)}")
        for x, value, low, high in zip(series.x, series.value, series.low, series.high, strict=True)
    ]


def _shown(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f}% [{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−")


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
            va="center", color=COLOURS[one.style.role], annotation_clip=False,
        )  # fmt: skip
