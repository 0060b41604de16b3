"""Train a flow verifier on collected trees, one packed sequence a tree, the loss on its nodes.

A run is a function of its settings, trees and base weights: dropout and batch order are seeded by step, so a run that
was killed goes on from its checkpoint to the same weights, bit for bit on one thread. Checkpoints are one safetensors
file, replaced by rename. Knows trees and the network, not where trees come from or how verifiers are compared.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from arts.tree import ReasoningTree
from arts.verifier.checkpoint import load_checkpoint, save_checkpoint
from arts.verifier.examples import Example, StepEnds, picked_right, predict, prepare, split_by_problem
from arts.verifier.model import FlowVerifier, load_verifier
from arts.verifier.objectives import DEFAULT_OBJECTIVE, Objective, RewardSettings, describe_objective


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


def train(
    verifier: FlowVerifier,
    trees: Iterable[ReasoningTree],
    settings: TrainSettings,
    folder: Path,
    *,
    validation: Iterable[ReasoningTree] | None = None,
    watch: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train, keep the weights that validate best, save the verifier to `folder`.

    Args:
        validation: trees of other problems; None: a share of the problems of `trees` is kept for it.

    Raises:
        ValueError: nothing to train on, or the checkpoint in `folder` is of another run.
        FloatingPointError: ten steps in a row were not finite; the last good checkpoint stays.
    """
    if verifier.settings.num_outputs != settings.objective.num_outputs:
        raise ValueError(
            f"objective {settings.objective.name} needs a head with {settings.objective.num_outputs} outputs, the "
            f"verifier's has {verifier.settings.num_outputs}; make it with VerifierSettings(num_outputs=...)"
        )
    prepared = prepare(verifier, trees, settings.rewards, settings.objective, fork_share=settings.fork_share)
    if validation is None:
        split = split_by_problem(prepared.examples, settings.validation_share)
    else:
        kept = prepare(verifier, validation, settings.rewards, settings.objective).examples
        split = prepared.examples, _other_problems(prepared.examples, kept)
    notes = tuple(prepared.notes(verifier.max_positions))
    return _Run(verifier, split, notes, settings, folder, watch).finish()


def _other_problems(training: Sequence[Example], validation: list[Example]) -> list[Example]:
    trained = {example.problem_id for example in training}
    both = sorted(example.problem_id for example in validation if example.problem_id in trained)
    if both:
        raise ValueError(
            f"{len(both)} validation problems are trained on, {both[0]!r} among them; give trees of other problems"
        )
    return validation


class _Run:
    """State of one training run; everything in it is in the checkpoint."""

    def __init__(
        self,
        verifier: FlowVerifier,
        split: tuple[list[Example], list[Example]],
        notes: tuple[str, ...],
        settings: TrainSettings,
        folder: Path,
        watch: Callable[[TrainProgress], None] | None,
    ) -> None:
        self.verifier, self.settings, self.folder, self.watch = verifier, settings, folder, watch
        self.training, self.validation = split
        self.notes = notes
        self.step_ends = StepEnds(verifier)
        self.parameters = verifier.trained_parameters()
        self.learning_rate = settings.learning_rate or _default_learning_rate(verifier)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
        )
        self.steps_per_epoch = math.ceil(len(self.training) / settings.batch_trees)
        self.num_steps = settings.num_epochs * self.steps_per_epoch
        self.evaluate_every = max(1, self.steps_per_epoch // settings.evaluations_per_epoch)
        self.identity = self._identity()
        self.step, self.seconds = 0, 0.0
        self.epoch, self.batches = -1, list[list[int]]()
        self.skipped = self.skipped_in_a_row = self.stale = 0
        self.best = Validation(math.inf, -1.0)
        self.best_weights = {name: weight.detach().clone() for name, weight in self.parameters.items()}

    def finish(self) -> TrainResult:
        torch.manual_seed(self.settings.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.exists():
            self._restore()
        elif (self.folder / "verifier.json").exists():
            return self._finished()
        started, saved = time.monotonic() - self.seconds, time.monotonic()
        while self.step < self.num_steps and self.stale < self.settings.patience:
            loss = self._train_step(self._batch(self.step))
            self.step += 1
            self.seconds = time.monotonic() - started
            validation = None
            if self.step % self.evaluate_every == 0 or self.step == self.num_steps:
                validation = self._validate()
            if self.watch:
                self.watch(TrainProgress(self.step, self.num_steps, loss, validation, self.seconds))
            if time.monotonic() - saved >= self.settings.checkpoint_every_s and self._is_sound():
                self._save_checkpoint()
                saved = time.monotonic()
        return self._save_verifier()

    def _batch(self, step: int) -> list[Example]:
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, self._shuffle(epoch)
        return [self.training[index] for index in self.batches[position]]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        """Batches of one epoch: a function of seed and epoch."""
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.training)).tolist()
        size = self.settings.batch_trees
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _train_step(self, batch: Sequence[Example]) -> float:
        self.verifier.train()
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)  # dropout, so that resuming repeats it
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._rate()
        output_NK, targets = predict(self.verifier, batch, self.step_ends)
        loss = self.settings.objective.loss(output_NK, targets, self.settings.rewards).mean
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        if torch.isfinite(loss) and torch.isfinite(norm):
            self.optimizer.step()
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row == 10:
                raise FloatingPointError(
                    f"loss or gradient was not finite for ten steps up to step {self.step}; the last checkpoint is "
                    f"kept in {self.folder}. Lower the learning rate ({self.learning_rate:g}) or train in float32"
                )
        return float(loss.detach())

    def _rate(self) -> float:
        warmup = max(1, round(self.settings.warmup_share * self.num_steps))
        return min(1.0, (self.step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * self.step / self.num_steps))

    @torch.inference_mode()
    def _validate(self) -> Validation:
        self.verifier.eval()
        objective, rewards = self.settings.objective, self.settings.rewards
        aggregation = objective.scale(rewards).aggregation
        total = weight = picked = 0.0
        ordered = sorted(self.validation, key=lambda example: example.num_tokens)
        for start in range(0, len(ordered), self.settings.batch_trees):
            batch = ordered[start : start + self.settings.batch_trees]
            output_NK, targets = predict(self.verifier, batch, self.step_ends)
            loss = objective.loss(output_NK, targets, rewards)
            total += float(loss.total)
            weight += float(loss.weight)
            picked += picked_right(objective.log_flow(output_NK, rewards).cpu().numpy(), batch, aggregation)
        validation = Validation(total / max(1e-12, weight), picked / len(ordered))
        if self._is_better(validation):
            self.best, self.stale = validation, 0
            self.best_weights = {name: value.detach().clone() for name, value in self.parameters.items()}
        else:
            self.stale += 1
        return validation

    def _is_better(self, validation: Validation) -> bool:
        if not math.isfinite(validation.loss):
            return False
        if self.settings.keep == "picked_right":
            return validation.picked_right > self.best.picked_right
        return validation.loss < self.best.loss

    def _is_sound(self) -> bool:
        """Is this a state to come back to? Not where steps are being skipped or a weight is not finite."""
        return self.skipped_in_a_row == 0 and all(
            bool(torch.isfinite(parameter).all()) for parameter in self.parameters.values()
        )

    def _save_verifier(self) -> TrainResult:
        if not math.isfinite(self.best.loss):
            raise FloatingPointError(
                f"the validation loss was not finite after any of {self.step} steps, so there are no weights to keep; "
                f"lower the learning rate ({self.learning_rate:g}) or train in float32"
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best_weights[name])
        result = TrainResult(
            self.best,
            self.step,
            round(self.seconds, 1),
            len(self.training),
            len(self.validation),
            self.skipped,
            self.notes,
        )
        self.verifier.card |= {
            "identity": self.identity,
            "objective": describe_objective(self.settings.objective),
            "rewards": asdict(self.settings.rewards),
            "scale": asdict(self.settings.objective.scale(self.settings.rewards)),
            "training": self._settings_json(),
            "result": {**result._asdict(), "best": result.best._asdict()},
        }
        self.verifier.eval().save(self.folder)
        self._checkpoint.unlink(missing_ok=True)
        return result

    def _settings_json(self) -> dict[str, Any]:
        settings = {name: value for name, value in vars(self.settings).items() if name not in ("objective", "rewards")}
        return settings | {"learning_rate": self.learning_rate}

    # --- checkpoint ---------------------------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _identity(self) -> str:
        """Names the run: settings, base weights, and the ids, shape and targets of every tree."""
        settings = replace(self.settings, checkpoint_every_s=0.0)  # how often it is saved does not change the result
        digest = hashlib.sha256(
            f"{settings} {self.verifier.settings} {self.verifier.language_model.fingerprint}".encode()
        )
        for example in (*self.training, None, *self.validation):
            if example is None:
                digest.update(b"validation")
                continue
            digest.update(example.problem_id.encode())
            digest.update(example.facts.parent.tobytes())
            digest.update(example.facts.is_right.tobytes())
            for name in sorted(example.targets):
                digest.update(np.ascontiguousarray(example.targets[name]).tobytes())
            digest.update(np.asarray(example.answers, dtype=np.int64).tobytes())
            for part in example.parts:
                digest.update(np.asarray(part.token_ids, dtype=np.int64).tobytes())
        return digest.hexdigest()

    def _save_checkpoint(self) -> None:
        state = {
            "identity": self.identity,
            "step": self.step,
            "seconds": self.seconds,
            "stale": self.stale,
            "skipped": self.skipped,
            "best": list(self.best),
        }
        save_checkpoint(self._checkpoint, self.parameters, self.best_weights, self.optimizer, state)

    def _restore(self) -> None:
        state = load_checkpoint(self._checkpoint, self.identity, self.parameters, self.best_weights, self.optimizer)
        self.step, self.seconds, self.stale, self.skipped = (
            state[key] for key in ("step", "seconds", "stale", "skipped")
        )
        self.best = Validation(*state["best"])

    def _finished(self) -> TrainResult:
        """The result of this very run, which was finished before; the verifier gets its weights.

        Raises:
            ValueError: the folder holds a verifier of another run.
        """
        card = json.loads((self.folder / "verifier.json").read_text(encoding="utf-8"))
        if card.get("identity") != self.identity:
            raise ValueError(
                f"{self.folder} holds a verifier of a run with other settings, trees or base weights; "
                "choose another --out, or delete it"
            )
        trained = load_verifier(self.folder, base=self.verifier.language_model.folder)
        self.verifier.load_state_dict(trained.state_dict())
        self.verifier.card = card
        found = card["result"]
        return TrainResult(**found | {"best": Validation(**found["best"]), "notes": tuple(found.get("notes", ()))})


def _default_learning_rate(verifier: FlowVerifier) -> float:
    if verifier.settings.tuning != "full":
        return {"lora": 2e-4, "frozen": 1e-3}[verifier.settings.tuning]
    num_weights = sum(parameter.numel() for parameter in verifier.parameters())
    return 3e-4 if num_weights < 10_000_000 else 2e-5
