"""`arts import`: other people's rollouts as trees."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from arts.text_steps import LONGEST_STEP


def import_command(
    file: Annotated[Path, typer.Argument(help="rollouts: JSON lines or JSON, gzipped or not; docs/import.md")],
    out: Annotated[Path, typer.Option(help="folder of the collection, or of one for each of several policies")],
    policy: Annotated[str | None, typer.Option(help="import only this one")] = None,
    pool: Annotated[bool, typer.Option(help="merge all policies; then nothing like pass@k is shown")] = False,
    name: Annotated[
        str | None, typer.Option(help="of the policy where the file names none; default: the file's")
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(help="judge anew: exact, number, math or python:MODULE:FUNCTION. Default: the file's labels"),
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(min=1, help="draws kept a problem; default: the number that keeps most")
    ] = None,
    folds: Annotated[int, typer.Option(min=1, help="deal the problems out to so many collections")] = 1,
    max_step_chars: Annotated[int, typer.Option(min=1, help="longer steps are cut")] = LONGEST_STEP,
) -> None:
    """Turn rollouts that somebody sampled into trees: the format is found from the content.

    Every policy becomes a collection of its own, to train on, evaluate and view like any other.
    """
    from arts.build import build_checker
    from arts.rollouts.importing import ImportSettings, import_rollouts

    settings = ImportSettings(
        policy=policy, pool=pool, name=name, num_samples=num_samples, num_folds=folds, max_step_chars=max_step_chars
    )
    made, reading = import_rollouts(file, out, settings, checker=build_checker(check) if check else None)
    shown = ", ".join(f"{count} rows of `{one}`" for one, count in sorted(reading.formats.items()))
    print(f"{file}: {shown}")
    for one in made:
        print(
            f"{one.folder}: {one.policy}, {one.num_trees:,} problems x {one.num_samples}, {one.share_right:.1%} right"
        )
        for line in one.notes():
            print(f"  note: {line}", file=sys.stderr)
    if reading.bad:
        print(f"note: {len(reading.bad):,} rows were left out:", file=sys.stderr)
        for reason in reading.bad[:5]:
            print(f"  {reason}", file=sys.stderr)
        if len(reading.bad) > 5:
            print(f"  ... and {len(reading.bad) - 5:,} more", file=sys.stderr)
