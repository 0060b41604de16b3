"""Every objective on the same trees, backbone, head and budget: train, validate, and test once. Rows are resumed.

    python recipes/objectives.py train --size 2400 --seed 0          # all objectives; one row each
    python recipes/objectives.py test  --size 2400                   # after the choice: the test problems, once
    python recipes/objectives.py table                               # docs/experiments.md's table from the rows

`recipes/objectives.sh` has the whole experiment, what it costs, and the collections it needs (made by `arts collect`).
Rows are appended to results/objectives.jsonl and keyed by everything that decides the result, so that a later run, or
another machine, adds sizes and seeds. Verifiers stay in runs/objectives.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer

from arts.build import about, build_new_verifier, build_verifier
from arts.evaluate.metrics import argmax_accuracy, oracle_accuracy, random_accuracy, read_draws
from arts.lm.load import quiet, use_threads
from arts.protocols import Aggregation, ScoredTrees, aggregate
from arts.store import dump, load_trees, open_collection
from arts.tree import ReasoningTree
from arts.verifier.model import VerifierSettings
from arts.verifier.objectives import OBJECTIVES, build_objective, parse_options
from arts.verifier.scorer import FlowScorer
from arts.verifier.train import TrainSettings, train

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None)

RUNS = Path("runs/objectives")
RESULTS = Path("results/objectives.jsonl")
COLLECTED = Path("runs/countdown")
TRAIN, STOP, VALIDATION, TEST = "trees-a", "trees-b", "validation", "test-objectives"
NUM_STOP = 200  # trees whose loss decides which weights of a run are kept
EPOCHS = {600: 4, 2400: 2}  # others: one
SIZES_K = (1, 2, 4, 8, 16)


@app.command("train")
def train_command(
    size: Annotated[int, typer.Option(help="problems to train on")] = 2400,
    seed: Annotated[list[int], typer.Option(help="of the choice of problems, the head and the order; repeat")] = [0],  # noqa: B006
    objective: Annotated[list[str] | None, typer.Option(help="NAME or NAME:KEY=VALUE,...; default: all")] = None,
    learning_rate: Annotated[list[float], typer.Option(help="a trial each; repeat")] = [3e-4],  # noqa: B006
    reward_right: float = 10.0,
    reward_wrong: float = 0.1,
    trees: Annotated[str, typer.Option(help="collection below runs/countdown")] = TRAIN,
    part: Annotated[str, typer.Option(help="i/n: every n-th of the runs, for several processes")] = "0/1",
) -> None:
    """Train and validate; runs that have a row are left alone."""
    use_threads(1)
    quiet()
    position, of = map(int, part.split("/"))
    specs = [
        _spec(name, size, one_seed, rate, (reward_right, reward_wrong), trees)
        for one_seed in seed
        for rate in learning_rate
        for name in objective or list(OBJECTIVES)
    ]
    pool = load_trees(COLLECTED / VALIDATION)
    for spec in specs[position::of]:
        if _find(spec, "validation") is None:
            started = time.monotonic()
            result = _train(spec)
            scored = _score(spec, pool)
            row = {
                "stage": "validation",
                "spec": spec,
                "train": {"loss": result["best"]["loss"], "steps": result["num_steps"], "seconds": result["seconds"]},
                "metrics": _metrics(pool, scored),
            }
            _append(row)
            shown = " ".join(f"{k}:{v:.3f}" for k, v in row["metrics"]["best_of"].items())
            print(f"{_name(spec)}  {shown}  {time.monotonic() - started:.0f} s", flush=True)


@app.command("test")
def test_command(
    size: Annotated[int, typer.Option()] = 2400,
    objective: Annotated[list[str] | None, typer.Option(help="names; default: every objective with rows")] = None,
) -> None:
    """Test the runs with the best validated learning rate of each objective; once, rows are final."""
    use_threads(1)
    quiet()
    pool = load_trees(COLLECTED / TEST)
    for spec in _chosen(size, objective):
        if _find(spec, "test") is None:
            row = {"stage": "test", "spec": spec, "metrics": _metrics(pool, _score(spec, pool))}
            _append(row)
            print(_name(spec), f"{row['metrics']['best_of']['16']:.3f}", flush=True)


def _spec(
    text: str, size: int, seed: int, learning_rate: float, rewards: tuple[float, float], trees: str
) -> dict[str, Any]:
    name, _, options = text.partition(":")
    return {
        "objective": name,
        "options": parse_options(name, options.split(",") if options else []),
        "size": size,
        "seed": seed,
        "learning_rate": learning_rate,
        "rewards": list(rewards),
        "trees": trees,
        "epochs": EPOCHS.get(size, 1),
    }


def _name(spec: dict[str, Any]) -> str:
    options = ",".join(f"{key}={value}" for key, value in sorted(spec["options"].items()))
    rewards = "" if spec["rewards"] == [10.0, 0.1] else f"-r{spec['rewards'][0]:g}-{spec['rewards'][1]:g}"
    trees = "" if spec["trees"] == TRAIN else f"-{spec['trees']}"
    return (
        f"{spec['objective']}{'-' + options if options else ''}{rewards}{trees}"
        f"-{spec['size']}-s{spec['seed']}-lr{spec['learning_rate']:g}"
    )


def _train(spec: dict[str, Any]) -> dict[str, Any]:
    objective = build_objective(spec["objective"], spec["options"])
    settings = TrainSettings(
        objective=objective,
        rewards=replace(TrainSettings().rewards, right=spec["rewards"][0], wrong=spec["rewards"][1]),
        num_epochs=spec["epochs"],
        learning_rate=spec["learning_rate"],
        evaluations_per_epoch=max(1, 4 // spec["epochs"]),
        patience=99,  # every run has the same number of steps
        seed=spec["seed"],
    )
    shape = VerifierSettings(tuning="full", num_outputs=objective.num_outputs)
    verifier = build_new_verifier("countdown", shape, seed=spec["seed"])
    training = _some_problems(COLLECTED / spec["trees"], spec["size"], spec["seed"])
    stop = islice(open_collection(COLLECTED / STOP).trees(), NUM_STOP)
    result = train(verifier, training, settings, RUNS / _name(spec), validation=stop)
    return {**result._asdict(), "best": result.best._asdict()}


def _some_problems(folder: Path, size: int, seed: int) -> Iterator[ReasoningTree]:
    """`size` problems of a collection, chosen by seed; a smaller choice is part of a larger one."""
    collection = open_collection(folder)
    total = collection.num_trees()
    if size > total:
        raise ValueError(f"{folder} holds {total} trees, {size} are asked for; collect more")
    chosen = set(np.random.default_rng([seed, 7]).permutation(total)[:size].tolist())
    return (tree for index, tree in enumerate(collection.trees()) if index in chosen)


def _score(spec: dict[str, Any], pool: Sequence[ReasoningTree]) -> ScoredTrees:
    return FlowScorer(build_verifier(str(RUNS / _name(spec)))).score(pool)


def _metrics(pool: Sequence[ReasoningTree], scored: ScoredTrees) -> dict[str, Any]:
    """Accuracy at every k, and at k = N per problem, so that intervals and paired differences can be made later."""
    draws = read_draws(pool)
    by_aggregation = {how: _path_scores(scored.trees, how) for how in get_args(Aggregation)}
    own_PN = by_aggregation[scored.scale.aggregation]
    at = {str(k): argmax_accuracy(draws, own_PN, k) for k in SIZES_K if k <= draws.num_samples}
    final, chance, ceiling = (
        at[str(draws.num_samples)],
        random_accuracy(draws),
        oracle_accuracy(draws, draws.num_samples),
    )
    return {
        "aggregation": scored.scale.aggregation,
        "by_aggregation": {
            how: round(float(argmax_accuracy(draws, scores_PN, draws.num_samples).mean()), 5)
            for how, scores_PN in by_aggregation.items()
        },
        "num_problems": len(pool),
        "best_of": {k: round(float(values.mean()), 5) for k, values in at.items()},
        "gap_closed": round(float((final - chance).sum() / (ceiling - chance).sum()), 5),
        "rare": round(float(final[draws.rare_P].mean()), 5) if draws.rare_P.any() else None,
        "per_problem": " ".join(f"{value:.3g}" for value in final),
    }


def _path_scores(trees: Sequence[ReasoningTree], how: Aggregation) -> np.ndarray:
    """Log score of every draw, shape (P, N); -inf where it is unfinished."""
    return np.array(
        [
            [
                aggregate([node.log_flow or 0.0 for node in tree.path(leaf)], how)
                if tree.nodes[leaf].is_answer
                else -math.inf
                for leaf in tree.trunks
            ]
            for tree in trees
        ]
    )


def _chosen(size: int, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """All seeds of each objective and its options, at the learning rate whose mean validated best-of-16 is highest."""
    groups: dict[str, dict[float, list[dict[str, Any]]]] = {}
    for row in _rows():
        spec = row["spec"]
        if row["stage"] == "validation" and spec["size"] == size and (not names or spec["objective"] in names):
            key = json.dumps([spec["objective"], spec["options"], spec["rewards"], spec["trees"]])
            groups.setdefault(key, {}).setdefault(spec["learning_rate"], []).append(row)
    chosen = []
    for trials in groups.values():
        # Trials are compared on the seeds that all of them have.
        shared = set.intersection(*({row["spec"]["seed"] for row in rows} for rows in trials.values()))

        def validated(rows: list[dict[str, Any]], seeds: set[int] = shared) -> float:
            own = [row["metrics"]["best_of"]["16"] for row in rows if row["spec"]["seed"] in seeds]
            return math.fsum(own) / max(1, len(own))

        chosen += [row["spec"] for row in max(trials.values(), key=validated)]
    return chosen


def _rows() -> list[dict[str, Any]]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def _find(spec: dict[str, Any], stage: str) -> dict[str, Any] | None:
    return next((row for row in _rows() if row["stage"] == stage and row["spec"] == spec), None)


def _append(row: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    made = {key: about()[key] for key in ("date", "commit")}
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(dump(row | {"about": made}) + "\n")


if __name__ == "__main__":
    app()
