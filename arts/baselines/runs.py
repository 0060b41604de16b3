"""What runs of TRL's trainers have in common: the folder that one run owns, its saved model, its result file."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from arts.files import write_atomically, writing_to
from arts.lm.load import LanguageModel


def check_one_process(command: str) -> None:
    """Raises ValueError under a launcher of several processes, each of which would add its own to every batch."""
    if num_processes() > 1:
        raise ValueError(f"several processes would make larger batches than were asked for; start {command} as one")


def join_processes(device: str) -> PartialState:
    """Those that this one was launched with. To be called before a model is loaded: each takes a card of its own.

    Raises:
        ValueError: the launcher asks for shards of the model.
    """
    for name, variable in (("FSDP", "ACCELERATE_USE_FSDP"), ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED")):
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise ValueError(
                f"`accelerate launch` asks for {name}; each process has to hold the whole model here: launch it with "
                "--multi_gpu, or train adapters (--tuning lora), which take little memory"
            )
    return PartialState(cpu=device == "cpu")


def num_processes() -> int:
    """Of a run under `accelerate launch` or `torchrun`; 1 where nobody launched it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def claim(out: Path, described: Mapping[str, Any]) -> None:
    """Write down which run this folder holds. Raises ValueError where it holds another."""
    path = out / "settings.json"
    text = json.dumps(described, indent=2, default=str) + "\n"
    if path.is_file():
        before, now = _read_json(path), json.loads(text)
        differ = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if differ:
            raise ValueError(
                f"{out} holds a run with another {', '.join(differ)}; give another --out, or remove that folder"
            )
        return
    if out.is_dir() and any(one.suffix != ".tmp" for one in out.iterdir()):
        raise ValueError(f"{out} holds something else than such a run; give another --out")
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, or give another --out") from error


def claim_together(out: Path, described: Mapping[str, Any]) -> None:
    """The first of several processes claims the folder; where it holds another run, all raise the same ValueError."""
    refusal = [""]
    if PartialState().is_main_process:
        try:
            claim(out, described)
        except ValueError as error:
            refusal = [str(error)]
    broadcast_object_list(refusal)
    if refusal[0]:
        raise ValueError(refusal[0])


def checkpoint_before(
    folder: Path, step: int, is_over: Callable[[Mapping[str, Any]], bool] = lambda state: False
) -> str | None:
    """The last whole checkpoint with something left to do: from the very last, a trainer would make a step more.

    Args:
        is_over: says of a trainer's state that it would have ended there.
    """
    steps = sorted((int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*")), reverse=True)
    for one in steps:
        path = folder / f"checkpoint-{one}"
        with suppress(OSError, ValueError):  # trainers write the state last, and in place: not there, or torn
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            if one < step and not is_over(state):
                return str(path)
    return None


@contextmanager
def without_news() -> Iterator[None]:
    """Without what TRL and transformers have to say to their own callers about versions to come."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def lora_config() -> Any:
    """Adapters on all linear layers."""
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def save_model(trainer: Any, language_model: LanguageModel, folder: Path, *, merge: bool) -> None:
    """A plain model folder; adapters are merged into the weights."""
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    (model.merge_and_unload() if merge else model).save_pretrained(folder)
    language_model.tokenizer.save_pretrained(folder)


def write_result(trainer: Any, path: Path, described: Mapping[str, Any], result: Any) -> None:
    """Settings, result and the trainer's log in one file."""
    if trainer.accelerator.is_main_process:
        history = [row for row in trainer.state.log_history if "train_runtime" not in row]
        rows = {"settings": described, "result": asdict(result), "history": history}
        write_atomically(path, json.dumps(rows, indent=2, default=str) + "\n")
