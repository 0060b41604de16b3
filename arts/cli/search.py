"""`arts search`: strategies side by side at equal budgets."""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from arts.cli.shared import (
    BASE,
    DEVICE,
    PROPOSER,
    TASK,
    THREADS,
    VERIFIER,
    can_draw,
    choice,
    needs_torch_to_draw,
    say_advice,
    say_who_is_asked,
    use_torch_threads,
)
from arts.protocols import Split

if TYPE_CHECKING:
    from arts.evaluate.searches import SearchRow
    from arts.pages.links import Group


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
    list_strategies: LIST = False,
) -> None:
    """Compare search strategies on the same problems at equal token budgets.

    A run that was stopped goes on, and strategies, budgets and seeds can be added to the same folder later.
    """
    from itertools import islice

    from arts.build import build_proposer, build_step_scorer, build_task, needs_torch, verifier_identity
    from arts.console import progress
    from arts.evaluate.search_report import write_search_report
    from arts.evaluate.search_trees import TreeFile
    from arts.evaluate.searches import SearchSpec, run_specs, summarize, table_lines
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
    use_torch_threads(threads, needed=needs_torch_to_draw(proposer) or (scored and needs_torch(verifier)))
    sampling = {"temperature": temperature, "top_p": top_p}
    say_who_is_asked(proposer)
    built = build_proposer(proposer, chosen, **sampling, device=device, keep_tokens=1 << 15)
    say_advice(built)
    scorer = build_step_scorer(verifier, built, base=backbone, device=device) if scored else None
    header = {"task": task, "proposer": built.fingerprint, "verifier": verifier_identity(verifier), "split": split}
    with progress("searching", len(specs) * len(problems)) as tell:
        rows = run_specs(
            out,
            specs,
            problems,
            chosen,
            built,
            scorer,
            header=header,
            keep_curves=curves,
            keep_trees=TreeFile(out, scorer.scale if scorer else None) if keep_trees else None,
            watch=lambda done, total: tell(done),
        )
    summaries = summarize(rows)
    print("\n".join(table_lines(summaries)))
    reasons = Counter(row.stopped for row in rows if row.failed)
    for reason, count in reasons.most_common(3):
        print(f"note: {count} searches {reason}; the same command tries them again", file=sys.stderr)
    print(f"{len(problems)} problems; tokens are means a problem; rows in {out}")
    groups = _write_trees(out, rows) if keep_trees else None
    if report and can_draw():
        print(f"report: {write_search_report(summaries, out, header=header, command=sys.argv, groups=groups)}")


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
