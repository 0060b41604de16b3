"""Objectives that only say which of two steps of one problem is better: their scores have no scale of their own.

With p(s) the observed chance to end right, two nodes i and j are compared as if one path had been drawn from each:

    loss = p_i (1 - p_j) softplus(z_j - z_i) + p_j (1 - p_i) softplus(z_i - z_j)

which is the expected Bradley-Terry loss of such a pair, whatever the number of leaves below i and j. Its optimum is
z_i - z_j = logit p_i - logit p_j: an offset that all compared nodes share stays free.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import softplus

from arts.facts import Ints, TreeFacts
from arts.protocols import ScoreScale
from arts.verifier.objectives.base import Batch, Loss, RewardSettings, Targets, check_range


def _compare(facts: TreeFacts, nodes: Ints, group: Ints, max_pairs: int) -> Targets:
    """All pairs of nodes of one group that are not known to be equal, at most `max_pairs` of them.

    Pairs are numbered, and only those that are kept are made: there are as many as the square of a tree's leaves.

    Args:
        group: of each of the nodes: a number from 0 up.
    """
    order = np.argsort(group, kind="stable")
    nodes, group = nodes[order], group[order]
    may_win, may_lose = facts.success[nodes] > 0, facts.success[nodes] < 1
    rows, opponents = nodes[may_win], nodes[may_lose]
    first = np.searchsorted(group[may_lose], group[may_win])
    behind = np.searchsorted(group[may_lose], group[may_win], side="right")
    own_place = (np.cumsum(may_lose) - 1)[may_win]  # among the opponents, where it is one of them
    is_own = may_lose[may_win]
    last = np.cumsum(behind - first - is_own)  # nothing is compared with itself
    total = int(last[-1]) if len(last) else 0
    if total > max_pairs:
        pair = np.sort(np.random.default_rng(total).choice(total, max_pairs, replace=False, shuffle=False))
    else:
        pair = np.arange(total)
    row = np.searchsorted(last, pair, side="right")
    column = first[row] + pair - np.concatenate([[0], last])[row]
    column += is_own[row] & (column >= own_place[row])
    better, worse = rows[row], opponents[column]
    # The better one's draw right, the other's wrong.
    return {
        "better_index": better,
        "worse_index": worse,
        "weight": facts.success[better] * (1 - facts.success[worse]),
    }


def _ranking_loss(output_NK: torch.Tensor, batch: Batch) -> Loss:
    output, weight = output_NK[:, 0], batch["weight"].to(output_NK.dtype)
    loss = softplus(output[batch["worse_index"]] - output[batch["better_index"]])
    return Loss((weight * loss).sum(), batch["weight"].sum().to(output.dtype))


def _check_max_pairs(objective: str, max_pairs: int) -> None:
    check_range(objective, "max_pairs", max_pairs, low=1)


@dataclass(frozen=True, kw_only=True)
class SiblingRank:
    """Steps are compared with their siblings only: the same prefix, so the problem's difficulty drops out."""

    max_pairs: int = 8192
    "of one tree; a larger one is represented by a fixed random part of its pairs"

    name: ClassVar[str] = "sibling_rank"
    paper: ClassVar[str] = "sibling pairs of MCTS-DPO, arXiv 2405.00451, as a Bradley-Terry loss"
    needs_prior: ClassVar[bool] = False
    num_outputs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_max_pairs(self.name, self.max_pairs)

    def scale(self, rewards: RewardSettings) -> ScoreScale:
        return ScoreScale(kind="log_strength")

    def targets(self, facts: TreeFacts, rewards: RewardSettings) -> Targets:
        known = np.flatnonzero(facts.is_known & (facts.parent >= 0))
        return _compare(facts, known, facts.parent[known], self.max_pairs)

    def weight(self, batch: Batch) -> torch.Tensor:
        return batch["weight"].sum()

    def loss(self, output_NK: torch.Tensor, batch: Batch, rewards: RewardSettings) -> Loss:
        return _ranking_loss(output_NK, batch)

    def log_flow(self, output_NK: torch.Tensor, rewards: RewardSettings) -> torch.Tensor:
        return output_NK[:, 0]


@dataclass(frozen=True, kw_only=True)
class PairwiseRM:
    """The paper's second baseline: a right path against a wrong one of the same problem, end against end and step
    against step of the same depth."""

    steps: bool = True
    "compare inner steps of the same depth too; without them only the score of the last step means something"
    max_pairs: int = 8192
    "of one tree; a larger one is represented by a fixed random part of its pairs"

    name: ClassVar[str] = "pairwise_rm"
    paper: ClassVar[str] = "Bradley-Terry reward model, arXiv 2203.02155; baseline of arXiv 2602.12846"
    needs_prior: ClassVar[bool] = False
    num_outputs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_max_pairs(self.name, self.max_pairs)

    def scale(self, rewards: RewardSettings) -> ScoreScale:
        return ScoreScale(kind="log_strength", aggregation="min" if self.steps else "last")

    def targets(self, facts: TreeFacts, rewards: RewardSettings) -> Targets:
        is_compared = facts.is_terminal | (facts.is_known & (facts.parent >= 0) & self.steps)
        nodes = np.flatnonzero(is_compared)
        # Ends with ends, whatever their depth; steps with those of the same depth.
        return _compare(facts, nodes, np.where(facts.is_terminal, 0, facts.depth)[nodes], self.max_pairs)

    def weight(self, batch: Batch) -> torch.Tensor:
        return batch["weight"].sum()

    def loss(self, output_NK: torch.Tensor, batch: Batch, rewards: RewardSettings) -> Loss:
        return _ranking_loss(output_NK, batch)

    def log_flow(self, output_NK: torch.Tensor, rewards: RewardSettings) -> torch.Tensor:
        return output_NK[:, 0]
