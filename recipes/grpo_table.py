"""Tables and the plot of the comparison with GRPO (grpo.sh), from the committed rows: no number of the docs is typed.

    python recipes/grpo_table.py            # fill the marked places of the docs, and draw the plot
    python recipes/grpo_table.py --check    # say whether that would change anything

A place is marked `<!-- grpo: TABLE -->` ... `<!-- end of table -->`; TABLE is `paper`, `curves`, `bills` or `both`.
Accuracies are means over seeds, a tuned model's seed beside the verifier's of the same number; intervals are 95%,
bootstrap over problems, of those means. The extinction zone of a seed is what 16 draws of its tuned model never solve.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arts.evaluate.metrics import Estimate, hit_chance, paired_bootstrap

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "grpo.jsonl"
PAGES = [ROOT / "docs" / "grpo.md"]
PLOT = ROOT / "docs" / "grpo_curves.svg"
PLACE = re.compile(r"(<!-- grpo: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
SEEDS = (0, 1, 2)
BY = (
    "majority",
    "PRM",
    "RM",
    "outcome",
    "mean flow",
    "ARTS (RFM as published)",
    "ARTS (RFM, leaf_weight=4)",
    "outcome, 8,000 problems",
    "ARTS (RFM as published), 8,000 problems",
    "ARTS (shipped)",
)
KS = (1, 4, 16, 64)
Floats = np.ndarray


class Rows:
    """The rows, by what they are about."""

    def __init__(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.draws = {row["pool"]: row for row in rows if row["row"] == "draws"}
        self.picks = {(row["pool"], row["by"], row["seed"]): row for row in rows if row["row"] == "picks"}
        self.bills = {row["of"]: row for row in rows if row["row"] == "bill"}

    def right(self, pool: str) -> Floats:
        """Right draws of every problem."""
        return numbers(self.draws[pool]["right"])

    def right_of_16(self, pool: str) -> Floats:
        """Of those, among the first 16, which are chosen from."""
        return numbers(self.draws[pool]["right_of_16"])

    def others_at(self, pool: str, k: int) -> Floats:
        """Chance that one of k draws beside the first 16 is right."""
        right = (self.right(pool) - self.right_of_16(pool)).astype(int)
        return hit_chance(int(self.draws[pool]["num_draws"]) - 16, k)[right]

    def pass_at(self, pool: str, k: int) -> Floats:
        """Chance that one of k draws is right, unbiased, of every problem."""
        return hit_chance(int(self.draws[pool]["num_draws"]), k)[self.right(pool).astype(int)]

    def picked(self, pool: str, by: str, seed: int) -> Floats:
        """Chance that the chosen draw of 16 is right, of every problem."""
        return numbers(self.picks[pool, by, seed]["right"])

    def seeds_of(self, pool: str, by: str) -> list[int]:
        return sorted(seed for p, b, seed in self.picks if (p, b) == (pool, by))


class Method(NamedTuple):
    """A line of the table: accuracy per problem for every seed."""

    label: str
    accuracy: list[Floats]
    "of the first seeds, all three or two"
    draws: int
    proposer_tokens: float
    verifier_tokens: float


def numbers(text: str) -> Floats:
    return np.array([float(part) for part in text.split()])


def seeds_of(rows: Rows) -> list[int]:
    return [seed for seed in SEEDS if f"grpo-{seed}" in rows.draws]


def methods(rows: Rows) -> list[Method]:
    """Ways to answer: one draw, 16 draws of the frozen model and a choice, the same of the tuned one."""
    seeds = seeds_of(rows)
    cost = float(rows.draws["base"]["tokens"])
    tuned_cost = float(np.mean([rows.draws[f"grpo-{seed}"]["tokens"] for seed in seeds]))

    def verifier_tokens(pool: str, by: str) -> float:
        own = [row.get("tokens", 0.0) for (p, b, _), row in rows.picks.items() if p == pool and b == by]
        return float(np.mean(own))

    found = [
        Method("base, one draw", [rows.right_of_16("base") / 16] * len(seeds), 1, cost, 0),
        Method("GRPO, one draw", [rows.right_of_16(f"grpo-{seed}") / 16 for seed in seeds], 1, tuned_cost, 0),
    ]
    for by in BY:
        own = rows.seeds_of("base", by)
        accuracy = [rows.picked("base", by, seed) for seed in own] * (len(seeds) if own == [0] else 1)
        found.append(Method(f"base, best of 16 by {by}", accuracy, 16, 16 * cost, verifier_tokens("base", by)))
    found.append(
        Method("base, oracle of 16", [(rows.right_of_16("base") > 0).astype(float)] * len(seeds), 16, 16 * cost, 0)
    )
    for by in (name for name in BY if rows.seeds_of("grpo-0", name)):
        accuracy = [rows.picked(f"grpo-{seed}", by, rows.seeds_of(f"grpo-{seed}", by)[0]) for seed in seeds]
        tokens = float(np.mean([verifier_tokens(f"grpo-{seed}", by) for seed in seeds]))
        found.append(Method(f"GRPO, best of 16 by {by}", accuracy, 16, 16 * tuned_cost, tokens))
    oracle = [(rows.right_of_16(f"grpo-{seed}") > 0).astype(float) for seed in seeds]
    found.append(Method("GRPO, oracle of 16", oracle, 16, 16 * tuned_cost, 0))
    return found


def subsets(rows: Rows) -> dict[str, list[Floats]]:
    """Masks over the problems for every seed."""
    seeds = seeds_of(rows)
    base, others = rows.right_of_16("base"), rows.others_at("base", 240)
    extinct = [rows.right_of_16(f"grpo-{seed}") == 0 for seed in seeds]
    return {
        "all": [np.ones(len(base), dtype=bool)] * len(seeds),
        "rare (base 1-2 of 16)": [(base >= 1) & (base <= 2)] * len(seeds),
        "extinction zone (GRPO 0 of 16)": extinct,
        "strict (and base 1+ of 240 others)": [mask & (others > 0) for mask in extinct],
    }


def over_seeds(values: Sequence[Floats], masks: Sequence[Floats]) -> Estimate:
    """Mean over the problems of a subset and over the seeds that there are values of."""
    estimate = paired_bootstrap(len(values[0]), 0)
    return estimate(
        np.sum([value * mask for value, mask in zip(values, masks, strict=False)], axis=0),
        np.sum([mask.astype(float) for mask in masks[: len(values)]], axis=0),
    )


def paper(rows: Rows) -> list[str]:
    of = subsets(rows)
    sizes = {name: "/".join(str(int(mask.sum())) for mask in masks) for name, masks in of.items()}
    sizes = {name: size if len(set(size.split("/"))) > 1 else size.split("/")[0] for name, size in sizes.items()}
    subset_names = [f"{name}, n = {sizes[name]}" for name in of]
    against_names = ["against GRPO, one draw, points", "against GRPO, majority of 16"]
    header = ["way to answer", *subset_names, *against_names, "gap closed", "proposer", "verifier"]
    voted = [rows.picked(f"grpo-{seed}", "majority", 0) for seed in seeds_of(rows)]
    tuned = [rows.right_of_16(f"grpo-{seed}") / 16 for seed in seeds_of(rows)]
    base, ceiling = rows.right_of_16("base") / 16, (rows.right_of_16("base") > 0).astype(float)
    estimate = paired_bootstrap(len(base), 0)
    lines = [row_of(header), row_of(["---"] * len(header))]
    for method in methods(rows):
        gain = np.sum([accuracy - base for accuracy in method.accuracy], axis=0)
        gap = estimate(gain, len(method.accuracy) * (ceiling - base))
        cells = [shown(over_seeds(method.accuracy, masks)) for masks in of.values()]
        against = [
            points(over_seeds([own - other for own, other in zip(method.accuracy, others, strict=False)], of["all"]))
            for others in (tuned, voted)
        ]
        closed = "–" if method.label == "base, one draw" else shown(gap)
        lines.append(
            row_of(
                [
                    method.label,
                    *cells,
                    *against,
                    closed,
                    f"{method.proposer_tokens:.0f}",
                    f"{method.verifier_tokens:.0f}",
                ]
            )
        )
    return lines


def curves(rows: Rows) -> list[str]:
    """pass@k of every model that was drawn from 64 times or more, and against the base at k = 64."""
    names: dict[str, list[str]] = {}
    for pool in rows.draws:
        names.setdefault(re.sub(r"^grpo-\d$", "GRPO, 3 seeds", pool), []).append(pool)
    lines = [row_of(["model", "n", *(f"@{k}" for k in KS), "@64 against base, points", "solutions found by 64"])]
    lines.append(row_of(["---"] * (len(KS) + 4)))
    base_64 = rows.pass_at("base", KS[-1])
    first = min(len(rows.right(pool)) for pool in rows.draws)
    for label, pools in (("base", ["base"]), ("GRPO, 3 seeds", [f"grpo-{seed}" for seed in seeds_of(rows)])):
        masks = [np.ones(first, dtype=bool)] * len(pools)
        at = [over_seeds([rows.pass_at(pool, k)[:first] for pool in pools], masks) for k in KS]
        lost = over_seeds([(rows.pass_at(pool, KS[-1]) - base_64)[:first] for pool in pools], masks)
        lines.append(row_of([f"{label}, first 200", str(first), *map(shown, at), points(lost), "–"]))
    for name, pools in sorted(
        names.items(), key=lambda item: (item[0] != "base", not item[0].startswith("GRPO"), item[0])
    ):
        number = len(rows.right(pools[0]))
        everybody = [np.ones(number, dtype=bool)] * len(pools)
        at = [over_seeds([rows.pass_at(pool, k) for pool in pools], everybody) for k in KS]
        difference = over_seeds([rows.pass_at(pool, KS[-1]) - base_64[:number] for pool in pools], everybody)
        different = [numbers(rows.draws[pool]["different"]) for pool in pools]
        many = "–" if name == "base" else shown(over_seeds(different, everybody), 1)
        against = "–" if name == "base" else points(difference)
        lines.append(row_of([name, str(number), *map(shown, at), against, many]))
    return lines


def both(rows: Rows) -> list[str]:
    """Does GRPO's pool leave the same problems unsolved by chance? Its zone under other draws of either model."""
    seeds = seeds_of(rows)
    zone = subsets(rows)["extinction zone (GRPO 0 of 16)"]
    lines = [row_of(["model", "solved by 16 others", "by 48 others"]), row_of(["---"] * 3)]
    for label, pool in (("base", "base"), ("GRPO", "grpo-{}")):
        cells = [shown(over_seeds([rows.others_at(pool.format(seed), k) for seed in seeds], zone)) for k in (16, 48)]
        lines.append(row_of([label, *cells]))
    return lines


def bills(rows: Rows) -> list[str]:
    lines = [row_of(["what", "tokens drawn", "tokens trained on", "for validation", "updates (kept)"])]
    lines.append(row_of(["---"] * 5))
    for name, row in sorted(rows.bills.items()):
        kept = f"{row['updates']} ({row['kept']})" if "updates" in row else "–"
        spent = [f"{row[key] / 1e6:.2f} M" if key in row else "–" for key in ("drawn", "trained", "validation")]
        lines.append(row_of([name, *spent, kept]))
    return lines


TABLES: dict[str, Callable[[Rows], list[str]]] = {"paper": paper, "curves": curves, "bills": bills, "both": both}


def shown(estimate: Estimate, digits: int = 3) -> str:
    if estimate.value is None:
        return "–"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def points(estimate: Estimate) -> str:
    return f"{100 * (estimate.value or 0):+.1f} [{100 * (estimate.low or 0):+.1f}, {100 * (estimate.high or 0):+.1f}]"


def row_of(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def filled(text: str, rows: Rows) -> str:
    return PLACE.sub(lambda place: place[1] + "\n".join(TABLES[place[2]](rows)) + "\n" + place[3], text)


def draw(rows: Rows, path: Path) -> None:
    """pass@k of base and tuned models against k."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "arts"
    ks = [1, 2, 4, 8, 16, 32, 64]
    figure, axis = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    groups = {
        "base": (["base"], "black"),
        "GRPO, 3 seeds": ([f"grpo-{seed}" for seed in seeds_of(rows)], "#c0392b"),
        "trajectory balance, 100 updates": (["flowrl-after-100"], "#2471a3"),
        "DeepSearch's advantages, 100 updates": (["deepsearch-after-100"], "#1e8449"),
        "expert iteration, 3 rounds": (["expert-3"], "#7d3c98"),
    }
    number = min(len(rows.right(pool)) for pool in rows.draws)  # the problems that all were drawn for
    for label, (pools, colour) in groups.items():
        if not all(pool in rows.draws for pool in pools):
            continue
        everybody = [np.ones(number, dtype=bool)] * len(pools)
        found = [over_seeds([rows.pass_at(pool, k)[:number] for pool in pools], everybody) for k in ks]
        axis.plot(ks, [one.value for one in found], color=colour, marker="o", markersize=3, label=label)
        axis.fill_between(ks, [one.low for one in found], [one.high for one in found], color=colour, alpha=0.12, lw=0)
    axis.set(
        xscale="log",
        xlabel="draws a problem, k",
        ylabel=f"pass@k, {number} problems",
        xticks=ks,
        xticklabels=map(str, ks),
    )
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    rows = Rows(RESULTS)
    changed = []
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before, rows)
        if after != before:
            changed.append(page.name)
            if not check:
                page.write_text(after, encoding="utf-8")
    if not check:
        draw(rows, PLOT)
    print("would change: " if check else "changed: ", ", ".join(changed) or "nothing", sep="")
    sys.exit(1 if check and changed else 0)


if __name__ == "__main__":
    main()
