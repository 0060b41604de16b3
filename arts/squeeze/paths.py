"""Paths of collected trees and their log-likelihood under two models: which right ones fell, and by how much.

Knows trees and numbers; where log-likelihoods come from (`measure`, `remote`) and how they are shown is elsewhere.

Shapes: N paths of all problems together, P problems.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from arts.evaluate.metrics import Estimate, paired_bootstrap, trunk_leaves
from arts.facts import Bools, Floats, Ints
from arts.tree import Node, ReasoningTree

NUM_BINS = 10
SHOWN_FALLS = 20


class Likelihood(Protocol):
    """A model that can score given text."""

    name: str
    tokenizer_fingerprint: str
    "of the tokenizer whose ids it scores; trees of another one are tokenised anew, step by step"

    def score(self, trees: Sequence[ReasoningTree], watch: Callable[[int], None]) -> list[list[float]]:
        """log pi of each of `finished_paths(tree)`, for every tree, at temperature 1; `watch` hears of trees done."""
        ...


def finished_paths(tree: ReasoningTree) -> list[Node]:
    """The distinct ends of finished main trajectories, by id."""
    ends = {leaf.id: leaf for leaf in trunk_leaves(tree) if leaf.is_answer}
    return [ends[leaf] for leaf in sorted(ends)]


@dataclass(frozen=True)
class ScoredPaths:
    """The distinct finished paths of base's trees under both models."""

    problem_N: Ints
    "number of the problem"
    right_N: Bools
    num_draws_N: Ints
    "how often the base drew the path"
    num_tokens_N: Ints
    log_base_N: Floats
    log_tuned_N: Floats
    problem_ids: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def change_N(self) -> Floats:
        """log pi_tuned - log pi_base."""
        return self.log_tuned_N - self.log_base_N

    def rows(self) -> list[dict[str, Any]]:
        """One row a path, as a file keeps them."""
        return [
            {
                "problem": self.problem_ids[self.problem_N[row]],
                "text": self.texts[row],
                "right": bool(self.right_N[row]),
                "draws": int(self.num_draws_N[row]),
                "tokens": int(self.num_tokens_N[row]),
                "log_base": round(float(self.log_base_N[row]), 5),
                "log_tuned": round(float(self.log_tuned_N[row]), 5),
            }
            for row in range(len(self.texts))
        ]


def join_scores(
    trees: Sequence[ReasoningTree], log_base: Sequence[Sequence[float]], log_tuned: Sequence[Sequence[float]]
) -> ScoredPaths:
    """Put paths and their two scores together.

    Raises:
        ValueError: no path is finished, or an answer has no verdict.
    """
    problem, right, draws, tokens, texts = [], [], [], [], []
    for number, tree in enumerate(trees):
        for leaf in finished_paths(tree):
            if leaf.verdict is None:
                raise ValueError(
                    f"an answer to problem {tree.problem.id!r} has no verdict; let the task judge it first"
                )
            problem.append(number)
            right.append(leaf.verdict.correct)
            draws.append(tree.trunks.count(leaf.id))
            tokens.append(sum(node.num_tokens for node in tree.path(leaf.id)))
            texts.append(tree.text(leaf.id))
    if not texts:
        raise ValueError("no path of these trees is finished: there is nothing to score")
    flat = [np.array([one for row in scores for one in row], dtype=np.float64) for scores in (log_base, log_tuned)]
    ids = tuple(tree.problem.id for tree in trees)
    return ScoredPaths(
        problem_N=np.array(problem, dtype=np.int64),
        right_N=np.array(right, dtype=np.bool_),
        num_draws_N=np.array(draws, dtype=np.int64),
        num_tokens_N=np.array(tokens, dtype=np.int64),
        log_base_N=flat[0],
        log_tuned_N=flat[1],
        problem_ids=ids,
        texts=tuple(texts),
    )


class Bin(NamedTuple):
    """Paths of similar likelihood under the base."""

    low: float
    "log pi_base of the least likely of them"
    high: float
    num_paths: int
    change: Estimate
    "mean of log pi_tuned - log pi_base"
    fallen: Estimate
    "share of them that are less likely than before"
    quantiles: tuple[float, float, float, float, float]
    "10, 25, 50, 75 and 90% of the change"

    def to_json(self) -> dict[str, Any]:
        return {
            "log_base": [self.low, self.high],
            "paths": self.num_paths,
            "change": self.change.to_json(),
            "fallen": self.fallen.to_json(),
            "quantiles": list(self.quantiles),
        }


@dataclass(frozen=True)
class LikelihoodReport:
    """What became of the base's paths."""

    base: str
    tuned: str
    num_problems: int
    bins: dict[str, tuple[Bin | None, ...]]
    "`right` and `wrong`, least likely tenth first; None where a tenth has no such path"
    overall: dict[str, Bin]
    kl: Estimate
    """KL(base | tuned) a path, from the base's own draws: the mean of -change over draws. It is never below 0, so that
    the paths that the base drew fall on average whatever was trained; only right against wrong, and rare against
    likely, tell."""
    entropy_base: Estimate
    "of finished paths, from the base's draws: the mean of -log pi_base"
    falls: tuple[int, ...]
    "the right paths that fell furthest, as numbers of paths"
    paths: ScoredPaths

    def to_json(self) -> dict[str, Any]:
        rows = self.paths.rows()
        return {
            "base": self.base,
            "tuned": self.tuned,
            "num_problems": self.num_problems,
            "num_paths": len(rows),
            "deciles": {
                kind: [None if one is None else one.to_json() for one in bins] for kind, bins in self.bins.items()
            },
            "overall": {kind: one.to_json() for kind, one in self.overall.items()},
            "kl": self.kl.to_json(),
            "entropy_base": self.entropy_base.to_json(),
            "falls": [rows[index] for index in self.falls],
        }


def report_likelihoods(paths: ScoredPaths, *, base: str, tuned: str, seed: int = 0) -> LikelihoodReport:
    """Compare right and wrong paths in tenths of equal size by the base's likelihood, the same tenths for both.

    Intervals are 95%, by resampling problems.
    """
    num_problems = len(paths.problem_ids)
    estimate = paired_bootstrap(num_problems, seed)

    def mean(values_N: Floats, weight_N: Floats) -> Estimate:
        sums = (np.bincount(paths.problem_N, one, num_problems) for one in (values_N * weight_N, weight_N))
        return estimate(*(one.astype(np.float64) for one in sums))

    def one_bin(chosen_N: Bools) -> Bin | None:
        if not chosen_N.any():
            return None
        log_base, change, weight = paths.log_base_N[chosen_N], paths.change_N[chosen_N], chosen_N.astype(np.float64)
        tenth, quarter, half, three, nine = (float(x) for x in np.percentile(change, [10, 25, 50, 75, 90]))
        return Bin(
            float(log_base.min()),
            float(log_base.max()),
            int(chosen_N.sum()),
            mean(paths.change_N, weight),
            mean((paths.change_N < 0).astype(np.float64), weight),
            (tenth, quarter, half, three, nine),
        )

    edges = np.percentile(paths.log_base_N, np.linspace(0, 100, NUM_BINS + 1)[1:-1])
    place_N = np.digitize(paths.log_base_N, edges)
    kinds = {"right": paths.right_N, "wrong": ~paths.right_N}
    overall = {kind: one for kind, of_kind in kinds.items() if (one := one_bin(of_kind)) is not None}
    draws = paths.num_draws_N.astype(np.float64)
    right = np.flatnonzero(paths.right_N & (paths.change_N < 0))
    falls = right[np.argsort(paths.change_N[right], kind="stable")][:SHOWN_FALLS]
    return LikelihoodReport(
        base=base,
        tuned=tuned,
        num_problems=num_problems,
        bins={
            kind: tuple(one_bin(of_kind & (place_N == place)) for place in range(NUM_BINS))
            for kind, of_kind in kinds.items()
        },
        overall=overall,
        kl=mean(-paths.change_N, draws),
        entropy_base=mean(-paths.log_base_N, draws),
        falls=tuple(int(index) for index in falls),
        paths=paths,
    )
