"""Sub-trajectory balance with a frozen prior: log F and a selector p(c | s) that agree along every piece of a path.

For a path s_0 .. s_T of a tree, all m < n:

    residual(m, n) = log F(s_m) + sum_{m < j <= n} [log p(s_j | s_{j-1}) - log pi_0(s_j | s_{j-1})] - log F(s_n)
    loss           = sum_{m < n} lambda^(n-m) residual(m, n)^2 / sum_{m < n} lambda^(n-m),     F(s_T) = R

and a leaf loss on log F(s_T), so that the score of a finished path is learned too. The selector is a second output u
of the head, normalised over the observed children:

    p(c | s) = pi_0(c | s) e^u(c) / sum_c' pi~_0(c' | s) e^u(c')

where pi~_0 is the share of c' among the draws from s: an estimate of the sum over all children, drawn or not. (pi_0
renormalised over the drawn ones would count it twice, since it drew them.) So log p - log pi_0 needs no log-prior.

At the optimum F = V and p(c | s) = pi_0(c | s) V(c) / V(s): the posterior. No sum over children enters F, so the number
of leaves does not. lambda -> 0 is detailed balance, lambda -> infinity trajectory balance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from arts.facts import Floats, TreeFacts
from arts.protocols import ScoreScale
from arts.verifier.objectives.base import Batch, Loss, RewardSettings, Targets, check_range, log_child_sum


@dataclass(frozen=True, kw_only=True)
class SubTB:
    """Sub-trajectory balance; `length_weight` 0 is detailed balance (DB), none is trajectory balance (TB)."""

    length_weight: float | None = 0.9
    "lambda: a piece of n steps weighs lambda^n; 0 keeps single steps, none keeps whole paths only"
    leaf_weight: float = 1.0
    "of the squared error of log F at the end of a path, against the residuals of the path"

    name: ClassVar[str] = "subtb"
    paper: ClassVar[str] = "SubTB(lambda), arXiv 2209.12782; TB, arXiv 2201.13259; DB, arXiv 2111.09266"
    needs_prior: ClassVar[bool] = False
    num_outputs: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.length_weight is not None:
            check_range(self.name, "length_weight", self.length_weight, low=0, high=100)
        check_range(self.name, "leaf_weight", self.leaf_weight, low=1e-9)

    def scale(self, rewards: RewardSettings) -> ScoreScale:
        return ScoreScale(
            reward_right=rewards.right, reward_wrong=rewards.wrong, inner_is_value=self.length_weight is not None
        )

    def targets(self, facts: TreeFacts, rewards: RewardSettings) -> Targets:
        reward = np.where(facts.is_right, rewards.right, rewards.wrong)
        near, far = self._piece_weights(facts)
        return {
            "parent_index": facts.parent,
            "is_child": facts.is_known & (facts.parent >= 0),
            "is_terminal": facts.is_terminal,
            "log_reward": np.log(reward),
            "draws": np.where(facts.is_terminal, facts.num_draws, 0).astype(np.float64),
            "log_draw_share": _log_draw_share(facts),
            "near_weight": near,
            "weight": far,
        }

    @property
    def _decay(self) -> float:
        """What a piece loses with every step that its upper end goes up."""
        return 1.0 if self.length_weight is None else min(self.length_weight, 1.0)

    def _piece_weights(self, facts: TreeFacts) -> tuple[Floats, Floats]:
        """Parts of the weight of a piece (s_m, s_n), summed over all drawn paths that hold both:

            far(s_n) decay^(n - m - 1) near(s_{m + 1})

        The pieces of each drawn path weigh 1 together. A factor that all of them share drops out, so lambda = 0 keeps
        exactly the single steps.
        """
        steps = np.maximum(facts.depth, 1) - 1.0  # of the piece that goes up to the root, but one
        draws = np.where(facts.is_terminal, facts.num_draws, 0).astype(np.float64)
        if self.length_weight is None:
            return (facts.depth == 1).astype(np.float64), draws
        growth = max(self.length_weight, 1.0)  # above 1, weights are relative to the path's longest piece's
        decay = self._decay
        total = np.zeros(int(facts.depth.max()) + 1)  # of all pieces of a path, by its number of steps
        ending = 0.0  # of those that end where the path ends
        for length in range(1, len(total)):
            ending = ending / growth + decay ** (length - 1)
            total[length] = total[length - 1] / growth + ending
        share = np.divide(draws, total[facts.depth], out=np.zeros_like(draws), where=draws > 0)
        return growth**-steps, facts.sum_up(share, np.full_like(share, 1 / growth))

    def weight(self, batch: Batch) -> torch.Tensor:
        return (1 + self.leaf_weight) * batch["draws"].sum()

    def loss(self, output_NK: torch.Tensor, batch: Batch, rewards: RewardSettings) -> Loss:
        log_flow, tilt = output_NK[:, 0], output_NK[:, 1]
        dtype = output_NK.dtype
        log_reward = batch["log_reward"].to(dtype)
        jumps = _jumps(batch["parent_index"])
        # a(s) = log F(s) - sum of gains above s, so that a residual is a difference of two nodes.
        gains_above = _sum_above(self._log_selector_gain(tilt, batch), jumps)
        level = torch.where(batch["is_terminal"], log_reward, log_flow) - gains_above
        squares = _squares_above(level, batch["near_weight"].to(dtype), self._decay, jumps)
        leaf_error = torch.where(batch["is_terminal"], log_flow - log_reward, 0.0)
        draws = self.leaf_weight * batch["draws"].to(dtype)
        total = (batch["weight"].to(dtype) * squares).sum() + (draws * leaf_error**2).sum()
        return Loss(total, self.weight(batch).to(dtype))

    def _log_selector_gain(self, tilt: torch.Tensor, batch: Batch) -> torch.Tensor:
        """log p(c | s) - log pi~_0(c | s) of every known child c [N], 0 elsewhere."""
        is_child, parent = batch["is_child"], batch["parent_index"]
        norm = log_child_sum(tilt, parent, is_child, batch["log_draw_share"])
        norm_of_child = torch.where(is_child, torch.where(norm.isfinite(), norm, 0.0)[parent.clamp(min=0)], 0.0)
        return torch.where(is_child, tilt - norm_of_child, 0.0)

    def log_flow(self, output_NK: torch.Tensor, rewards: RewardSettings) -> torch.Tensor:
        return output_NK[:, 0]


def _log_draw_share(facts: TreeFacts) -> Floats:
    """log pi~_0 of every known child [N], 0 elsewhere."""
    is_child = facts.is_known & (facts.parent >= 0)
    return np.log(np.where(is_child, facts.draw_share, 1.0))


# --- sums over all nodes above a node, in as many rounds as its depth has binary digits ------------------------------


def _jumps(parent: torch.Tensor) -> list[torch.Tensor]:
    """The ancestors 1, 2, 4, ... steps above every node [N + 1]; N, which stands for none, where there is none."""
    num_nodes = len(parent)
    jump = torch.cat([torch.where(parent < 0, num_nodes, parent), parent.new_tensor([num_nodes])])
    jumps: list[torch.Tensor] = []
    while bool((jump < num_nodes).any()):
        jumps.append(jump)
        jump = jump[jump]
    return jumps


def _sum_above(values: torch.Tensor, jumps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of a node and all above it [N]."""
    total = _with_none(values)
    for jump in jumps:
        total = total + total[jump]
    return total[:-1]


def _squares_above(
    level: torch.Tensor, near: torch.Tensor, decay: float, jumps: Sequence[torch.Tensor]
) -> torch.Tensor:
    """sum over u above v of weight(u, v) (level(u) - level(v))^2, for every node v [N].

    weight(u, v) = decay^(steps between - 1) near(child of u on the way to v). Means and squares about them are merged,
    as sums of squares of large levels would leave nothing of small differences.
    """
    level, weight = _with_none(level), _with_none(near)
    if not jumps:
        return torch.zeros_like(near)
    weight = torch.where(jumps[0] < len(near), weight, 0.0)
    mean = level[jumps[0]] - level  # of level(u) - level(v)
    spread = torch.zeros_like(level)
    for jump in jumps:
        beyond = decay * weight[jump]
        both = weight + beyond
        share = beyond / both.clamp(min=torch.finfo(both.dtype).tiny)
        gap = mean[jump] + level[jump] - level - mean
        spread = spread + decay * spread[jump] + weight * share * gap**2
        mean = mean + share * gap
        weight = both
        decay = decay**2
    return (spread + weight * mean**2)[:-1]


def _with_none(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([values, values.new_zeros(1)])
