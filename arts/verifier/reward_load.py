"""Load reward models from local Hugging Face folders: what kind a folder holds, and what it must not do.

Only safetensors are read, so nothing is unpickled. Python code that lies in a folder is run only where the user asks
for it by name (`trust_remote_code`), and Qwen's reward models need none of theirs. Knows no tree and no text.
"""

import json
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Qwen2ForSequenceClassification,
    Qwen2ForTokenClassification,
)

from arts.lm.load import LanguageModel, load_folder
from arts.verifier.reward_layout import Kind, RewardModelSettings

_AUTO_CLASSES: dict[Kind, Any] = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "causal": AutoModelForCausalLM,
}
_ENDINGS: dict[str, Kind] = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
}


class _Qwen2ProcessRewardModel(Qwen2ForTokenClassification):  # type: ignore[misc]
    """Qwen2.5-Math-PRM without the code in its folder: a head of two layers (arXiv 2501.07301)."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.score = _two_layers(config.hidden_size, config.num_labels)


class _Qwen2RewardModel(Qwen2ForSequenceClassification):  # type: ignore[misc]
    """Qwen2.5-Math-RM in the same way: one score, at the last token (arXiv 2409.12122)."""

    def __init__(self, config: Any) -> None:
        config.num_labels = 1
        super().__init__(config)
        self.score = _two_layers(config.hidden_size, 1)


def _two_layers(hidden: int, num_labels: int) -> nn.Module:
    return nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, num_labels))


_OWN_CLASSES: dict[str, tuple[Kind, Any]] = {
    "Qwen2ForProcessRewardModel": ("token", _Qwen2ProcessRewardModel),
    "Qwen2ForRewardModel": ("sequence", _Qwen2RewardModel),
}


def load_reward_folder(folder: str | Path, settings: RewardModelSettings, device: str) -> tuple[LanguageModel, Kind]:
    """A model with its head in evaluation mode, its tokenizer, and how it is to be read.

    Raises:
        ValueError: the folder holds no such model, a damaged one, weights that do not fit its config, or its own code.
    """
    kind, model_class = _kind_and_class(Path(folder), settings)
    hint = ". Give the folder of a trained reward model, or name its kind"
    remote = settings.trust_remote_code
    return load_folder(model_class, folder, None, device, trust_remote_code=remote, hint=hint), kind


def _kind_and_class(path: Path, settings: RewardModelSettings) -> tuple[Kind, Any]:
    """How the folder's model is read, and what loads it."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{str(path)!r} is not a Hugging Face model folder (it has no config.json)") from error
    except ValueError as error:
        raise ValueError(f"{path / 'config.json'} is damaged: {error}") from error
    architecture = next(iter(config.get("architectures") or []), "")
    described = architecture or "model without a named architecture"
    own_kind, own_class = _OWN_CLASSES.get(architecture, (None, None))
    named = own_kind or next((kind for ending, kind in _ENDINGS.items() if architecture.endswith(ending)), None)
    if named and settings.kind not in ("auto", named):
        raise ValueError(f"kind is {settings.kind!r}, but {str(path)!r} is a {described}, which is read as {named!r}")
    if own_kind and not settings.trust_remote_code:
        return own_kind, own_class
    own_code = config.get("auto_map") or {}
    foreign = bool(own_code) and not hasattr(transformers, architecture)
    if foreign and not settings.trust_remote_code:
        raise ValueError(
            f"{str(path)!r} is a {described} with Python code of its own ({', '.join(map(str, own_code.values()))}), "
            "which is not run unless trust_remote_code is true. Read that code first: it can do whatever you can"
        )
    kind = named if settings.kind == "auto" else settings.kind
    if kind is None:
        raise ValueError(
            f"{str(path)!r} is a {described}; reward models are {', '.join('…' + ending for ending in _ENDINGS)}. "
            "Say how to read this one: kind 'sequence', 'token' or 'causal'"
        )
    auto_class = _AUTO_CLASSES[kind]
    return kind, AutoModel if foreign and auto_class.__name__ not in own_code else auto_class
