"""`arts solve` and `arts demo`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from arts.cli.serve import serve_command
from arts.cli.shared import (
    BASE,
    DEVICE,
    PROPOSER,
    TASK,
    THREADS,
    VERIFIER,
    advice_on,
    needs_torch_to_draw,
    say_advice,
    say_who_is_asked,
    use_torch_threads,
)


def solve_command(
    problem: Annotated[str, typer.Argument(help='for Countdown: "3 5 7 11 > 24"')],
    task: TASK = "countdown",
    proposer: PROPOSER = "countdown",
    verifier: VERIFIER = "countdown",
    backbone: BASE = None,
    num_samples: Annotated[int | None, typer.Option(min=1, help="N of best-of-N, where no strategy is given")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="how to search: ID or ID:KEY=VALUE,... of `arts search --list-strategies`. Default: arts with "
            "--budget-tokens, else best of 16"
        ),
    ] = None,
    budget_tokens: Annotated[int | None, typer.Option(min=1, help="the most tokens to generate")] = None,
    temperature: Annotated[float, typer.Option(help="sampling temperature")] = 1.0,
    top_p: Annotated[float, typer.Option(help="nucleus sampling mass")] = 1.0,
    live: Annotated[bool, typer.Option(help="show the tree while it grows")] = False,
    show_tree: Annotated[bool, typer.Option(help="draw all the solutions as a tree")] = False,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Solve one problem within a budget: search, choose the answer with the highest flow, check it."""
    from arts.build import build_proposer, build_step_scorer, build_task, needs_torch
    from arts.cli.live import watch_search
    from arts.search.budget import Budget
    from arts.search.strategies import parse_strategy
    from arts.solve import solve

    if strategy is not None and num_samples is not None:
        raise ValueError(
            f"--num-samples is for best of N without a strategy; give {strategy.partition(':')[0]} options of its own, "
            "as in best-of-n:n=32"
        )
    chosen_task = build_task(task)
    rule = parse_strategy(strategy) if strategy else None
    parsed = chosen_task.parse(problem)
    print("loading models …", file=sys.stderr, flush=True)
    scored = rule is None or rule.scores != "none"
    use_torch_threads(threads, needed=needs_torch_to_draw(proposer) or (scored and needs_torch(verifier)))
    sampling = {"temperature": temperature, "top_p": top_p}
    say_who_is_asked(proposer)
    chosen_proposer = build_proposer(proposer, chosen_task, **sampling, device=device, keep_tokens=1 << 15)
    say_advice(advice_on(chosen_proposer))
    scorer = build_step_scorer(verifier, chosen_proposer, base=backbone, device=device) if scored else None
    budget = Budget(generated_tokens=budget_tokens)
    with watch_search(budget, shown=live) as watch:
        solution = solve(
            chosen_task,
            chosen_proposer,
            scorer,
            parsed,
            num_samples=num_samples,
            strategy=rule,
            budget=budget,
            seed=seed,
            watch=watch,
        )
    print("\n".join(solution.lines()))
    if show_tree:
        from arts.tree import draw_tree

        print("\n".join(draw_tree(solution.tree)))


def demo_command(
    out: Annotated[Path, typer.Option(help="folder of the demo; emptied first")] = Path("runs/demo"),
    seed: int = 0,
    ui: Annotated[
        bool, typer.Option("--ui", help="instead: a page where you type problems and watch the shipped models search")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="of the page")] = 8000,
) -> None:
    """The whole of ARTS in under three minutes: collect trees, train a verifier, choose on problems never seen.

    With --ui, a server on this machine alone gives a page to try the shipped models on, until Ctrl-C.
    """
    if ui:
        serve_command("countdown", port=port, ui=True)
        return
    use_torch_threads(1)
    from arts.demo import run_demo

    run_demo(out, seed=seed)
