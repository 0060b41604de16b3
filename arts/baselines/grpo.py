"""GRPO (Shao et al. 2024, arXiv 2402.03300) through TRL's trainer: the tuned model that a frozen one is compared to.

The prompts are those of `arts collect` and the checker is the task's, so that both roads see the same problems and the
same reward: 1 for a right finished solution, 0 for anything else. The loss, sampling and checkpoints are TRL's. Every
step's tokens are in its log, hence the bill of an interrupted run is complete. Knows no search and no verifier.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from arts.baselines.runs import (
    checkpoint_before,
    claim_together,
    lora_config,
    num_processes,
    save_model,
    without_news,
    write_result,
)
from arts.files import only_writer
from arts.lm.load import LanguageModel
from arts.protocols import Task
from arts.tree import Problem, text_of

SMALL_MODEL = 100_000_000  # weights; below it the default learning rate is that of models trained from scratch
RESULT = "grpo.json"
_TOKENS = "generated_tokens"  # of one update, in the trainer's own log


_OWN = {  # fields of TRL that our own settings decide, and so the bill
    "output_dir": "out",
    "seed": "seed",
    "max_steps": "max_updates",
    "learning_rate": "learning_rate",
    "temperature": "temperature",
    "max_completion_length": "max_new_tokens",
    "num_generations": "group_size",
    "num_generations_eval": "validation_draws",
    "per_device_train_batch_size": "draws_per_batch",
    "per_device_eval_batch_size": "draws_per_batch",
    "gradient_accumulation_steps": "draws_per_batch",
    "steps_per_generation": "draws_per_batch",
    "generation_batch_size": "draws_per_batch",
    "eval_steps": "validate_every",
    "save_steps": "validate_every",
    "logging_steps": "validate_every",
}


@dataclass(frozen=True, kw_only=True)
class GRPOSettings:
    """One run. The defaults are plain GRPO: advantages of a group over its standard deviation, no KL, on-policy."""

    group_size: int = 8
    "draws of one problem"
    problems_per_update: int = 48
    max_updates: int = 300
    learning_rate: float | None = None
    "constant; None: 5e-5 below 100 million weights, else TRL's 1e-6"
    temperature: float = 1.0
    max_new_tokens: int | None = None
    "of a draw; None: the task's limit"
    draws_per_batch: int = 0
    """run forward and backward at once, by all processes together; 0: a whole update's. Gradients do not depend on it,
    memory does"""
    tuning: str = "full"
    "full, or lora, whose adapter is merged into the saved model"
    num_problems: int = 20_000
    "of the training split, fewer where the task has fewer"
    first_problem: int = 0
    validation_problems: int = 200
    "of the validation split; 0: no validation, and no early end"
    validation_draws: int = 4
    validate_every: int = 25
    "updates"
    patience: int = 4
    "validations without a better pass@1 before it stops; the best model is kept"
    keep_checkpoints: int = 2
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    "fields of `trl.GRPOConfig`, which go before everything above"

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(f"group_size is {self.group_size}; one draw has no group to be compared to: at least 2")
        for name in ("problems_per_update", "max_updates", "validate_every", "patience", "validation_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        draws = self.group_size * self.problems_per_update
        if self.draws_per_batch and draws % self.draws_per_batch:
            raise ValueError(
                f"draws_per_batch is {self.draws_per_batch}; it must divide the {draws} draws of an update "
                f"({self.problems_per_update} problems of {self.group_size})"
            )
        if self.tuning not in ("full", "lora"):
            raise ValueError(f"tuning is {self.tuning!r}; allowed are 'full' and 'lora'")
        taken = sorted(set(self.extra) & set(_OWN))
        if taken:
            raise ValueError(
                f"extra sets {', '.join(taken)} of trl.GRPOConfig, which follow from settings of our own: "
                f"{', '.join(sorted({_OWN[name] for name in taken}))}; set those"
            )
        known = {entry.name for entry in fields(GRPOConfig)}
        unknown = sorted(set(self.extra) - known)
        if unknown:
            raise ValueError(f"trl.GRPOConfig has no field {', '.join(unknown)}; see its documentation for all of them")


@dataclass(frozen=True)
class TokenBill:
    """What a run computed, in tokens."""

    draws: int
    prompt_tokens: int
    "each draw's own, as the trainer runs them"
    generated_tokens: int
    validation_tokens: int
    "generated to validate, not to learn"

    @property
    def trained_tokens(self) -> int:
        """Through forward and backward once more: prompts and draws of every update."""
        return self.prompt_tokens + self.generated_tokens


@dataclass(frozen=True)
class GRPOResult:
    model: Path
    num_updates: int
    best_update: int
    "whose weights were kept"
    validation: tuple[tuple[int, float], ...]
    "(update, pass@1)"
    bill: TokenBill


def train_grpo(
    language_model: LanguageModel,
    task: Task,
    settings: GRPOSettings,
    out: Path,
    *,
    watch: Callable[[int, str], None] = lambda update, note: None,
    trainer_class: type[GRPOTrainer] = GRPOTrainer,
) -> GRPOResult:
    """Tune a model on a task's training problems and save it to `out/model`; an interrupted run there goes on, and
    a finished one is only read.

    Under `accelerate launch` every process calls it and gets the same result; an update has the same draws in number,
    and the first process writes.

    Args:
        watch: called after every update with its number and a line on it.
        trainer_class: a subclass with another advantage or loss, for the cures of the squeeze.

    Raises:
        ValueError: no problems, batches that processes cannot share evenly, or `out` holds a run with other settings.
    """
    described = {
        "model": language_model.fingerprint,
        "task": task.name,
        "trainer": trainer_class.__name__,
        **asdict(settings),
    }
    if language_model.tokenizer.pad_token is None:
        language_model.tokenizer.pad_token = language_model.tokenizer.eos_token
    train = _problems(task, "train", settings.num_problems, settings)
    validation = _problems(task, "validation", settings.validation_problems, settings)
    if len(train) < settings.problems_per_update:
        raise ValueError(
            f"an update takes {settings.problems_per_update} problems, and task {task.name} gave {len(train)} for "
            "training; ask for fewer problems an update, or take a task with more"
        )
    config = build_config(language_model, task, settings, out / "checkpoints", num_validation=len(validation))
    with only_writer(out) if PartialState().is_main_process else nullcontext():
        claim_together(out, described)
        if (out / RESULT).is_file():
            return _read_result(out)
        checkpoints = out / "checkpoints"
        last = checkpoint_before(
            checkpoints, settings.max_updates, lambda state: _num_worse(state["log_history"]) >= settings.patience
        )
        config.eval_on_start &= last is None
        try:
            with without_news():
                trainer = trainer_class(
                    model=language_model.model,
                    reward_funcs=reward_by(task, [*train, *validation], config, eos_ids(language_model)),
                    args=config,
                    train_dataset=_dataset(language_model, train, first=0),
                    eval_dataset=_dataset(language_model, validation, first=len(train)) if validation else None,
                    processing_class=language_model.tokenizer,
                    callbacks=[_Watch(watch), *([_Patience(settings.patience)] if validation else [])],
                    peft_config=lora_config() if settings.tuning == "lora" else None,
                )
        except ImportError as error:  # what an option of TRL needs, such as vLLM
            raise ValueError(f"TRL needs something that is not installed: {error}") from error
        trainer.remove_callback(PrinterCallback)
        with without_news():
            trainer.train(resume_from_checkpoint=last)
        save_model(trainer, language_model, out / "model", merge=settings.tuning == "lora")
        result = _result(trainer, settings, out)
        write_result(trainer, out / RESULT, described, result)
        return result


class _Patience(EarlyStoppingCallback):  # type: ignore[misc]
    """Waits as long in a run that goes on as in one that was never stopped."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = _num_worse(state.log_history)


def _num_worse(history: Sequence[Mapping[str, Any]]) -> int:
    """Validations since the best one, after updates."""
    best, count = -math.inf, 0
    for row in history:
        if "eval_reward" in row and row["step"] > 0:
            count = 0 if row["eval_reward"] > best else count + 1
            best = max(best, row["eval_reward"])
    return count


def build_config(
    language_model: LanguageModel, task: Task, settings: GRPOSettings, checkpoints: Path, *, num_validation: int
) -> GRPOConfig:
    """TRL's settings for ours."""
    model = language_model.model
    draws = settings.group_size * settings.problems_per_update
    batch = settings.draws_per_batch or draws
    processes = num_processes()
    _check_shares(batch, num_validation, processes)
    rate = settings.learning_rate or (5e-5 if model.num_parameters() < SMALL_MODEL else 1e-6)
    on_cpu = language_model.device.type == "cpu"
    chosen: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "seed": settings.seed,
        "max_steps": settings.max_updates,
        "learning_rate": rate,
        "lr_scheduler_type": "constant",  # where it stops is not known in advance
        "per_device_train_batch_size": batch // processes,
        "gradient_accumulation_steps": draws // batch,
        "num_generations": settings.group_size,
        "temperature": settings.temperature,
        "max_completion_length": settings.max_new_tokens or task.max_new_tokens,
        "loss_type": "grpo",
        "scale_rewards": "group",
        "beta": 0.0,
        "num_iterations": 1,
        "save_total_limit": settings.keep_checkpoints,
        "save_strategy": "steps",
        "save_steps": settings.validate_every,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": on_cpu,
        "ddp_find_unused_parameters": False,
        "bf16": not on_cpu,
        "gradient_checkpointing": model.num_parameters() >= SMALL_MODEL,
        "dataloader_pin_memory": not on_cpu,
    }
    if num_validation:
        most = max(1, batch // processes // settings.validation_draws)
        at_once = max(  # equal batches: a plain mean
            share for share in range(1, most + 1) if num_validation // processes % share == 0
        )
        chosen |= {
            "eval_strategy": "steps",
            "eval_steps": settings.validate_every,
            "eval_on_start": True,
            "num_generations_eval": settings.validation_draws,
            "per_device_eval_batch_size": at_once * settings.validation_draws,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_reward",
            "greater_is_better": True,
        }
    with without_news():
        return GRPOConfig(**(chosen | dict(settings.extra)))


def _check_shares(batch: int, num_validation: int, processes: int) -> None:
    """Uneven shares would weigh draws unequally, or be filled up with draws that nobody asked for."""
    for name, number, options in (
        ("draws of a batch", batch, "--draws-per-batch, or --group-size and --problems-per-update,"),
        ("validation problems", num_validation, "--validation-problems"),
    ):
        if number % processes:
            raise ValueError(
                f"{processes} processes cannot share {number} {name} evenly; give {options} a multiple of {processes}"
            )


def eos_ids(language_model: LanguageModel) -> frozenset[int]:
    """What ends a draw."""
    eos = language_model.model.generation_config.eos_token_id
    own = eos if isinstance(eos, list) else [eos]
    return frozenset(token for token in (*own, language_model.tokenizer.eos_token_id) if token is not None)


def reward_by(
    task: Task, problems: Sequence[Problem], config: GRPOConfig, ends: frozenset[int] = frozenset()
) -> Callable[..., list[float]]:
    """The task's verdict as TRL's reward: 1.0 for a right finished solution. A draw that was cut off is wrong.

    Args:
        ends: ids that end a draw.
    """
    limit = config.max_completion_length

    def right(
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        index: Sequence[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        log_metric(_TOKENS, float(sum(map(len, completion_ids))))
        rewards = []
        for completion, ids, place in zip(completions, completion_ids, index, strict=True):
            text = completion if isinstance(completion, str) else text_of(completion[-1]["content"])
            finished = limit is None or len(ids) < limit or ids[-1] in ends
            rewards.append(float(finished and task.judge(problems[place], text).correct))
        return rewards

    return right


def _problems(task: Task, split: Any, number: int, settings: GRPOSettings) -> list[Problem]:
    first = settings.first_problem if split == "train" else 0
    return list(islice(task.problems(split, 0), first, first + number))


def _dataset(language_model: LanguageModel, problems: Sequence[Problem], *, first: int) -> Dataset:
    """Prompts as TRL wants them: messages where there is a chat template, else the text that `arts collect` sends."""
    text = language_model.text
    templated = language_model.tokenizer.chat_template is not None
    prompts: list[Any] = [
        [{"role": message["role"], "content": text_of(message.get("content"))} for message in problem.messages]
        if templated
        else text.prompt_text(problem.messages)
        for problem in problems
    ]
    lengths = [len(text.prompt_ids(problem.messages)) for problem in problems]
    return Dataset.from_dict(
        {"prompt": prompts, "index": list(range(first, first + len(problems))), "prompt_tokens": lengths}
    )


def _read_result(out: Path) -> GRPOResult:
    """Of a run that is finished."""
    found = json.loads((out / RESULT).read_text())["result"]
    return GRPOResult(
        model=Path(found["model"]),
        num_updates=found["num_updates"],
        best_update=found["best_update"],
        validation=tuple((step, rate) for step, rate in found["validation"]),
        bill=TokenBill(**found["bill"]),
    )


def _result(trainer: GRPOTrainer, settings: GRPOSettings, out: Path) -> GRPOResult:
    history = trainer.state.log_history
    updates = [row for row in history if _TOKENS in row]
    draws = settings.group_size * settings.problems_per_update * len(updates)
    processes = trainer.accelerator.num_processes  # metrics are means over them
    generated = round(sum(row[_TOKENS] for row in updates) * processes)
    seen = max((round(row["num_tokens"]) for row in updates), default=0)  # TRL's sum of prompts and draws
    validations = [row for row in history if f"eval_{_TOKENS}" in row]
    tested = 0
    if trainer.eval_dataset is not None:
        batches = len(trainer.get_eval_dataloader())
        tested = round(sum(row[f"eval_{_TOKENS}"] for row in validations) * batches * processes)
    best = trainer.state.best_model_checkpoint
    return GRPOResult(
        model=out / "model",
        num_updates=trainer.state.global_step,
        best_update=int(Path(best).name.rpartition("-")[2]) if best else trainer.state.global_step,
        validation=tuple((int(row["step"]), float(row["eval_reward"])) for row in validations),
        bill=TokenBill(draws, seen - generated, generated, tested),
    )


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Passes every update on to whoever looks."""

    def __init__(self, watch: Callable[[int, str], None]) -> None:
        self.watch = watch
        self.validated = ""

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        if "eval_reward" in logs:
            self.validated = f", validation pass@1 {float(logs['eval_reward']):.3f}"
        elif "reward" in logs:
            flat = float(logs["frac_reward_zero_std"])
            note = f"right {float(logs['reward']):.3f}, groups without contrast {flat:.0%}{self.validated}"
            self.watch(state.global_step, note)
