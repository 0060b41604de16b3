"""Which finished solution to answer with: the best score, or a vote. Only finished paths are ever looked at."""

import math
from collections import defaultdict
from collections.abc import Callable

from arts.search.tree import SearchTree


def highest(tree: SearchTree) -> int | None:
    """The finished path with the highest score; the first drawn of equals."""
    return tree.best_answer()


def first_drawn(tree: SearchTree) -> int | None:
    return tree.answers[0] if tree.answers else None


def vote(tree: SearchTree, weight: Callable[[int], float] | None = None) -> int | None:
    """The first drawn solution of the answer with most votes; a draw counts `weight(node)`, or once.

    Ties go to the answer that was drawn first. Where no solution has a readable answer, the first drawn one.
    """
    totals, first = votes(tree, weight)
    if not totals:
        return first_drawn(tree)
    return first[max(totals, key=lambda key: totals[key])]


def votes(tree: SearchTree, weight: Callable[[int], float] | None = None) -> tuple[dict[str, float], dict[str, int]]:
    """Votes of every answer in the order of drawing, and its best solution (with weights) or its first one."""
    totals: dict[str, float] = defaultdict(float)
    shown: dict[str, int] = {}
    most: dict[str, float] = {}
    for node in tree.answers:
        key = tree.answer_key(node)
        if key is None:
            continue
        own = 1.0 if weight is None else weight(node)
        totals[key] += own * tree.num_draws[node]
        if own > most.get(key, -math.inf):
            most[key], shown[key] = own, node
    return dict(totals), shown
