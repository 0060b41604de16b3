"""Search on many machines: workers search blocks of problems, one driver writes the rows.

Each block starts with a verifier that knows nothing, as each strategy does on one machine, so bills are the same.
Knows rows and searches; no Ray and no file.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from arts.evaluate.searches import Searched, SearchSpec, Wanted, search_problems
from arts.scale.workers import Tools, Workers
from arts.tree import Problem


def search_on(
    workers: Workers, wanted: Wanted, *, block_size: int, keep_curves: bool, keep_trees: bool
) -> Iterator[Searched]:
    """For `complete_rows`: search all that is wanted, strategy after strategy, rows in the order in which they come."""
    work = (
        partial(search_block, spec, problems[start : start + block_size], keep_curves, keep_trees)
        for spec, problems in wanted
        for start in range(0, len(problems), block_size)
    )
    for rows in workers.run(work):
        yield from rows


def search_block(
    spec: SearchSpec, problems: Sequence[Problem], keep_curves: bool, keep_trees: bool, tools: Tools
) -> list[Searched]:
    """On a worker. Trees stay there unless they are to be kept."""
    found = search_problems(spec, problems, tools.task, tools.proposer, tools.scorer, keep_curves=keep_curves)
    return [(row, result if keep_trees else None) for row, result in found]
