"""Rows and tables of the comparison with other libraries: no number of a table in docs/peers.md is typed by hand.

    python benchmarks/peers/peers_table.py --from runs/peers   # keep what matters of finished runs in results/
    python benchmarks/peers/peers_table.py                     # fill the marked places of docs/peers.md
    python benchmarks/peers/peers_table.py --check             # say whether that would change anything

A place is marked `<!-- peers: TABLE -->` ... `<!-- end of table -->`; TABLE is `main`, `weak`, `beside`, `bills` or
`validation`. Blocks of problems count together; intervals are 95%, bootstrap over problems, and differences are paired.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from methods import BESIDE, OURS, PEERS, Run, at_equal_cost, beside, run_of

from arts.evaluate.metrics import Estimate, paired_bootstrap
from arts.evaluate.searches import shown
from arts.files import dump

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "results" / "peers.jsonl"
PAGE = ROOT / "docs" / "peers.md"
PLACE = re.compile(r"(<!-- peers: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
NAMES = {"its_hub": "its_hub", "thinkbooster": "ThinkBooster", "treequest": "TreeQuest", OURS: "ARTS"}
MISSING = "–"
Row = Mapping[str, Any]
Rows = Mapping[tuple[Any, ...], Row]
"""By their run."""


class Cost(NamedTuple):
    """What the servers counted, a problem."""

    generated: float
    verifier: float
    requests: float
    seconds: float


class Group(NamedTuple):
    """One setting over all blocks."""

    rows: list[Row]

    @property
    def correct_P(self) -> np.ndarray:
        return np.array([int(one) for row in self.rows for one in row["correct"]], dtype=float)

    @property
    def cost(self) -> Cost:
        """Of both servers; where the verifier ran in our process, what it read by our own bill."""
        count = sum(len(row["correct"]) for row in self.rows)
        here = self.rows[0]["options"].get("verifier") == "here"
        read = [row["bill"]["verifier_tokens"] if here else row["verifier"]["prompt_tokens"] for row in self.rows]
        asked = [row["proposer"]["requests"] + row["verifier"]["requests"] for row in self.rows]
        generated = [row["proposer"]["generated_tokens"] for row in self.rows]
        return Cost(*(sum(part) / count for part in (generated, read, asked, [row["seconds"] for row in self.rows])))


def kept(folder: Path) -> Iterator[Row]:
    """The rows without the chosen texts."""
    for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield {key: value for key, value in row.items() if key != "texts"}


def read_results(path: Path = RESULTS) -> Rows:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = map(json.loads, lines)
    return {run_of(row).key: row for row in rows}


def settings_of(rows: Rows, problems: str, tools: Sequence[str]) -> Iterator[Group]:
    """Settings in the order in which they were run first, each with all its blocks."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows.values():
        if row["problems"] == problems and row["tool"] in tools:
            groups.setdefault((tools.index(row["tool"]), row["method"], dump(row["options"])), []).append(row)
    for key in sorted(groups, key=lambda key: key[0]):
        yield Group(sorted(groups[key], key=lambda row: int(row["block"])))


def ours_for(peer: Group, rows: Rows, wanted: Callable[[Run], bool]) -> Group | None:
    """Our runs at what a peer's cost, block by block; None where one is missing."""
    found = [rows.get(run.key) for row in peer.rows for run in (*at_equal_cost(row), *beside(row)) if wanted(run)]
    whole = [row for row in found if row is not None]
    return Group(whole) if whole and len(whole) == len(peer.rows) else None


def difference(ours: Group, peer: Group) -> Estimate:
    values_P = ours.correct_P - peer.correct_P
    return paired_bootstrap(len(values_P), seed=0)(values_P, np.ones(len(values_P)))


def accuracy(group: Group) -> str:
    values_P = group.correct_P
    return shown(paired_bootstrap(len(values_P), seed=0)(values_P, np.ones(len(values_P))))


def verdict(estimate: Estimate) -> str:
    assert estimate.low is not None and estimate.high is not None
    return "**ahead**" if estimate.low > 0 else "*behind*" if estimate.high < 0 else "level"


def label(group: Group) -> list[str]:
    row = group.rows[0]
    options = ", ".join(f"{key} {value}" for key, value in row["options"].items())
    return [NAMES[row["tool"]], f"{row['method']}, {options}" if options else row["method"]]


def main_lines(rows: Rows, problems: str = "test") -> list[str]:
    """Each setting of a peer, and `arts` at its generated tokens and at its verifier tokens."""
    header = ["tool", "method", "right", "generated", "verifier", "requests", "s"]
    header += ["ours, no more generated: points", "", "generated", "verifier", "requests", "s"]
    header += ["ours, no more verifier tokens: points", "", "generated", "verifier"]
    lines = []
    for peer in settings_of(rows, problems, PEERS):
        cells = [*label(peer), accuracy(peer), *numbers(peer.cost)]
        served = ours_for(peer, rows, partial(_is_served, "arts"))
        here = ours_for(peer, rows, lambda run: "verifier_tokens" in run.options)
        cells += against(served, peer, 4) + against(here, peer, 2)
        lines.append(cells)
    return table(header, lines)


def against(ours: Group | None, peer: Group, num_costs: int) -> list[str]:
    if ours is None:
        return [MISSING] * (2 + num_costs)
    estimate = difference(ours, peer)
    return [shown(estimate, 100, "+.1f"), verdict(estimate), *numbers(ours.cost)[:num_costs]]


def numbers(cost: Cost) -> list[str]:
    return [f"{cost.generated:.0f}", f"{cost.verifier:.0f}", f"{cost.requests:.1f}", f"{cost.seconds:.2f}"]


def beside_lines(rows: Rows) -> list[str]:
    """Our strategies at what its_hub's particle filter generated, through the same servers."""
    header = [
        "generated, at most",
        "method",
        "right",
        "minus its_hub's, points",
        "generated",
        "verifier",
        "requests",
        "s",
    ]
    lines = []
    for peer in settings_of(rows, "test", ("its_hub",)):
        if peer.rows[0]["method"] != "particle-filter":
            continue
        own = f"its_hub particle-filter, n {peer.rows[0]['options']['n']}"
        lines.append([f"{peer.cost.generated:.0f}", own, accuracy(peer), MISSING, *numbers(peer.cost)])
        for method in ("arts", *BESIDE):
            ours = ours_for(peer, rows, partial(_is_served, method))
            if ours is not None:
                points = shown(difference(ours, peer), 100, "+.1f")
                lines.append([f"{peer.cost.generated:.0f}", f"`{method}`", accuracy(ours), points, *numbers(ours.cost)])
    return table(header, lines)


def _is_served(method: str, run: Run) -> bool:
    return run.method == method and run.options["verifier"] == "served"


def bills_lines(rows: Rows) -> list[str]:
    """Our own bill against the servers' counters, over all our served runs."""
    served = [row for row in rows.values() if row["tool"] == OURS and row["options"].get("verifier") == "served"]
    here = [row for row in rows.values() if row["tool"] == OURS and row["options"].get("verifier") == "here"]
    header = ["what", "runs", "our bill", "the server"]
    lines = []
    for name, own, side, counted, runs in (
        ("generated tokens", "generated_tokens", "proposer", "generated_tokens", served + here),
        ("requests for draws", "requests", "proposer", "requests", served + here),
        ("verifier tokens, served", "verifier_tokens", "verifier", "prompt_tokens", served),
    ):
        cells = [f"{sum(row['bill'][own] for row in runs):,}", f"{sum(row[side][counted] for row in runs):,}"]
        lines.append([name, str(len(runs)), *cells])
    return table(header, lines)


def validation_lines(rows: Rows) -> list[str]:
    header = ["tool", "method", "n", "right", "generated", "verifier", "requests", "s"]
    groups = settings_of(rows, "validation", PEERS)
    lines = [[*label(one), str(len(one.correct_P)), accuracy(one), *numbers(one.cost)] for one in groups]
    return table(header, lines)


TABLES: Mapping[str, Callable[[Rows], list[str]]] = {
    "main": main_lines,
    "weak": partial(main_lines, problems="test-weak"),
    "beside": beside_lines,
    "bills": bills_lines,
    "validation": validation_lines,
}


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines)]


def filled(page: str, rows: Rows) -> str:
    """The page with every marked place made anew."""
    return PLACE.sub(lambda place: place[1] + "\n".join(TABLES[place[2]](rows)) + "\n" + place[3], page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, help="finished runs, to keep in results/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    options = parser.parse_args()
    if options.folder:
        RESULTS.write_text("".join(dump(row) + "\n" for row in kept(options.folder)), encoding="utf-8")
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before, read_results())
    if not options.check:
        PAGE.write_text(after, encoding="utf-8")
    print(f"{PAGE.name}: {len(PLACE.findall(before))} tables, {'as they were' if after == before else 'changed'}")
    sys.exit(int(options.check and after != before))


if __name__ == "__main__":
    main()
