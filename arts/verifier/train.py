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
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from arts.lm.packing import PackedTree, pad_packed
from arts.tree import ReasoningTree
from arts.verifier.model import FlowVerifier
from arts.verifier.objectives import (
    NodeTargets,
    RewardSettings,
    RFMSettings,
    TargetBatch,
    join_targets,
    node_targets,
    node_weights,
    rfm_loss,
)
from arts.verifier.scorer import pack_for, pad_id

_SORT_WINDOW = 8  # batches whose trees are sorted by size together, to pad little


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train. Where the paper is silent the default is ours."""

    objective: RFMSettings = field(default_factory=RFMSettings)
    rewards: RewardSettings = field(default_factory=RewardSettings)
    num_epochs: int = 2
    batch_trees: int = 16
    learning_rate: float | None = None
    "peak; None: 2e-4 for LoRA, 1e-3 for full training below ten million weights, 2e-5 above"
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    "of all steps; then the rate falls to zero along a cosine"
    max_grad_norm: float = 1.0
    validation_share: float = 0.05
    "of the problems, by hash of their id, never trained on"
    evaluations_per_epoch: int = 4
    patience: int = 6
    "evaluations without a better validation loss before training stops; the best weights are kept"
    checkpoint_every_s: float = 60.0
    "0: after every step. How often is no part of the run: it may go on with another value"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_trees", "evaluations_per_epoch", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive and finite")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}; it must lie between 0 and 1")


class Example(NamedTuple):
    """One tree, ready to train on."""

    problem_id: str
    parts: list[PackedTree]
    first_seen: np.ndarray
    "for each node of the tree, its place in the joined nodes of `parts` [N]"
    targets: NodeTargets
    trunks: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(part.token_ids) for part in self.parts)


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
    "share of problems whose trunk of highest terminal flow is right: best-of-N on the validation problems"


class TrainResult(NamedTuple):
    best: Validation
    num_steps: int
    seconds: float
    num_trained_trees: int
    num_validation_trees: int
    skipped_batches: int
    "steps left out because loss or gradient was not finite"


def prepare(verifier: FlowVerifier, trees: Iterable[ReasoningTree], settings: TrainSettings) -> list[Example]:
    """Pack every tree and compute its targets; trees may be a stream, they are not kept."""
    examples = []
    for tree in trees:
        if len(tree.nodes) < 2:
            continue
        parts, _ = pack_for(verifier, tree)
        joined = np.concatenate([np.asarray(part.nodes) for part in parts])
        first_seen = np.unique(joined, return_index=True)[1]
        targets = node_targets(tree, settings.rewards, settings.objective)
        examples.append(Example(tree.problem.id, parts, first_seen, targets, tree.trunks))
    if not examples:
        raise ValueError("there is not one tree with a step to train on; collect some with `arts collect`")
    return examples


def split_by_problem(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """(training, validation) examples; a problem is always on the same side, whatever else was collected."""

    def is_validation(example: Example) -> bool:
        digest = hashlib.sha256(f"validation {example.problem_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64

    training = [example for example in examples if not is_validation(example)]
    validation = [example for example in examples if is_validation(example)]
    if not training or not validation:
        raise ValueError(
            f"{len(examples)} trees leave {len(training)} to train on and {len(validation)} to validate with; "
            "collect more problems or change validation_share"
        )
    return training, validation


def train(
    verifier: FlowVerifier,
    trees: Iterable[ReasoningTree],
    settings: TrainSettings,
    folder: Path,
    *,
    watch: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train, keep the weights with the lowest validation loss, save the verifier to `folder`.

    Raises:
        ValueError: nothing to train on, or the checkpoint in `folder` is of another run.
        FloatingPointError: ten steps in a row were not finite; the last good checkpoint stays.
    """
    examples = prepare(verifier, trees, settings)
    return _Run(verifier, examples, settings, folder, watch).finish()


class _Run:
    """State of one training run; everything in it is in the checkpoint."""

    def __init__(
        self,
        verifier: FlowVerifier,
        examples: Sequence[Example],
        settings: TrainSettings,
        folder: Path,
        watch: Callable[[TrainProgress], None] | None,
    ) -> None:
        self.verifier, self.settings, self.folder, self.watch = verifier, settings, folder, watch
        self.training, self.validation = split_by_problem(examples, settings.validation_share)
        self.parameters = verifier.trained_parameters()
        self.learning_rate = settings.learning_rate or _default_learning_rate(verifier)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
        )
        self.steps_per_epoch = math.ceil(len(self.training) / settings.batch_trees)
        self.num_steps = settings.num_epochs * self.steps_per_epoch
        self.evaluate_every = max(1, self.steps_per_epoch // settings.evaluations_per_epoch)
        self.identity = self._identity(examples)
        self.step, self.seconds = 0, 0.0
        self.epoch, self.batches = -1, list[list[int]]()
        self.skipped = self.skipped_in_a_row = self.stale = 0
        self.best = Validation(math.inf, 0.0)
        self.best_weights = {name: weight.detach().clone() for name, weight in self.parameters.items()}

    def finish(self) -> TrainResult:
        torch.manual_seed(self.settings.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.exists():
            self._restore()
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
        """Batches of one epoch: a function of seed and epoch. Neighbours in size share a batch."""
        generator = np.random.default_rng([self.settings.seed, epoch])
        order = generator.permutation(len(self.training)).tolist()
        size = self.settings.batch_trees
        batches: list[list[int]] = []
        for start in range(0, len(order), size * _SORT_WINDOW):
            window = order[start : start + size * _SORT_WINDOW]
            by_size = sorted(window, key=lambda index: self.training[index].num_tokens)
            cut = [by_size[start : start + size] for start in range(0, len(by_size), size)]
            batches.extend(cut[index] for index in generator.permutation(len(cut)))
        return batches

    def _train_step(self, batch: Sequence[Example]) -> float:
        self.verifier.train()
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)  # dropout, so that resuming repeats it
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._rate()
        log_flow, targets = predict(self.verifier, batch)
        loss = rfm_loss(log_flow, targets, self.settings.objective)
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
        total = weight = picked = 0.0
        ordered = sorted(self.validation, key=lambda example: example.num_tokens)
        for start in range(0, len(ordered), self.settings.batch_trees):
            batch = ordered[start : start + self.settings.batch_trees]
            log_flow, targets = predict(self.verifier, batch)
            batch_weight = float(node_weights(targets, self.settings.objective).sum())
            total += float(rfm_loss(log_flow, targets, self.settings.objective)) * batch_weight
            weight += batch_weight
            picked += _picked_right(log_flow.cpu().numpy(), batch, self.settings.rewards)
        validation = Validation(total / max(1.0, weight), picked / len(ordered))
        if validation.loss < self.best.loss:
            self.best, self.stale = validation, 0
            self.best_weights = {name: value.detach().clone() for name, value in self.parameters.items()}
        else:
            self.stale += 1
        return validation

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
            self.best, self.step, round(self.seconds, 1), len(self.training), len(self.validation), self.skipped
        )
        self.verifier.card |= {
            "objective": {"name": "rfm", **asdict(self.settings.objective)},
            "rewards": asdict(self.settings.rewards),
            "training": {**asdict(self.settings), "learning_rate": self.learning_rate},
            "result": {**result._asdict(), "best": result.best._asdict()},
        }
        self.verifier.eval().save(self.folder)
        self._checkpoint.unlink(missing_ok=True)
        return result

    # --- checkpoint ---------------------------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _identity(self, examples: Sequence[Example]) -> str:
        """Names the run: settings, base weights, and the ids, shape and targets of every tree."""
        settings = replace(self.settings, checkpoint_every_s=0.0)  # how often it is saved does not change the result
        digest = hashlib.sha256(
            f"{settings} {self.verifier.settings} {self.verifier.language_model.fingerprint}".encode()
        )
        for example in examples:
            digest.update(example.problem_id.encode())
            digest.update(example.targets.log_observed_flow.tobytes())
            digest.update(example.targets.parent.tobytes())
            digest.update(np.asarray(example.trunks, dtype=np.int64).tobytes())
            for part in example.parts:
                digest.update(np.asarray(part.token_ids, dtype=np.int64).tobytes())
        return digest.hexdigest()

    def _save_checkpoint(self) -> None:
        tensors = {}
        for name, parameter in self.parameters.items():
            tensors[f"weight.{name}"] = parameter.detach().contiguous()
            tensors[f"best.{name}"] = self.best_weights[name].contiguous()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = value.detach().contiguous()
        state = {
            "identity": self.identity,
            "step": self.step,
            "seconds": self.seconds,
            "stale": self.stale,
            "skipped": self.skipped,
            "best": list(self.best),
        }
        temporary = self._checkpoint.with_suffix(".tmp")
        save_file(tensors, temporary, metadata={"state": json.dumps(state)})
        temporary.replace(self._checkpoint)

    def _restore(self) -> None:
        with safe_open(self._checkpoint, framework="pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()["state"])
            if state["identity"] != self.identity:
                raise ValueError(
                    f"{self._checkpoint} is of a run with other settings, trees or base weights; "
                    "choose another --out, or delete it to start again"
                )
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(file.get_tensor(f"weight.{name}"))
                    self.best_weights[name] = file.get_tensor(f"best.{name}").to(parameter.device)
                    if f"step.{name}" in file.keys():  # noqa: SIM118 (safe_open is no dict)
                        self.optimizer.state[parameter] = {
                            key: file.get_tensor(f"{key}.{name}").to("cpu" if key == "step" else parameter.device)
                            for key in ("step", "exp_avg", "exp_avg_sq")
                        }
        self.step, self.seconds, self.stale, self.skipped = (
            state[key] for key in ("step", "seconds", "stale", "skipped")
        )
        self.best = Validation(*state["best"])


def predict(verifier: FlowVerifier, batch: Sequence[Example]) -> tuple[torch.Tensor, TargetBatch]:
    """log F of every node of the examples [N], and their joined targets, on the verifier's device."""
    parts = [part for example in batch for part in example.parts]
    log_flow_parts = verifier(pad_packed(parts, pad_id(verifier)))
    index, offset = [], 0
    for example in batch:
        index.append(example.first_seen + offset)
        offset += sum(len(part.nodes) for part in example.parts)
    log_flow = log_flow_parts[torch.from_numpy(np.concatenate(index)).to(log_flow_parts.device)]
    targets = join_targets([example.targets for example in batch])
    return log_flow, TargetBatch(*(tensor.to(log_flow.device) for tensor in targets))


def _picked_right(log_flow: np.ndarray, batch: Sequence[Example], rewards: RewardSettings) -> float:
    """Number of problems whose trunk leaf of highest flow is right; without trunks (imported trees) of any leaf."""
    right, offset = 0, 0
    halfway = (math.log(rewards.right) + math.log(rewards.wrong)) / 2
    for example in batch:
        own = log_flow[offset : offset + len(example.targets.parent)]
        offset += len(own)
        leaves = np.array(example.trunks or np.flatnonzero(example.targets.is_terminal), dtype=np.int64)
        if len(leaves):
            best = leaves[np.argmax(own[leaves])]
            right += example.targets.is_terminal[best] and example.targets.log_reward[best] > halfway
    return float(right)


def _default_learning_rate(verifier: FlowVerifier) -> float:
    if verifier.settings.tuning == "lora":
        return 2e-4
    num_weights = sum(parameter.numel() for parameter in verifier.parameters())
    return 1e-3 if num_weights < 10_000_000 else 2e-5
