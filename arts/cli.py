"""The command line: a thin layer over the public calls. Models are imported inside commands, so `--help` is quick.

A user's mistake ends with one sentence on standard error and exit status 2.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from arts.build import LOCAL_HINT
from arts.protocols import Aggregation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arts.protocols import ScoredTrees
    from arts.store import Collection
    from arts.tree import ReasoningTree

app = typer.Typer(
    help="Make a frozen language model better at problems whose answers can be checked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # rich would double the time that --help takes
)

SCORERS = (
    "countdown (shipped), a folder written by `arts train`, rm:FOLDER?OPTION=VALUE&... (a Hugging Face reward model), "
    "python:MODULE:FUNCTION"
)
TASK = Annotated[str, typer.Option("--task", help="countdown, countdown:N (N numbers, 3 to 6) or toy")]
PROPOSER = Annotated[str, typer.Option("--proposer", help="countdown (shipped), hf:FOLDER, or table (toy task)")]
VERIFIER = Annotated[str, typer.Option("--verifier", help=f"{SCORERS}")]
DEVICE = Annotated[str, typer.Option(help="where models run: cpu, cuda, cuda:1, ...")]
THREADS = Annotated[int, typer.Option(min=1, help="torch threads; more than one rarely helps on a CPU")]
BASE = Annotated[str | None, typer.Option("--backbone", help="base model of a LoRA verifier, which does not carry it")]


@app.command("collect")
def collect_command(
    out: Annotated[Path, typer.Option(help="folder of the collection; an interrupted run there goes on")],
    task: TASK = "countdown",
    proposer: PROPOSER = "countdown",
    num_problems: Annotated[int, typer.Option(help="problems to draw trees for")] = 500,
    first_problem: Annotated[int, typer.Option(help="place in the stream of problems to start at")] = 0,
    num_samples: Annotated[int, typer.Option(help="main trajectories a problem, N")] = 16,
    split: Annotated[str, typer.Option(help="train, validation or test; they never share a problem")] = "train",
    pivots: Annotated[
        str, typer.Option(help="where forks start: auto, node, trajectory, none (a plain pool)")
    ] = "auto",
    fork_probability: Annotated[float, typer.Option(help="chance of an inner step to be a pivot, for `node`")] = 0.5,
    forks_inside: Annotated[bool, typer.Option(help="trunks and forks together stay within N")] = False,
    merge: Annotated[bool, typer.Option(help="make equal steps below one parent one counted node")] = True,
    temperature: Annotated[float, typer.Option(help="sampling temperature")] = 1.0,
    top_p: Annotated[float, typer.Option(help="nucleus sampling mass")] = 1.0,
    max_new_tokens: Annotated[int | None, typer.Option(help="limit of one solution; default: the task's")] = None,
    block_size: Annotated[int, typer.Option(help="problems drawn in one batch")] = 64,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Sample a model's reasoning as trees (Sparse Deep Fork)."""
    from arts.build import about, build_proposer, build_task
    from arts.collect import CollectSettings, Progress, collect, fork_cost
    from arts.console import progress

    chosen_task = build_task(task)
    settings = CollectSettings(
        split=_choice("split", split, ("train", "validation", "test")),  # type: ignore[arg-type]
        num_problems=num_problems,
        first_problem=first_problem,
        num_samples=num_samples,
        pivots=_choice("pivots", pivots, ("auto", "node", "trajectory", "none")),  # type: ignore[arg-type]
        fork_probability=fork_probability,
        forks_inside=forks_inside,
        merge=merge,
        max_new_tokens=max_new_tokens,
        seed=seed,
        block_size=block_size,
    )
    _use_threads(threads, needed=proposer != "table")
    chosen_proposer = build_proposer(proposer, chosen_task, temperature=temperature, top_p=top_p, device=device)
    with progress("collecting trees", num_problems) as tell:

        def watch(state: Progress) -> None:
            tell(state.done, f"{state.generated_tokens:,} tokens")

        made = about() | {"command": sys.argv, "proposer": proposer}
        collection = collect(chosen_task, chosen_proposer, settings, out, about=made, watch=watch)
    cost = fork_cost(collection.trees())
    print(
        f"{out}: {num_problems} trees; {cost.trunk_tokens:,} tokens in main trajectories, {cost.fork_tokens:,} in "
        f"forks: {cost.ratio:.2f} N (the paper's budget is 1.5 N)"
    )


def _list_objectives(wanted: bool) -> None:
    if wanted:
        from arts.verifier.objectives import OBJECTIVES

        for name, kind in OBJECTIVES.items():
            print(f"{name:15s}{kind.paper}")
        raise typer.Exit


@app.command("train")
def train_command(
    trees: Annotated[list[Path], typer.Argument(help="collections to train on")],
    out: Annotated[Path, typer.Option(help="folder of the verifier; an interrupted run there goes on")],
    backbone: Annotated[str, typer.Option(help="countdown (shipped) or hf:FOLDER")] = "countdown",
    tuning: Annotated[str, typer.Option(help="lora, or full for backbones of a few million weights")] = "",
    objective: Annotated[str, typer.Option(help="what is learned; --list-objectives names them")] = "rfm",
    options: Annotated[
        list[str] | None, typer.Option("--set", help="option of the objective, KEY=VALUE; repeat for several")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="paper: objective, rewards and network exactly as published")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="collections to validate on, instead of a share of the problems")
    ] = None,
    keep: Annotated[str, typer.Option(help="the weights with the best validation loss or picked_right")] = "loss",
    list_objectives: Annotated[
        bool, typer.Option("--list-objectives", is_eager=True, callback=_list_objectives, help="print them and stop")
    ] = False,
    reward_right: Annotated[float, typer.Option(help="R of a right answer")] = 10.0,
    reward_wrong: Annotated[float, typer.Option(help="R of a wrong one, above 0")] = 0.1,
    epochs: int = 2,
    batch_trees: Annotated[int, typer.Option(help="problems a step")] = 4,
    learning_rate: Annotated[float | None, typer.Option(help="peak; default: by tuning and size")] = None,
    patience: Annotated[int, typer.Option(help="evaluations without progress before it stops")] = 6,
    validation_share: Annotated[float, typer.Option(help="of the problems, kept from training")] = 0.05,
    checkpoint_every_s: Annotated[float, typer.Option(help="seconds between checkpoints of an unfinished run")] = 60.0,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Train a flow verifier on collected trees."""
    from arts.build import build_new_verifier
    from arts.console import progress

    _use_threads(threads)
    from arts.options import parse_options
    from arts.verifier.model import VerifierSettings
    from arts.verifier.objectives import RewardSettings, build_objective
    from arts.verifier.train import TrainProgress, TrainSettings, train

    if preset is not None:
        _check_preset(preset, objective, options, (reward_right, reward_wrong), tuning)
        tuning = "lora"
    kind = type(build_objective(objective))  # an unknown name is the first thing to say
    chosen = build_objective(objective, parse_options(kind, options or [], of=f"objective {objective}"))
    settings = TrainSettings(
        objective=chosen,
        rewards=RewardSettings(right=reward_right, wrong=reward_wrong),
        num_epochs=epochs,
        batch_trees=batch_trees,
        learning_rate=learning_rate,
        patience=patience,
        validation_share=validation_share,
        keep=_choice("keep", keep, ("loss", "picked_right")),  # type: ignore[arg-type]
        checkpoint_every_s=checkpoint_every_s,
        seed=seed,
    )
    trees_to_train, trees_to_validate = _stream(trees), _stream(validation) if validation else None
    shape = VerifierSettings(
        tuning=tuning or ("full" if backbone == "countdown" else "lora"), num_outputs=chosen.num_outputs
    )
    verifier = build_new_verifier(backbone, shape, device=device, seed=seed)
    print("packing trees …", file=sys.stderr)
    with progress("training", 1000) as tell:
        note = ""

        def watch(state: TrainProgress) -> None:
            nonlocal note
            if state.validation is not None:
                note = f"validation loss {state.validation.loss:.3f}, picks right {state.validation.picked_right:.1%}"
            tell(round(1000 * state.step / state.num_steps), f"step {state.step} loss {state.loss:.3f} {note}")

        result = train(verifier, trees_to_train, settings, out, validation=trees_to_validate, watch=watch)
    print(
        f"{out}: trained on {result.num_trained_trees} trees in {result.num_steps} steps, {result.seconds:.0f} s; "
        f"validation ({result.num_validation_trees} problems): loss {result.best.loss:.3f}, "
        f"best-of-N picks right {result.best.picked_right:.1%}"
    )
    for line in result.notes:
        print(line)
    if result.skipped_batches:
        print(f"{result.skipped_batches} batches were left out: their loss or gradient was not finite")


@app.command("evaluate")
def evaluate_command(
    trees: Annotated[Path, typer.Option(help="collection to choose from: collect it with --split test --pivots none")],
    out: Annotated[Path, typer.Option(help="folder for results.json and report.html")],
    verifier: Annotated[
        list[str] | None, typer.Option(help=f"{SCORERS}, each as NAME=... if you like; repeat to compare several")
    ] = None,
    backbone: BASE = None,
    aggregate: Annotated[
        str | None,
        typer.Option(help="score of a path: last, min, mean or product of its steps; default: the verifier's"),
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="collection of other problems to fit chances on: report calibration too")
    ] = None,
    inner_values: Annotated[
        Path | None, typer.Option(help="file of `arts values`: report how well inner scores rank")
    ] = None,
    report: Annotated[bool, typer.Option(help="write report.html too (needs matplotlib)")] = True,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Compare ways to choose: random pick, majority, ARTS, flow-weighted vote, oracle."""
    import time

    from rich.console import Console

    from arts.build import about, build_task, named_scorers
    from arts.evaluate.calibration import write_calibrations
    from arts.evaluate.diagnostics import diagnose
    from arts.evaluate.inner import load_inner_values
    from arts.evaluate.report import write_report
    from arts.evaluate.rows import write_rows
    from arts.evaluate.run import evaluate_trees, write_results
    from arts.evaluate.table import print_diagnostics, print_table
    from arts.store import load_trees, open_collection

    started = time.monotonic()
    aggregation = None if aggregate is None else _choice("aggregate", aggregate, get_args(Aggregation))
    collection = open_collection(trees)
    _say_if_unfinished(collection)
    task = build_task(str(collection.header["task"]))
    pool, others = load_trees(trees), load_trees(calibrate) if calibrate else []
    values = load_inner_values(inner_values) if inner_values else []
    scored: dict[str, ScoredTrees] = {}
    scored_others: dict[str, ScoredTrees] = {}
    for name, scorer in named_scorers(verifier or []):
        scored[name], *more = _score([pool, others], scorer, backbone, device, threads, title=f"scoring with {name}")
        scored_others |= {name: other for other in more}
    evaluation = evaluate_trees(
        pool,
        scored,
        aggregation=aggregation,  # type: ignore[arg-type]
        difficulty=task.difficulty,
        command=sys.argv,
        seed=seed,
        wall_s=round(time.monotonic() - started, 1),
    )
    print_table(evaluation, Console())
    print(f"results: {write_results(evaluation, out, about=about())}")
    print(f"draws:   {write_rows(pool, scored, out, aggregation=aggregation)}")  # type: ignore[arg-type]
    found = None
    if others or values:
        found = diagnose(scored, scored_others or None, values=values, aggregation=aggregation, seed=seed)  # type: ignore[arg-type]
        print_diagnostics(found, Console())
        print(f"chances: {write_calibrations(found.calibrations, out)}")
    if report:
        shown = next(iter(scored.values())).trees if scored else pool
        print(f"report:  {write_report(evaluation, shown, out, diagnostics=found)}")


@app.command("values")
def values_command(
    trees: Annotated[Path, typer.Option(help="collection whose inner steps are looked at")],
    out: Annotated[Path, typer.Option(help="JSONL file for `arts evaluate --inner-values`")],
    proposer: PROPOSER = "countdown",
    nodes_per_problem: Annotated[int, typer.Option(min=1, help="inner steps a problem, siblings first")] = 8,
    num_rollouts: Annotated[int, typer.Option(min=1, help="new draws from each of them")] = 32,
    temperature: Annotated[float, typer.Option(help="sampling temperature")] = 1.0,
    top_p: Annotated[float, typer.Option(help="nucleus sampling mass")] = 1.0,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Estimate the chance to end right from inner steps, by new draws: what a verifier's inner scores should say."""
    from arts.build import build_proposer, build_task
    from arts.console import progress
    from arts.evaluate.inner import draw_inner_values, save_inner_values
    from arts.store import load_trees, open_collection

    if out.exists():
        raise ValueError(f"{out} exists; choose another --out, or delete it")
    task = build_task(str(open_collection(trees).header["task"]))
    pool = load_trees(trees)
    _use_threads(threads, needed=proposer != "table")
    chosen = build_proposer(proposer, task, temperature=temperature, top_p=top_p, device=device)
    with progress("drawing from inner steps", 1000) as tell:
        values = draw_inner_values(
            task,
            chosen,
            pool,
            nodes_per_problem=nodes_per_problem,
            num_rollouts=num_rollouts,
            seed=seed,
            watch=lambda done, total: tell(round(1000 * done / max(1, total)), f"{done} of {total} steps"),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_inner_values(out, values)
    print(f"{out}: {len(values)} steps of {len(pool)} problems, {num_rollouts} draws from each")


@app.command("solve")
def solve_command(
    problem: Annotated[str, typer.Argument(help='for Countdown: "3 5 7 11 > 24"')],
    task: TASK = "countdown",
    proposer: PROPOSER = "countdown",
    verifier: VERIFIER = "countdown",
    backbone: BASE = None,
    num_samples: Annotated[int, typer.Option(min=1, help="solutions to draw and choose from")] = 16,
    temperature: Annotated[float, typer.Option(help="sampling temperature")] = 1.0,
    top_p: Annotated[float, typer.Option(help="nucleus sampling mass")] = 1.0,
    show_tree: Annotated[bool, typer.Option(help="draw all the solutions as a tree")] = False,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Solve one problem: draw solutions, choose the one with the highest flow, check it."""
    from arts.build import build_proposer, build_scorer, build_task
    from arts.solve import solve

    chosen_task = build_task(task)
    parsed = chosen_task.parse(problem)
    print("loading models …", file=sys.stderr, flush=True)
    _use_threads(threads)
    chosen_proposer = build_proposer(proposer, chosen_task, temperature=temperature, top_p=top_p, device=device)
    scorer = build_scorer(verifier, base=backbone, device=device)
    solution = solve(chosen_task, chosen_proposer, scorer, parsed, num_samples=num_samples, seed=seed)
    print("\n".join(solution.lines()))
    if show_tree:
        from arts.tree import draw_tree

        print("\n".join(draw_tree(solution.tree)))


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="folder of the demo; emptied first")] = Path("runs/demo"),
    seed: int = 0,
) -> None:
    """The whole of ARTS in under three minutes: collect trees, train a verifier, choose on problems never seen."""
    _use_threads(1)
    from arts.demo import run_demo

    run_demo(out, seed=seed)


_INTERRUPTED = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Entry point of `arts` and `python -m arts`."""
    try:
        app()
    except (ValueError, FloatingPointError) as error:
        if os.environ.get("ARTS_DEBUG"):
            raise
        print(f"arts: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if os.environ.get("ARTS_DEBUG") or error.name not in ("torch", "transformers", "peft", "safetensors"):
            raise
        print(f"arts: {LOCAL_HINT}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            print("arts: interrupted; the same command goes on from here", file=sys.stderr)
        raise


def _check_preset(
    preset: str, objective: str, options: list[str] | None, rewards: tuple[float, float], tuning: str
) -> None:
    """`paper` is Reasoning Flow Matching with rewards 10 and 0.1 on a LoRA verifier; nothing may contradict it."""
    _choice("preset", preset, ("paper",))
    if objective != "rfm" or options or rewards != (10.0, 0.1) or tuning not in ("", "lora"):
        raise ValueError(
            "--preset paper fixes the objective (rfm without --set), the rewards (10 and 0.1) and the tuning (lora); "
            "drop the preset or the options that differ from it"
        )


def _stream(folders: list[Path]) -> "Iterator[ReasoningTree]":
    """The trees of several collections, one after another; a folder without any is refused at once."""
    from itertools import chain

    from arts.store import open_collection

    collections = [open_collection(folder) for folder in folders]
    for collection in collections:
        if not collection.finished_shards():
            raise ValueError(
                f"{str(collection.folder)!r} holds no finished trees; run its `arts collect` command again"
            )
        _say_if_unfinished(collection)
    return chain.from_iterable(collection.trees() for collection in collections)


def _say_if_unfinished(collection: "Collection") -> None:
    wanted, found = collection.header["settings"]["num_problems"], collection.num_trees()
    if 0 < found < wanted:
        print(
            f"note: {collection.folder} holds {found} of {wanted} trees; its `arts collect` command finishes it",
            file=sys.stderr,
        )


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"--{name} is {value!r}; allowed are {', '.join(allowed)}")
    return value


def _score(
    pools: "list[list[ReasoningTree]]", scorer: str, base: str | None, device: str, threads: int, *, title: str
) -> "list[ScoredTrees]":
    """Each pool that is not empty, scored by one verifier."""
    from arts.build import build_scorer, needs_torch
    from arts.evaluate.scoring import score_with_progress

    _use_threads(threads, needed=needs_torch(scorer))
    built = build_scorer(scorer, base=base, device=device)
    return [score_with_progress(built, pool, title) for pool in pools if pool]


def _use_threads(num_threads: int, *, needed: bool = True) -> None:
    """Set the number of threads before torch starts any."""
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if needed:
        from arts.lm.load import quiet, use_threads

        use_threads(num_threads)
        quiet()
