"""How to train a verifier, and what a run tells: settings, progress, result. Plain values; `train` does the work."""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from arts.verifier.objectives import DEFAULT_OBJECTIVE, Objective, RewardSettings


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train. Where the paper is silent the default is ours."""

    objective: Objective = DEFAULT_OBJECTIVE
    rewards: RewardSettings = field(default_factory=RewardSettings)
    num_epochs: int = 2
    batch_trees: int = 4
    "problems a step; a small verifier learns to check steps by many small updates, see docs/experiments.md"
    learning_rate: float | None = None
    "peak; None: 2e-4 for LoRA, 1e-3 for a head alone, 3e-4 for full training below ten million weights, 2e-5 above"
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    "of all steps; then the rate falls to zero along a cosine"
    max_grad_norm: float = 1.0
    fork_share: float = 1.0
    """Of the forks, whose steps are trained on; targets are means over all of them. Below 1, trees with many forks give
    little noise at the price of few tokens. Validation trees that are given stay whole."""
    validation_share: float = 0.05
    "of the problems, by hash of their id, never trained on; unused where validation trees are given"
    evaluations_per_epoch: int = 4
    patience: int = 6
    "evaluations without a better validation result before training stops; the best weights are kept"
    keep: Literal["loss", "picked_right"] = "loss"
    """What decides on the best weights: the validation loss, or the share of validation problems whose best answer is
    right. A bootstrapped target moves with the model, so its loss compares little."""
    checkpoint_every_s: float = 60.0
    "0: after every step. How often is no part of the run: it may go on with another value"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_trees", "evaluations_per_epoch", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive and finite")
        if not 0 <= self.fork_share <= 1:
            raise ValueError(f"fork_share is {self.fork_share}; it must lie in 0..1")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}; it must lie between 0 and 1")
        if self.keep not in ("loss", "picked_right"):
            raise ValueError(f"keep is {self.keep!r}; allowed are 'loss' and 'picked_right'")


class TrainProgress(NamedTuple):
    """Told to a watcher after every step."""

    step: int
    num_steps: int
    loss: float
    validation: "Validation | None"
    seconds: float
    "of training so far, those before an interruption included"


class Validation(NamedTuple):
    loss: float
    picked_right: float
    "share of problems whose main trajectory of highest score is right: best-of-N on the validation problems"


class TrainResult(NamedTuple):
    best: Validation
    num_steps: int
    seconds: float
    num_trained_trees: int
    num_validation_trees: int
    skipped_batches: int
    "steps left out because loss or gradient was not finite"
    notes: tuple[str, ...] = ()
    "what of the trees could not be trained on, and how evenly paths weigh; in words, empty where all is plain"
