"""Every objective on the same trees, backbone, head and budget: train, validate, and test once. Rows are resumed.

    python recipes/objectives.py train --size 2400 --seed 0          # all objectives; one row each
    python recipes/objectives.py test  --size 2400                   # after the choice: the test problems, once
    python recipes/objectives_table.py                               # docs/experiments.md's tables from the rows

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

from arts.build import about, build_new_verifier, build_proposer, build_task, build_verifier
from arts.evaluate.calibration import AS_SCORED, calibrate
from arts.evaluate.inner import InnerValue, draw_inner_values, load_inner_values, save_inner_values
from arts.evaluate.metrics import (
    argmax_accuracy,
    oracle_accuracy,
    random_accuracy,
    read_draws,
    read_log_flows,
)
from arts.evaluate.ranks import rank_correlation
from arts.files import dump
from arts.lm.load import quiet, use_threads
from arts.options import parse_options
from arts.protocols import Aggregation, ScoredTrees
from arts.store import load_trees, open_collection
from arts.tree import ReasoningTree, Rollout, Step, build_tree
from arts.verifier.model import VerifierSettings
from arts.verifier.objectives import OBJECTIVES, build_objective
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
DEFAULT_RATE = 3e-4


@app.command("train")
def train_command(
    size: Annotated[int, typer.Option(help="problems to train on")] = 2400,
    seed: Annotated[list[int], typer.Option(help="of the choice of problems, the head and the order; repeat")] = [0],  # noqa: B006
    objective: Annotated[list[str] | None, typer.Option(help="NAME or NAME:KEY=VALUE,...; default: all")] = None,
    learning_rate: Annotated[list[float], typer.Option(help="a trial each; repeat")] = [DEFAULT_RATE],  # noqa: B006
    reward_right: float = 10.0,
    reward_wrong: float = 0.1,
    trees: Annotated[str, typer.Option(help="collection below runs/countdown")] = TRAIN,
    chains: Annotated[int, typer.Option(help="main trajectories kept of each tree, without forks; 0: the tree")] = 0,
    batch_trees: Annotated[int, typer.Option(help="problems a step")] = 4,
    part: Annotated[str, typer.Option(help="i/n: every n-th of the runs, for several processes")] = "0/1",
) -> None:
    """Train and validate; runs that have a row are left alone."""
    use_threads(1)
    quiet()
    position, of = map(int, part.split("/"))
    specs = [
        _spec(name, size, one_seed, rate, (reward_right, reward_wrong), trees, chains, batch_trees)
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
            row: dict[str, Any] = {
                "stage": "validation",
                "spec": spec,
                "train": {"loss": result["best"]["loss"], "steps": result["num_steps"], "seconds": result["seconds"]},
                "metrics": _metrics(pool, scored),
            }
            _append(row)
            shown = " ".join(f"{k}:{v:.3f}" for k, v in row["metrics"]["best_of"].items())
            print(f"{_name(spec)}  {shown}  {time.monotonic() - started:.0f} s", flush=True)


@app.command("test")
def final_command(
    size: Annotated[list[int] | None, typer.Option(help="of the runs to test; repeat; default: all")] = None,
    objective: Annotated[list[str] | None, typer.Option(help="names; default: every objective with rows")] = None,
    part: Annotated[str, typer.Option(help="i/n: every n-th of the runs, for several processes")] = "0/1",
    pool_name: Annotated[
        str, typer.Option("--pool", help="collection below runs/countdown; others show transfer")
    ] = TEST,
) -> None:
    """Test the runs with the best validated learning rate of each objective; once, rows are final."""
    use_threads(1)
    quiet()
    pool = load_trees(COLLECTED / pool_name)
    # Validation problems may be looked at again, for what the rows of `train` do not hold.
    stage = {TEST: "test", VALIDATION: "validation+"}.get(pool_name, f"transfer:{pool_name}")
    inner_path = COLLECTED / f"{pool_name}-inner.jsonl"
    inner = load_inner_values(inner_path) if inner_path.exists() else None
    _append_pool(stage, pool)
    position, of = map(int, part.split("/"))
    for spec in _chosen(size, objective)[position::of]:
        if _find(spec, stage) is None:
            scored = _score(spec, pool)
            row: dict[str, Any] = {"stage": stage, "spec": spec, "metrics": _metrics(pool, scored)}
            if scored.scale.kind != "log_strength":  # strengths state no chance
                row["calibration_error"] = round(calibrate(scored).quality[AS_SCORED].ece_mass.value or 0.0, 5)
            if inner is not None:
                row["inner"] = _inner(scored, inner)
            _append(row)
            print(_name(spec), f"{row['metrics']['best_of']['16']:.3f}", row.get("inner", ""), flush=True)


@app.command("inner")
def inner_command(
    pool_name: Annotated[str, typer.Option("--pool", help="collection below runs/countdown")] = TEST,
    num_problems: int = 200,
    nodes_per_problem: int = 8,
    num_rollouts: int = 32,
) -> None:
    """Estimate the chance to end right from inner nodes of a pool, by new rollouts: what inner scores should say."""
    use_threads(1)
    quiet()
    task = build_task("countdown")
    trees = load_trees(COLLECTED / pool_name)[:num_problems]
    values = draw_inner_values(
        task,
        build_proposer("countdown", task),
        trees,
        nodes_per_problem=nodes_per_problem,
        num_rollouts=num_rollouts,
        seed=1,
        journal=COLLECTED / f"{pool_name}-inner.journal",
    )
    save_inner_values(COLLECTED / f"{pool_name}-inner.jsonl", values)
    print(f"{len(values)} nodes of {len(trees)} problems")


def _spec(
    text: str,
    size: int,
    seed: int,
    learning_rate: float,
    rewards: tuple[float, float],
    trees: str,
    chains: int = 0,
    batch_trees: int = 4,
) -> dict[str, Any]:
    name, _, options = text.partition(":")
    return {
        "objective": name,
        "options": parse_options(OBJECTIVES[name], options.split(",") if options else [], of=name),
        "size": size,
        "seed": seed,
        "learning_rate": learning_rate,
        "rewards": list(rewards),
        "trees": trees,
        "epochs": 2 if chains or trees != TRAIN else EPOCHS.get(size, 1),
        **({"chains": chains} if chains else {}),  # said only where it differs: rows are found by their whole spec
        **({"batch_trees": batch_trees} if batch_trees != 4 else {}),
    }


def _name(spec: dict[str, Any]) -> str:
    options = ",".join(f"{key}={value}" for key, value in sorted(spec["options"].items()))
    rewards = "" if spec["rewards"] == [10.0, 0.1] else f"-r{spec['rewards'][0]:g}-{spec['rewards'][1]:g}"
    trees = "" if spec["trees"] == TRAIN else f"-{spec['trees']}"
    trees += f"-chains{spec['chains']}" if "chains" in spec else ""
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
        batch_trees=spec.get("batch_trees", 4),
        learning_rate=spec["learning_rate"],
        evaluations_per_epoch=max(1, 4 // spec["epochs"]),
        patience=99,  # every run has the same number of steps
        seed=spec["seed"],
    )
    shape = VerifierSettings(tuning="full", num_outputs=objective.num_outputs)
    verifier = build_new_verifier("countdown", shape, seed=spec["seed"])
    training = _some_problems(COLLECTED / spec["trees"], spec["size"], spec["seed"])
    if "chains" in spec:
        training = (_chains(tree, spec["chains"]) for tree in training)
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


def _chains(tree: ReasoningTree, count: int) -> ReasoningTree:
    """The first main trajectories of a tree, without its forks: what collecting without forks would have drawn."""
    verdicts = {tree.text(leaf.id): leaf.verdict for leaf in tree.leaves() if leaf.verdict is not None}
    rollouts = []
    for index, leaf in enumerate(tree.trunks[:count]):
        steps = (Step(node.text, node.token_ids, node.log_prior, node.stop) for node in tree.path(leaf) if node.stop)
        rollouts.append(Rollout(index, index, 0, tuple(steps)))
    return build_tree(
        tree.problem,
        rollouts,
        log_prior_law=tree.log_prior_law,
        tokenizer=tree.tokenizer,
        judge=verdicts.__getitem__,
    )


def _score(spec: dict[str, Any], pool: Sequence[ReasoningTree]) -> ScoredTrees:
    return FlowScorer(build_verifier(str(RUNS / _name(spec)))).score(pool)


def _metrics(pool: Sequence[ReasoningTree], scored: ScoredTrees) -> dict[str, Any]:
    """Accuracy at every k, and at k = N per problem, so that intervals and paired differences can be made later."""
    draws = read_draws(pool)
    by_aggregation = {how: read_log_flows(scored.trees, how) for how in get_args(Aggregation)}
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


def _inner(scored: ScoredTrees, values: Sequence[InnerValue]) -> dict[str, float]:
    """Agreement of inner scores with the chance to end right, among siblings, at one depth, over a whole problem."""
    measured = {}
    for kind, quality in rank_correlation(scored, values).items():
        for figure, estimate in (("pairs", quality.pair_accuracy), ("spearman", quality.spearman)):
            if estimate.value is not None:
                measured[f"{kind}_{figure}"] = round(estimate.value, 4)
    return measured


def _append_pool(stage: str, pool: Sequence[ReasoningTree]) -> None:
    """What every verifier of a stage chose from: per problem the chance of a random pick, the ceiling, rare or not."""
    if all(row["stage"] != f"pool:{stage}" for row in _rows()):
        draws = read_draws(pool)
        columns = {
            "random": random_accuracy(draws),
            "oracle": oracle_accuracy(draws, draws.num_samples),
            "rare": draws.rare_P.astype(float),
        }
        packed = {name: " ".join(f"{value:.6g}" for value in values) for name, values in columns.items()}
        _append({"stage": f"pool:{stage}", "pool": packed})


def _chosen(sizes: Sequence[int] | None, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """All seeds of each setting, at the learning rate whose mean validated best-of-16 is highest."""
    groups: dict[str, dict[float, list[dict[str, Any]]]] = {}
    for row in (row for row in _rows() if row["stage"] == "validation"):
        spec = row["spec"]
        if (not sizes or spec["size"] in sizes) and (not names or spec["objective"] in names):
            key = json.dumps({name: value for name, value in spec.items() if name not in ("seed", "learning_rate")})
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
    return next((row for row in _rows() if row["stage"] == stage and row.get("spec") == spec), None)


def _append(row: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    made = {key: about()[key] for key in ("date", "commit")}
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(dump(row | {"about": made}) + "\n")


if __name__ == "__main__":
    app()
