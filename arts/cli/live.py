"""A search as it grows, in the terminal: its tree with flows and draws, and what of the budget is spent."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from arts.search.budget import Budget
from arts.search.program import Search
from arts.tree import draw_tree


@contextmanager
def watch_search(
    budget: Budget, *, shown: bool, console: Console | None = None, every_s: float = 0.1
) -> Iterator[Callable[[Search], None] | None]:
    """Yields what is to be called with the search whenever it grew; None where nothing is to be shown.

    Args:
        console: where to draw; standard error. Nothing is drawn where that is no terminal.
        every_s: seconds between two pictures; that of a large tree takes longer than many a step of the search.
    """
    console = console or Console(stderr=True)
    if not shown or not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        drawn_at = -math.inf

        def watch(search: Search) -> None:
            nonlocal drawn_at
            if time.monotonic() < drawn_at + every_s:
                return
            # What does not fit below would be cut off: the problem, the budget, a word on what is left out.
            tree = draw_tree(search.tree.frozen(), max_nodes=max(1, console.height - 4))
            picture = Text("\n".join([spent(search, budget), *tree]), no_wrap=True, overflow="ellipsis")
            live.update(picture, refresh=True)
            drawn_at = time.monotonic()

        yield watch


def spent(search: Search, budget: Budget) -> str:
    bill = search.bill
    limits = [
        f"{getattr(bill, name)} of {limit} {name.replace('_', ' ')}" for name, limit in budget.bounds.items()
    ] or [f"{bill.generated_tokens} tokens generated"]
    return f"{', '.join(limits)}; {bill.draws} draws, {len(search.tree.answers)} different answers"
