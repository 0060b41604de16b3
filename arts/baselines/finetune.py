"""Fine-tune a model on the right solutions of trees: the second half of expert iteration (Anthony et al. 2017, arXiv
1705.08439; rejection sampling fine-tuning and ReST-EM are the same with plain draws).

`arts search --keep-trees` or `arts collect` is the first half. TRL's SFTTrainer trains; the token ids are those of the
trees, so that what is learned is what was drawn. Knows no checker: trees carry their verdicts.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from arts.baselines.runs import (
    check_one_process,
    checkpoint_before,
    claim,
    lora_config,
    save_model,
    without_news,
    write_result,
)
from arts.files import only_writer
from arts.lm.load import LanguageModel, TokenizerFolder
from arts.tree import ReasoningTree

RESULT = "finetune.json"
_IGNORED = -100  # of a label that is no target, in torch and transformers


class Example(NamedTuple):
    """A right solution under its prompt, as token ids; the prompt is no target."""

    problem: str
    prompt_ids: tuple[int, ...]
    solution_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    most_per_problem: int = 4
    "right solutions of one problem, the first that were drawn; so easy problems do not drown the others"
    num_epochs: int = 2
    batch_size: int = 64
    learning_rate: float = 1e-4
    tuning: str = "full"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("most_per_problem", "num_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.tuning not in ("full", "lora"):
            raise ValueError(f"tuning is {self.tuning!r}; allowed are 'full' and 'lora'")


@dataclass(frozen=True)
class FinetuneResult:
    model: Path
    num_problems: int
    "with at least one right solution"
    num_solutions: int
    trained_tokens: int
    "through forward and backward, prompts included, over all epochs"
    loss: float
    "mean over the last epoch, nats a token"


def right_solutions(trees: Iterable[ReasoningTree], text: TokenizerFolder, most_per_problem: int) -> list[Example]:
    """The right solutions of trees, each once, in the order in which problems and leaves come.

    Trees of one problem (several rounds, several searches) count together.
    """
    found: dict[str, dict[tuple[int, ...], Example]] = {}
    for tree in trees:
        node_ids = text.node_ids(tree)
        own = found.setdefault(tree.problem.prompt, {})
        for node in tree.nodes:
            if len(own) >= most_per_problem:
                break
            if node.verdict is not None and node.verdict.correct:
                ids = tuple(token for step in tree.path(node.id) for token in node_ids[step.id])
                own.setdefault(ids, Example(tree.problem.prompt, tuple(node_ids[0]), ids))
    return [example for own in found.values() for example in own.values()]


def finetune(
    language_model: LanguageModel,
    trees: Iterable[ReasoningTree],
    settings: FinetuneSettings,
    out: Path,
    *,
    watch: Callable[[int, int, str], None] = lambda step, num_steps, note: None,
) -> FinetuneResult:
    """Train a model on the right solutions of trees and save it to `out/model`; an interrupted run there goes on,
    and a finished one is only read.

    Args:
        watch: called with the step, the number of steps and a line on it.

    Raises:
        ValueError: no right solution, or `out` holds another run.
    """
    check_one_process("arts finetune")
    examples = right_solutions(trees, language_model.text, settings.most_per_problem)
    if not examples:
        raise ValueError("there is no right solution in these trees to learn from; draw or search more problems")
    described = {"model": language_model.fingerprint, "num_solutions": len(examples), **asdict(settings)}
    with only_writer(out):
        claim(out, described)
        if (out / RESULT).is_file():
            found = json.loads((out / RESULT).read_text())["result"]
            return FinetuneResult(**{**found, "model": Path(found["model"])})
        checkpoints = out / "checkpoints"
        num_steps = settings.num_epochs * -(-len(examples) // settings.batch_size)
        with without_news():
            trainer = SFTTrainer(
                model=language_model.model,
                args=_config(language_model, settings, checkpoints, num_steps),
                train_dataset=_dataset(examples),
                processing_class=language_model.tokenizer,
                callbacks=[_Watch(watch)],
                peft_config=lora_config() if settings.tuning == "lora" else None,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=checkpoint_before(checkpoints, num_steps))
        save_model(trainer, language_model, out / "model", merge=settings.tuning == "lora")
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        last_epoch = losses[-max(1, len(losses) // settings.num_epochs) :]
        result = FinetuneResult(
            model=out / "model",
            num_problems=len({example.problem for example in examples}),
            num_solutions=len(examples),
            trained_tokens=settings.num_epochs * sum(len(one.prompt_ids) + len(one.solution_ids) for one in examples),
            loss=sum(last_epoch) / len(last_epoch),
        )
        write_result(trainer, out / RESULT, described, result)
        return result


def _config(language_model: LanguageModel, settings: FinetuneSettings, checkpoints: Path, num_steps: int) -> SFTConfig:
    on_cpu = language_model.device.type == "cpu"
    return SFTConfig(
        output_dir=str(checkpoints),
        seed=settings.seed,
        num_train_epochs=settings.num_epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(20, num_steps // 10),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        gradient_checkpointing=False,
        dataloader_pin_memory=not on_cpu,
    )


def _dataset(examples: Sequence[Example]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [[*one.prompt_ids, *one.solution_ids] for one in examples],
            "labels": [[_IGNORED] * len(one.prompt_ids) + list(one.solution_ids) for one in examples],
        }
    )


class _Watch(TrainerCallback):  # type: ignore[misc]
    def __init__(self, watch: Callable[[int, int, str], None]) -> None:
        self.watch = watch

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        if "loss" in logs:
            self.watch(state.global_step, state.max_steps, f"loss {float(logs['loss']):.3f}")
