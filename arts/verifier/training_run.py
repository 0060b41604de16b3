"""The loop of a training run: batches, steps, validation, checkpoints, and the weights that validate best.

A run is a function of its settings, trees and base weights: dropout and batch order are seeded by step, so a run that
was killed goes on from its checkpoint to the same weights, bit for bit on one thread. On several processes each holds
all examples and computes its share of every batch; rank 0 alone writes. Knows examples and the network, no tree.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arts.verifier.checkpoint import restore_tensors, whole_tensors, write_checkpoint
from arts.verifier.examples import Example, StepEnds, joined_targets, pack, picked_right, predict
from arts.verifier.model import FlowVerifier
from arts.verifier.objectives import Batch, describe_objective
from arts.verifier.processes import ComputeSettings, Processes, arithmetic
from arts.verifier.train_settings import TrainProgress, TrainResult, TrainSettings, Validation

CHECKPOINT = "checkpoint.safetensors"


class Run:
    """State of one training run; everything in it that changes is in the checkpoint."""

    def __init__(
        self,
        verifier: FlowVerifier,
        split: tuple[list[Example], list[Example]],
        settings: TrainSettings,
        compute: ComputeSettings,
        processes: Processes,
        folder: Path,
        identity: str,
        watch: Callable[[TrainProgress], None] | None,
    ) -> None:
        self.verifier, self.settings, self.compute, self.processes = verifier, settings, compute, processes
        self.folder, self.identity, self.watch = folder, identity, watch
        self.training, self.validation = split
        self.smallest = min(self.training, key=lambda example: example.num_tokens)
        self.inputs = self._inputs()
        self.learning_rate = settings.learning_rate or _default_learning_rate(verifier)
        optimizer = torch.optim.AdamW(
            verifier.trained_parameters().values(),
            lr=self.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=settings.weight_decay,
        )
        self.model, self.optimizer = processes.prepare(verifier, optimizer)
        self.parameters = verifier.trained_parameters()  # shards are parameters of their own
        self.steps_per_epoch = math.ceil(len(self.training) / settings.batch_trees)
        self.num_steps = settings.num_epochs * self.steps_per_epoch
        self.evaluate_every = max(1, self.steps_per_epoch // settings.evaluations_per_epoch)
        self.step, self.seconds, self.saved = 0, 0.0, time.monotonic()
        self.epoch, self.batches = -1, list[list[int]]()
        self.skipped = self.skipped_in_a_row = self.stale = 0
        self.best = Validation(math.inf, -1.0)
        self.best_weights = {name: weight.detach().clone() for name, weight in self.parameters.items()}

    def _inputs(self) -> Callable[[Sequence[Example]], Any]:
        """What the model is given for a batch: packed trees, or hidden states where no weight above them moves.

        Raises:
            ValueError: a frozen backbone is to be sharded, or to save activations.
        """
        if self.verifier.settings.tuning != "frozen":
            return pack
        if self.processes.is_sharded or self.compute.checkpoint_activations:
            raise ValueError(
                "with --tuning frozen only the head is trained, on hidden states that are computed once: there is "
                "nothing to shard and no activation to save; leave out --use_fsdp and --checkpoint-activations"
            )
        return StepEnds(self.verifier)

    def train(self) -> None:
        torch.manual_seed(self.settings.seed)
        if self.processes.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.compute.checkpoint_activations:
            self.verifier.checkpoint_activations()
        self.saved = time.monotonic()
        started = self.saved - self.seconds
        while self.step < self.num_steps and self.stale < self.settings.patience:
            loss, is_due = self._train_step(self._batch(self.step))
            self.step += 1
            self.seconds = time.monotonic() - started
            validation = None
            if self.step % self.evaluate_every == 0 or self.step == self.num_steps:
                validation = self._validate()
            if self.watch:
                self.watch(TrainProgress(self.step, self.num_steps, loss, validation, self.seconds))
            if is_due and self.skipped_in_a_row == 0:  # else this is no state to come back to
                self._save_checkpoint()
                self.saved = time.monotonic()

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

    def _train_step(self, batch: Sequence[Example]) -> tuple[float, bool]:
        """The loss of the batch, and whether rank 0 finds it time for a checkpoint."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        weight = max(1e-12, float(self.settings.objective.weight(joined_targets(batch))))
        shares = self.processes.share([example.num_tokens for example in batch], self.compute.accumulate)
        loss = torch.zeros((), device=self.verifier.language_model.device)
        for place, share in enumerate(shares):
            # Dropout is seeded by step, so that resuming repeats it, and by part of the batch, so that parts differ.
            part = self.processes.index * self.compute.accumulate + place
            torch.manual_seed(self.settings.seed * 1_000_003 + self.step + 7_368_787 * part)
            # A process without a tree goes through the motions with the smallest one, as the others wait for it.
            with self.processes.passing(self.model, last=place == len(shares) - 1):
                output_NK, targets = self._predict([batch[index] for index in share] or [self.smallest])
                own = self.settings.objective.loss(output_NK, targets, self.settings.rewards).total / weight
                own = own if share else 0.0 * own
                self.processes.backward(own)
            loss += own.detach()
        norm = self.processes.clip(list(self.parameters.values()), self.settings.max_grad_norm)
        is_due = self.processes.is_main and time.monotonic() - self.saved >= self.settings.checkpoint_every_s
        summed = self.processes.sum(torch.stack([loss, torch.full_like(loss, is_due)]))
        found, due, found_norm = torch.cat([summed, norm[None]]).tolist()  # our one wait for the device
        self._update(math.isfinite(found) and math.isfinite(found_norm))
        return found, due > 0

    def _update(self, is_finite: bool) -> None:
        if is_finite:
            self.optimizer.step()
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row == 10:
            raise FloatingPointError(
                f"loss or gradient was not finite for ten steps up to step {self.step}; the last checkpoint is "
                f"kept in {self.folder}. Lower the learning rate ({self.learning_rate:g}) or train in float32"
            )

    def _rate(self) -> float:
        warmup = max(1, round(self.settings.warmup_share * self.num_steps))
        return min(1.0, (self.step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * self.step / self.num_steps))

    def _predict(self, batch: Sequence[Example]) -> tuple[torch.Tensor, Batch]:
        with arithmetic(self.compute.precision, self.verifier.language_model.device):
            return predict(self.model, batch, self.inputs)

    @torch.no_grad()
    def _validate(self) -> Validation:
        """On every process the same; each computes its share of the batches."""
        self.model.eval()
        objective, rewards = self.settings.objective, self.settings.rewards
        aggregation = objective.scale(rewards).aggregation
        sums = np.zeros(3)
        ordered = sorted(self.validation, key=lambda example: example.num_tokens)
        size = math.ceil(self.settings.batch_trees / (self.processes.count * self.compute.accumulate))
        for start in range(0, len(ordered), size * self.processes.count):
            own = start + size * self.processes.index
            batch = ordered[own : own + size]
            output_NK, targets = self._predict(batch or [self.smallest])
            if batch:
                loss = objective.loss(output_NK, targets, rewards)
                picked = picked_right(objective.log_flow(output_NK, rewards).cpu().numpy(), batch, aggregation)
                sums += float(loss.total), float(loss.weight), picked
        device = self.verifier.language_model.device
        total, weight, picked = self.processes.sum(torch.from_numpy(sums).to(device)).tolist()
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

    # --- what is on disk ----------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        """Nothing where a weight is not finite."""
        keep = self.processes.is_main
        tensors = whole_tensors(self.parameters, self.best_weights, self.optimizer, keep=keep)
        if keep and all(bool(tensors[f"weight.{name}"].isfinite().all()) for name in self.parameters):
            state = {
                "identity": self.identity,
                "step": self.step,
                "seconds": self.seconds,
                "stale": self.stale,
                "skipped": self.skipped,
                "best": list(self.best),
            }
            write_checkpoint(self.folder / CHECKPOINT, tensors, state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the checkpoint in the folder, whose state this is."""
        restore_tensors(self.folder / CHECKPOINT, self.parameters, self.best_weights, self.optimizer)
        self.step, self.seconds, self.stale, self.skipped = (
            state[key] for key in ("step", "seconds", "stale", "skipped")
        )
        self.best = Validation(*state["best"])

    def save_verifier(self, notes: tuple[str, ...]) -> TrainResult:
        """Give the verifier the best weights and write it.

        Raises:
            FloatingPointError: no validation was finite, so there are no weights to keep.
        """
        if not math.isfinite(self.best.loss):
            raise FloatingPointError(
                f"the validation loss was not finite after any of {self.step} steps, so there are no weights to keep; "
                f"lower the learning rate ({self.learning_rate:g}) or train in float32"
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best_weights[name])
        seconds, num_trees = round(self.seconds, 1), (len(self.training), len(self.validation))
        result = TrainResult(self.best, self.step, seconds, *num_trees, self.skipped, notes)
        objective, rewards = self.settings.objective, self.settings.rewards
        own = {name: value for name, value in vars(self.settings).items() if name not in ("objective", "rewards")}
        self.verifier.card |= {
            "identity": self.identity,
            "objective": describe_objective(objective),
            "rewards": asdict(rewards),
            "scale": asdict(objective.scale(rewards)),
            "training": own | {"learning_rate": self.learning_rate},
            "compute": asdict(self.compute) | {"processes": self.processes.count},
            "result": {**result._asdict(), "best": result.best._asdict()},
        }
        weights = self.processes.state(self.model)
        if self.processes.is_main:
            self.verifier.eval().save(self.folder, weights)
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        self.processes.wait()
        return result


def _default_learning_rate(verifier: FlowVerifier) -> float:
    if verifier.settings.tuning != "full":
        return {"lora": 2e-4, "frozen": 1e-3}[verifier.settings.tuning]
    num_weights = sum(parameter.numel() for parameter in verifier.parameters())
    return 3e-4 if num_weights < 10_000_000 else 2e-5
