"""`arts collect`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arts.cli.engines import ADDRESS, CPUS, ENGINE, GPUS, WORKERS, ToolNames, cluster_settings, workers_of
from arts.cli.shared import (
    DEVICE,
    PROPOSER,
    TASK,
    THREADS,
    advice_on,
    check_forks,
    choice,
    needs_torch_to_draw,
    say_advice,
    say_failures,
    say_who_is_asked,
)

if TYPE_CHECKING:
    from arts.collect import Progress
    from arts.console import Tell
    from arts.protocols import Task
    from arts.scale.workers import ClusterSettings
    from arts.sparse_deep_fork import CollectSettings
    from arts.store import Collection


def collect_command(
    out: Annotated[Path | None, typer.Option(help="folder of the collection; an interrupted run there goes on")] = None,
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
    forks_per_pivot: Annotated[int, typer.Option(help="continuations drawn from each pivot (paper: 1)")] = 1,
    forks_inside: Annotated[bool, typer.Option(help="trunks and forks together stay within N")] = False,
    merge: Annotated[bool, typer.Option(help="make equal steps below one parent one counted node")] = True,
    temperature: Annotated[float, typer.Option(help="sampling temperature")] = 1.0,
    top_p: Annotated[float, typer.Option(help="nucleus sampling mass")] = 1.0,
    max_new_tokens: Annotated[int | None, typer.Option(help="limit of one solution; default: the task's")] = None,
    block_size: Annotated[int, typer.Option(help="problems drawn in one batch, and by one worker")] = 64,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
    engine: ENGINE = "local",
    address: ADDRESS = None,
    workers: WORKERS = None,
    cpus_per_worker: CPUS = None,
    gpus_per_worker: GPUS = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it will cost, and send nothing")] = False,
    status: Annotated[
        Path | None, typer.Option(help="say how far the collection in this folder is, and what it has cost")
    ] = None,
    price_prompt: Annotated[float | None, typer.Option(help="of a million prompt tokens")] = None,
    price_generated: Annotated[float | None, typer.Option(help="of a million generated tokens")] = None,
    tokens_per_second: Annotated[float | None, typer.Option(help="speed of the server, for --dry-run")] = None,
) -> None:
    """Sample a model's reasoning as trees (Sparse Deep Fork).

    What is drawn is on disk before it counts: the same command goes on where a run was stopped, and tries again what a
    server failed at.
    """
    from arts.build import build_task
    from arts.collect_report import Prices, dry_run_lines, status_lines
    from arts.sparse_deep_fork import CollectSettings, fork_cost

    prices = Prices(prompt=price_prompt, generated=price_generated)
    if status is not None:
        print("\n".join(status_lines(status, prices)))
        return
    if out is None:
        raise ValueError("--out is missing: the folder that the trees are to be written to")
    chosen_task = build_task(task)
    settings = CollectSettings(
        split=choice("split", split, ("train", "validation", "test")),  # type: ignore[arg-type]
        num_problems=num_problems,
        first_problem=first_problem,
        num_samples=num_samples,
        pivots=choice("pivots", pivots, ("auto", "node", "trajectory", "none")),  # type: ignore[arg-type]
        fork_probability=fork_probability,
        forks_per_pivot=forks_per_pivot,
        forks_inside=forks_inside,
        merge=merge,
        max_new_tokens=max_new_tokens,
        seed=seed,
        block_size=block_size,
    )
    if dry_run:
        print("\n".join(dry_run_lines(chosen_task, settings, out, prices, tokens_per_second)))
        return
    names = ToolNames(
        task=task,
        proposer=proposer,
        temperature=temperature,
        top_p=top_p,
        device=device,
        threads=threads,
        needs_torch=needs_torch_to_draw(proposer),
        folder=os.getcwd(),
    )
    cluster = cluster_settings(
        engine,
        address=address,
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        device=device,
        needs_torch=names.needs_torch,
    )
    say_who_is_asked(proposer)
    collection = _collect(names, cluster, chosen_task, settings, out)
    say_failures(collection)
    cost = fork_cost(collection.trees())
    counted = "" if cost.is_counted else ", at four characters a token"
    print(
        f"{out}: {num_problems} trees; {cost.trunk_tokens:,} tokens in main trajectories, {cost.fork_tokens:,} in "
        f"forks{counted}: {cost.ratio:.2f} N (the paper's budget is 1.5 N)"
    )


def _collect(
    names: ToolNames, cluster: "ClusterSettings | None", task: "Task", settings: "CollectSettings", out: Path
) -> "Collection":
    """Here, or on a cluster."""
    from arts.build import about
    from arts.collect import collect
    from arts.console import progress

    def watch_with(tell: "Tell") -> "Callable[[Progress], None]":
        def watch(state: "Progress") -> None:
            failed = sum(state.failed.values())
            tell(state.done, f"{state.generated_tokens:,} tokens" + (f", {failed:,} draws failed" if failed else ""))

        return watch

    def made() -> dict[str, Any]:
        return about() | {"command": sys.argv, "proposer": names.proposer}

    if cluster is None:
        proposer = names(task).proposer
        say_advice(advice_on(proposer))
        check_forks(proposer, settings.pivots)
        with progress("collecting trees", settings.num_problems) as tell:
            return collect(task, proposer, settings, out, about=made(), watch=watch_with(tell))
    from arts.scale.collect import collect_on

    with (
        workers_of(cluster, names, pivots=settings.pivots) as (workers, identity),
        progress("collecting trees", settings.num_problems) as tell,
    ):
        return collect_on(workers, task, identity, settings, out, about=made(), watch=watch_with(tell))
