"""One of several processes that train together: `accelerate launch ... tests/accelerated.py FOLDER CASE ...`.

Trains the cases below on the model in FOLDER/base, each in a folder of its own, and writes FOLDER/CASE.RANK.json. The
same cases run in one process through `run_case`.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import DistributedType, PartialState
from safetensors.torch import load_file
from tiny_verifier import build_verifier, letter_tree
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from arts.tree import ReasoningTree
from arts.verifier.objectives import RFM, MeanFlow
from arts.verifier.train import ComputeSettings, Processes, TrainProgress, TrainSettings, train

# Trees of 1 to 12 samples: the largest has ten times the tokens of the smallest.
TREES: list[ReasoningTree] = [letter_tree(f"{index}", num_samples=1 + 5 * index % 12) for index in range(30)]
# 26 of them train, so the last batch of an epoch is one tree, for two processes; four validate, in batches of 3 and 1.
SETTINGS = TrainSettings(
    objective=MeanFlow(leaf_weight=4.0),
    num_epochs=4,
    batch_trees=5,
    learning_rate=3e-3,
    validation_share=0.25,
    evaluations_per_epoch=2,
    patience=100,
    checkpoint_every_s=1e9,
)
NUM_STEPS = 24


class Case(NamedTuple):
    settings: TrainSettings = SETTINGS
    compute: ComputeSettings = ComputeSettings()
    tuning: str = "full"


CASES = {
    "plain": Case(),
    # Stops by itself: the rate learns the trees by heart, and the validation loss turns up again.
    "stops": Case(replace(SETTINGS, objective=RFM(), num_epochs=40, learning_rate=1e-2, patience=3)),
    "passes": Case(compute=ComputeSettings(accumulate=3, checkpoint_activations=True)),
    "lora": Case(tuning="lora"),
    "frozen": Case(tuning="frozen"),
    "bf16": Case(compute=ComputeSettings(precision="bf16")),
    "resumed": Case(),
}


def run_case(
    case: Case,
    base: Path,
    folder: Path,
    processes: Processes | None = None,
    watch: Callable[[TrainProgress], None] | None = None,
) -> dict[str, Any]:
    """What a run says of itself."""
    verifier = build_verifier(base, tuning=case.tuning, dropout=0.0)
    losses: list[float] = []

    def watched(state: TrainProgress) -> None:
        losses.append(state.loss)
        if watch:
            watch(state)

    compute, settings = case.compute, case.settings
    result = train(verifier, TREES, settings, folder, compute=compute, processes=processes, watch=watched)
    return {"best": [*result.best], "num_steps": result.num_steps, "losses": losses}


class Interrupted(Exception):
    """Raised by a watcher, where a signal would end the process."""


def largest_difference(folder: Path, other: Path) -> float:
    """Of all weights of two verifiers."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
    assert files
    assert files == sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    differences = []
    for file in files:
        weights, others = load_file(folder / file), load_file(other / file)
        assert weights.keys() == others.keys()
        differences += [float((weights[name] - others[name]).abs().max()) for name in weights]
    return max(differences)


def _offer_shards() -> None:
    """Accelerate has FSDP for groups of accelerators only; torch shards on CPUs as well, through gloo."""
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


class Counting(Processes):
    """Counts how often gradients are exchanged, bucket by bucket."""

    num_exchanges = 0

    def prepare(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        model, optimizer = super().prepare(model, optimizer)
        if isinstance(model, DistributedDataParallel):
            model.register_comm_hook(None, self._exchange)
        return model, optimizer

    def _exchange(self, state: None, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.num_exchanges += 1
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    if "ACCELERATE_USE_FSDP" in os.environ:
        _offer_shards()
    processes = Counting()
    for name in names:
        processes.num_exchanges = 0
        found = run_case(CASES[name], folder / "base", folder / name, processes)
        found |= {"count": processes.count, "exchanges": processes.num_exchanges}
        (folder / f"{name}.{processes.index}.json").write_text(json.dumps(found))
    processes.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
