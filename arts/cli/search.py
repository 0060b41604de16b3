"""`arts search`: strategies side by side at equal budgets."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from arts.cli.engines import ADDRESS, CPUS, ENGINE, GPUS, WORKERS, ToolNames, cluster_settings, workers_of
from arts.cli.shared import (
    BASE,
    DEVICE,
    PROPOSER,
    TASK,
    THREADS,
    VERIFIER,
    advice_on,
    can_draw,
    choice,
    needs_torch_to_draw,
    say_advice,
    say_who_is_asked,
)
from arts.protocols import Split, Task

if TYPE_CHECKING:
    from arts.evaluate.searches import Searched, SearchRow, Wanted
    from arts.pages.links import Group
    from arts.scale.workers import ClusterSettings, Identity


def list_strategies(wanted: bool) -> None:
    """One strategy a line: id, what it looks at, paper."""
    if not wanted:
        return
    from arts.search.strategies import STRATEGIES

    needs = {"none": "no verifier", "ends": "scores of ends", "all": "scores of steps"}
    width = max(map(len, STRATEGIES))
    for name, strategy in STRATEGIES.items():
        print(f"{name:<{width}}  {needs[strategy.scores]:<15}  {strategy.paper}")
    raise typer.Exit


LIST = Annotated[
    bool, typer.Option("--list-strategies", callback=list_strategies, is_eager=True, help="print them and stop")
]


def search_command(
    out: Annotated[Path, typer.Option(help="folder of the rows; what is there already is not searched again")],
    strategy: Annotated[list[str], typer.Option(help="ID or ID:KEY=VALUE,...; repeat. The first is compared with")],
    budget_tokens: Annotated[
        list[int] | None, typer.Option(min=1, help="proposer tokens a problem; repeat. Default: no limit")
    ] = None,
    task: TASK = "countdown",
    proposer: PROPOSER = "countdown",
    verifier: VERIFIER = "countdown",
    backbone: BASE = None,
    split: Annotated[str, typer.Option(help="train, validation or test")] = "validation",
    num_problems: Annotated[int, typer.Option(min=1)] = 200,
    first_problem: Annotated[int, typer.Option(min=0, help="place in the task's stream to start at")] = 0,
    seed: Annotated[list[int] | None, typer.Option(help="of the draws; repeat for several. Default: 0")] = None,
    temperature: Annotated[float, typer.Option(help="sampling temperature")] = 1.0,
    top_p: Annotated[float, typer.Option(help="nucleus sampling mass")] = 1.0,
    curves: Annotated[bool, typer.Option(help="note the answer at every budget below, in the rows")] = False,
    keep_trees: Annotated[bool, typer.Option(help="keep every tree, and write view.html to look at them")] = False,
    report: Annotated[bool, typer.Option(help="write report.html too (needs matplotlib)")] = True,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
    engine: ENGINE = "local",
    address: ADDRESS = None,
    workers: WORKERS = None,
    cpus_per_worker: CPUS = None,
    gpus_per_worker: GPUS = None,
    block_size: Annotated[
        int | None, typer.Option(min=1, help="problems that a worker of a cluster searches side by side. Default: 64")
    ] = None,
    list_strategies: LIST = False,
) -> None:
    """Compare search strategies on the same problems at equal token budgets.

    A run that was stopped goes on, and strategies, budgets and seeds can be added to the same folder later.
    """
    from itertools import islice

    from arts.build import build_task, needs_torch
    from arts.console import progress
    from arts.evaluate.search_report import write_search_report
    from arts.evaluate.search_trees import TreeFile
    from arts.evaluate.searches import SearchSpec, complete_rows, summarize, table_lines
    from arts.search.strategies import STRATEGIES

    choice("split", split, get_args(Split))
    budgets: list[int | None] = [*budget_tokens] if budget_tokens else [None]
    specs = [
        SearchSpec(name, tokens, one) for one in seed or [0] for tokens in budgets for name in dict.fromkeys(strategy)
    ]
    for spec in specs:
        spec.build()
    chosen = build_task(task)
    problems = list(islice(chosen.problems(split, 0), first_problem, first_problem + num_problems))  # type: ignore[arg-type]
    if len(problems) < num_problems:
        raise ValueError(f"task {task} has {len(problems)} problems there, {num_problems} were asked for")
    scored = any(STRATEGIES[spec.strategy.partition(":")[0]].scores != "none" for spec in specs)
    names = ToolNames(
        task=task,
        proposer=proposer,
        temperature=temperature,
        top_p=top_p,
        device=device,
        threads=threads,
        needs_torch=needs_torch_to_draw(proposer) or (scored and needs_torch(verifier)),
        keep_tokens=1 << 15,
        verifier=verifier,
        backbone=backbone,
        scored=scored,
        folder=os.getcwd(),
    )
    cluster = cluster_settings(
        engine,
        address=address,
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        block_size=block_size,
        device=device,
        needs_torch=names.needs_torch,
    )
    say_who_is_asked(proposer)
    with (
        _searching(names, cluster, chosen, block_size or 64, curves, keep_trees) as (identity, search),
        progress("searching", len(specs) * len(problems)) as tell,
    ):
        header = {"task": task, "proposer": identity.fingerprint, "verifier": identity.verifier, "split": split}
        rows = complete_rows(
            out,
            specs,
            problems,
            search,
            header=header,
            keep_curves=curves,
            keep_trees=TreeFile(out, identity.scale) if keep_trees else None,
            watch=lambda done, total: tell(done),
        )
    summaries = summarize(rows)
    print("\n".join(table_lines(summaries)))
    reasons = Counter(row.stopped.replace(repr(row.problem), "…") for row in rows if row.failed)
    for reason, count in reasons.most_common(3):
        print(f"note: {count} searches {reason}; the same command tries them again", file=sys.stderr)
    print(f"{len(problems)} problems; tokens are means a problem; rows in {out}")
    groups = _write_trees(out, rows) if keep_trees else None
    if report and can_draw():
        print(f"report: {write_search_report(summaries, out, header=header, command=sys.argv, groups=groups)}")
    if rows and all(row.failed for row in rows):
        raise ValueError("every search failed, so that the table says nothing; the notes say why")


@contextmanager
def _searching(
    names: ToolNames,
    cluster: "ClusterSettings | None",
    task: Task,
    block_size: int,
    keep_curves: bool,
    keep_trees: bool,
) -> "Iterator[tuple[Identity, Callable[[Wanted], Iterator[Searched]]]]":
    """What decides the results, and who searches: this machine, or a cluster."""
    from arts.evaluate.searches import search_all
    from arts.scale.search import search_on

    if cluster is None:
        tools = names(task)
        say_advice(advice_on(tools.proposer))
        yield (
            tools.identity,
            partial(search_all, task=task, proposer=tools.proposer, scorer=tools.scorer, keep_curves=keep_curves),
        )
        return
    with workers_of(cluster, names) as (workers, identity):
        yield (
            identity,
            partial(search_on, workers, block_size=block_size, keep_curves=keep_curves, keep_trees=keep_trees),
        )


def _write_trees(out: Path, rows: "list[SearchRow]") -> "Mapping[str, Group]":
    """The viewer's page of the trees behind these rows; its groups."""
    from dataclasses import replace

    from arts.cli.view import view_of_searches
    from arts.evaluate.search_trees import read_searched_trees
    from arts.pages.links import VIEW_FILE, command_line
    from arts.view.page import write_view

    wanted = {(row.spec, row.problem) for row in rows}
    view = view_of_searches([one for one in read_searched_trees(out) if one.key in wanted], str(out))
    print(f"trees:  {write_view(replace(view, about=[('made by', command_line(sys.argv))]), out / VIEW_FILE)}")
    return view.groups
