"""The state of a training run in one safetensors file, replaced by rename. Nothing is pickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

Weights = Mapping[str, torch.nn.Parameter]


def save_checkpoint(
    path: Path,
    weights: Weights,
    best_weights: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> None:
    """Write weights, the best ones so far, the optimizer's moments and `state` (JSON)."""
    tensors = {}
    for name, parameter in weights.items():
        tensors[f"weight.{name}"] = parameter.detach().contiguous()
        tensors[f"best.{name}"] = best_weights[name].contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = value.detach().contiguous()
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"state": json.dumps(state)})
    temporary.replace(path)


def load_checkpoint(
    path: Path,
    identity: str,
    weights: Weights,
    best_weights: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Put everything back in place; returns the state.

    Raises:
        ValueError: the checkpoint's `state["identity"]` is that of another run.
    """
    with safe_open(path, framework="pt") as file:
        state: dict[str, Any] = json.loads(file.metadata()["state"])
        if state["identity"] != identity:
            raise ValueError(
                f"{path} is of a run with other settings, trees or base weights; "
                "choose another --out, or delete it to start again"
            )
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(file.get_tensor(f"weight.{name}"))
                best_weights[name] = file.get_tensor(f"best.{name}").to(parameter.device)
                if f"step.{name}" in file.keys():  # noqa: SIM118 (safe_open is no dict)
                    optimizer.state[parameter] = {
                        key: file.get_tensor(f"{key}.{name}").to("cpu" if key == "step" else parameter.device)
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
    return state
