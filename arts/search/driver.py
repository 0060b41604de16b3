"""Run many searches at once: batched on a local model, concurrently on a server. All waiting and failing happens here.

A search that fails, or that is slow, is its own affair: the others go on, and it keeps the best answer it had.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from arts.protocols import ConcurrentProposer, Proposer, Reply, Request, ScoreReply, ScoreRequest, StepScorer
from arts.search.program import DrawAsk, ScoreAsk, Search, SearchResult, failure


class Finished(NamedTuple):
    place: int
    "of the search among those given"
    result: SearchResult


@dataclass
class _Running:
    search: Search
    since: float
    replies: list[Reply | None] = field(default_factory=list)
    "to its ask, as far as they are there; empty where it waits for none"
    queue: deque[tuple[int, Request]] = field(default_factory=deque)
    "requests of its ask that were not sent yet, with their number"

    def seconds_left(self) -> float:
        seconds = self.search.budget.seconds
        return math.inf if seconds is None else self.since + seconds - time.monotonic()

    def ask(self) -> DrawAsk | ScoreAsk | None:
        with suppress(Exception):  # the search has noted it and stopped
            return self.search.ask()
        return None

    def tell(self, replies: Sequence[Any]) -> None:
        """Hand replies over; what is wrong with them, or goes wrong with them, ends this search only."""
        if self.search.stopped is None:
            try:
                self.search.tell(replies)
            except Exception as error:
                self.search.cancel(failure(error))

    def stop_in_time(self) -> None:
        if self.seconds_left() <= 0:
            self.search.cancel("budget")


def run_batched(
    searches: Iterable[Search],
    proposer: Proposer,
    scorer: StepScorer | None,
    *,
    max_active: int = 64,
    watch: Callable[[int, Search], None] | None = None,
) -> Iterator[Finished]:
    """Drive searches together on a local model: one batch of draws and one of scores a round.

    Args:
        scorer: None where no strategy looks at scores.
        max_active: searches that run at the same time; the next one starts when one ends.
        watch: called after every round with the place of each search that runs, and the search.

    Yields:
        Results as they come, with the place of their search.
    """
    waiting = enumerate(_fitting(searches, scorer))
    active: dict[int, _Running] = {}
    while _fill(active, waiting, max_active):
        for running in active.values():
            running.stop_in_time()
        asks = {place: ask for place, running in active.items() if (ask := running.ask()) is not None}
        for place in [place for place in active if place not in asks]:
            yield Finished(place, _result(active.pop(place).search, proposer))
        for kind, answer in ((DrawAsk, proposer.propose), (ScoreAsk, _scores_by(scorer))):
            _tell_all([(active[place], ask) for place, ask in asks.items() if isinstance(ask, kind)], answer)
        if watch is not None:
            for place in asks:
                watch(place, active[place].search)


def run_concurrently(
    searches: Iterable[Search],
    proposer: Proposer,
    scorer: StepScorer | None,
    *,
    max_in_flight: int | None = None,
    max_active: int = 64,
    watch: Callable[[int, Search], None] | None = None,
) -> Iterator[Finished]:
    """Drive searches on a server: every request on its own, at most `max_in_flight` at a time, no rounds.

    Scores are asked for one search at a time, on the calling thread. A proposer that is no `ConcurrentProposer` must
    take calls of `propose` from threads. Those in flight are shared out evenly, so that a slow search leaves room for
    the others. One that fails, or whose seconds are over, does not wait for its requests: no more are sent, and replies
    are dropped. The same holds for all of them where the caller stops taking results.

    Args:
        max_in_flight: None: what the proposer takes, or 32.
        watch: called after every reply with the place of its search, and the search.
    """
    if max_in_flight is None:
        max_in_flight = proposer.max_in_flight if isinstance(proposer, ConcurrentProposer) else 32
    waiting = enumerate(_fitting(searches, scorer))
    active: dict[int, _Running] = {}
    flying: dict[Future[Reply], tuple[int, int]] = {}
    with _sending_to(proposer, max_in_flight, flying) as send:
        while _fill(active, waiting, max_active):
            over = []
            for place, running in active.items():
                running.stop_in_time()
                if running.replies and running.search.stopped is None:
                    continue
                ask = _next_draws(running, scorer)
                if ask is None:
                    over.append(place)
                    continue
                running.replies = [None] * len(ask.requests)
                running.queue = deque(enumerate(ask.requests))
            for place, number, request in _to_send(active, flying, max_in_flight):
                flying[send(request)] = (place, number)
            for place in over:
                _drop(flying, place)
                yield Finished(place, _result(active.pop(place).search, proposer))
            if over:
                continue  # there is room for more searches, and they do not wait for the replies to others
            for done in _landed(flying, active.values()):
                place, number = flying.pop(done)
                _land(active[place], number, done)
                if watch is not None:
                    watch(place, active[place].search)


@contextmanager
def _sending_to(
    proposer: Proposer, max_in_flight: int, flying: dict[Future[Reply], tuple[int, int]]
) -> Iterator[Callable[[Request], Future[Reply]]]:
    """The way to send one request; at the end, what still flies is of no use to anybody."""
    pool = ThreadPoolExecutor(max_in_flight)  # starts no thread before it is used
    try:
        if isinstance(proposer, ConcurrentProposer):
            yield proposer.submit
        else:
            yield lambda request: pool.submit(_propose_one, proposer, request)
    finally:
        for future in flying:
            future.cancel()
        pool.shutdown(wait=False, cancel_futures=True)


def run_searches(
    searches: Iterable[Search],
    proposer: Proposer,
    scorer: StepScorer | None,
    *,
    watch: Callable[[int, Search], None] | None = None,
) -> Iterator[Finished]:
    """Drive searches the way that suits the proposer: a server concurrently, a local model in batches."""
    if isinstance(proposer, ConcurrentProposer):
        most = max(64, proposer.max_in_flight)
        return run_concurrently(searches, proposer, scorer, max_active=most, watch=watch)
    return run_batched(searches, proposer, scorer, watch=watch)


def _fitting(searches: Iterable[Search], scorer: StepScorer | None) -> Iterator[Search]:
    """Refuse a search that would misread the scores it gets."""
    for search in searches:
        if scorer is not None and search.strategy.scores != "none" and search.tree.scale != scorer.scale:
            raise ValueError(
                f"the search reads scores as {search.tree.scale} and the verifier gives {scorer.scale}; "
                "make it with Search(..., scale=scorer.scale)"
            )
        yield search


def _fill(active: dict[int, _Running], waiting: Iterator[tuple[int, Search]], max_active: int) -> bool:
    """Start searches while there is room; False when all are done."""
    if max_active < 1:
        raise ValueError(f"max_active is {max_active}; at least 1 search must run at a time")
    while len(active) < max_active and (started := next(waiting, None)) is not None:
        active[started[0]] = _Running(started[1], time.monotonic())
    return bool(active)


def _next_draws(running: _Running, scorer: StepScorer | None) -> DrawAsk | None:
    """What a search wants drawn next, once its scores are told; None where it is over."""
    while isinstance(ask := running.ask(), ScoreAsk):
        _tell_all([(running, ask)], _scores_by(scorer))
        running.stop_in_time()
    return ask


def _to_send(
    active: dict[int, _Running], flying: dict[Future[Reply], tuple[int, int]], max_in_flight: int
) -> list[tuple[int, int, Request]]:
    """Requests for the free places, each with the place of its search and its number there."""
    share = max(1, max_in_flight // len(active))
    room = max_in_flight - len(flying)
    out = Counter(place for place, _ in flying.values())
    sent: list[tuple[int, int, Request]] = []
    for place, running in active.items():
        count = min(len(running.queue), share - out[place], room - len(sent))
        sent += [(place, *running.queue.popleft()) for _ in range(count)]
    return sent


def _propose_one(proposer: Proposer, request: Request) -> Reply:
    (reply,) = _answers(proposer.propose, [request])
    return reply  # type: ignore[no-any-return]


def _landed(flying: dict[Future[Reply], tuple[int, int]], active: Iterable[_Running]) -> Iterable[Future[Reply]]:
    """Wait for a reply, or until the seconds of a search are over."""
    seconds = min((running.seconds_left() for running in active), default=math.inf)
    timeout = None if seconds == math.inf else max(0.0, seconds)
    return wait(flying, timeout, FIRST_COMPLETED).done


def _land(running: _Running, number: int, done: Future[Reply]) -> None:
    """Keep one reply; the search is told when all of its ask are there."""
    error = done.exception()
    if error is not None:
        running.search.cancel(failure(error))
        return
    running.replies[number] = done.result()
    landed = [reply for reply in running.replies if reply is not None]
    if len(landed) == len(running.replies):
        running.replies = []
        running.tell(landed)


def _drop(flying: dict[Future[Reply], tuple[int, int]], place: int) -> None:
    """Forget the requests of a search that is over; one that waits for a thread is never sent."""
    for future in [future for future, (owner, _) in flying.items() if owner == place]:
        future.cancel()
        del flying[future]


def _tell_all(asked: Sequence[tuple[_Running, Any]], answer: Callable[[list[Any]], Sequence[Any]]) -> None:
    """Answer all asks in one call; where that fails, one search after another, so that only the culprit fails."""
    requests = [request for _, ask in asked for request in ask.requests]
    if not requests:
        return
    try:
        replies = _answers(answer, requests)
    except Exception as error:
        if len(asked) == 1:
            asked[0][0].search.cancel(failure(error))
            return
        for one in asked:
            _tell_all([one], answer)
        return
    start = 0
    for running, ask in asked:
        running.tell(replies[start : start + len(ask.requests)])
        start += len(ask.requests)


def _answers(answer: Callable[[list[Any]], Sequence[Any]], requests: list[Any]) -> list[Any]:
    replies = list(answer(requests))
    if len(replies) != len(requests):
        raise ValueError(f"{len(replies)} replies to {len(requests)} requests; there must be one for each, in order")
    return replies


def _scores_by(scorer: StepScorer | None) -> Callable[[list[ScoreRequest]], Sequence[ScoreReply]]:
    if scorer is None:

        def refuse(requests: list[ScoreRequest]) -> Sequence[ScoreReply]:
            raise ValueError("the strategy looks at scores, but no verifier was given")

        return refuse
    return scorer.score_steps


def _result(search: Search, proposer: Proposer) -> SearchResult:
    return search.result(log_prior_law=proposer.log_prior_law, tokenizer=proposer.tokenizer_fingerprint)
