"""What an objective is, batches of targets, and regression on the nodes of a tree: a target, a loss, a link.

The head's output z becomes log F by a link; the loss compares F with a target T made of what was observed below a node.
Losses are deviances: 0 exactly at F = T, so that a wrong optimum shows. With [wrong, right] the bounds of the reward,

    squared_log   log F = z                                (log F - log T)^2                learns E[log T] (W4)
    poisson       log F = z                                (F - T - T log(F / T)) / right   learns log E[T]
    bce           F = wrong + (right - wrong) sigmoid(z)   binary cross-entropy of the two as shares of the bounds
    brier         the same                                 squared difference of these shares

Shapes: N nodes of all trees of a batch, K outputs of the head.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias, get_args

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from arts.facts import Bools, Floats, TreeFacts
from arts.protocols import ScoreScale

Targets: TypeAlias = Mapping[str, np.ndarray]
"""What an objective makes of one tree; entries whose name ends in `_index` point to nodes (-1: to none)."""
Batch: TypeAlias = Mapping[str, torch.Tensor]
"""`Targets` of several trees joined; entries ending in `_index` point into the batch."""


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


class Loss(NamedTuple):
    """A weighted sum and its weight; the loss of a batch is their ratio."""

    total: torch.Tensor
    weight: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        return self.total / self.weight.clamp(min=1e-12)


class Objective(Protocol):
    """One way to train a verifier: the only part that differs between runs on the same trees, backbone and budget."""

    name: ClassVar[str]
    paper: ClassVar[str]
    needs_prior: ClassVar[bool]
    "log pi_0 of every step is used, so all trees must report it under one law"
    num_outputs: ClassVar[int]
    "K; the first output is the score"

    def scale(self, rewards: RewardSettings) -> ScoreScale: ...

    def targets(self, facts: TreeFacts, rewards: RewardSettings) -> Targets:
        """What is known of one tree, made once before training."""
        ...

    def weight(self, batch: Batch) -> torch.Tensor:
        """Of a batch: what its loss is divided by. It depends on the targets alone, so it is known beforehand."""
        ...

    def loss(self, output_NK: torch.Tensor, batch: Batch, rewards: RewardSettings) -> Loss: ...

    def log_flow(self, output_NK: torch.Tensor, rewards: RewardSettings) -> torch.Tensor:
        """The natural log of the score of every node [N], on `scale`."""
        ...


def join_targets(targets: Sequence[Targets], sizes: Sequence[int]) -> Batch:
    """One batch of the targets of trees with `sizes` nodes each."""
    offsets = np.cumsum([0, *sizes])
    batch = {}
    for name in targets[0]:
        parts = [target[name] for target in targets]
        if name.endswith("_index"):
            parts = [np.where(part < 0, -1, part + offset) for part, offset in zip(parts, offsets, strict=False)]
        batch[name] = torch.from_numpy(np.concatenate(parts))
    return batch


def log_child_sum(
    log_flow: torch.Tensor, parent: torch.Tensor, is_child: torch.Tensor, log_weight: torch.Tensor
) -> torch.Tensor:
    """log sum over the children of weight(c) F(c), for every node [N]; -inf where there are none."""
    value = torch.where(is_child, log_flow + log_weight.to(log_flow.dtype), -torch.inf)
    into = parent.clamp(min=0)
    highest = torch.full_like(log_flow, -torch.inf).scatter_reduce(0, into, value.detach(), "amax")
    shift = torch.where(highest.isfinite(), highest, 0.0)
    total = torch.zeros_like(log_flow).index_add(0, into, torch.exp(value - shift[into]) * is_child)
    return torch.where(total > 0, total.clamp(min=torch.finfo(total.dtype).tiny).log() + shift, -torch.inf)


# --- regression on nodes ----------------------------------------------------------------------------------------------

LossName = Literal["squared_log", "poisson", "bce", "brier"]
Weighing = Literal["nodes", "draws"]


class Bounds(NamedTuple):
    """The reward of a wrong and of a right path."""

    right: float
    wrong: float

    @property
    def width(self) -> float:
        return self.right - self.wrong


def deviance(loss: LossName, output: torch.Tensor, target: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    """The loss of each node [N], see the top of this file."""
    if loss == "squared_log":
        error = output - target.log()
        return error * error
    if loss == "poisson":
        return (output.exp() - target - target * (output - target.log())) / bounds.right
    share = ((target - bounds.wrong) / bounds.width).clamp(0, 1)  # rounding: the entropy of -1e-17 is -inf
    if loss == "brier":
        error = output.sigmoid() - share
        return error * error
    entropy = torch.special.entr(share) + torch.special.entr(1 - share)
    divergence: torch.Tensor = binary_cross_entropy_with_logits(output, share, reduction="none") - entropy
    return divergence


def linked_log_flow(loss: LossName, output: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    """log F from the head's output under the link that goes with a loss."""
    if loss in ("squared_log", "poisson"):
        return output
    if bounds.wrong == 0:
        return logsigmoid(output)
    return torch.log(bounds.wrong + bounds.width * output.sigmoid())


@dataclass(frozen=True, kw_only=True)
class NodeRegression(ABC):
    """Every node's F is pulled to a target. What differs: the target, the bounds of the reward, the loss."""

    leaf_weight: float = 1.0
    "weight of a terminal node"
    inner_weight: float = 1.0
    "weight of an inner node; 0 trains on outcomes alone"
    weigh: Weighing = "nodes"
    """`nodes`: each distinct step once. `draws`: as often as it was drawn; then merging equal steps changes nothing for
    targets that are averages, in trees without forks, and nothing on average in trees with them."""

    name: ClassVar[str]
    paper: ClassVar[str]
    needs_prior: ClassVar[bool] = False
    num_outputs: ClassVar[int] = 1
    estimates_value: ClassVar[bool] = False
    "the target of an inner node estimates V(s) = E[R | s] in the bounds of the reward"
    allowed_losses: ClassVar[tuple[str, ...]] = get_args(LossName)

    @property
    @abstractmethod
    def loss_name(self) -> LossName: ...

    @abstractmethod
    def node_targets(self, facts: TreeFacts, bounds: Bounds) -> Floats:
        """T of every known node [N], within what the bounds allow; anything at unknown ones."""

    def bounds(self, rewards: RewardSettings) -> Bounds:
        return Bounds(rewards.right, rewards.wrong)

    def __post_init__(self) -> None:
        check_choice(self.name, "weigh", self.weigh, get_args(Weighing))
        check_choice(self.name, "regression", self.loss_name, self.allowed_losses)
        for field in ("leaf_weight", "inner_weight"):
            check_range(self.name, field, getattr(self, field), low=0)
        if self.leaf_weight == 0:
            raise ValueError(f"{self.name}: leaf_weight is 0; then no reward would ever be learned")

    def scale(self, rewards: RewardSettings) -> ScoreScale:
        bounds = self.bounds(rewards)
        if bounds.wrong == 0:
            return ScoreScale(kind="log_value", inner_is_value=self.estimates_value)
        return ScoreScale(reward_right=bounds.right, reward_wrong=bounds.wrong, inner_is_value=self.estimates_value)

    def node_weights(self, facts: TreeFacts) -> Floats:
        weight = np.where(facts.is_terminal, self.leaf_weight, self.inner_weight) * facts.is_known
        return weight * facts.num_draws if self.weigh == "draws" else weight

    def targets(self, facts: TreeFacts, rewards: RewardSettings) -> Targets:
        target = self.node_targets(facts, self.bounds(rewards))
        weight = self.node_weights(facts)
        return {"target": np.where(weight > 0, target, rewards.right), "weight": weight}

    def weight(self, batch: Batch) -> torch.Tensor:
        return batch["weight"].sum()

    def loss(self, output_NK: torch.Tensor, batch: Batch, rewards: RewardSettings) -> Loss:
        weight = batch["weight"].to(output_NK.dtype)
        output = torch.where(weight > 0, output_NK[:, 0], 0.0)  # weight 0 times an overflow would be NaN
        target = self.batch_target(output, batch, rewards).to(output.dtype)
        total = (weight * deviance(self.loss_name, output, target, self.bounds(rewards))).sum()
        return Loss(total, self.weight(batch).to(output.dtype))

    def batch_target(self, output: torch.Tensor, batch: Batch, rewards: RewardSettings) -> torch.Tensor:
        """T of every node [N]; a bootstrap makes it from the outputs."""
        return batch["target"]

    def log_flow(self, output_NK: torch.Tensor, rewards: RewardSettings) -> torch.Tensor:
        return linked_log_flow(self.loss_name, output_NK[:, 0], self.bounds(rewards))


@dataclass(frozen=True, kw_only=True)
class Bootstrapped(NodeRegression):
    """A regression whose inner targets may come from the model's own flows of the children."""

    target: Literal["monte_carlo", "bootstrap"] = "monte_carlo"
    """`monte_carlo`: inner targets from the rewards of the leaves below, which is where a consistent bootstrap ends up.
    `bootstrap`: from the model's own flows of the children."""
    stop_gradient: bool = True
    "of the bootstrapped target; False also pushes the children towards their parent (residual gradient)"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "target", self.target, ("monte_carlo", "bootstrap"))

    @abstractmethod
    def child_weight(self, facts: TreeFacts) -> Floats:
        """w(c) of F(s) = sum over children of w(c) F(c) [N]."""

    def targets(self, facts: TreeFacts, rewards: RewardSettings) -> Targets:
        targets = dict(super().targets(facts, rewards))
        if self.target == "bootstrap":
            is_child: Bools = facts.is_known & (facts.parent >= 0)
            targets |= {
                "parent_index": facts.parent,
                "is_child": is_child,
                "is_inner": facts.is_known & ~facts.is_terminal,
                "log_child_weight": np.log(np.where(is_child, self.child_weight(facts), 1.0)),
            }
        return targets

    def batch_target(self, output: torch.Tensor, batch: Batch, rewards: RewardSettings) -> torch.Tensor:
        if self.target == "monte_carlo":
            return batch["target"]
        log_flow = self.log_flow(output[:, None], rewards)
        log_flow = log_flow.detach() if self.stop_gradient else log_flow
        total = log_child_sum(log_flow, batch["parent_index"], batch["is_child"], batch["log_child_weight"])
        is_inner = batch["is_inner"]
        flow = torch.where(is_inner, total, 0.0).clamp(-80, 80).exp()
        if self.loss_name in ("bce", "brier"):  # at the bounds themselves the slope of the entropy is infinite
            bounds = self.bounds(rewards)
            margin = 4 * torch.finfo(flow.dtype).eps * bounds.width
            flow = flow.clamp(bounds.wrong + margin, bounds.right - margin)
        return torch.where(is_inner, flow, batch["target"].to(total.dtype))


def check_choice(objective: str, field: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{objective}: {field} is {value!r}; allowed are {', '.join(map(repr, allowed))}")


def check_range(objective: str, field: str, value: float, *, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high or value == float("inf"):
        raise ValueError(f"{objective}: {field} is {value}; it must be finite, from {low} to {high}")
