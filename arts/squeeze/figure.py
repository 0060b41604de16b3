"""The picture of `arts squeeze --toy`: survival against likelihood, and pass@k with and without coupling. One SVG.

Knows numbers and colours; computes nothing. Needs matplotlib (extra `report`).
"""

from pathlib import Path
from typing import Any

from arts.squeeze.sweep import HighPass
from arts.squeeze.toy import SHORT, ToySqueeze

INK, MUTED, LINE = "#17191e", "#636a76", "#d9dbd7"
COLORS = ("#c2620a", "#2563eb", "#17191e", "#848b97")
_SETTINGS: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "squeeze", "font.size": 9.5, "font.family": "sans-serif",
    "text.color": INK, "axes.edgecolor": LINE, "axes.labelcolor": MUTED,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white",
}  # fmt: skip


def draw_toy(found: ToySqueeze, out: Path) -> Path:
    """Write the figure, .svg or .png.

    Raises:
        ImportError: matplotlib is not installed; says how to get it.
    """
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ImportError('the picture needs matplotlib; run: pip install "arts-llm[report]"') from error
    with matplotlib.rc_context(_SETTINGS):
        figure = matplotlib.figure.Figure(figsize=(12.4, 4.1), layout="constrained")
        group, warmth, coupled = figure.subplots(1, 3)
        _draw_survival(group, {f"G = {size}": curve for size, curve in found.by_group.items()}, "group size")
        missed = found.by_group[4]
        group.plot(
            [10**x for x in missed.log10_likelihood], missed.never_drawn, color=MUTED, linestyle=(0, (2, 2)),
            linewidth=1.2, label="never drawn, G = 4",
        )  # fmt: skip
        group.legend(frameon=False, loc="center left")
        _draw_survival(warmth, {f"T = {t:g}": curve for t, curve in found.by_temperature.items()}, "temperature")
        warmth.legend(frameon=False, loc="center left")
        _draw_coupled(coupled, found)
        coupled.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        for axes in (group, warmth, coupled):
            axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
            axes.set_ylim(-0.02, 1.02)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=110)
    return out


def _draw_survival(axes: Any, curves: dict[str, HighPass], by: str) -> None:
    axes.set_xscale("log")
    for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
        x = [10**middle for middle in curve.log10_likelihood]
        axes.fill_between(
            x, [one.low for one in curve.survival], [one.high for one in curve.survival], color=color, alpha=0.12,
            linewidth=0,
        )  # fmt: skip
        axes.plot(x, [one.value for one in curve.survival], color=color, linewidth=1.8, marker="o", markersize=3.5,
                  label=name)  # fmt: skip
    axes.set_title(f"Right paths that do not fall, by {by}", loc="left", fontsize=10.5, fontweight="bold")
    axes.set_xlabel(f"likelihood before; after {SHORT.updates} updates of GRPO")


def _draw_coupled(axes: Any, found: ToySqueeze) -> None:
    axes.set_xscale("log", base=4)
    sizes = list(found.coupled_base)
    axes.plot(sizes, list(found.coupled_base.values()), color=MUTED, linestyle=(0, (4, 2)), linewidth=1.8, label="base")
    for color, (kappa, at) in zip(COLORS, found.coupled.items(), strict=False):
        axes.fill_between(
            sizes, [at[k].low for k in sizes], [at[k].high for k in sizes], color=color, alpha=0.12, linewidth=0
        )
        axes.plot(sizes, [at[k].value for k in sizes], color=color, linewidth=1.8, marker="o", markersize=3.5,
                  label=f"GRPO, coupling {kappa:g}")  # fmt: skip
    axes.set_xticks(sizes, [str(k) for k in sizes])
    axes.legend(frameon=False, loc="lower right")
    axes.set_title("pass@k over 24 problems", loc="left", fontsize=10.5, fontweight="bold")
    axes.set_xlabel("k")
