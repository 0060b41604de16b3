"""Run given searches to their end, many at once: batched on a local model, concurrently on a server."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from arts.protocols import ConcurrentProposer, Proposer, StepScorer
from arts.search.loops import Flights, Loop, Rounds
from arts.search.program import Search
from arts.search.result import SearchResult
from arts.search.running import Running

Watch = Callable[[int, Search], None]


class Finished(NamedTuple):
    place: int
    "of the search among those given"
    result: SearchResult


def run_batched(
    searches: Iterable[Search],
    proposer: Proposer,
    scorer: StepScorer | None,
    *,
    max_active: int = 64,
    watch: Watch | None = None,
) -> Iterator[Finished]:
    """Drive searches together on a local model: one batch of draws and one of scores a round.

    Args:
        scorer: None where no strategy looks at scores.
        max_active: searches that run at the same time; the next one starts when one ends.
        watch: called after every round with the place of each search that runs, and the search.

    Yields:
        Results as they come, with the place of their search.
    """
    yield from _run(searches, Rounds(proposer, scorer, _shown(watch)), max_active)


def run_concurrently(
    searches: Iterable[Search],
    proposer: Proposer,
    scorer: StepScorer | None,
    *,
    max_in_flight: int | None = None,
    max_active: int = 64,
    watch: Watch | None = None,
) -> Iterator[Finished]:
    """Drive searches on a server: every request on its own, at most `max_in_flight` at a time, no rounds.

    A proposer that is no `ConcurrentProposer` must take calls of `propose` from threads. Where the caller stops taking
    results, no more requests are sent.

    Args:
        max_in_flight: None: what the proposer takes, or 32.
        watch: called after every reply with the place of its search, and the search.
    """
    loop = Flights(proposer, scorer, _shown(watch), max_in_flight=max_in_flight)
    yield from _run(searches, loop, max_active)


def run_searches(
    searches: Iterable[Search],
    proposer: Proposer,
    scorer: StepScorer | None,
    *,
    watch: Watch | None = None,
) -> Iterator[Finished]:
    """Drive searches the way that suits the proposer: a server concurrently, a local model in batches."""
    if isinstance(proposer, ConcurrentProposer):
        most = max(64, proposer.max_in_flight)
        return run_concurrently(searches, proposer, scorer, max_active=most, watch=watch)
    return run_batched(searches, proposer, scorer, watch=watch)


def check_scale(search: Search, scorer: StepScorer | None) -> None:
    """Refuse a search that would misread the scores it gets."""
    if scorer is not None and search.strategy.scores != "none" and search.tree.scale != scorer.scale:
        raise ValueError(
            f"the search reads scores as {search.tree.scale} and the verifier gives {scorer.scale}; "
            "make it with Search(..., scale=scorer.scale)"
        )


def _shown(watch: Watch | None) -> Callable[[int, Running], None] | None:
    return None if watch is None else lambda place, running: watch(place, running.program)


def _run(searches: Iterable[Search], loop: Loop, max_active: int) -> Iterator[Finished]:
    if max_active < 1:
        raise ValueError(f"max_active is {max_active}; at least 1 search must run at a time")
    waiting = enumerate(searches)
    proposer = loop.proposer
    with closing(loop):
        while True:
            while len(loop.active) < max_active and (started := next(waiting, None)) is not None:
                check_scale(started[1], loop.scorer)
                loop.start(*started)
            if not loop.active:
                return
            for place, search in loop.turn():
                law, tokenizer = proposer.log_prior_law, proposer.tokenizer_fingerprint
                yield Finished(place, search.result(log_prior_law=law, tokenizer=tokenizer))
