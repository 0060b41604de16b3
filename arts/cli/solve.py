"""`arts solve` and `arts demo`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from arts.cli.shared import BASE, DEVICE, PROPOSER, TASK, THREADS, VERIFIER, use_torch_threads


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
    use_torch_threads(threads)
    chosen_proposer = build_proposer(proposer, chosen_task, temperature=temperature, top_p=top_p, device=device)
    scorer = build_scorer(verifier, base=backbone, device=device)
    solution = solve(chosen_task, chosen_proposer, scorer, parsed, num_samples=num_samples, seed=seed)
    print("\n".join(solution.lines()))
    if show_tree:
        from arts.tree import draw_tree

        print("\n".join(draw_tree(solution.tree)))


def demo_command(
    out: Annotated[Path, typer.Option(help="folder of the demo; emptied first")] = Path("runs/demo"),
    seed: int = 0,
) -> None:
    """The whole of ARTS in under three minutes: collect trees, train a verifier, choose on problems never seen."""
    use_torch_threads(1)
    from arts.demo import run_demo

    run_demo(out, seed=seed)
