"""Train a flow verifier on collected trees: from trees and settings to a folder with the verifier that validated best.

The same call on the same folder goes on with a run that was killed, and tells the result of one that is finished. Knows
what names a run and where it lands; `training_run` has the loop. Not known here: where trees come from, how verifiers
are compared.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from arts.files import only_writer
from arts.tree import ReasoningTree
from arts.verifier.checkpoint import read_state
from arts.verifier.examples import Example, prepare, split_by_problem
from arts.verifier.model import FlowVerifier, load_verifier
from arts.verifier.processes import ComputeSettings, Processes
from arts.verifier.train_settings import TrainProgress, TrainResult, TrainSettings, Validation
from arts.verifier.training_run import CHECKPOINT, Run

__all__ = ["ComputeSettings", "Processes", "TrainProgress", "TrainResult", "TrainSettings", "Validation", "train"]


def train(
    verifier: FlowVerifier,
    trees: Iterable[ReasoningTree],
    settings: TrainSettings,
    folder: Path,
    *,
    validation: Iterable[ReasoningTree] | None = None,
    compute: ComputeSettings | None = None,
    processes: Processes | None = None,
    watch: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train, keep the weights that validate best, save the verifier to `folder`.

    Args:
        validation: trees of other problems; None: a share of the problems of `trees` is kept for it.
        processes: that train together, all with the same arguments; None: those that `accelerate launch` started.
        watch: told after every step, on rank 0.

    Raises:
        ValueError: nothing to train on, the checkpoint in `folder` is damaged or of another run, or another process
            trains there.
        FloatingPointError: ten steps in a row were not finite; the last good checkpoint stays.
    """
    if verifier.settings.num_outputs != settings.objective.num_outputs:
        raise ValueError(
            f"objective {settings.objective.name} needs a head with {settings.objective.num_outputs} outputs, the "
            f"verifier's has {verifier.settings.num_outputs}; make it with VerifierSettings(num_outputs=...)"
        )
    prepared = prepare(verifier, trees, settings.rewards, settings.objective, fork_share=settings.fork_share)
    if validation is None:
        split = split_by_problem(prepared.examples, settings.validation_share)
    else:
        kept = prepare(verifier, validation, settings.rewards, settings.objective).examples
        split = prepared.examples, _other_problems(prepared.examples, kept)
    compute, processes = compute or ComputeSettings(), processes or Processes(verifier.language_model.device.type)
    identity = _identity(verifier, split, settings, compute)
    with only_writer(folder) if processes.is_main else nullcontext():
        state, is_finished = read_state(folder / CHECKPOINT), (folder / "verifier.json").exists()
        processes.check_same(
            (identity, state and state["step"], is_finished),
            "the processes do not see the same trees, base weights or checkpoints; give all machines the same folders",
        )
        if state is not None and state["identity"] != identity:
            raise ValueError(
                f"{folder / CHECKPOINT} is of a run with other settings, trees or base weights; "
                "choose another --out, or delete it to start again"
            )
        if state is None and is_finished:
            return _finished(verifier, folder, identity)
        notes = tuple(prepared.notes(verifier.max_positions))
        run = Run(verifier, split, settings, compute, processes, folder, identity, watch if processes.is_main else None)
        if state is not None:
            run.restore(state)
        run.train()
        return run.save_verifier(notes)


def _other_problems(training: Sequence[Example], validation: list[Example]) -> list[Example]:
    trained = {example.problem_id for example in training}
    both = sorted(example.problem_id for example in validation if example.problem_id in trained)
    if both:
        raise ValueError(
            f"{len(both)} validation problems are trained on, {both[0]!r} among them; give trees of other problems"
        )
    return validation


def _identity(
    verifier: FlowVerifier,
    split: tuple[Sequence[Example], Sequence[Example]],
    settings: TrainSettings,
    compute: ComputeSettings,
) -> str:
    """Names a run: settings, precision, base weights, and the ids, shape and targets of every tree."""
    settings = replace(settings, checkpoint_every_s=0.0)  # how often it is saved does not change the result
    precision = "" if compute.precision == "fp32" else f" {compute.precision}"  # fp32 goes without saying, as ever
    digest = hashlib.sha256(f"{settings} {verifier.settings} {verifier.language_model.fingerprint}{precision}".encode())
    training, validation = split
    for example in (*training, None, *validation):
        if example is None:
            digest.update(b"validation")
            continue
        digest.update(example.problem_id.encode())
        digest.update(example.facts.parent.tobytes())
        digest.update(example.facts.is_right.tobytes())
        for name in sorted(example.targets):
            digest.update(np.ascontiguousarray(example.targets[name]).tobytes())
        digest.update(np.asarray(example.answers, dtype=np.int64).tobytes())
        for part in example.parts:
            digest.update(np.asarray(part.token_ids, dtype=np.int64).tobytes())
    return digest.hexdigest()


def _finished(verifier: FlowVerifier, folder: Path, identity: str) -> TrainResult:
    """The result of this very run, which was finished before; the verifier gets its weights.

    Raises:
        ValueError: the folder holds a verifier of another run.
    """
    path = folder / "verifier.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and the same command trains anew") from error
    if card.get("identity") != identity:
        raise ValueError(
            f"{folder} holds a verifier of a run with other settings, trees or base weights; "
            "choose another --out, or delete it"
        )
    trained = load_verifier(folder, base=verifier.language_model.folder)
    verifier.load_state_dict(trained.state_dict())
    verifier.card = card
    found = card["result"]
    return TrainResult(**found | {"best": Validation(**found["best"]), "notes": tuple(found.get("notes", ()))})
