"""The tables of docs/squeeze.md: wide sweeps of GRPO on toy trees, and every cure against GRPO.

    python recipes/squeeze_toy.py                       # all tables, some six minutes on one core; needs no model
    python recipes/squeeze_toy.py --only cures --num-trees 4

Numbers follow from the seed; intervals are 95% over trees (pass@k of coupled problems: over runs).
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from arts.squeeze.cures import Cure, grpo_rule
from arts.squeeze.sweep import (
    PASS_AT,
    Interval,
    Outcome,
    before_training,
    compare_cures,
    expected_training,
    outcome,
    random_trees,
    sweep,
)
from arts.squeeze.tabular import cutoff, prefix_kernel, random_kernel
from arts.squeeze.toy import COUPLED, coupled_problems
from arts.squeeze.training import Problems, Training, found_in, mean_interval, pass_at_k, rare_paths, right_mass, train
from arts.tasks.toy import ToyTree

SWEPT: dict[str, Sequence[float]] = {
    "group_size": (2, 4, 8, 16, 32, 64, 128),
    "temperature": (0.6, 0.8, 1.0, 1.25, 1.5, 2.0),
    "learning_rate": (0.1, 0.3, 1.0, 3.0),
    "updates": (10, 50, 200, 1000),
}
GRPO = Cure("GRPO", grpo_rule)
COUPLING = 0.5


def sweep_table(num_trees: int, num_runs: int) -> Iterator[str]:
    """One factor at a time around G 16, T 1, eta 1, 200 updates."""
    trees = random_trees(num_trees)
    yield _row("GRPO on one problem", *Outcome._fields)
    yield _rule(5)
    yield _outcome_row("before", before_training(trees))
    for (name, value), one in sweep(trees, SWEPT, base=Training(), num_runs=num_runs).items():
        yield _outcome_row(f"{name.replace('_', ' ')} {value:g}", one)


def regime_table(num_trees: int, num_runs: int) -> Iterator[str]:
    """Trees that differ in how right and wrong are spread: what is found of the right paths before and after."""
    yield _row(
        "trees", "right paths", "cut-off before", "pass@1", "right paths found by 64 draws", "likelier than before"
    )
    yield _rule(6)
    for name, trees in regimes(num_trees):
        rows = []
        for toy in trees:
            problems = Problems.of(toy)
            right = problems.right_PL
            before, after = (one for one in train(problems, GRPO.rule, Training(), num_runs=num_runs))
            rows.append(
                [
                    right.sum(),
                    cutoff(toy.prior_law(), right[0]),
                    *(pass_at_k(one, right, 1).mean() for one in (before, after)),
                    *(found_in(one, right, 64).mean() for one in (before, after)),
                    (after > before)[:, right].mean(),
                ]
            )
        num_right, cut, *changed, gained = (Interval(*mean_interval(column)) for column in np.array(rows).T)
        yield _row(
            name, f"{num_right.value:.0f}", f"{cut.value:+.4f}", f"{changed[0].value:.3f} → {changed[1].value:.3f}",
            f"{changed[2].value:.3f} → {_number(changed[3])}", _number(gained),
        )  # fmt: skip


def regimes(num_trees: int) -> Iterator[tuple[str, list[ToyTree]]]:
    seeds = range(1, num_trees + 1)
    yield "random (30% of paths right)", random_trees(num_trees)
    yield "one right path, pi_0 = .008", [ToyTree.random(seed, 4, 3, rare=True) for seed in seeds]
    yield "one likely mistake of .5, the rest random", [_with_mistake(toy) for toy in random_trees(num_trees)]
    yield "all right paths equally likely", [_level(toy) for toy in random_trees(num_trees)]


def _with_mistake(toy: ToyTree) -> ToyTree:
    """The tree as one of two branches of a half each; the other is a wrong answer."""
    return ToyTree(
        parents=(-1, 0, *(parent + 1 for parent in toy.parents[1:]), 0),
        letters=("", "a", *toy.letters[1:], "b"),
        probabilities=(1.0, 0.5, *toy.probabilities[1:], 0.5),
        right=(False, False, *toy.right[1:], False),
    )


def _level(toy: ToyTree) -> ToyTree:
    """The same tree with uniform steps."""
    return replace(toy, probabilities=(1.0, *(1 / len(toy.children[parent]) for parent in toy.parents[1:])))


def expected_table(num_trees: int) -> Iterator[str]:
    """Expected against sampled dynamics: the same trees without and with sampling noise, 50 updates."""
    trees = random_trees(num_trees)
    yield _row("dynamics", "pass@1", "rare mass", "rare found")
    yield _rule(4)
    measured = []
    for toy in trees:
        problems = Problems.of(toy)
        log_policy = np.log(expected_training(toy, Training(updates=50)))[None, None]
        rare = rare_paths(problems)
        measured.append(
            [
                pass_at_k(log_policy, problems.right_PL, 1)[0],
                right_mass(log_policy, rare)[0],
                found_in(log_policy, rare, 64)[0],
            ]
        )
    yield _row("expected", *(_number(Interval(*mean_interval(column))) for column in np.array(measured).T))
    for size in (4, 16, 64):
        one = outcome(trees, GRPO, Training(updates=50, group_size=size), num_runs=20)
        yield _row(f"sampled, G = {size}", *map(_number, one[:3]))


def kernel_table(num_trees: int, num_runs: int) -> Iterator[str]:
    """Shared features between the paths of one problem: how far unsampled right paths are from the law."""
    yield _row(
        "features", "coupling", "pass@1", "rare mass", "rare found", "unsampled right paths that move as the law says"
    )
    yield _rule(6)
    for name, make in (("equal beginnings", _prefix), ("random, 32", _random)):
        for coupling in (0.0, 0.1, 0.3, 0.5):
            rows = []
            for toy in random_trees(num_trees):
                problems = Problems.of(toy)
                rare, kernel = rare_paths(problems), make(toy, coupling)
                after = train(problems, GRPO.rule, Training(updates=50), num_runs=num_runs, kernel=kernel)[-1]
                rows.append(
                    [
                        pass_at_k(after, problems.right_PL, 1).mean(),
                        right_mass(after, rare).mean(),
                        found_in(after, rare, 64).mean(),
                        _share_as_the_law_says(problems, kernel),
                    ]
                )
            yield _row(
                name, f"{coupling:g}", *(_number(Interval(*mean_interval(column))) for column in np.array(rows).T)
            )


def _prefix(toy: ToyTree, coupling: float) -> np.ndarray:
    return prefix_kernel(toy, coupling)


def _random(toy: ToyTree, coupling: float) -> np.ndarray:
    return random_kernel(len(toy.leaves), 32, coupling, seed=0)


def _share_as_the_law_says(problems: Problems, kernel: np.ndarray) -> float:
    """Of unsampled right paths of single updates, the share that moves in the direction of 1 / (1 + alpha)."""
    free, coupled = (
        train(problems, GRPO.rule, Training(updates=1), num_runs=400, kernel=one)[-1][:, 0] for one in (None, kernel)
    )
    start = np.log(problems.toy.prior_law())
    # Without coupling all unsampled paths move by one factor, the commonest of a run: that is the law.
    law = np.median(free - start, axis=1, keepdims=True)
    unsampled = np.isclose(free - start, law, atol=1e-12) & problems.right_PL[0] & (np.abs(law) > 1e-9)
    return float((np.sign(coupled - start) == np.sign(law))[unsampled].mean())


def cure_table(num_trees: int, num_runs: int) -> Iterator[str]:
    """Every cure at equal updates: on each tree alone, and on problems that share most of their logits."""
    problems = coupled_problems()
    coupled = replace(COUPLED, problem_coupling=COUPLING)
    base = before_training(random_trees(num_trees))
    chance = (np.exp(np.log(problems.toy.prior_law())) * problems.right_PL).sum(axis=-1)
    yield _row(
        "rule", "logits", "pass@1", "rare mass", "rare found", "rare mass − GRPO", "rare found − GRPO",
        *(f"coupled pass@{k}" for k in PASS_AT), "rare found, coupled @64 − GRPO at equal pass@1",
    )  # fmt: skip
    yield _rule(8 + len(PASS_AT))
    yield _row(
        "before", "", *(f"{one.value:.3f}" for one in base[:3]), "", "",
        *(f"{(1 - (1 - chance) ** k).mean():.3f}" for k in PASS_AT), "",
    )  # fmt: skip
    for one in compare_cures(random_trees(num_trees), problems, Training(), coupled, num_runs=num_runs):
        yield _row(
            one.name, one.level, *map(_number, one.alone[:3]), *map(_signed, one.against_grpo),
            *(_number(value) for value in one.coupled.values()), f"{one.over_grpo[0]:+.3f}, {one.over_grpo[1]:+.3f}",
        )  # fmt: skip


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(count: int) -> str:
    return "|" + "---|" * count


def _outcome_row(name: str, one: Outcome) -> str:
    return _row(name, *map(_number, one))


def _number(one: Interval) -> str:
    return f"{one.value:.3f} ± {(one.high - one.low) / 2:.3f}"


def _signed(one: Interval) -> str:
    return f"{one.value:+.3f} ± {(one.high - one.low) / 2:.3f}".replace("-", "−")


def main() -> None:
    parser = argparse.ArgumentParser(description="The normalization squeeze on toy trees: sweeps and cures.")
    parser.add_argument("--only", choices=("sweep", "regimes", "expected", "kernel", "cures"))
    parser.add_argument("--num-trees", type=int, default=20)
    parser.add_argument("--num-runs", type=int, default=20)
    args = parser.parse_args()
    tables: dict[str, Callable[[], Iterator[str]]] = {
        "sweep": lambda: sweep_table(args.num_trees, args.num_runs),
        "regimes": lambda: regime_table(args.num_trees, args.num_runs),
        "expected": lambda: expected_table(args.num_trees),
        "kernel": lambda: kernel_table(args.num_trees, args.num_runs),
        "cures": lambda: cure_table(args.num_trees, args.num_runs),
    }
    for name, lines in tables.items():
        if args.only in (None, name):
            print(f"\n{name}", flush=True)
            for line in lines():
                print(line, flush=True)


if __name__ == "__main__":
    main()
