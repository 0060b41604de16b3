"""What a run shows in the terminal: a progress bar with the time left, or a line every ten seconds without one.

All of it goes to standard error, so that standard output holds results only.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_EVERY_S = 10.0


class Tell(Protocol):
    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int, *, shown: bool = True) -> Iterator[Tell]:
    """Show how far something is: `tell(done, note)`; not `shown` where another process says it."""
    if not shown:
        yield lambda done, note="": None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bar:
        task = bar.add_task(title, total=total, note="")

        def tell(done: int, note: str = "") -> None:
            bar.update(task, completed=done, note=note)

        yield tell


def _lines(title: str, total: int) -> Tell:
    started = last = time.monotonic()
    said: tuple[int, str] | None = None
    print(f"{title} …", file=sys.stderr, flush=True)

    def tell(done: int, note: str = "") -> None:
        nonlocal last, said
        now = time.monotonic()
        if (done, note) == said or (done < total and now - last < _LINE_EVERY_S):
            return
        last, said = now, (done, note)
        left = (now - started) * (total - done) / max(1, done)
        print(
            f"{title}: {done}/{total}, {now - started:.0f} s, {left:.0f} s left {note}".rstrip(),
            file=sys.stderr,
            flush=True,
        )

    return tell
