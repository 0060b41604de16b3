"""Tables, plans and the plot of docs/scale.md from the rows of the growth benchmark: no number there is typed by hand.

    python recipes/growth_table.py            # fill the marked places of the page, and draw the plot
    python recipes/growth_table.py --check    # say whether that would change anything

A place is marked `<!-- growth: TABLE ARGUMENT -->` ... `<!-- end of table -->`. TABLE is `stages WORLD`, `trees SHAPE`,
`searches all` or `plan NAME`, with the options of `PLANS`. The cost of a unit is a slope, so that starting up is not in
it: what the last problems cost, between the two largest sizes. *Flat* is that slope over the one before it.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))  # its modules import each other as they are for a script

from growth import RESULTS, Row, read_rows  # noqa: E402
from growth_stages import WORLDS  # noqa: E402
from plan import Cluster, given, plan, read_measured, table  # noqa: E402
from plan_problem import Work  # noqa: E402

PAGE = ROOT / "docs" / "scale.md"
PLOT = ROOT / "docs" / "growth.svg"
PLACE = re.compile(r"(<!-- growth: (\w+) (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
PLANS: Mapping[str, Mapping[str, Any]] = {
    "math": {},
    "million": {"problems": 1_000_000, "gpus": 64},
    "chains": {"problems": 1_000_000, "trunks": 8, "rollouts": 8, "epochs": 1, "gpus": 64},
}
NONE = "–"


class Slope(NamedTuple):
    """What one more problem costs, between two sizes."""

    size: int
    "the larger one"
    ms: float
    "of a processor"
    memory: float
    "bytes of peak memory"


def slopes(rows: Sequence[Row]) -> list[Slope]:
    """Of one stage, from size to size."""
    ordered = sorted(rows, key=lambda row: row["size"])
    return [
        Slope(
            large["size"],
            1e3 * (large["cpu_s"] - small["cpu_s"]) / (large["size"] - small["size"]),
            1024**2 * (large["peak_mb"] - small["peak_mb"]) / (large["size"] - small["size"]),
        )
        for small, large in pairwise(ordered)
    ]


def stage_lines(rows: Sequence[Row], world: str) -> Iterator[str]:
    own = [row for row in rows if row["part"] == "stage" and row["world"] == world]
    sizes = sorted({row["size"] for row in own})
    columns = ("ms a problem", "flat", "memory a problem", "disk a problem")
    yield _line("command", *(f"{size:,}: s, peak MB" for size in sizes), *columns)
    yield _line(*["---"] * (len(sizes) + 5))
    for stage in WORLDS[world].stages:
        found = {row["size"]: row for row in own if row["stage"] == stage}
        steps = slopes(list(found.values()))
        flat = steps[-1].ms / steps[-2].ms if len(steps) > 1 and steps[-2].ms > 0.05 else None
        largest = found[max(found)] if found else None
        yield _line(
            stage,
            *(f"{found[size]['cpu_s']:.1f}, {found[size]['peak_mb']:.0f}" if size in found else NONE for size in sizes),
            f"{steps[-1].ms:.2f}" if steps else NONE,
            NONE if flat is None else f"{flat:.2f}",
            _bytes(steps[-1].memory) if steps else NONE,
            _bytes(largest["disk_bytes"] / largest["size"]) if largest and largest["disk_bytes"] else NONE,
        )


def tree_lines(rows: Sequence[Row], shape: str) -> Iterator[str]:
    own = [row for row in rows if row["part"] == "tree" and row["shape"] == shape]
    yield from _by_size(own, "operation", with_bytes=True)


def search_lines(rows: Sequence[Row]) -> Iterator[str]:
    yield from _by_size([row for row in rows if row["part"] == "search"], "strategy")


def _by_size(rows: Sequence[Row], name: str, *, with_bytes: bool = False) -> Iterator[str]:
    """A line for each operation: microseconds a node at every size, the last against the one of 1,000 nodes."""
    sizes = sorted({row["size"] for row in rows})
    more = ["peak bytes a node"] if with_bytes else []
    yield _line(name, *(f"{size:,}" for size in sizes), "flat", *more)
    yield _line(*["---"] * (len(sizes) + 2 + len(more)))
    for one in dict.fromkeys(row[name] for row in rows):
        found = {row["size"]: row for row in rows if row[name] == one}
        last = max(found)
        flat = f"{found[last]['us_per_node'] / found[1000]['us_per_node']:.1f}" if 1000 in found else NONE
        cells = (f"{found[size]['us_per_node']:.1f}" if size in found else NONE for size in sizes)
        yield _line(one, *cells, flat, *([f"{found[last]['bytes_per_node']:.0f}"] if with_bytes else []))


def plan_lines(name: str) -> Iterator[str]:
    options = PLANS[name]
    work, cluster = Work(**given(Work, options)), Cluster(**given(Cluster, options))
    yield from table(plan(work, cluster, read_measured())).splitlines()


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _bytes(number: float) -> str:
    return f"{number / 1e3:,.1f} kB" if abs(number) >= 1e3 else f"{number:.0f} B"


def filled(page: str, rows: Sequence[Row]) -> str:
    """The page with every marked place made anew."""

    def lines(place: re.Match[str]) -> Iterator[str]:
        match place[2]:
            case "stages":
                return stage_lines(rows, place[3])
            case "trees":
                return tree_lines(rows, place[3])
            case "searches":
                return search_lines(rows)
            case "plan":
                return plan_lines(place[3])
        raise ValueError(f"{place[0]!r} names no table; there are stages, trees, searches and plan")

    return PLACE.sub(lambda place: place[1] + "\n".join(lines(place)) + "\n" + place[4], page)


# --- plot -------------------------------------------------------------------------------------------------------------

COLORS = ("#2563eb", "#17191e", "#c2620a", "#15803d", "#9333ea", "#b91c1c", "#0e7490", "#848b97")
INK, MUTED, LINE = "#17191e", "#636a76", "#d9dbd7"
SHOWN = ("build", "read", "walk", "pack", "evaluate", "view", "targets rfm", "targets pairwise_rm")
ARTS = "arts:settled=1.01,give_up=0"
SEARCHED = ("best-of-n", ARTS, "beam", "rebase", "best-first", "mcts", "dts", "global-frontier")


def draw_plot(rows: Sequence[Row], out: Path) -> None:
    """What a problem, a node of a tree and a node of a search cost, over how many there are."""
    import matplotlib
    import matplotlib.figure

    settings = {
        "svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 10, "font.family": "sans-serif",
        "text.color": INK, "axes.edgecolor": LINE, "axes.labelcolor": MUTED,
        "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
        "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white",
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = matplotlib.figure.Figure(figsize=(14.4, 4.9), layout="constrained")
        problems, nodes, searches = figure.subplots(1, 3)
        operations = size_points(rows, "tree", "operation", SHOWN)
        strategies = size_points(rows, "search", "strategy", SEARCHED)
        _draw(problems, stage_points(rows), "A problem: ms of a processor", "problems", dashed="table")
        _draw(nodes, operations, "A node of a wide tree: us", "nodes of the tree")
        _draw(searches, strategies, "A node of a search: us", "nodes of the tree")
        figure.savefig(out, metadata={"Date": None})


Points = dict[str, list[tuple[int, float]]]


def stage_points(rows: Sequence[Row]) -> Points:
    """The slope of every stage, over the larger of its two sizes."""
    points: Points = {}
    for world, stage in dict.fromkeys((row["world"], row["stage"]) for row in rows if row["part"] == "stage"):
        if stage in ("collect", "evaluate", "search", "train"):
            own = [row for row in rows if (row.get("world"), row.get("stage")) == (world, stage)]
            points[f"{stage}, {world}"] = [(one.size, one.ms) for one in slopes(own)]
    return points


def size_points(rows: Sequence[Row], part: str, name: str, shown: Sequence[str]) -> Points:
    own = [row for row in rows if row["part"] == part and row.get("shape", "wide") == "wide"]
    return {
        one.partition(":")[0]: [(row["size"], row["us_per_node"]) for row in own if row[name] == one] for one in shown
    }


def _draw(axes: Any, points: Points, title: str, x_label: str, dashed: str = "nothing") -> None:
    for place, (name, line) in enumerate(points.items()):
        style = "--" if name.endswith(dashed) else "-"
        x, y = [one[0] for one in line], [one[1] for one in line]
        color = COLORS[place % len(COLORS)]
        axes.plot(x, y, style, label=name, color=color, marker="o", markersize=4, linewidth=1.3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x_label)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    options = parser.parse_args()
    rows = read_rows(RESULTS)
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before, rows)
    print(f"{PAGE.name}: {len(PLACE.findall(before))} tables, {'as they were' if after == before else 'changed'}")
    if not options.check:
        PAGE.write_text(after, encoding="utf-8")
        draw_plot(rows, PLOT)
    sys.exit(int(options.check and after != before))


if __name__ == "__main__":
    main()
