"""`arts view`: trees of any source as one HTML file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arts.cli.shared import BASE, DEVICE, SCORERS, THREADS, use_torch_threads

if TYPE_CHECKING:
    from arts.protocols import ScoreScale
    from arts.view.sources import Source


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
    num_problems: Annotated[int, typer.Option(min=1, help="at most so many problems on the page")] = 500,
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

    from arts.build import build_scorer, needs_torch
    from arts.evaluate.scoring import score_with_progress
    from arts.protocols import ScoreScale
    from arts.view.page import View, write_view
    from arts.view.sources import read_source

    rows = source / "draws.jsonl" if source.is_dir() else source
    if rows.name == "draws.jsonl" and rows.is_file() and not (source / "collection.json").exists():
        found, scale = _read_draws(rows, first=first_problem, most=num_problems)
        if verifier is not None:
            raise ValueError(f"{rows} has no texts to score, only answers; name the collection that was evaluated")
    else:
        found, scale = read_source(source, first=first_problem, most=num_problems), ScoreScale()
    trees = found.trees
    if verifier is not None:
        use_torch_threads(threads, needed=needs_torch(verifier))
        scorer = build_scorer(verifier, base=backbone, device=device)
        scored = score_with_progress(scorer, trees, f"scoring with {verifier}")
        trees, scale = scored.trees, scored.scale
    about = [("made by", " ".join(["arts", *sys.argv[1:]]))]
    if found.command:
        about.append(("trees by", found.command))
    view = View(title=_title(source, found, first_problem), trees=trees, scale=scale, about=about)
    default = source / "view.html" if source.is_dir() else source.with_suffix(".html")
    path = write_view(view, out or default)
    print(f"view: {path} ({len(trees)} problems, {path.stat().st_size / 1e6:.1f} MB)")
    left = (found.num_found or 0) - first_problem - len(trees)
    if left > 0:
        print(f"note: {left} more are behind these; --num-problems and --first-problem choose", file=sys.stderr)
    if open_page:
        webbrowser.open(path.resolve().as_uri())


def _title(source: Path, found: "Source", first: int) -> str:
    last = first + len(found.trees)
    part = "" if first == 0 and found.num_found == last else f", problems {first + 1:,} to {last:,}"
    return f"{source}{part}"


def _read_draws(path: Path, *, first: int, most: int) -> "tuple[Source, ScoreScale]":
    """The rows of an evaluation: trees of depth one, scored by its first verifier."""
    from arts.evaluate.rows import read_rows
    from dataclasses import replace

    from arts.protocols import ScoreScale
    from arts.tree import Node
    from arts.view.sources import Source

    trees, scored = read_rows(path)
    shown = next(iter(scored.values())) if scored else None
    # The rows say nothing of the problem itself; a score there would only be a placeholder.
    part = [
        replace(tree, nodes=(Node(id=0, parent=-1), *tree.nodes[1:]))
        for tree in (shown.trees if shown else trees)[first : first + most]
    ]
    if not part:
        raise ValueError(f"{path} has {len(trees)} rows, none behind the first {first}; pass over fewer")
    return Source(trees=part, num_found=len(trees)), shown.scale if shown else ScoreScale()
