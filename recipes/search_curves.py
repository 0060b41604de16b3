"""Rows, tables and the plot of the search experiment (search_curves.sh): no number of the docs is typed by hand.

    python recipes/search_curves.py --from runs/search     # keep what matters of finished searches in results/
    python recipes/search_curves.py                        # fill the marked places of the docs, and draw the plot
    python recipes/search_curves.py --check                # say whether that would change anything

A place is marked `<!-- search: TABLE SET -->` ... `<!-- end of table -->`. TABLE is `main`, `others`, `all`, `rare`,
`reach` or `curve`; SET is a folder of searches, such as `test-4`. Accuracies are means over seeds; intervals are 95%,
bootstrap over problems, of those means; differences are paired.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arts.evaluate.metrics import Estimate, paired_bootstrap
from arts.evaluate.searches import SearchRow, SearchSpec, read_rows, shown, summarize
from arts.files import dump
from arts.search.budget import Bill
from arts.store import load_trees
from arts.tree import ReasoningTree

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "searches.jsonl"
PAGES = [ROOT / "docs" / name for name in ("experiments.md", "choose_strategy.md")]
PLOT = ROOT / "docs" / "search_curves.svg"
PLACE = re.compile(r"(<!-- search: (\w+) (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
RARE = 0.1  # of 64 draws, less than this share right: the rare subset
MISSING = "–"
Rows = dict[str, list[SearchRow]]
"""Of each set."""
Pools = dict[str, dict[str, float]]
"""Of each set, the share of right solutions among 64 independent draws of every problem."""


# --- rows -------------------------------------------------------------------------------------------------------------


def kept(folder: Path) -> Iterable[dict[str, Any]]:
    """One line a spec: what was spent and found, problem by problem."""
    for found in sorted(path.parent for path in folder.glob("*/searches.jsonl")):
        rows = read_rows(found)
        problems = list(dict.fromkeys(row.problem for row in rows))
        yield {"set": found.name, "problems": problems}
        groups: dict[SearchSpec, dict[str, SearchRow]] = {}
        for row in rows:
            groups.setdefault(row.spec, {})[row.problem] = row
        for spec, own in groups.items():
            if len(own) < len(problems):
                raise ValueError(f"{found} has {len(own)} of {len(problems)} rows of {spec}; run its command again")
            whole = [own[problem] for problem in problems]
            if any(row.failed for row in whole):
                raise ValueError(f"{found} has failed searches of {spec}; run its command again")
            line = {
                "set": found.name,
                "strategy": spec.strategy,
                "budget": spec.budget_tokens,
                "seed": spec.seed,
                "correct": "".join(str(int(row.correct)) for row in whole),
                "covered": "".join(str(int(row.covered)) for row in whole),
                "proposer": " ".join(str(row.bill.generated_tokens) for row in whole),
                "verifier": " ".join(str(row.bill.verifier_tokens) for row in whole),
            }
            if any(row.curve for row in whole):
                line["curve"] = [[point[:3] for point in row.curve] for row in whole]
            yield line
    for found in sorted(folder.glob("pool-*")):
        share_right = {tree.problem.id: round(_share_right(tree), 4) for tree in load_trees(found)}
        yield {"pool": found.name.removeprefix("pool-"), "share_right": share_right}


def _share_right(tree: ReasoningTree) -> float:
    verdicts = [tree.nodes[leaf].verdict for leaf in tree.trunks]
    return sum(verdict is not None and verdict.correct for verdict in verdicts) / len(verdicts)


def read_results(path: Path = RESULTS) -> tuple[Rows, Pools]:
    rows: Rows = {}
    pools: Pools = {}
    problems: dict[str, list[str]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        line = json.loads(text)
        if "pool" in line:
            pools[line["pool"]] = line["share_right"]
        elif "problems" in line:
            problems[line["set"]] = line["problems"]
        else:
            rows.setdefault(line["set"], []).extend(_rows(line, problems[line["set"]]))
    return rows, pools


def _rows(line: dict[str, Any], problems: list[str]) -> Iterable[SearchRow]:
    spec = SearchSpec(line["strategy"], line["budget"], line["seed"])
    proposer, verifier = ([int(word) for word in line[key].split()] for key in ("proposer", "verifier"))
    curves = line.get("curve", [[]] * len(problems))
    for place, problem in enumerate(problems):
        bill = Bill(generated_tokens=proposer[place], verifier_tokens=verifier[place])
        curve = tuple((int(a), int(b), bool(c), False) for a, b, c in curves[place])
        right, covered = line["correct"][place] == "1", line["covered"][place] == "1"
        yield SearchRow(spec, problem, right, covered, bill, "", {}, curve)


# --- tables -----------------------------------------------------------------------------------------------------------


def table_lines(table: str, name: str, rows: Rows, pools: Pools) -> list[str]:
    own = [row for row in rows.get(name, []) if not row.curve and row.spec.budget_tokens]
    match table:
        case "main":
            return _compared(own, least_seeds=2)
        case "others":
            return _compared(own, most_seeds=1)
        case "all":
            return _compared(own)
        case "rare":
            return _compared(own, least_seeds=2, only=lambda problem: pools[name][problem] < RARE)
        case "reach":
            return _reach(rows.get(name, []))
        case "curve":
            return _guided([row for row in rows.get(name, []) if row.curve])
    raise ValueError(f"table {table!r}; allowed are main, others, all, rare, reach, curve")


def _compared(
    rows: Sequence[SearchRow],
    *,
    least_seeds: int = 1,
    most_seeds: int = 99,
    only: Callable[[str], bool] | None = None,
) -> list[str]:
    """Strategies at equal budgets, best-of-n first, then by accuracy."""
    rows = sorted(rows, key=lambda row: (row.spec.budget_tokens or 0, row.spec.strategy != "best-of-n"))
    every = summarize(rows, only=only)
    chosen = [one for one in every if one.difference and least_seeds <= one.num_seeds <= most_seeds]
    budgets = {one.budget_tokens for one in chosen}
    chosen += [one for one in every if not one.difference and one.budget_tokens in budgets]
    chosen.sort(key=lambda one: (one.budget_tokens or 0, -(one.accuracy.value or 0.0)))
    header = ["budget", "strategy", "n", "seeds", "accuracy", "right one found", "minus best-of-n, points"]
    lines = [
        [
            f"{one.budget_tokens:,}",
            f"`{one.strategy}`",
            str(one.num_problems),
            str(one.num_seeds),
            shown(one.accuracy),
            f"{one.coverage.value:.3f}",
            MISSING if one.difference is None else shown(one.difference, 100, "+.1f"),
            f"{one.generated_tokens:.0f}",
            f"{one.verifier_tokens:.0f}",
        ]
        for one in chosen
    ]
    return _table([*header, "proposer tokens", "verifier tokens"], lines)


def _reach(rows: Sequence[SearchRow]) -> list[str]:
    """What it costs to be as good as best-of-16 and best-of-64 (searches without a budget), from whole curves."""
    wholes = [[row for row in rows if row.spec.strategy == f"best-of-n:n={num}"] for num in (16, 64)]
    header, lines = ["strategy"], [["`best-of-n`"]]
    for num, whole in zip((16, 64), wholes, strict=True):
        header += [f"budget for best-of-{num}: {_accuracy(whole):.3f}", "mean tokens spent", "times fewer"]
        lines[0] += [MISSING, f"{_spent_P(whole).mean():.0f}", "1"]
    with_curves = [row for row in rows if row.curve]
    for name in dict.fromkeys(row.spec.strategy for row in with_curves):
        curve = Curve([row for row in with_curves if row.spec.strategy == name])
        estimate = paired_bootstrap(len(curve.problems), seed=0)
        cells = [f"`{name}`"]
        for whole in wholes:
            found = curve.budget_to_reach(_accuracy(whole))
            if found is None:
                cells += [MISSING] * 3
                continue
            spent_P = _spent_P(curve.rows, found)
            spent = estimate(spent_P, np.ones(len(spent_P)))
            times = estimate(_spent_P(whole), spent_P)
            cells += [f"{found:.0f}", shown(spent, form=".0f"), shown(times, form=".1f")]
        lines.append(cells)
    return _table(header, lines)


def _accuracy(rows: Sequence[SearchRow]) -> float:
    return float(np.mean([row.correct for row in rows]))


def _spent_P(rows: Sequence[SearchRow], budget: float = np.inf) -> np.ndarray:
    """Mean proposer tokens over seeds of every problem [P], where it had no more than a budget."""
    spent: dict[str, list[float]] = {}
    for row in rows:
        spent.setdefault(row.problem, []).append(min(row.bill.generated_tokens, budget))
    return np.array([np.mean(spent[problem]) for problem in sorted(spent)])


def _guided(rows: Sequence[SearchRow]) -> list[str]:
    """`arts` with and without giving paths up, at budgets along their curves."""
    own, whole = (Curve([row for row in rows if row.spec.strategy == name]) for name in ("arts", "arts:give_up=0"))
    estimate = paired_bootstrap(len(own.problems), seed=0)
    lines = []
    for budget in (100, 200, 300, 432, 600, 1200, 1900):
        cells = [f"{budget:,}"]
        for curve in (own, whole):
            cells += [f"{curve.accuracy(budget):.3f}", f"{curve.spent(budget):.0f}"]
        difference = own.accuracy_P(budget) - whole.accuracy_P(budget)
        lines.append([*cells, shown(estimate(difference, np.ones(len(difference))), 100, "+.1f")])
    spent = "tokens spent"
    return _table(["budget", "`arts`", spent, "`arts:give_up=0`", spent, "difference, points"], lines)


class Curve:
    """Accuracy of an anytime strategy at every budget, from runs with a large one: mean over seeds and problems.

    A run with a smaller budget may differ in its last wave, which is cut to what is left.
    """

    def __init__(self, rows: Sequence[SearchRow]) -> None:
        self.rows = rows
        self.problems = list(dict.fromkeys(row.problem for row in rows))
        self.top = max(row.spec.budget_tokens or 0 for row in rows)

    def accuracy_P(self, budget: float) -> np.ndarray:
        """Mean over seeds of every problem [P]."""
        place = {problem: index for index, problem in enumerate(self.problems)}
        total, count = np.zeros(len(place)), np.zeros(len(place))
        for row in self.rows:
            known = [point[2] for point in row.curve if point[0] <= budget]
            total[place[row.problem]] += bool(known and known[-1])
            count[place[row.problem]] += 1
        return np.asarray(total / count)

    def accuracy(self, budget: float) -> float:
        return float(self.accuracy_P(budget).mean())

    def spent(self, budget: float) -> float:
        """Mean proposer tokens of a problem with this budget."""
        return float(_spent_P(self.rows, budget).mean())

    def budget_to_reach(self, goal: float) -> float | None:
        """The lowest budget, to 5 tokens, from which on the accuracy never falls below the goal again."""
        budgets = np.arange(5, self.top + 1, 5)
        below = [budget for budget in budgets if self.accuracy(budget) < goal - 1e-9]
        lowest = (below[-1] if below else 0) + 5
        return float(lowest) if lowest <= self.top else None


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines)]


def filled(page: str, rows: Rows, pools: Pools) -> str:
    """The page with every marked place made anew."""
    return PLACE.sub(
        lambda place: place[1] + "\n".join(table_lines(place[2], place[3], rows, pools)) + "\n" + place[4], page
    )


# --- plot -------------------------------------------------------------------------------------------------------------

COLORS = {
    "arts": "#2563eb", "best-of-n": "#17191e", "rebase": "#c2620a", "beam": "#15803d", "particle-filter": "#9333ea",
    "dts-star": "#b91c1c", "best-first": "#0e7490",
}  # fmt: skip
OTHER, INK, MUTED, LINE = "#848b97", "#17191e", "#636a76", "#d9dbd7"


def draw_plot(rows: Rows, panels: dict[str, str], out: Path) -> None:
    """Accuracy over the tokens really spent, one panel a set; bars are 95% intervals."""
    import matplotlib
    import matplotlib.figure

    settings = {
        "svg.fonttype": "none", "svg.hashsalt": "search-curves", "font.size": 10, "font.family": "sans-serif",
        "text.color": INK, "axes.edgecolor": LINE, "axes.labelcolor": MUTED,
        "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
        "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white",
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = matplotlib.figure.Figure(figsize=(5.6 * len(panels), 4.9), layout="constrained")
        for axes, (name, title) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
            _draw_panel(axes, [row for row in rows[name] if not row.curve and row.spec.budget_tokens], title)
        figure.savefig(out, metadata={"Date": None})


def _draw_panel(axes: Any, rows: Sequence[SearchRow], title: str) -> None:
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for one in summarize(sorted(rows, key=lambda row: row.spec.budget_tokens or 0)):
        if one.strategy.startswith("arts:"):
            continue  # the line of `arts` is that of its defaults
        lines.setdefault(one.strategy.partition(":")[0], []).append((one.generated_tokens, one.accuracy))
    for name, points in lines.items():
        if len(points) < 2:
            continue
        spent = [tokens for tokens, _ in points]
        value = np.array([estimate.value for _, estimate in points])
        ends = np.array([(estimate.low, estimate.high) for _, estimate in points]).T
        axes.errorbar(
            spent, value, [value - ends[0], ends[1] - value], label=name, color=COLORS.get(name, OTHER), marker="o",
            markersize=4, linewidth=2 if name == "arts" else 1.3, elinewidth=0.7, capsize=2,
        )  # fmt: skip
    axes.set_xscale("log")
    ticks = [100, 200, 400, 800, 1600]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel("proposer tokens spent a problem")
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, help="folder of searches and pools; fills results/ only")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    options = parser.parse_args()
    if options.folder:
        lines = [dump(line) + "\n" for line in kept(options.folder)]
        RESULTS.write_text("".join(lines), encoding="utf-8")
        print(f"{RESULTS.name}: {len(lines)} lines")
        return
    rows, pools = read_results()
    stale = 0
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before, rows, pools)
        stale += after != before
        if not options.check:
            page.write_text(after, encoding="utf-8")
        print(f"{page.name}: {len(PLACE.findall(before))} tables, {'as they were' if after == before else 'changed'}")
    if not options.check:
        draw_plot(rows, {"test-4": "4 numbers", "test-5": "5 numbers"}, PLOT)
    sys.exit(int(options.check and stale > 0))


if __name__ == "__main__":
    main()
