"""`arts view`: trees of any source as one HTML file."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arts.cli.shared import BASE, DEVICE, SCORERS, THREADS, use_torch_threads

if TYPE_CHECKING:
    from arts.evaluate.search_trees import SearchedTree
    from arts.view.page import View


def view_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="folder of `arts collect`, `arts evaluate` or `arts search --keep-trees`, or a file of trees",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="the file to write. Default: view.html in the folder, FILE.html beside a file")
    ] = None,
    verifier: Annotated[str | None, typer.Option(help=f"score the trees first: {SCORERS}")] = None,
    backbone: BASE = None,
    num_problems: Annotated[int, typer.Option(min=1, help="at most so many trees on the page")] = 500,
    first_problem: Annotated[int, typer.Option(min=0, help="how many to pass over")] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Write one HTML file that shows reasoning trees: no network, no server, opens from disk.

    Flow is colour and width; right and wrong ends, forks and the chosen path are marked. The page filters, searches and
    has an address for every problem and step.
    """
    import webbrowser
    from dataclasses import replace

    from arts.build import build_scorer, needs_torch
    from arts.evaluate.scoring import score_with_progress
    from arts.pages.links import VIEW_FILE, command_line
    from arts.view.page import write_view

    view, num_found = read_view(source, first=first_problem, most=num_problems)
    if verifier is not None:
        if not any(node.text for tree in view.trees for node in tree.nodes):
            raise ValueError(f"{source} has no texts to score, only answers; name the collection that was evaluated")
        use_torch_threads(threads, needed=needs_torch(verifier))
        scorer = build_scorer(verifier, base=backbone, device=device)
        scored = score_with_progress(scorer, view.trees, f"scoring with {verifier}")
        view = replace(view, trees=scored.trees, scale=scored.scale, chosen=(), chosen_by="the verifier")
    view = replace(view, about=[("made by", command_line(sys.argv)), *view.about])
    path = write_view(view, out or (source / VIEW_FILE if source.is_dir() else source.with_suffix(".html")))
    print(f"view: {path} ({len(view.trees)} trees, {path.stat().st_size / 1e6:.1f} MB)")
    left = (num_found or 0) - first_problem - len(view.trees)
    if left > 0:
        print(f"note: {left} more are behind these; --num-problems and --first-problem choose", file=sys.stderr)
    if open_page:
        webbrowser.open(path.resolve().as_uri())


def read_view(source: Path, *, first: int, most: int) -> "tuple[View, int | None]":
    """What to show of a place, and how many trees it has where that is known.

    Raises:
        ValueError: there is nothing to show; says what could be named instead.
    """
    from arts.evaluate.search_trees import TREES, read_searched_trees
    from arts.view.page import View
    from arts.view.sources import read_source

    folder = source.parent if source.is_file() else source
    if source.name == "draws.jsonl" or (
        not (source / "collection.json").exists() and (source / "draws.jsonl").exists()
    ):
        return _view_of_draws(folder / "draws.jsonl", str(source), first, most)
    if (source / TREES).is_file() or (source.name == TREES and (folder / "searches.jsonl").exists()):
        searched = read_searched_trees(folder)
        _check_part(folder / TREES, len(searched), first)
        part = searched[first : first + most]
        return view_of_searches(part, _title(source, first, len(part), len(searched))), len(searched)
    found = read_source(source, first=first, most=most)
    about = [("trees by", found.command)] if found.command else []
    title = _title(source, first, len(found.trees), found.num_found)
    return View(title=title, trees=found.trees, about=about), found.num_found


def view_of_searches(searched: "Sequence[SearchedTree]", title: str) -> "View":
    """Trees of compared searches, each with its strategy beside it."""
    from arts.evaluate.search_report import search_groups, search_notes
    from arts.pages.links import unique_keys
    from arts.view.page import View

    notes = search_notes(searched)
    return View(
        title=title,
        trees=[one.tree for one in searched],
        keys=unique_keys([f"{one.tree.problem.id}, {note}" for one, note in zip(searched, notes, strict=True)]),
        notes=notes,
        chosen=[one.answer for one in searched],
        chosen_by="the search",
        scale=searched[0].scale,
        groups=search_groups(searched),
    )


def _view_of_draws(path: Path, source: str, first: int, most: int) -> "tuple[View, int | None]":
    """The rows of an evaluation: trees of depth one, scored by its first verifier."""
    from dataclasses import replace

    from arts.evaluate.rows import read_rows
    from arts.protocols import ScoreScale
    from arts.tree import Node
    from arts.view.page import View

    trees, scored = read_rows(path)
    _check_part(path, len(trees), first)
    shown = next(iter(scored.values())) if scored else None
    # The rows say nothing of the problem itself; a score there would only be a placeholder.
    part = [
        replace(tree, nodes=(Node(id=0, parent=-1), *tree.nodes[1:]))
        for tree in (shown.trees if shown else trees)[first : first + most]
    ]
    title = _title(Path(source), first, len(part), len(trees))
    return View(title=title, trees=part, scale=shown.scale if shown else ScoreScale()), len(trees)


def _check_part(path: Path, found: int, first: int) -> None:
    if first >= found:
        raise ValueError(f"{path} has {found} trees, none behind the first {first}; pass over fewer")


def _title(source: Path, first: int, shown: int, found: int | None) -> str:
    part = "" if first == 0 and found in (None, shown) else f", {first + 1:,} to {first + shown:,}"
    return f"{source}{part}"
