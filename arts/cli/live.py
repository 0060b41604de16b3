"""A search as it grows, in the terminal: its tree with flows and draws, and what of the budget is spent."""

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
    budget: Budget, *, shown: bool, console: Console | None = None, max_nodes: int = 40
) -> Iterator[Callable[[Search], None] | None]:
    """Yields what is to be called with the search whenever it grew; None where nothing is to be shown.

    Args:
        console: where to draw; standard error. Nothing is drawn where that is no terminal.
    """
    console = console or Console(stderr=True)
    if not shown or not console.is_terminal:
        yield None
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:

        def watch(search: Search) -> None:
            lines = [*draw_tree(search.tree.frozen(), max_nodes=max_nodes), "", spent(search, budget)]
            live.update(Text("\n".join(lines)))

        yield watch


def spent(search: Search, budget: Budget) -> str:
    bill = search.bill
    limits = [
        f"{getattr(bill, name)} of {limit} {name.replace('_', ' ')}" for name, limit in budget.bounds.items()
    ] or [f"{bill.generated_tokens} tokens generated"]
    return f"{', '.join(limits)}; {bill.draws} draws, {len(search.tree.answers)} different answers"
