"""Two sets of rollouts of the same problems, before and after tuning: pass@k, crossing, problems lost and gained.

Needs no model: collections of any origin do. Forks do not count. Intervals are 95%, by resampling problems, paired.

Shapes: P problems, N draws of a problem.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arts.evaluate.metrics import (
    Draws,
    Estimate,
    hit_chance,
    paired_bootstrap,
    read_draws,
    sample_sizes,
    trunk_leaves,
)
from arts.evaluate.subsets import check_same_problems
from arts.facts import Floats
from arts.tree import ReasoningTree, path_log_prior


@dataclass(frozen=True)
class Side:
    """One of the two sets."""

    num_samples: int
    pass_at_k: dict[int, Estimate]
    distinct: Estimate
    "distinct texts among `common` draws of a problem, expected"
    distinct_right: Estimate
    answer_entropy: Estimate
    "of the answers of a problem's draws, natural logarithm; unfinished draws have none"
    path_entropy: Estimate
    "mean of -log pi over the draws, where log-priors of the model's own law are known; else undefined"

    def to_json(self) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "pass_at_k": {str(k): one.to_json() for k, one in self.pass_at_k.items()},
            "distinct": self.distinct.to_json(),
            "distinct_right": self.distinct_right.to_json(),
            "answer_entropy": self.answer_entropy.to_json(),
            "path_entropy": self.path_entropy.to_json(),
        }


@dataclass(frozen=True)
class RolloutReport:
    """Base against tuned."""

    num_problems: int
    "problems that both sets have"
    num_left_out: int
    "problems that only one of them has"
    common: int
    "draws a problem that both sets have: k of what is lost and gained"
    base: Side
    tuned: Side
    difference: dict[int, Estimate]
    "tuned - base at k"
    crossing: int | None
    "least k at which the tuned model falls behind, having been ahead at a smaller one"
    lost: Estimate
    "share of problems that `common` draws of the base solve and as many of the tuned model do not"
    gained: Estimate
    lost_half: Estimate
    "the same at half as many draws ..."
    lost_by_chance: Estimate
    "... and with other draws of the base itself in place of the tuned model's: what draws alone make of it"
    extinct: Estimate
    "share of problems that the tuned model solves in none of all its draws"
    lost_rare: Estimate
    "`lost` among the problems of which 1 or 2 of the base's draws are right"
    lost_problems: tuple[str, ...]
    "solved in some of the base's draws, in none of the tuned model's"
    gained_problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        estimates = ("lost", "gained", "lost_half", "lost_by_chance", "extinct", "lost_rare")
        return {
            "num_problems": self.num_problems,
            "num_left_out": self.num_left_out,
            "common_draws": self.common,
            "base": self.base.to_json(),
            "tuned": self.tuned.to_json(),
            "difference": {str(k): one.to_json() for k, one in self.difference.items()},
            "crossing": self.crossing,
            **{name: getattr(self, name).to_json() for name in estimates},
            "lost_problems": list(self.lost_problems),
            "gained_problems": list(self.gained_problems),
        }


def compare_rollouts(
    base_trees: Sequence[ReasoningTree], tuned_trees: Sequence[ReasoningTree], *, seed: int = 0
) -> RolloutReport:
    """Compare on the problems that both sets have.

    Raises:
        ValueError: they share no problem, or one of them cannot be evaluated (see `read_draws`).
    """
    by_id = {tree.problem.id: tree for tree in tuned_trees}
    shared = [tree for tree in base_trees if tree.problem.id in by_id]
    if not shared:
        raise ValueError(
            "the two collections share no problem (problems are matched by id); give rollouts of the same problems"
        )
    partners = [by_id[tree.problem.id] for tree in shared]
    check_same_problems(shared, partners)
    ids = [tree.problem.id for tree in shared]
    draws = read_draws(shared), read_draws(partners)
    common = min(one.num_samples for one in draws)
    estimate = paired_bootstrap(len(shared), seed)
    ones = np.ones(len(shared))
    pass_PK = [{k: hit_chance(one.num_samples, k)[one.num_correct_P] for k in _sizes(one)} for one in draws]
    difference = {
        k: estimate(pass_PK[1][k] - pass_PK[0][k], ones) for k in pass_PK[0] if k in pass_PK[1] and k <= common
    }
    hit_base, hit_tuned = (hit_chance(one.num_samples, common)[one.num_correct_P] for one in draws)
    half = max(1, common // 2)
    half_base, half_tuned = (hit_chance(one.num_samples, half)[one.num_correct_P] for one in draws)
    solved_base, solved_tuned = (one.num_correct_P > 0 for one in draws)
    rare = draws[0].rare_P.astype(np.float64)
    return RolloutReport(
        num_problems=len(shared),
        num_left_out=len(base_trees) + len(tuned_trees) - 2 * len(shared),
        common=common,
        base=_side(shared, draws[0], pass_PK[0], common, seed),
        tuned=_side(partners, draws[1], pass_PK[1], common, seed),
        difference=difference,
        crossing=_crossing({k: one.value or 0.0 for k, one in difference.items()}),
        lost=estimate(hit_base * (1 - hit_tuned), ones),
        gained=estimate((1 - hit_base) * hit_tuned, ones),
        lost_half=estimate(half_base * (1 - half_tuned), ones),
        lost_by_chance=estimate(_missed_by_others(draws[0], half), ones),
        extinct=estimate((~solved_tuned).astype(np.float64), ones),
        lost_rare=estimate(rare * hit_base * (1 - hit_tuned), rare * hit_base),
        lost_problems=tuple(name for name, lost in zip(ids, solved_base & ~solved_tuned, strict=True) if lost),
        gained_problems=tuple(name for name, won in zip(ids, ~solved_base & solved_tuned, strict=True) if won),
    )


def _sizes(draws: Draws) -> list[int]:
    return sample_sizes(draws.num_samples)


def _missed_by_others(draws: Draws, k: int) -> Floats:
    """Chance that k of a problem's N draws hold a right one and k others of them none. Shape P.

    Of two disjoint subsets, none in the second: C(N - c, k) / C(N, k); less none in both: C(N - c, 2k) / C(N, 2k).
    Needs 2k <= N; where N = 1, nothing can be said and it is 0.
    """
    num_samples = draws.num_samples
    if 2 * k > num_samples:
        return np.zeros(len(draws.correct_PN))
    one, both = hit_chance(num_samples, k), hit_chance(num_samples, 2 * k)
    return np.asarray((both - one)[draws.num_correct_P])


def _crossing(difference: dict[int, float]) -> int | None:
    was_ahead = False
    for k in sorted(difference):
        if was_ahead and difference[k] < 0:
            return k
        was_ahead = was_ahead or difference[k] > 0
    return None


def _side(trees: Sequence[ReasoningTree], draws: Draws, pass_P: dict[int, Floats], common: int, seed: int) -> Side:
    estimate = paired_bootstrap(len(trees), seed)
    ones = np.ones(len(trees))
    texts = [[tree.text(leaf.id) if leaf.is_answer else None for leaf in trunk_leaves(tree)] for tree in trees]
    right = [
        [text if correct else None for text, correct in zip(row, correct_N, strict=True)]
        for row, correct_N in zip(texts, draws.correct_PN, strict=True)
    ]
    answers = [[None if number < 0 else str(number) for number in answer_N] for answer_N in draws.answer_PN]
    entropy, known = _path_entropy(trees)
    return Side(
        num_samples=draws.num_samples,
        pass_at_k={k: estimate(values, ones) for k, values in pass_P.items()},
        distinct=estimate(np.array([_expected_distinct(row, common) for row in texts]), ones),
        distinct_right=estimate(np.array([_expected_distinct(row, common) for row in right]), ones),
        answer_entropy=estimate(np.array([_entropy(row) for row in answers]), ones),
        path_entropy=estimate(entropy, known),
    )


def _expected_distinct(texts: Sequence[str | None], k: int) -> float:
    """Expected number of distinct texts in k of the draws: each is there with the chance that one of its copies is."""
    hit = hit_chance(len(texts), k)
    return float(sum(hit[count] for text, count in Counter(texts).items() if text is not None))


def _entropy(labels: Sequence[str | None]) -> float:
    counts = [count for label, count in Counter(labels).items() if label is not None]
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts) if total else 0.0


def _path_entropy(trees: Sequence[ReasoningTree]) -> tuple[Floats, Floats]:
    """Sums of -log pi over each problem's draws and their numbers; nothing under a law other than the model's own."""
    sums, counts = np.zeros(len(trees)), np.zeros(len(trees))
    for row, tree in enumerate(trees):
        values = [path_log_prior(tree.path(leaf.id)) for leaf in trunk_leaves(tree)]
        if tree.log_prior_law == "raw" and values and not any(map(math.isnan, values)):
            sums[row], counts[row] = -sum(values), len(values)
    return sums, counts
