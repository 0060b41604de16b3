"""A verifier with a linear head as a plain Hugging Face classification folder, which servers of models can serve.

vLLM reads such a folder with `--runner pooling`; `arts.verifier.remote` asks it. A `token` folder scores every token of
a path in one pass, so that all steps of a path cost one request; a `sequence` folder scores the last token only.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from arts.files import write_atomically
from arts.verifier.checkpoint import saving_to
from arts.verifier.model import FlowVerifier

ExportKind = Literal["token", "sequence"]
_CLASSES: dict[ExportKind, Any] = {
    "token": AutoModelForTokenClassification,
    "sequence": AutoModelForSequenceClassification,
}


def export_verifier(verifier: FlowVerifier, folder: Path, *, kind: ExportKind = "token") -> None:
    """Write weights (adapters merged in), tokenizer, and `verifier.json` with what the score means.

    Raises:
        ValueError: the head is not linear or has several outputs, or there is no classification model of the kind for
            this architecture.
    """
    settings = verifier.settings
    if settings.head != "linear" or settings.num_outputs != 1:
        raise ValueError(
            f"the verifier has a head {settings.head!r} with {settings.num_outputs} outputs; servers know linear heads "
            "with one output: train with --head linear and an objective that has one"
        )
    backbone = verifier.backbone.merge_and_unload() if settings.tuning == "lora" else verifier.backbone
    config = type(backbone.config).from_dict(backbone.config.to_dict())
    config.num_labels = 1
    try:
        model = _CLASSES[kind].from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise ValueError(f"transformers has no {kind} classification for {config.model_type!r} models") from error
    getattr(model, model.base_model_prefix).load_state_dict(backbone.state_dict())
    score = model.score if hasattr(model, "score") else model.classifier
    linear = verifier.head[-1]
    with torch.no_grad():
        score.weight.copy_(linear.weight)
        if score.bias is not None:
            score.bias.zero_()
    card = {"format": 1, **verifier.card, "exported": kind}
    with saving_to(folder):
        model.save_pretrained(folder)
        verifier.language_model.tokenizer.save_pretrained(folder)
        write_atomically(folder / "verifier.json", json.dumps(card, indent=2) + "\n")
