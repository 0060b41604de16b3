"""Objectives that estimate a flow of reward through every step. With c the children of s as observed, n_c their draws:

    rfm             F(s) = sum_c F(c)                    = L(s) mean R: grows with the number of leaves (W1)
    mean_flow       F(s) = sum_c n_c F(c) / sum_c n_c    = V(s) = E[R | s], whatever was forked
    debiased_flow   log F(s) = log sum R - log L(s)      the sum's cheapest repair: a mean over leaves
    log_mean_exp    v(s) = log mean_c exp(lambda v(c)) / lambda
    tempered_flow   F_a(s) = mean over draws of R(tau) pi_0(tau | s)^-a

W1-W5 are the weak points of the sum flow, see docs/choose_objective.md.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from arts.facts import Floats, TreeFacts
from arts.verifier.objectives.base import (
    Bootstrapped,
    Bounds,
    LossName,
    NodeRegression,
    RewardSettings,
    check_choice,
    check_range,
)

ARTS = "Amortized Reasoning Tree Search, arXiv 2602.12846"


def leaf_rewards(facts: TreeFacts, bounds: Bounds) -> Floats:
    """R at every terminal node [N]."""
    return np.where(facts.is_right, bounds.right, bounds.wrong)


@dataclass(frozen=True, kw_only=True)
class RFM(Bootstrapped):
    """Reasoning Flow Matching (paper, method 5): conservation of the observed flow, log R at the end."""

    regression: Literal["squared_log", "poisson"] = "squared_log"
    "`squared_log` is the paper's"
    count_draws: bool = True
    "a terminal drawn n times counts n times in its parent's sum, so that merged and unmerged trees have equal sums"

    name: ClassVar[str] = "rfm"
    paper: ClassVar[str] = ARTS
    allowed_losses: ClassVar[tuple[str, ...]] = ("squared_log", "poisson")

    @property
    def loss_name(self) -> LossName:
        return self.regression

    def child_weight(self, facts: TreeFacts) -> Floats:
        return facts.leaf_draws if self.count_draws else np.ones(len(facts.parent))

    def node_targets(self, facts: TreeFacts, bounds: Bounds) -> Floats:
        return facts.sum_up(leaf_rewards(facts, bounds), self.child_weight(facts))


@dataclass(frozen=True, kw_only=True)
class MeanFlow(Bootstrapped):
    """Policy-weighted flow: each child counts by its share of the draws, so F = V, free of the out-degree."""

    regression: LossName = "bce"

    name: ClassVar[str] = "mean_flow"
    estimates_value: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "mean instead of sum: V(s) = E[R | s], Monte-Carlo policy evaluation (Sutton & Barto 2018, 5)"
    )

    @property
    def loss_name(self) -> LossName:
        return self.regression

    def child_weight(self, facts: TreeFacts) -> Floats:
        return facts.draw_share

    def node_targets(self, facts: TreeFacts, bounds: Bounds) -> Floats:
        return facts.sum_up(leaf_rewards(facts, bounds), facts.draw_share)


@dataclass(frozen=True, kw_only=True)
class DebiasedFlow(NodeRegression):
    """The observed sum without its number of leaves: log F - log L(s)."""

    regression: Literal["squared_log", "poisson"] = "squared_log"

    name: ClassVar[str] = "debiased_flow"
    estimates_value: ClassVar[bool] = True
    paper: ClassVar[str] = f"{ARTS}; the sum divided by the number of observed leaves"
    allowed_losses: ClassVar[tuple[str, ...]] = ("squared_log", "poisson")

    @property
    def loss_name(self) -> LossName:
        return self.regression

    def node_targets(self, facts: TreeFacts, bounds: Bounds) -> Floats:
        leaves = np.maximum(facts.num_leaves, 1.0)
        return (facts.num_right * bounds.right + (facts.num_leaves - facts.num_right) * bounds.wrong) / leaves


@dataclass(frozen=True, kw_only=True)
class LogMeanExp(Bootstrapped):
    """Soft value of Diffusion Tree Sampling: the mean flow, in log space, of the tilted reward R = exp(lambda r).

    The output is lambda v(s): lambda -> 0 is the chance to be right, lambda -> infinity asks for one right leaf below.
    """

    inverse_temperature: float = 2.0
    "lambda"

    name: ClassVar[str] = "log_mean_exp"
    estimates_value: ClassVar[bool] = True
    paper: ClassVar[str] = "Diffusion Tree Sampling, arXiv 2506.20701"

    @property
    def loss_name(self) -> LossName:
        return "squared_log"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.name, "inverse_temperature", self.inverse_temperature, low=1e-3, high=50)

    def bounds(self, rewards: RewardSettings) -> Bounds:
        return Bounds(math.exp(self.inverse_temperature), 1.0)

    def child_weight(self, facts: TreeFacts) -> Floats:
        return facts.draw_share

    def node_targets(self, facts: TreeFacts, bounds: Bounds) -> Floats:
        return facts.sum_up(leaf_rewards(facts, bounds), facts.draw_share)


@dataclass(frozen=True, kw_only=True)
class TemperedFlow(NodeRegression):
    """Flow with pi_0 taken out by importance weights w = pi_0(tau | s)^-alpha, so that rare paths count for more."""

    alpha: float = 0.25
    "0: the mean flow; 1: the full flow, the sum over all paths. Above 0.5 few draws carry the whole sum"
    self_normalised: bool = True
    "divide by the sum of the weights: a mean of rewards under pi_0^(1-alpha), within the bounds of the reward"
    clip: float | None = 100.0
    "largest weight against that of the likeliest path below the node; none: no limit"
    prior: Literal["step", "token_mean"] = "step"
    """log pi_0 of a step as it is, or divided by its number of tokens: texts of hundreds of tokens have log-priors so
    far apart that one draw would carry all the weight."""
    regression: LossName = "bce"

    name: ClassVar[str] = "tempered_flow"
    paper: ClassVar[str] = f"{ARTS}; importance-weighted towards the GFlowNet flow of arXiv 2111.09266"
    needs_prior: ClassVar[bool] = True

    @property
    def loss_name(self) -> LossName:
        return self.regression

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.name, "alpha", self.alpha, low=0, high=1)
        check_choice(self.name, "prior", self.prior, ("step", "token_mean"))
        if self.clip is not None:
            check_range(self.name, "clip", self.clip, low=1)
        if not self.self_normalised and self.regression in ("bce", "brier"):
            raise ValueError(
                f"tempered_flow: regression {self.regression!r} needs targets within the bounds of the reward; sums "
                "with weights are not: choose 'poisson' or 'squared_log', or self_normalised true"
            )

    def node_targets(self, facts: TreeFacts, bounds: Bounds) -> Floats:
        pairs = facts.leaf_pairs
        weight = self._weights(facts)
        reward = leaf_rewards(facts, bounds)[pairs.leaf]
        total, norm = np.zeros(len(facts.parent)), np.zeros(len(facts.parent))
        np.add.at(total, pairs.node, pairs.share * weight * reward)
        np.add.at(norm, pairs.node, pairs.share * weight)
        if not self.self_normalised:
            return total
        return np.clip(total / np.maximum(norm, 1e-300), bounds.wrong, bounds.right)

    def effective_sample_share(self, facts: TreeFacts) -> float:
        """Effective sample size at the root as a share of the draws: (sum w)^2 / (n sum w^2), 1 for equal weights."""
        pairs = facts.leaf_pairs
        at_root = pairs.node == 0
        share, weight = pairs.share[at_root], self._weights(facts)[at_root]
        return float((share * weight).sum() ** 2 / (share * weight**2).sum())

    def _weights(self, facts: TreeFacts) -> Floats:
        """w of every node and terminal below it, clipped [E]."""
        per_step = facts.log_prior
        if self.prior == "token_mean":
            per_step = per_step / np.maximum(facts.num_tokens, 1)
        pairs = facts.leaf_pairs_of(per_step)
        log_weight = -self.alpha * pairs.log_prior
        if self.clip is not None:
            lightest = np.full(len(facts.parent), np.inf)
            np.minimum.at(lightest, pairs.node, log_weight)
            log_weight = np.minimum(log_weight, lightest[pairs.node] + math.log(self.clip))
        if self.self_normalised:  # a factor that all weights of a node share: large ones must not overflow
            heaviest = np.full(len(facts.parent), -np.inf)
            np.maximum.at(heaviest, pairs.node, log_weight)
            log_weight = log_weight - heaviest[pairs.node]
        return np.exp(log_weight)
