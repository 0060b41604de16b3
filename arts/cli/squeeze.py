"""`arts squeeze`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arts.cli.shared import DEVICE, THREADS, say_if_unfinished, say_what_it_is, use_torch_threads

if TYPE_CHECKING:
    from arts.pages.links import Group
    from arts.squeeze.paths import LikelihoodReport
    from arts.tree import ReasoningTree

_MODEL = "countdown (shipped), hf:FOLDER, or http://HOST:PORT/v1#MODEL?tokenizer=FOLDER"


def squeeze_command(
    toy: Annotated[bool, typer.Option("--toy", help="the law and its limits on toy trees; seconds, no model")] = False,
    base: Annotated[str | None, typer.Option(help=f"model before tuning: {_MODEL}")] = None,
    tuned: Annotated[str | None, typer.Option(help="model after tuning, named in the same way")] = None,
    trees: Annotated[Path | None, typer.Option(help="collection drawn by --base, scored by both models")] = None,
    base_trees: Annotated[Path | None, typer.Option(help="rollouts of the model before tuning")] = None,
    tuned_trees: Annotated[Path | None, typer.Option(help="rollouts of the model after tuning, same problems")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for results and pictures")] = None,
    report: Annotated[bool, typer.Option(help="draw pictures too (needs matplotlib)")] = True,
    seed: int = 0,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """What tuning did to rare right solutions: exact on toy trees, measured on two models or on their rollouts."""
    given = {"--base": base, "--tuned": tuned, "--trees": trees}
    rollouts = {"--base-trees": base_trees, "--tuned-trees": tuned_trees}
    _check_asked(toy, given, rollouts)
    if toy:
        return _toy(out, report, seed)
    if out is None:
        raise ValueError("give --out, a folder for squeeze.json and squeeze.html")
    from rich.console import Console

    from arts.build import about
    from arts.squeeze.report import Measured, print_measured, rollout_groups, write_measured, write_page
    from arts.squeeze.rollouts import compare_rollouts

    scored, compared, groups = None, None, None
    if base_trees and tuned_trees:
        pool = _load(base_trees)
        compared = compare_rollouts(pool, _load(tuned_trees), seed=seed)
        groups = rollout_groups(compared, pool)
    if base and tuned and trees:
        scored = _score(base, tuned, trees, seed, device, threads)
    measured = Measured(scored, compared)
    print_measured(measured, Console())
    for path in write_measured(measured, out, command=sys.argv, about=about()):
        print(f"results: {path}")
    if report:
        if groups is not None:
            print(f"trees:   {_write_view(pool, groups, out, title=str(base_trees))}")
        print(f"report:  {write_page(measured, out, command=sys.argv, groups=groups)}")


def _check_asked(toy: bool, *modes: dict[str, str | Path | None] | dict[str, Path | None]) -> None:
    """Raises ValueError where nothing, or only a part of something, was asked for."""
    for mode in modes:
        missing = [name for name, value in mode.items() if value is None]
        if 0 < len(missing) < len(mode):
            raise ValueError(f"{' and '.join(mode)} belong together; missing: {', '.join(missing)}")
    asked = any(value is not None for mode in modes for value in mode.values())
    if toy and asked:
        raise ValueError("--toy needs no model and no trees; leave them out, or leave --toy out")
    if not toy and not asked:
        raise ValueError(
            "nothing to look at; give --toy, or --base, --tuned and --trees, or --base-trees and --tuned-trees"
        )


def _toy(out: Path | None, report: bool, seed: int) -> None:
    import json

    from rich.console import Console

    from arts.build import about
    from arts.files import write_atomically
    from arts.squeeze.toy import print_toy, toy_squeeze

    found = toy_squeeze(seed=seed)
    print_toy(found, Console())
    folder = out or Path()
    folder.mkdir(parents=True, exist_ok=True)
    if out is not None:
        path = out / "squeeze-toy.json"
        rows = {"command": sys.argv, "seed": seed, **found.to_json(), "about": about()}
        write_atomically(path, json.dumps(rows, indent=2) + "\n")
        print(f"results: {path}")
    if report:
        from arts.squeeze.figure import draw_toy

        print(f"picture: {draw_toy(found, folder / 'squeeze-toy.svg')}")


def _load(folder: Path) -> "list[ReasoningTree]":
    from arts.store import load_trees, open_collection

    collection = open_collection(folder)
    say_if_unfinished(collection)
    if collection.header.get("pool"):
        raise ValueError(
            f"{folder} is a pool of several policies, which is no law to compare; import one with --policy"
        )
    say_what_it_is(collection.header)
    return load_trees(folder)


def _write_view(trees: "list[ReasoningTree]", groups: "dict[str, Group]", out: Path, *, title: str) -> Path:
    """The base's trees, which numbers of the report lead to."""
    from arts.pages.links import VIEW_FILE, command_line
    from arts.view.page import View, write_view

    about = [("made by", command_line(sys.argv))]
    return write_view(View(title=title, trees=trees, groups=groups, about=about), out / VIEW_FILE)


def _score(base: str, tuned: str, trees: Path, seed: int, device: str, threads: int) -> "LikelihoodReport":
    from arts.build import build_likelihood
    from arts.console import progress
    from arts.squeeze.paths import join_scores, report_likelihoods

    use_torch_threads(threads)
    pool = _load(trees)
    scores = []
    for name in (base, tuned):
        likelihood = build_likelihood(name, device=device)  # one model at a time is in memory
        if any(tree.tokenizer != likelihood.tokenizer_fingerprint for tree in pool):
            print(
                f"note: {name} has another tokenizer than the model that drew {trees}: each step's text is cut anew, "
                "so that its likelihood is that of one way to write it",
                file=sys.stderr,
            )
        with progress(f"scoring with {name}", len(pool)) as tell:
            scores.append(likelihood.score(pool, tell))
    return report_likelihoods(join_scores(pool, *scores), base=base, tuned=tuned, seed=seed)
