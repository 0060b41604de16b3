"""Objectives that estimate the chance to end right, in [0, 1]: value models, process and outcome reward models.

    outcome         o(tau) at the ends of paths only
    pointwise_prm   squared error on the value of every step, each child counted by its draws
    mc_value        binomial likelihood of k(s) right among the L(s) leaves seen below, at every node
    rest_value      progress along the shortest right path seen (ReST-MCTS*)

The head's output is a logit; the score is log sigmoid(z), the log of a probability.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from arts.facts import Floats, TreeFacts
from arts.protocols import ScoreScale
from arts.verifier.objectives.base import Bounds, LossName, NodeRegression, RewardSettings, check_choice, check_range


class _Value(NodeRegression):
    """The reward is 1 or 0."""

    def bounds(self, rewards: RewardSettings) -> Bounds:
        return Bounds(1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Outcome(_Value):
    """Binary cross-entropy on the outcome, at the ends of paths only."""

    inner_weight: float = 0.0
    "0: inner steps take no part, and their scores mean nothing"

    name: ClassVar[str] = "outcome"
    paper: ClassVar[str] = "Training Verifiers to Solve Math Word Problems, arXiv 2110.14168"

    @property
    def loss_name(self) -> LossName:
        return "bce"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.name, "inner_weight", self.inner_weight, low=0, high=0)

    def node_targets(self, facts: TreeFacts, bounds: Bounds) -> Floats:
        return facts.is_right.astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class PointwisePRM(_Value):
    """The paper's first baseline: squared error on the Monte-Carlo value of every step."""

    name: ClassVar[str] = "pointwise_prm"
    paper: ClassVar[str] = "Math-Shepherd, arXiv 2312.08935 (soft labels); baseline of arXiv 2602.12846"
    estimates_value: ClassVar[bool] = True

    @property
    def loss_name(self) -> LossName:
        return "brier"

    def scale(self, rewards: RewardSettings) -> ScoreScale:
        return replace(super().scale(rewards), aggregation="min")

    def node_targets(self, facts: TreeFacts, bounds: Bounds) -> Floats:
        return facts.success


@dataclass(frozen=True, kw_only=True)
class McValue(_Value):
    """Binomial likelihood with counts: a node with many leaves weighs more, and merging changes nothing."""

    prior_right: float = 0.0
    "pseudo-counts added at inner nodes: shrinks the value where few leaves were seen"
    prior_wrong: float = 0.0

    name: ClassVar[str] = "mc_value"
    paper: ClassVar[str] = "OmegaPRM, arXiv 2406.06592 (Monte-Carlo values in a tree)"
    estimates_value: ClassVar[bool] = True

    @property
    def loss_name(self) -> LossName:
        return "bce"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "weigh", self.weigh, ("nodes",))  # leaves are counted anyway
        check_range(self.name, "prior_right", self.prior_right, low=0)
        check_range(self.name, "prior_wrong", self.prior_wrong, low=0)

    def node_weights(self, facts: TreeFacts) -> Floats:
        weight = np.where(facts.is_terminal, self.leaf_weight, self.inner_weight) * facts.is_known
        return weight * facts.num_leaves

    def node_targets(self, facts: TreeFacts, bounds: Bounds) -> Floats:
        right = facts.num_right + np.where(facts.is_terminal, 0.0, self.prior_right)
        wrong = facts.num_leaves - facts.num_right + np.where(facts.is_terminal, 0.0, self.prior_wrong)
        return right / np.maximum(right + wrong, 1e-12)


@dataclass(frozen=True, kw_only=True)
class RestValue(_Value):
    """Progress: with m(s) the fewest steps to a right leaf counted from s (1 at the leaf itself),

        v_k = max(0, v_{k-1} + g (1 - v_{k-1}) / m_k),   v_0 = 0,   g = +1 where a right leaf lies below, else -1.

    Off the right paths m is that of the nearest ancestor that has one. On a shortest right path of n steps v_k = k / n.
    """

    name: ClassVar[str] = "rest_value"
    paper: ClassVar[str] = "ReST-MCTS*, arXiv 2406.03816"

    @property
    def loss_name(self) -> LossName:
        return "brier"

    def node_targets(self, facts: TreeFacts, bounds: Bounds) -> Floats:
        parent, num_nodes = facts.parent, len(facts.parent)
        steps_to_right = np.where(facts.is_right, 1.0, np.inf)
        for node in range(num_nodes - 1, 0, -1):
            steps_to_right[parent[node]] = min(steps_to_right[parent[node]], steps_to_right[node] + 1)
        leads_to_right = np.isfinite(steps_to_right)
        value = np.zeros(num_nodes)
        for node in range(1, num_nodes):
            before = value[parent[node]]
            if not leads_to_right[node]:
                steps_to_right[node] = steps_to_right[parent[node]]
            change = (1 - before) / steps_to_right[node]
            value[node] = max(0.0, before + (change if leads_to_right[node] else -change))
        return value
