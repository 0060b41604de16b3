"""`arts leakage` and `arts steps`: looking at data before it is used."""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from arts.cli.shared import choice


def leakage_command(
    train: Annotated[str, typer.Argument(help="what is trained on: FILE.jsonl, math, ... or trees")],
    test: Annotated[str, typer.Argument(help="what is evaluated on, named in the same way")],
    show: Annotated[int, typer.Option(min=0, help="problems in both to show")] = 5,
) -> None:
    """Say which problems of a test set are in a training set too. Ends with status 1 where there are any.

    Of a task all problems count, whatever their split. Trees hold the problems they were drawn for.
    """
    from arts.build import problem_texts
    from arts.tasks.leakage import leaked

    train_texts, test_texts = problem_texts(train), problem_texts(test)
    leaks = leaked(train_texts, test_texts)
    print(f"{len(leaks)} of {len(test_texts)} problems of {test} are among the {len(train_texts)} of {train}")
    for leak in leaks[:show]:
        print(f"  {leak.test + 1} is {leak.train + 1} there: {' '.join(leak.text.split())[:100]}")
    if leaks:
        sys.exit(1)


def steps_command(
    file: Annotated[Path, typer.Argument(help="solutions: JSONL (one object or text a line), or a plain text")],
    field: Annotated[str, typer.Option(help="JSONL: the field that holds the solution")] = "solution",
    style: Annotated[str, typer.Option(help="auto, headings, paragraphs, lines or sentences")] = "auto",
    max_chars: Annotated[int, typer.Option(min=1, help="characters of the longest step")] = 1000,
    show: Annotated[int, typer.Option(min=0, help="solutions to show, cut")] = 2,
) -> None:
    """Show how solutions would be cut into steps, and how many steps they have."""
    from arts.text_steps import STYLES, cut_steps, step_style

    choice("style", style, ("auto", *STYLES))
    lengths, longest, styles = [], 0, Counter[str]()
    for number, text in enumerate(_solutions(file, field)):
        used = style if style in STYLES else step_style(text)
        steps = cut_steps(text, style=used, max_chars=max_chars)
        lengths.append(len(steps))
        longest = max(longest, *map(len, steps), 0)
        styles[used] += 1
        if number < show:
            print(f"solution {number + 1}: {len(steps)} steps, {used}")
            for count, step in enumerate(steps, start=1):
                print(f"{count:>4}  {json.dumps(step, ensure_ascii=False)}")
    if not lengths:
        raise ValueError(f"{str(file)!r} holds no solution")
    lengths.sort()
    p95 = lengths[math.ceil(0.95 * len(lengths)) - 1]
    print(
        f"{len(lengths)} solutions: {lengths[len(lengths) // 2]} steps in the middle, {p95} at 95%, "
        f"{lengths[-1]} at most; longest step {longest} characters; "
        + ", ".join(f"{count} by {used}" for used, count in styles.most_common())
    )


def _solutions(file: Path, field: str) -> Iterator[str]:
    """The texts of a file: fields or texts of JSONL lines, or the file itself."""
    from arts.tasks.rows import file_rows

    if not file.name.endswith((".jsonl", ".jsonl.gz")):
        try:
            yield file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{str(file)!r} cannot be read: {error}") from error
        return
    for where, row in file_rows(file):
        text = row.get(field) if isinstance(row, dict) else row
        if not isinstance(text, str):
            known = ", ".join(row) if isinstance(row, dict) else "none"
            raise ValueError(f"{where} has no text in the field {field!r}; its fields are {known} (--field)")
        yield text
