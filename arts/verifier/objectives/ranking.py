"""Objectives that only say which of two steps of one problem is better: their scores have no scale of their own.

With p(s) the observed chance to end right, two nodes i and j are compared as if one path had been drawn from each:

    loss = p_i (1 - p_j) softplus(z_j - z_i) + p_j (1 - p_i) softplus(z_i - z_j)

which is the expected Bradley-Terry loss of such a pair, whatever the number of leaves below i and j. Its optimum is
z_i - z_j = logit p_i - logit p_j: an offset that all compared nodes share stays free.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import softplus

from arts.facts import Ints, TreeFacts
from arts.protocols import ScoreScale
from arts.verifier.objectives.base import Batch, Loss, RewardSettings, Targets, check_range


def _compare(facts: TreeFacts, groups: Iterator[Ints], max_pairs: int) -> Targets:
    """All pairs inside each group that are not known to be equal, at most `max_pairs` of them."""
    better, worse, weight = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for group in groups:
        success = facts.success[group]
        chance = success[:, None] * (1 - success[None, :])  # row's draw right, column's wrong
        np.fill_diagonal(chance, 0)
        row, column = np.nonzero(chance)
        better.append(group[row])
        worse.append(group[column])
        weight.append(chance[row, column])
    pairs = {
        "better_index": np.concatenate(better),
        "worse_index": np.concatenate(worse),
        "weight": np.concatenate(weight),
    }
    if len(pairs["weight"]) > max_pairs:
        kept = np.sort(np.random.default_rng(len(pairs["weight"])).permutation(len(pairs["weight"]))[:max_pairs])
        pairs = {name: values[kept] for name, values in pairs.items()}
    return pairs


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
        by_parent = known[np.argsort(facts.parent[known], kind="stable")]
        parents = facts.parent[by_parent]
        cuts = np.flatnonzero(np.diff(parents)) + 1
        return _compare(facts, iter(np.split(by_parent, cuts)), self.max_pairs)

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
        return _compare(facts, self._groups(facts), self.max_pairs)

    def _groups(self, facts: TreeFacts) -> Iterator[Ints]:
        yield np.flatnonzero(facts.is_terminal)
        inner = facts.is_known & ~facts.is_terminal & (facts.parent >= 0)
        for depth in range(1, int(facts.depth.max()) + 1 if self.steps else 1):
            yield np.flatnonzero(inner & (facts.depth == depth))

    def weight(self, batch: Batch) -> torch.Tensor:
        return batch["weight"].sum()

    def loss(self, output_NK: torch.Tensor, batch: Batch, rewards: RewardSettings) -> Loss:
        return _ranking_loss(output_NK, batch)

    def log_flow(self, output_NK: torch.Tensor, rewards: RewardSettings) -> torch.Tensor:
        return output_NK[:, 0]
