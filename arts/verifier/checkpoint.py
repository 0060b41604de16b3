"""The state of a training run in one safetensors file, replaced by rename. Nothing is pickled.

Accelerate's own checkpoints are pickles, of one number of processes. Here tensors are whole, so a run goes on with any
number of processes, sharded or not. Knows names and tensors, not what they mean.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from arts.files import replace_on_disk, writing_to
from arts.verifier.processes import like, whole

Weights = Mapping[str, torch.nn.Parameter]


def whole_tensors(
    weights: Weights, best_weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, *, keep: bool
) -> dict[str, torch.Tensor]:
    """Weights, the best ones so far and the optimizer's moments, by name, in the memory of the CPU.

    Every process has to ask, as each has a part of what is in shards; those that do not `keep` it get nothing, and hold
    one whole tensor at a time.
    """
    tensors = {}
    for name, parameter in weights.items():
        own = {"weight": parameter.detach(), "best": best_weights[name], **optimizer.state[parameter]}
        for key, value in own.items():
            tensor = whole(value)
            if keep:
                tensors[f"{key}.{name}"] = tensor.cpu()
    return tensors


@contextmanager
def saving_to(folder: Path) -> Iterator[None]:
    """Turn a full disk and the like into one sentence, whoever finds it while weights are written."""
    try:
        with writing_to(folder):
            yield
    except SafetensorError as error:
        raise ValueError(f"cannot write to {folder}: {error}") from error


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and `state` (JSON).

    Raises:
        ValueError: the disk is full, and the like; the checkpoint before is still there.
    """
    temporary = path.with_suffix(".tmp")
    metadata = {"state": json.dumps(state)}
    with saving_to(path.parent):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
        replace_on_disk(temporary, path)


def read_state(path: Path) -> dict[str, Any] | None:
    """The state that was written beside the tensors; None where there is no checkpoint.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()["state"])
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"the checkpoint {path} is damaged ({error}); remove it, and the same command begins anew"
        ) from error
    return state


def restore_tensors(
    path: Path, weights: Weights, best_weights: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Put the tensors of a checkpoint back in place, each process its part of them."""
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(like(file.get_tensor(f"weight.{name}"), parameter))
            best_weights[name] = like(file.get_tensor(f"best.{name}"), parameter)
            if f"step.{name}" in file.keys():  # noqa: SIM118 (safe_open is no dict)
                moments = {key: like(file.get_tensor(f"{key}.{name}"), parameter) for key in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": file.get_tensor(f"step.{name}"), **moments}
