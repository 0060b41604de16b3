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

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from arts.facts import Floats, Ints, TreeFacts
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
        upper, lower, weight = self._pieces(facts)
        ancestor, below = _steps_above(facts)
        reward = np.where(facts.is_right, rewards.right, rewards.wrong)
        return {
            "parent_index": facts.parent,
            "is_child": facts.is_known & (facts.parent >= 0),
            "is_terminal": facts.is_terminal,
            "log_reward": np.log(reward),
            "draws": np.where(facts.is_terminal, facts.num_draws, 0).astype(np.float64),
            "log_draw_share": _log_draw_share(facts),
            "upper_index": upper,
            "lower_index": lower,
            "weight": weight,
            "ancestor_index": ancestor,
            "below_index": below,
        }

    def _pieces(self, facts: TreeFacts) -> tuple[Ints, Ints, Floats]:
        """Pairs (s_m, s_n) with their weight, summed over all drawn paths that hold both."""
        weights: dict[tuple[int, int], float] = {}
        for leaf in np.flatnonzero(facts.is_terminal):
            path = [int(leaf)]
            while path[-1] > 0:
                path.append(int(facts.parent[path[-1]]))
            path.reverse()
            for (m, n), weight in self._path_weights(len(path) - 1).items():
                pair = (path[m], path[n])
                weights[pair] = weights.get(pair, 0.0) + float(facts.num_draws[leaf]) * weight
        pairs = np.array(list(weights), dtype=np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1], np.array(list(weights.values()), dtype=np.float64)

    def _path_weights(self, num_steps: int) -> dict[tuple[int, int], float]:
        """Weight of every piece of a path; they sum to 1."""
        if self.length_weight is None:
            return {(0, num_steps): 1.0}
        pieces = [(m, n) for n in range(1, num_steps + 1) for m in range(n)]
        # A factor that all pieces share drops out, so lambda = 0 keeps exactly the single steps.
        weights = [self.length_weight ** (n - m - 1) for m, n in pieces]
        total = sum(weights)
        return {piece: weight / total for piece, weight in zip(pieces, weights, strict=True) if weight > 0}

    def weight(self, batch: Batch) -> torch.Tensor:
        return batch["weight"].sum() + self.leaf_weight * batch["draws"].sum()

    def loss(self, output_NK: torch.Tensor, batch: Batch, rewards: RewardSettings) -> Loss:
        log_flow, tilt = output_NK[:, 0], output_NK[:, 1]
        dtype = output_NK.dtype
        log_reward = batch["log_reward"].to(dtype)
        gain = self._log_selector_gain(tilt, batch)
        # a(s) = log F(s) - sum of gains above s, so that a residual is a difference of two nodes.
        gains_above = torch.zeros_like(gain).index_add(0, batch["below_index"], gain[batch["ancestor_index"]])
        level = torch.where(batch["is_terminal"], log_reward, log_flow) - gains_above
        weight, draws = batch["weight"].to(dtype), self.leaf_weight * batch["draws"].to(dtype)
        residual = level[batch["upper_index"]] - level[batch["lower_index"]]
        leaf_error = torch.where(batch["is_terminal"], log_flow - log_reward, 0.0)
        total = (weight * residual**2).sum() + (draws * leaf_error**2).sum()
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


def _steps_above(facts: TreeFacts) -> tuple[Ints, Ints]:
    """(a, s) for every step a on the path to s, s itself included and the root left out."""
    ancestors, below = [], []
    for node in range(1, len(facts.parent)):
        above = node
        while above > 0:
            ancestors.append(above)
            below.append(node)
            above = int(facts.parent[above])
    return np.array(ancestors, dtype=np.int64), np.array(below, dtype=np.int64)
