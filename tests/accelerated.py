"""One of several processes that train together: `accelerate launch ... tests/accelerated.py FOLDER CASE ...`.

Trains the cases below on the model in FOLDER/base, each in a folder of its own, and writes FOLDER/CASE/result.RANK.json.
The same cases run in one process through `run_case`.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import DistributedType, PartialState
from tiny_verifier import build_verifier, letter_tree

from arts.tree import ReasoningTree
from arts.verifier.objectives import RFM, MeanFlow
from arts.verifier.train import ComputeSettings, Processes, TrainProgress, TrainResult, TrainSettings, train

# Trees of 1 to 12 samples: the largest has ten times the tokens of the smallest.
TREES: list[ReasoningTree] = [letter_tree(f"{index}", num_samples=1 + 5 * index % 12) for index in range(27)]
# 21 trees train, so an epoch ends with a batch of one tree, for two processes.
SETTINGS = TrainSettings(
    objective=MeanFlow(leaf_weight=4.0),
    num_epochs=5,
    batch_trees=5,
    learning_rate=3e-3,
    validation_share=0.25,
    evaluations_per_epoch=2,
    patience=100,
    checkpoint_every_s=1e9,
)


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
}


def run_case(case: Case, base: Path, folder: Path, processes: Processes | None = None) -> dict[str, Any]:
    """What a run says of itself."""
    verifier = build_verifier(base, tuning=case.tuning, dropout=0.0)
    watched: list[TrainProgress] = []
    result: TrainResult = train(
        verifier, TREES, case.settings, folder, compute=case.compute, processes=processes, watch=watched.append
    )
    return {
        "result": [*result.best, result.num_steps, result.num_trained_trees],
        "losses": [state.loss for state in watched],
        "weights": float(sum(parameter.detach().double().sum() for parameter in verifier.parameters())),
    }


def _offer_shards() -> None:
    """Accelerate has FSDP for groups of accelerators only; torch shards on CPUs as well, through gloo."""
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    if "ACCELERATE_USE_FSDP" in os.environ:
        _offer_shards()
    processes = Processes()
    for name in names:
        found = run_case(CASES[name], folder / "base", folder / name, processes)
        (folder / f"{name}.{processes.index}.json").write_text(json.dumps(found | {"count": processes.count}))
    processes.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
