"""What the verifier is trained on: a target for every node, and a regression loss. Pure functions of a batch of trees.

Reasoning Flow Matching (paper, method 5). With L(s) the leaves observed under s and R = 10 right, 0.1 wrong:

    inner node      log F(s)  ->  log sum_{s' in observed children} F(s')
    terminal node   log F(s)  ->  log R(s)                                    (leaf loss)

Shapes: N nodes of all trees of a batch; parents are indices into the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from arts.tree import ReasoningTree, StopReason


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """Soft terminal reward (paper, method 3): not 0 for a wrong answer, so that log R exists."""

    right: float = 10.0
    wrong: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.wrong < self.right < math.inf:
            raise ValueError(
                f"rewards right={self.right}, wrong={self.wrong}; need 0 < wrong < right, as log R is trained on"
            )


@dataclass(frozen=True, kw_only=True)
class RFMSettings:
    """Reasoning Flow Matching, with what the paper leaves open as options."""

    target: Literal["monte_carlo", "bootstrap"] = "monte_carlo"
    """Where an inner node's sum comes from. `monte_carlo`: the rewards of the leaves below it, which is where a
    consistent bootstrap ends up, without its detour through half-trained predictions. `bootstrap`: the model's own
    flows of the children."""
    stop_gradient: bool = True
    "of the bootstrapped target; False also pushes the children towards their parent (residual gradient)"
    leaf_weight: float = 1.0
    "weight of a terminal node's squared error against an inner node's"
    count_draws: bool = True
    "a terminal drawn n times counts n times in its parent's sum, so that merged and unmerged trees have equal flows"

    def __post_init__(self) -> None:
        if self.target not in ("monte_carlo", "bootstrap"):
            raise ValueError(f"rfm target is {self.target!r}; allowed are 'monte_carlo' and 'bootstrap'")
        if not 0 < self.leaf_weight < math.inf:
            raise ValueError(
                f"leaf_weight is {self.leaf_weight}; it must be positive, or no reward would ever be learned"
            )


class NodeTargets(NamedTuple):
    """What is known of a tree's nodes before training, one entry a node [N]."""

    parent: np.ndarray
    "index of the parent in the same tree; -1 at the root"
    is_terminal: np.ndarray
    "a leaf with a known outcome: finished, or cut off and therefore wrong"
    is_known: np.ndarray
    "False for failed and unexplored leaves, and for nodes with nothing else below: they take no part"
    log_reward: np.ndarray
    "log R at terminal nodes, 0 elsewhere"
    log_observed_flow: np.ndarray
    "log of the sum of rewards below each node, the exact solution of RFM on this tree"
    log_draws: np.ndarray
    "log of how often a terminal counts in its parent's sum, 0 elsewhere"


def node_targets(tree: ReasoningTree, rewards: RewardSettings, settings: RFMSettings) -> NodeTargets:
    """Targets of one tree, from the leaves up."""
    num_nodes = len(tree.nodes)
    parent = np.array([node.parent for node in tree.nodes], dtype=np.int64)
    has_children = np.zeros(num_nodes, dtype=bool)
    has_children[parent[1:]] = True
    ended = np.array([node.stop in (StopReason.EOS, StopReason.LENGTH) for node in tree.nodes])
    is_terminal = ~has_children & ended
    right = np.array([node.is_answer and node.verdict is not None and node.verdict.correct for node in tree.nodes])
    reward = np.where(right, rewards.right, rewards.wrong)
    draws = (
        np.array([node.num_draws for node in tree.nodes])
        if settings.count_draws
        else np.ones(num_nodes, dtype=np.int64)
    )
    flow = np.where(is_terminal, reward, 0.0)
    for index in range(num_nodes - 1, 0, -1):
        flow[parent[index]] += flow[index] * (draws[index] if is_terminal[index] else 1)
    is_known = flow > 0
    return NodeTargets(
        parent=parent,
        is_terminal=is_terminal,
        is_known=is_known,
        log_reward=np.where(is_terminal, np.log(reward), 0.0),
        log_observed_flow=np.log(np.where(is_known, flow, 1.0)),
        log_draws=np.where(is_terminal, np.log(draws), 0.0),
    )


class TargetBatch(NamedTuple):
    """`NodeTargets` of several trees joined; parents are indices into the batch."""

    parent: torch.Tensor
    is_terminal: torch.Tensor
    is_known: torch.Tensor
    log_reward: torch.Tensor
    log_observed_flow: torch.Tensor
    log_draws: torch.Tensor


def join_targets(targets: Sequence[NodeTargets]) -> TargetBatch:
    offsets = np.cumsum([0, *(len(target.parent) for target in targets)])
    parent = [
        np.where(target.parent < 0, -1, target.parent + offset)
        for target, offset in zip(targets, offsets, strict=False)
    ]
    joined = [np.concatenate(column) for column in list(zip(*targets, strict=True))[1:]]
    return TargetBatch(
        *(torch.from_numpy(np.ascontiguousarray(column)) for column in (np.concatenate(parent), *joined))
    )


def log_child_sum(log_flow: torch.Tensor, batch: TargetBatch) -> torch.Tensor:
    """log sum_{s'} F(s') over the observed children of every node [N]; -inf where there are none."""
    is_child = (batch.parent >= 0) & batch.is_known
    value = torch.where(is_child, log_flow + batch.log_draws.to(log_flow.dtype), -torch.inf)
    into = batch.parent.clamp(min=0)
    highest = torch.full_like(log_flow, -torch.inf).scatter_reduce(0, into, value.detach(), "amax")
    shift = torch.where(highest.isfinite(), highest, 0.0)
    total = torch.zeros_like(log_flow).index_add(0, into, torch.exp(value - shift[into]) * is_child)
    return torch.where(total > 0, total.clamp(min=torch.finfo(total.dtype).tiny).log() + shift, -torch.inf)


def rfm_targets(log_flow: torch.Tensor, batch: TargetBatch, settings: RFMSettings) -> torch.Tensor:
    """What log F of every node is pulled to [N]."""
    if settings.target == "monte_carlo":
        inner = batch.log_observed_flow
    else:
        inner = log_child_sum(log_flow.detach() if settings.stop_gradient else log_flow, batch)
        inner = torch.where(batch.is_known & ~batch.is_terminal, inner, 0.0)
    return torch.where(batch.is_terminal, batch.log_reward, inner).to(log_flow.dtype)


def node_weights(batch: TargetBatch, settings: RFMSettings) -> torch.Tensor:
    """Weight of each node's squared error [N]; 0 where nothing is known."""
    return torch.where(batch.is_terminal, settings.leaf_weight, 1.0) * batch.is_known


def rfm_loss(log_flow: torch.Tensor, batch: TargetBatch, settings: RFMSettings) -> torch.Tensor:
    """Weighted mean over nodes of (log F(s) - target(s))^2. Zero exactly at the observed flows."""
    weight = node_weights(batch, settings)
    residual = log_flow - rfm_targets(log_flow, batch, settings)
    return (weight * residual**2).sum() / weight.sum().clamp(min=1e-12)
