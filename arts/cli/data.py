"""`arts leakage` and `arts steps`: looking at data before it is used."""

import sys
from typing import Annotated

import typer


def leakage_command(
    train: Annotated[
        str, typer.Argument(help="what is trained on: a task (FILE.jsonl, math, ...) or a folder of trees")
    ],
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
