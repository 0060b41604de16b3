"""Run many searches at once: batched on a local model, concurrently on a server. All waiting and failing happens here.

A search that fails, or that is slow, is its own affair: the others go on, and it keeps the best answer it had.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from arts.protocols import Proposer, Reply, ScoreReply, ScoreRequest, StepScorer
from arts.search.program import DrawAsk, ScoreAsk, Search, SearchResult
from arts.tree import Usage


class Finished(NamedTuple):
    place: int
    "of the search among those given"
    result: SearchResult


@dataclass
class _Running:
    search: Search
    since: float
    replies: list[Reply | None] = field(default_factory=list)
    "of the draws in flight"

    def ask(self) -> DrawAsk | ScoreAsk | None:
        seconds = self.search.budget.seconds
        if seconds is not None and time.monotonic() - self.since >= seconds:
            self.search.cancel("budget")
        return self.search.ask()


def run_batched(
    searches: Iterable[Search], proposer: Proposer, scorer: StepScorer | None, *, max_active: int = 64
) -> Iterator[Finished]:
    """Drive searches together on a local model: one batch of draws and one of scores a round.

    Args:
        scorer: None where no strategy looks at scores.
        max_active: searches that run at the same time; the next one starts when one ends.

    Yields:
        Results as they come, with the place of their search.
    """
    waiting = enumerate(searches)
    active: dict[int, _Running] = {}
    while _fill(active, waiting, max_active):
        asks = {place: ask for place, running in active.items() if (ask := running.ask()) is not None}
        for place in [place for place in active if place not in asks]:
            yield Finished(place, _result(active.pop(place).search, proposer))
        for kind, answer in ((DrawAsk, proposer.propose), (ScoreAsk, _scores_by(scorer))):
            _tell_all([(active[place].search, ask) for place, ask in asks.items() if isinstance(ask, kind)], answer)


def run_concurrently(
    searches: Iterable[Search],
    proposer: Proposer,
    scorer: StepScorer | None,
    *,
    max_in_flight: int = 32,
    max_active: int = 64,
) -> Iterator[Finished]:
    """Drive searches on a server: every request on its own, at most `max_in_flight` at a time, no rounds.

    Scores are asked for one search at a time, on the calling thread. `proposer.propose` must take calls from threads.
    """
    waiting = enumerate(searches)
    active: dict[int, _Running] = {}
    flying: dict[Future[list[Reply]], tuple[int, int]] = {}
    with ThreadPoolExecutor(max_in_flight) as pool:
        while _fill(active, waiting, max_active):
            for place in [place for place, running in active.items() if not running.replies]:
                running = active[place]
                while isinstance(ask := running.ask(), ScoreAsk):
                    _tell_all([(running.search, ask)], _scores_by(scorer))
                if ask is None:
                    del active[place]
                    yield Finished(place, _result(running.search, proposer))
                    continue
                running.replies = [None] * len(ask.requests)
                for number, request in enumerate(ask.requests):
                    flying[pool.submit(proposer.propose, [request])] = (place, number)
            for done in wait(flying, return_when=FIRST_COMPLETED).done if flying else ():
                place, number = flying.pop(done)
                _land(active[place], number, done)


def _fill(active: dict[int, _Running], waiting: Iterator[tuple[int, Search]], max_active: int) -> bool:
    """Start searches while there is room; False when all are done."""
    while len(active) < max_active and (started := next(waiting, None)) is not None:
        active[started[0]] = _Running(started[1], time.monotonic())
    return bool(active)


def _land(running: _Running, number: int, done: "Future[list[Reply]]") -> None:
    """Keep one reply; the search is told when all of its ask are there."""
    error = done.exception()
    if error is not None:
        running.search.cancel(f"failed: {error}")
    running.replies[number] = Reply((), Usage()) if error is not None else done.result()[0]
    landed = [reply for reply in running.replies if reply is not None]
    if len(landed) == len(running.replies):
        running.replies = []
        if running.search.stopped is None:
            running.search.tell(landed)


def _tell_all(asked: Sequence[tuple[Search, Any]], answer: Callable[[list[Any]], Sequence[Any]]) -> None:
    """Answer all asks in one call; where that fails, one search after another, so that only the culprit fails."""
    requests = [request for _, ask in asked for request in ask.requests]
    if not requests:
        return
    try:
        replies = list(answer(requests))
    except Exception as error:
        if len(asked) == 1:
            asked[0][0].cancel(f"failed: {error}")
            return
        for one in asked:
            _tell_all([one], answer)
        return
    start = 0
    for search, ask in asked:
        search.tell(replies[start : start + len(ask.requests)])
        start += len(ask.requests)


def _scores_by(scorer: StepScorer | None) -> Callable[[list[ScoreRequest]], Sequence[ScoreReply]]:
    if scorer is None:

        def refuse(requests: list[ScoreRequest]) -> Sequence[ScoreReply]:
            raise ValueError("the strategy looks at scores, but no verifier was given")

        return refuse
    return scorer.score_steps


def _result(search: Search, proposer: Proposer) -> SearchResult:
    return search.result(log_prior_law=proposer.log_prior_law, tokenizer=proposer.tokenizer_fingerprint)
