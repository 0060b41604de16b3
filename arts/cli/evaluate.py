"""`arts evaluate` and `arts values`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from arts.cli.shared import (
    BASE,
    DEVICE,
    PROPOSER,
    SCORERS,
    THREADS,
    can_draw,
    choice,
    needs_torch_to_draw,
    say_if_unfinished,
    say_what_it_is,
    use_torch_threads,
)
from arts.protocols import Aggregation

if TYPE_CHECKING:
    from arts.evaluate.diagnostics import Diagnostics
    from arts.evaluate.inner import InnerValue
    from arts.evaluate.run import Evaluation
    from arts.protocols import ScoredTrees
    from arts.squeeze.rollouts import RolloutReport
    from arts.tree import ReasoningTree


def evaluate_command(
    trees: Annotated[
        Path,
        typer.Option(
            help="collection to choose from (by --split test --pivots none, or imported), or a folder of several"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for results.json and report.html")],
    verifier: Annotated[
        list[str] | None, typer.Option(help=f"{SCORERS}, each as NAME=... if you like; repeat to compare several")
    ] = None,
    backbone: BASE = None,
    preset: Annotated[
        str | None,
        typer.Option(help="paper: the tables of the paper, by level and subject, with rules that need no verifier"),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="another policy's collection of these problems: extinction zone, both pass@k")
    ] = None,
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
    report: Annotated[bool, typer.Option(help="write report.html and view.html too (needs matplotlib)")] = True,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Compare ways to choose: random pick, majority, ARTS, flow-weighted vote, oracle."""
    from functools import partial

    from arts.evaluate.inner import load_inner_values
    from arts.store import collections_in, load_trees

    if preset is not None:
        choice("preset", preset, ("paper",))
    evaluate = partial(
        _evaluate_collection,
        verifiers=verifier or [],
        backbone=backbone,
        preset=preset,
        against=load_trees(against) if against else None,
        aggregation=None if aggregate is None else choice("aggregate", aggregate, get_args(Aggregation)),
        others=load_trees(calibrate) if calibrate else [],
        values=load_inner_values(inner_values) if inner_values else [],
        report=report,
        seed=seed,
        device=device,
        threads=threads,
    )
    folders = collections_in(trees)
    for folder in folders:
        if len(folders) > 1:
            print(f"\n{folder.name}", flush=True)
        evaluate(folder, out=out if len(folders) == 1 else out / folder.name)


def _evaluate_collection(
    folder: Path,
    *,
    out: Path,
    verifiers: list[str],
    backbone: str | None,
    preset: str | None,
    against: "list[ReasoningTree] | None",
    aggregation: Any,
    others: "list[ReasoningTree]",
    values: "list[InnerValue]",
    report: bool,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Print, and write into a folder, what choosing among the draws of one collection brings."""
    import time

    from rich.console import Console

    from arts.build import about, build_task, named_scorers
    from arts.evaluate.calibration import write_calibrations
    from arts.evaluate.diagnostics import diagnose
    from arts.evaluate.rows import write_rows
    from arts.evaluate.run import PAPER, Comparison, evaluate_trees, write_results
    from arts.evaluate.scoring import stored_scores
    from arts.evaluate.table import print_diagnostics, print_table
    from arts.store import load_trees, open_collection

    started = time.monotonic()
    collection = open_collection(folder)
    say_if_unfinished(collection)
    header, pool = collection.header, load_trees(folder)
    say_what_it_is(header)
    scored: dict[str, ScoredTrees] = {}
    scored_others: dict[str, ScoredTrees] = {}
    for name, scorer in named_scorers(verifiers):
        scored[name], *more = _score([pool, others], scorer, backbone, device, threads, title=f"scoring with {name}")
        if more:
            scored_others[name] = more[0]
    if "scores" in header:
        scored["stored"] = stored_scores(pool, header["scores"])
    comparison = PAPER if preset == "paper" else Comparison()
    evaluation = evaluate_trees(
        pool,
        scored,
        aggregation=aggregation,
        difficulty=build_task(str(header["task"])).difficulty,
        comparison=replace(comparison, is_pool=bool(header.get("pool"))),
        against=against,
        command=sys.argv,
        seed=seed,
        wall_s=round(time.monotonic() - started, 1),
    )
    print_table(evaluation, Console())
    print(f"results: {write_results(evaluation, out, about=about())}")
    print(f"draws:   {write_rows(pool, scored, out, aggregation=aggregation)}")
    found = None
    if others or values:
        found = diagnose(scored, scored_others or None, values=values, aggregation=aggregation, seed=seed)
        print_diagnostics(found, Console())
        print(f"chances: {write_calibrations(found.calibrations, out)}")
    if report and can_draw():
        shown = next(iter(scored.values())).trees if scored else pool
        compared = None
        if against is not None and not header.get("pool"):
            from arts.squeeze.rollouts import compare_rollouts

            compared = compare_rollouts(pool, against, seed=seed)
        _write_pages(evaluation, shown, out, title=str(folder), diagnostics=found, compared=compared)


def _write_pages(
    evaluation: "Evaluation",
    trees: "list[ReasoningTree]",
    out: Path,
    *,
    title: str,
    diagnostics: "Diagnostics | None",
    compared: "RolloutReport | None",
) -> None:
    """The report, and beside it the trees that its numbers lead to.

    Args:
        compared: these trees, as the base, with those of another policy.
    """
    from arts.evaluate.groups import problem_groups
    from arts.evaluate.report import write_report
    from arts.evaluate.table import verifier_label
    from arts.pages.links import VIEW_FILE, command_line
    from arts.protocols import ScoreScale
    from arts.view.page import View, write_view

    groups, more = problem_groups(evaluation), []
    if compared is not None:
        from arts.pages.html import element
        from arts.squeeze.report import Measured, rollout_groups, sections

        groups |= rollout_groups(compared, trees)
        sides = element("p", "In the next three sections the base are these draws, and tuned those of --against.")
        more = [sides, *sections(Measured(rollouts=compared), groups=groups)]
    view = View(
        title=title,
        trees=trees,
        scale=next(iter(evaluation.scales.values()), ScoreScale()),
        chosen_by=verifier_label(next(iter(evaluation.verifiers), "the verifier")),
        groups=groups,
        about=[("made by", command_line(sys.argv))],
    )
    print(f"trees:   {write_view(view, out / VIEW_FILE)}")
    print(f"report:  {write_report(evaluation, trees, out, diagnostics=diagnostics, groups=groups, more=more)}")


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
    """Estimate the chance to end right from inner steps, by new draws: what a verifier's inner scores should say.

    A run that was killed goes on when the same command is given again.
    """
    from arts.build import build_proposer, build_task
    from arts.console import progress
    from arts.evaluate.inner import draw_inner_values, save_inner_values
    from arts.store import load_trees, open_collection

    if out.exists():
        raise ValueError(f"{out} exists; choose another --out, or delete it")
    task = build_task(str(open_collection(trees).header["task"]))
    pool = load_trees(trees)
    use_torch_threads(threads, needed=needs_torch_to_draw(proposer))
    chosen = build_proposer(proposer, task, temperature=temperature, top_p=top_p, device=device)
    with progress("drawing from inner steps", 1000) as tell:
        values = draw_inner_values(
            task,
            chosen,
            pool,
            nodes_per_problem=nodes_per_problem,
            num_rollouts=num_rollouts,
            seed=seed,
            journal=(journal := out.with_name(out.name + ".journal")),
            watch=lambda done, total: tell(round(1000 * done / max(1, total)), f"{done} of {total} steps"),
        )
    save_inner_values(out, values)
    journal.unlink(missing_ok=True)
    print(f"{out}: {len(values)} steps of {len(pool)} problems, {num_rollouts} draws from each")


def _score(
    pools: "list[list[ReasoningTree]]", scorer: str, base: str | None, device: str, threads: int, *, title: str
) -> "list[ScoredTrees]":
    """Each pool that is not empty, scored by one verifier."""
    from arts.build import build_scorer, needs_torch
    from arts.evaluate.scoring import score_with_progress

    use_torch_threads(threads, needed=needs_torch(scorer))
    built = build_scorer(scorer, base=base, device=device)
    return [score_with_progress(built, pool, title) for pool in pools if pool]
