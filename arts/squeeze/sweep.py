"""What training does to rare right paths, over many toy trees: the high-pass curve, one-factor sweeps, cures.

Intervals are over trees: each tree is one observation, the mean of its runs, so that they cover the choice of the tree.
Knows numbers, not how they are shown.

Shapes: T trees, R runs, P problems, L paths.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import numpy as np

from arts.facts import Floats
from arts.squeeze.cures import Cure, cures, grpo_rule
from arts.squeeze.tabular import expected_delta
from arts.squeeze.training import (
    Level,
    Problems,
    Training,
    found_in,
    mean_interval,
    pass_at_k,
    rare_paths,
    right_mass,
    train,
)
from arts.tasks.toy import ToyTree

NUM_DRAWS = 64  # how far anybody looks for a right path
FRONTIER_UPDATES = 8  # how much longer GRPO may train to reach the pass@1 of a cure
PASS_AT = (1, 4, 16, 64, 256)


class Interval(NamedTuple):
    """A mean over trees or runs, with 95%."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float]:
        return [round(number, 5) for number in self]


def random_trees(num_trees: int, *, arity: int = 4, depth: int = 3) -> list[ToyTree]:
    """Complete random trees, seeds 1, 2, ...; about 30% of their leaves are right."""
    return [ToyTree.random(seed, arity, depth) for seed in range(1, num_trees + 1)]


# --- survival against likelihood --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HighPass:
    """Share of right paths that end above where they began, by the likelihood they began with."""

    log10_likelihood: tuple[float, ...]
    "middle of each bin"
    survival: tuple[Interval, ...]
    never_drawn: tuple[float, ...]
    "(1 - q)^(G K), the chance that no group held the path, at the middle of each bin if q had stayed"


def high_pass(trees: Sequence[ToyTree], training: Training, *, num_runs: int, seed: int = 0) -> HighPass:
    """Survival of right paths under GRPO on path-level logits, in bins of a third of a decade."""
    edges = np.arange(-7.0, 0.01, 1 / 3)
    hits, counts = np.zeros((len(trees), len(edges) - 1)), np.zeros((len(trees), len(edges) - 1))
    for row, toy in enumerate(trees):
        problems = Problems.of(toy)
        after = train(problems, grpo_rule, training, num_runs=num_runs, seed=seed)[-1][:, 0]
        right, before = problems.right_PL[0], np.log(toy.prior_law())
        place = np.digitize(before[right] / np.log(10), edges) - 1
        survived = (after >= before)[:, right].mean(axis=0)
        np.add.at(hits[row], place, survived)
        np.add.at(counts[row], place, 1.0)
    kept = np.flatnonzero((counts > 0).sum(axis=0) >= 3)  # bins that three trees reach
    middle = (edges[:-1] + edges[1:])[kept] / 2
    picks = np.random.default_rng(seed).integers(len(trees), size=(500, len(trees)))
    survival = []
    for bin_number in kept:
        resampled, total = hits[picks, bin_number].sum(axis=1), counts[picks, bin_number].sum(axis=1)
        low, high = np.percentile(resampled[total > 0] / total[total > 0], [2.5, 97.5])
        survival.append(
            Interval(float(hits[:, bin_number].sum() / counts[:, bin_number].sum()), float(low), float(high))
        )
    missed = (1 - 10**middle) ** (training.group_size * training.updates)
    return HighPass(tuple(map(float, middle)), tuple(survival), tuple(map(float, missed)))


def expected_training(toy: ToyTree, training: Training) -> Floats:
    """pi of every path after the expected update, taken again and again: no sampling noise. Shape L."""
    policy, right = toy.prior_law(), Problems.of(toy).right_PL[0]
    for _ in range(training.updates):
        delta = expected_delta(
            policy,
            right,
            group_size=training.group_size,
            learning_rate=training.learning_rate,
            temperature=training.temperature,
        )
        grown = policy * np.exp(delta)
        policy = grown / grown.sum()
    return policy


# --- one setting, many trees ------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What became of the trees' problems."""

    pass_1: Interval
    rare_mass: Interval
    "probability of the rare right paths together"
    rare_found: Interval
    "share of them that 64 draws find"
    rare_gained: Interval
    "share of them that are likelier than before"


def before_training(trees: Sequence[ToyTree]) -> Outcome:
    """The same of the base policy, which gained nothing."""
    return outcome(trees, cures(trees[0])[0], Training(updates=0), num_runs=1)


def outcome(trees: Sequence[ToyTree], cure: Cure, training: Training, *, num_runs: int, seed: int = 0) -> Outcome:
    """Train on each tree as one problem."""
    return Outcome(
        *(Interval(*mean_interval(column)) for column in tree_outcomes(trees, cure, training, num_runs, seed).T)
    )


def tree_outcomes(trees: Sequence[ToyTree], cure: Cure, training: Training, num_runs: int, seed: int) -> Floats:
    """The four numbers of an `Outcome`, means over runs, one row a tree."""
    rows = []
    for toy in trees:
        problems = Problems.of(toy)
        rare = rare_paths(problems)
        kept = train(
            problems, cure.rule, training, num_runs=num_runs, seed=seed, level=cure.level, inner_steps=cure.inner_steps
        )
        before, after = kept[0], kept[-1]
        gained = (after > before)[:, rare].mean()
        measured = (
            pass_at_k(after, problems.right_PL, 1),
            right_mass(after, rare),
            found_in(after, rare, NUM_DRAWS),
        )
        rows.append([*(values.mean() for values in measured), gained])
    return np.array(rows)


def sweep(
    trees: Sequence[ToyTree], values: Mapping[str, Sequence[float]], *, base: Training, num_runs: int
) -> dict[tuple[str, float], Outcome]:
    """GRPO with one field of `Training` changed at a time."""
    rule = Cure("GRPO", grpo_rule)
    return {
        (name, value): outcome(trees, rule, replace(base, **{name: value}), num_runs=num_runs)  # type: ignore[arg-type]
        for name, options in values.items()
        for value in options
    }


# --- cures ------------------------------------------------------------------------------------------------------------


class CureResult(NamedTuple):
    name: str
    level: Level
    alone: Outcome
    "one problem a tree"
    against_grpo: tuple[Interval, Interval]
    "differences in `rare_mass` and `rare_found` to GRPO on the same logits and trees, with the same seeds"
    coupled: dict[int, Interval]
    "pass@k over problems that share a part of their logits, over runs"
    over_grpo: tuple[float, float]
    """`rare_found` alone and pass@64 coupled, less those of GRPO on the same logits at the same pass@1: what is more
    than training less. Coupled, GRPO may take eight times the updates to get there; NaN where it never had it"""


class Frontier(NamedTuple):
    """What GRPO has at each pass@1 along its training."""

    pass_1: Floats
    "rising"
    other: Floats

    def less_at(self, pass_1: float, other: float) -> float:
        """How much more `other` is than GRPO's at the same pass@1."""
        return other - float(np.interp(pass_1, self.pass_1, self.other, left=np.nan, right=np.nan))


def compare_cures(
    trees: Sequence[ToyTree], problems: Problems, alone: Training, coupled: Training, *, num_runs: int, seed: int = 0
) -> Iterator[CureResult]:
    """Every cure of `cures` at equal updates, on each tree alone and on coupled problems."""
    of_grpo: dict[str, Floats] = {}
    frontiers = {
        level: (
            rare_frontier(trees, alone, level, num_runs=num_runs, seed=seed),
            coupled_frontier(problems, coupled, level, num_runs=num_runs, seed=seed),
        )
        for level in get_args(Level)
    }
    for cure in cures(trees[0]):
        rows = tree_outcomes(trees, cure, alone, num_runs, seed)
        of_grpo.setdefault(cure.level, rows)  # GRPO comes first on both levels
        difference = rows - of_grpo[cure.level]
        mean = Outcome(*(Interval(*mean_interval(column)) for column in rows.T))
        found = coupled_pass(problems, cure, coupled, num_runs=num_runs, seed=seed)
        of_rare, of_coupled = frontiers[cure.level]
        yield CureResult(
            cure.name,
            cure.level,
            mean,
            (Interval(*mean_interval(difference[:, 1])), Interval(*mean_interval(difference[:, 2]))),
            found,
            (
                of_rare.less_at(mean.pass_1.value, mean.rare_found.value),
                of_coupled.less_at(found[1].value, found[NUM_DRAWS].value),
            ),
        )


def rare_frontier(
    trees: Sequence[ToyTree], training: Training, level: Level, *, num_runs: int, seed: int = 0
) -> Frontier:
    """pass@1 and `rare_found` of GRPO, means over trees."""
    curves = []
    for toy in trees:
        problems = Problems.of(toy)
        rare = rare_paths(problems)
        kept = train(problems, grpo_rule, training, num_runs=num_runs, seed=seed, level=level, keep_every=2)
        curves.append(
            [[pass_at_k(one, problems.right_PL, 1).mean(), found_in(one, rare, NUM_DRAWS).mean()] for one in kept]
        )
    return _rising(np.mean(curves, axis=0))


def coupled_frontier(problems: Problems, training: Training, level: Level, *, num_runs: int, seed: int = 0) -> Frontier:
    """pass@1 and pass@64 of GRPO on coupled problems, along `FRONTIER_UPDATES` times as many updates."""
    longer = replace(training, updates=FRONTIER_UPDATES * training.updates)
    kept = train(problems, grpo_rule, longer, num_runs=num_runs, seed=seed, level=level, keep_every=2)
    return _rising(np.array([[pass_at_k(one, problems.right_PL, k).mean() for k in (1, NUM_DRAWS)] for one in kept]))


def _rising(points: Floats) -> Frontier:
    kept = points[points[:, 0] >= np.maximum.accumulate(points[:, 0])]
    return Frontier(kept[:, 0], kept[:, 1])


def coupled_pass(
    problems: Problems, cure: Cure, training: Training, *, num_runs: int, seed: int = 0
) -> dict[int, Interval]:
    """pass@k after training, exact for each run's policy."""
    after = train(
        problems, cure.rule, training, num_runs=num_runs, seed=seed, level=cure.level, inner_steps=cure.inner_steps
    )[-1]
    return {k: Interval(*mean_interval(pass_at_k(after, problems.right_PL, k))) for k in PASS_AT}
