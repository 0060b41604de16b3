"""Published pass@k of a base model and its RL-tuned copy on MATH-500: drawn, and recomputed where counts are known.

    python recipes/published_pass_at_k.py --curve PASSK.csv --counts COUNTS.csv --plot docs/published_pass_at_k.svg

PASSK.csv has the columns k, base, simplerl, simplerl_minus_base, ci_low, ci_high, problems_simplerl_higher,
problems_base_higher; COUNTS.csv has base_correct and simplerl_correct of n_samples for some of the problems. They are
those of cc1107yss/limit-of-rlvr-qwen7b-math500-reproduction (Qwen2.5-7B and SimpleRL-Zoo, 128 samples, T = 0.6).
"""

import argparse
import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from arts.evaluate.metrics import Floats, Ints, hit_chance


class Point(NamedTuple):
    """pass@k of both models, and their difference with its interval, over all problems."""

    k: int
    base: float
    tuned: float
    low: float
    high: float
    num_tuned_higher: int
    num_base_higher: int


def read_curve(path: Path) -> list[Point]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Point(
                int(row["k"]),
                float(row["base"]),
                float(row["simplerl"]),
                float(row["ci_low"]),
                float(row["ci_high"]),
                int(row["problems_simplerl_higher"]),
                int(row["problems_base_higher"]),
            )
            for row in csv.DictReader(file)
        ]


def read_counts(path: Path) -> tuple[int, Ints, Ints]:
    """Samples a problem, and how many of them are right, by the base and by the tuned model, shape (P,) each."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (num_samples,) = {int(row["n_samples"]) for row in rows}
    base_P, tuned_P = (np.array([int(row[f"{name}_correct"]) for row in rows]) for name in ("base", "simplerl"))
    return num_samples, base_P, tuned_P


def pass_at(num_samples: int, correct_P: Ints, k: int) -> Floats:
    """Unbiased pass@k of every problem from its counts."""
    return hit_chance(num_samples, k)[correct_P]


def crossing(points: Sequence[Point]) -> tuple[int, int]:
    """The two k between which the base model overtakes the tuned one."""
    for before, after in itertools.pairwise(points):
        if before.tuned > before.base and after.tuned <= after.base:
            return before.k, after.k
    raise ValueError("the curves do not cross")


def draw(points: Sequence[Point], out: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "arts"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    sizes = [point.k for point in points]
    for name, color, values in (
        ("base (Qwen2.5-7B)", "#1f6feb", [point.base for point in points]),
        ("RL-tuned (SimpleRL-Zoo)", "#bc4c00", [point.tuned for point in points]),
    ):
        axes.plot(sizes, [100 * value for value in values], marker="o", markersize=4, color=color, label=name)
    low, high = crossing(points)
    axes.axvspan(low, high, color="#8c959f", alpha=0.18, label=f"they cross between k = {low} and {high}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("draws, k")
    axes.set_ylabel("pass@k, % of 500 problems")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curve", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    points = read_curve(arguments.curve)
    num_samples, base_P, tuned_P = read_counts(arguments.counts)
    print(f"{'k':>4} {'base':>7} {'tuned':>7}  tuned - base, points      on {len(base_P)} problems: base, tuned")
    for point in points:
        own = [100 * float(pass_at(num_samples, counts_P, point.k).mean()) for counts_P in (base_P, tuned_P)]
        difference = f"{100 * (point.tuned - point.base):+5.1f} [{100 * point.low:+5.1f}, {100 * point.high:+5.1f}]"
        print(
            f"{point.k:>4} {100 * point.base:6.1f}% {100 * point.tuned:6.1f}%  {difference:<24} "
            f"{own[0]:9.1f}% {own[1]:6.1f}%"
        )
    last = points[-1]
    print(f"they cross between k = {' and '.join(map(str, crossing(points)))}")
    print(f"at k = {last.k} the base model alone solves {last.num_base_higher}, the tuned one {last.num_tuned_higher}")
    if arguments.plot:
        draw(points, arguments.plot)


if __name__ == "__main__":
    main()
