"""Does the order of scores at inner nodes agree with the order of the chances to end right?

Three groups of nodes: `siblings`, what a search chooses between; `depth`, nodes of one problem at one depth, a beam;
`problem`, all of a problem's nodes, where a score that grows or falls with depth for no good reason shows. Knows scored
trees and values of their nodes (`inner.py`); draws nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from arts.evaluate.inner import InnerValue
from arts.evaluate.metrics import Estimate, Floats, chosen_aggregation, paired_bootstrap, path_score
from arts.protocols import Aggregation, ScoredTrees
from arts.tree import ReasoningTree

GROUPS = ("siblings", "depth", "problem")
_Key: TypeAlias = tuple[int, str | int]
"""Position of the problem, and what tells the groups inside it apart."""


@dataclass(frozen=True, kw_only=True)
class RankQuality:
    """Agreement inside one kind of group, with intervals over problems."""

    pair_accuracy: Estimate
    "share of pairs with different values that the scores put in the right order; equal scores count half"
    num_pairs: int
    "Kendall's tau over these pairs is 2 pair_accuracy - 1"
    spearman: Estimate
    "mean over the groups whose values are not all equal"
    num_groups: int

    def to_json(self) -> dict[str, Any]:
        return {
            "pair_accuracy": self.pair_accuracy.to_json(),
            "num_pairs": self.num_pairs,
            "spearman": self.spearman.to_json(),
            "num_groups": self.num_groups,
        }


def rank_correlation(
    scored: ScoredTrees,
    values: Sequence[InnerValue],
    *,
    aggregation: Aggregation = "last",
    least_difference: float = 0.0,
    seed: int = 0,
) -> Mapping[str, RankQuality]:
    """Agreement of a verifier's scores with values, for every kind of group in `GROUPS`.

    Values from few rollouts are noisy, which pulls every figure towards no agreement; two verifiers are compared fairly
    on the same values all the same.

    Args:
        values: of nodes of these trees.
        aggregation: of the scores down to a node; `last` is the node's own.
        least_difference: pairs whose values differ by no more are left out of the pair accuracy.

    Raises:
        ValueError: a value belongs to no node of these trees, or the node has no score.
    """
    how = chosen_aggregation(scored.scale, aggregation)
    positions = {tree.problem.id: position for position, tree in enumerate(scored.trees)}
    rows = [_row(scored.trees, positions, value, how) for value in values]
    return {kind: _quality(_groups(rows, kind), len(scored.trees), least_difference, seed) for kind in GROUPS}


class _Row(NamedTuple):
    problem: int
    parent_text: str
    depth: int
    score: float
    value: float


def _row(
    trees: Sequence[ReasoningTree], positions: Mapping[str, int], value: InnerValue, aggregation: Aggregation
) -> _Row:
    position = positions.get(value.problem_id)
    tree = None if position is None else trees[position]
    if position is None or tree is None or value.node >= len(tree.nodes) or tree.text(value.node) != value.text:
        raise ValueError(
            f"node {value.node} of problem {value.problem_id!r} is not in these trees; values belong to the trees they "
            "were drawn for"
        )
    score = path_score(tree, value.node, aggregation)
    if np.isnan(score):
        raise ValueError(f"node {value.node} of problem {value.problem_id!r} has no score; score inner steps too")
    path = tree.path(value.node)
    return _Row(position, tree.text(path[-1].parent), len(path), score, value.value_01)


def _groups(rows: Sequence[_Row], kind: str) -> dict[_Key, list[_Row]]:
    groups: dict[_Key, list[_Row]] = {}
    for row in rows:
        keys: dict[str, str | int] = {"siblings": row.parent_text, "depth": row.depth, "problem": 0}
        groups.setdefault((row.problem, keys[kind]), []).append(row)
    return groups


def _quality(
    groups: Mapping[_Key, Sequence[_Row]], num_problems: int, least_difference: float, seed: int
) -> RankQuality:
    right_P, pairs_P, spearman_P, groups_P = (np.zeros(num_problems) for _ in range(4))
    for (problem, _), rows in groups.items():
        scores, values = np.array([row.score for row in rows]), np.array([row.value for row in rows])
        agreement = count_pairs(scores, values, least_difference)
        right_P[problem] += agreement.num_right
        pairs_P[problem] += agreement.num_pairs
        correlation = spearman(scores, values)
        if correlation is not None:
            spearman_P[problem] += correlation
            groups_P[problem] += 1
    estimate = paired_bootstrap(num_problems, seed)
    return RankQuality(
        pair_accuracy=estimate(right_P, pairs_P),
        num_pairs=int(pairs_P.sum()),
        spearman=estimate(spearman_P, groups_P),
        num_groups=int(groups_P.sum()),
    )


class PairCount(NamedTuple):
    num_right: float
    "pairs in the right order; a pair of equal scores is half of one"
    num_pairs: int
    "pairs with different values"


def count_pairs(scores: Floats, values: Floats, least_difference: float = 0.0) -> PairCount:
    above, below = np.triu_indices(len(scores), k=1)
    difference = values[above] - values[below]
    counts = np.abs(difference) > least_difference
    agree = _sign(scores[above], scores[below]) * np.sign(difference)
    return PairCount(float(((1 + agree) / 2)[counts].sum()), int(counts.sum()))


def _sign(left: Floats, right: Floats) -> Floats:
    """Of left - right, also where both are -inf."""
    return np.asarray((left > right).astype(np.float64) - (left < right))


def spearman(scores: Floats, values: Floats) -> float | None:
    """Correlation of average ranks. None where all values are equal; 0 where only all scores are: they rank nothing."""
    score_ranks, value_ranks = (average_ranks(x) - (len(x) - 1) / 2 for x in (scores, values))
    value_norm, score_norm = np.linalg.norm(value_ranks), np.linalg.norm(score_ranks)
    if value_norm == 0:
        return None
    return float(score_ranks @ value_ranks / (score_norm * value_norm)) if score_norm > 0 else 0.0


def average_ranks(values: Floats) -> Floats:
    """Rank of each value from 0; equal values share the mean of their ranks."""
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count + 1) / 2
    return np.asarray(mean_rank[number], dtype=np.float64)
