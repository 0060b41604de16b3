"""The processes that train one verifier together, and how each of them computes its share of a batch.

Accelerate does the work: process group, synchronised gradients, shards. A run that nobody launched is one process, and
everything here is then what plain torch does. A batch means the same whatever computes it: its trees are dealt to
processes and passes, and every part's loss is divided by the weight of the whole batch. Knows no tree and no objective.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedType
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """How a run is computed. But for the precision, what comes out depends on it in rounding and dropout's draws only,
    so a run may go on with other values."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """of the backbone's matrix products. With `bf16` trained weights, the head, the loss and the optimizer stay in
    float32"""
    accumulate: int = 1
    "passes that a process cuts its share of a batch into: memory falls, the batch stays what it is"
    checkpoint_activations: bool = False
    "keep what goes into each layer only and compute the rest again going back: a third more work, far less memory"

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; allowed are 'fp32' and 'bf16'")
        if self.accumulate < 1:
            raise ValueError(f"accumulate is {self.accumulate}; it must be at least 1")


class Processes:
    """The group that this process belongs to; make it before anything is put on a GPU.

    Args:
        device: where models run, `cpu` or `cuda`; each process of a machine then takes a card of its own.

    Raises:
        ValueError: the launcher asks for a precision; it is a setting of the run.
    """

    def __init__(self, device: str = "cpu") -> None:
        if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
            raise ValueError(
                f"`accelerate launch` asks for mixed precision {os.environ['ACCELERATE_MIXED_PRECISION']!r}; leave it "
                "out there and give `arts train --precision bf16`, which keeps the head in float32"
            )
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        self._accelerator = Accelerator(
            cpu=device == "cpu" and launched > 1,
            device_placement=False,  # a verifier lies where it was built
            mixed_precision="no",
        )

    @property
    def count(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def index(self) -> int:
        return int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Of all processes, the one that writes files and prints."""
        return bool(self._accelerator.is_main_process)

    @property
    def is_sharded(self) -> bool:
        """Does each process hold a part of every weight only (FSDP)?"""
        return bool(self._accelerator.is_fsdp2)

    def prepare(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        """What trains: the model, wrapped where there are several processes. Shards replace the model's parameters.

        Raises:
            ValueError: the launcher asks for a way to train that is not ours.
        """
        kind = self._accelerator.distributed_type
        others = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.FSDP)
        if kind in others and not self.is_sharded:
            raise ValueError(
                f"`accelerate launch` asks for {kind.value}; allowed are plain processes (--multi_gpu) and the second "
                "version of FSDP (--use_fsdp --fsdp_version 2)"
            )
        self._accelerator.free_memory()  # it would keep the models of earlier runs, and mistake one for another
        prepared: tuple[torch.nn.Module, torch.optim.Optimizer] = self._accelerator.prepare(model, optimizer)
        return prepared

    def share(self, sizes: Sequence[int], num_passes: int) -> list[list[int]]:
        """Places of a batch that this process computes, pass by pass.

        All processes make the same number of passes; one that has none for a pass gets an empty list.
        """
        num_passes = min(num_passes, -(-len(sizes) // self.count))
        return deal(sizes, self.count * num_passes)[self.index :: self.count]

    def passing(self, model: torch.nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Around a pass's forward and backward: the last one of a batch exchanges the gradients of all."""
        # Shards exchange at every pass: gradients that wait would be kept whole, which is what shards are to avoid.
        waits = not last and not self.is_sharded
        return self._accelerator.no_sync(model) if waits else nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of the sum of all processes' losses."""
        self._accelerator.backward(loss * self.count)  # gradients are exchanged as their mean

    def clip(self, parameters: Sequence[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
        """Limit the norm of all gradients; returns what it was, on every process."""
        return whole(self._accelerator.clip_grad_norm_(parameters, max_norm))

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Over processes, the same on each."""
        total: torch.Tensor = self._accelerator.reduce(values, reduction="sum")
        return total

    def check_same(self, value: object, hint: str) -> None:
        """Raises ValueError where not all processes have the same value."""
        if self.count == 1:
            return
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        if any(one != found[0] for one in found):
            raise ValueError(hint)

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """All weights of a prepared model, whole; every process has to ask."""
        found: dict[str, torch.Tensor] = self._accelerator.get_state_dict(model)
        return found

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the group, at the end of the program."""
        self._accelerator.end_training()


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Run matrix products in that precision; weights keep theirs."""
    # A weight is cast once a pass, so a cache of casts saves nothing, and would hold what shards have let go.
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


def storage_type(precision: str, tuning: str) -> torch.dtype:
    """Of a backbone's weights in training; float32 where they are trained, or small steps would be lost in rounding."""
    return torch.bfloat16 if precision == "bf16" and tuning != "full" else torch.float32


def deal(sizes: Sequence[int], num_parts: int) -> list[list[int]]:
    """Places of a batch dealt to parts of about equal size: the largest first, each to the part that has least.

    Within a part they keep their order, so a single part is the batch as it was. With fewer places than parts some stay
    empty.
    """
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    loads = [0] * num_parts
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        lightest = loads.index(min(loads))
        parts[lightest].append(place)
        loads[lightest] += sizes[place]
    return [sorted(part) for part in parts]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that shards are parts of; every process has to ask."""
    full: torch.Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full


def like(tensor: torch.Tensor, shard: torch.Tensor) -> torch.Tensor:
    """A whole tensor laid out as another one is: on its device, and as its shard where that is one."""
    if isinstance(shard, DTensor):
        return distribute_tensor(tensor.to(shard.device), shard.device_mesh, shard.placements)
    return tensor.to(shard.device)
