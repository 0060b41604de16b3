"""The two loops that keep searches going: in rounds on a local model, request by request on a server.

A loop knows the searches that run now. `turn` takes them one step further and gives back those that ended; between two
turns others may join. Who feeds a loop decides the rest: `arts.search.driver` runs given searches to their end,
`arts.search.engine` those that come and go. All waiting and failing happens here: a search that fails, or that is slow,
is its own affair; the others go on, and it keeps the best answer it had.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from arts.protocols import (
    ConcurrentProposer,
    ConcurrentScorer,
    Proposer,
    Reply,
    Request,
    ScoreReply,
    ScoreRequest,
    StepScorer,
)
from arts.search.program import DrawAsk, ScoreAsk, failure
from arts.search.running import Program, Running


class Loop(ABC):
    """Searches that run side by side, told apart by their places.

    Args:
        scorer: None where no program looks at scores.
        watch: called with a place and what runs there whenever that may have changed.
    """

    def __init__(
        self, proposer: Proposer, scorer: StepScorer | None, watch: Callable[[int, Running], None] | None = None
    ) -> None:
        self.proposer, self.scorer = proposer, scorer
        self.active: dict[int, Running] = {}
        self._watch = watch
        self._flying: dict[Future[Any], tuple[int, int | None]] = {}
        "what was asked for and is not there: whose it is, and which piece of its ask; None: its scores"
        self._landed: SimpleQueue[Future[Any] | None] = SimpleQueue()

    def start(self, place: int, program: Program, *, since: float | None = None) -> None:
        """Take a program in. Its seconds count from `since` (of `time.monotonic`), or from now."""
        self.active[place] = Running(program, time.monotonic() if since is None else since)

    @abstractmethod
    def turn(self) -> list[tuple[int, Any]]:
        """Go on, and give those that ended, with their places. Where some did, nobody has waited for anything."""

    def wake(self) -> None:
        """End the wait of a turn that is on in another thread, where it waits at all."""
        self._landed.put(None)

    def close(self) -> None:
        """Let go of all that runs, and of what it waits for."""
        self._drop(self.active.keys())
        self.active.clear()

    def _idle(self) -> dict[int, Running]:
        """Those that wait for nothing: they are to be asked what they want, or are over."""
        for running in self.active.values():
            running.stop_in_time()
        return {place: running for place, running in self.active.items() if not running.waits}

    def _over(self, places: Collection[int]) -> list[tuple[int, Any]]:
        self._drop(places)
        return [(place, self.active.pop(place).program) for place in places]

    def _drop(self, places: Collection[int]) -> None:
        """Forget the requests of searches that are over; one that waits for a thread is never sent."""
        for future in [future for future, (owner, _) in self._flying.items() if owner in places]:
            del self._flying[future]
            future.cancel()

    def _show(self, places: Iterable[int]) -> None:
        if self._watch is not None:
            for place in places:
                self._watch(place, self.active[place])

    def _score(self, requests: list[ScoreRequest]) -> Sequence[ScoreReply]:
        if self.scorer is None:
            raise ValueError("the strategy looks at scores, but no verifier was given")
        return self.scorer.score_steps(requests)

    def _fly(self, place: int, number: int | None, start: Callable[[], Future[Any]]) -> bool:
        """Ask for something that lands later; False where that fails, which ends the search."""
        try:
            future = start()
        except Exception as error:
            self.active[place].program.cancel(failure(error))
            self.wake()
            return False
        self._flying[future] = (place, number)
        future.add_done_callback(self._landed.put)
        return True

    def _score_elsewhere(self, scorer: ConcurrentScorer, place: int, ask: ScoreAsk) -> None:
        self.active[place].is_scored_elsewhere = self._fly(place, None, partial(scorer.submit, ask.requests))

    def _land(self, *, waits: bool) -> list[int]:
        """Take all that has landed, and give the places it is for.

        Args:
            waits: for something to land, for the seconds of a search to be over, or to be woken.
        """
        seconds = min((running.seconds_left() for running in self.active.values()), default=math.inf) if waits else 0.0
        places = []
        with suppress(Empty):
            future = self._landed.get(timeout=None if seconds == math.inf else max(0.0, seconds))
            while True:
                if future is not None and future in self._flying:
                    places.append(self._take(future))
                future = self._landed.get_nowait()
        return list(dict.fromkeys(places))

    def _take(self, done: Future[Any]) -> int:
        place, number = self._flying.pop(done)
        running = self.active[place]
        if number is None:
            running.is_scored_elsewhere = False
        else:
            running.num_out -= 1
        try:
            answer = done.result()
        except (Exception, CancelledError) as error:  # another's doing: what we cancel is not flying any more
            running.program.cancel(failure(error))
        else:
            if number is None:
                running.tell(answer)
            else:
                running.land(number, answer)
        return place


class Rounds(Loop):
    """For a local model: one batch of draws and one of scores a turn, of all that runs.

    Scores of a `ConcurrentScorer` are not waited for while there is something to draw.
    """

    def turn(self) -> list[tuple[int, Any]]:
        idle = self._idle()
        asks = {place: ask for place, running in idle.items() if (ask := running.ask()) is not None}
        if over := self._over([place for place in idle if place not in asks]):
            return over  # others may join before the next batch
        draws = {place: ask for place, ask in asks.items() if isinstance(ask, DrawAsk)}
        scores = {place: ask for place, ask in asks.items() if isinstance(ask, ScoreAsk)}
        tell_all([(self.active[place], ask) for place, ask in draws.items()], self.proposer.propose)
        if isinstance(self.scorer, ConcurrentScorer):
            for place, ask in scores.items():
                self._score_elsewhere(self.scorer, place, ask)
        else:
            tell_all([(self.active[place], ask) for place, ask in scores.items()], self._score)
        self._show({*asks, *self._land(waits=bool(self._flying) and not draws)})
        return []


class Flights(Loop):
    """For a server: every request on its own, at most `max_in_flight` at a time, no rounds.

    Scores are asked for together, by whoever wants some at that time, on the thread of the turn; those of a
    `ConcurrentScorer` by each search alone, so that no other waits for them. Requests in flight are shared out evenly,
    so that a slow search leaves room for the others. One that fails, that is cancelled, or whose seconds are over, does
    not wait for its requests: no more are sent, and replies are dropped.
    """

    def __init__(
        self,
        proposer: Proposer,
        scorer: StepScorer | None,
        watch: Callable[[int, Running], None] | None = None,
        *,
        max_in_flight: int | None = None,
    ) -> None:
        super().__init__(proposer, scorer, watch)
        if max_in_flight is None:
            max_in_flight = proposer.max_in_flight if isinstance(proposer, ConcurrentProposer) else 32
        self.max_in_flight = max_in_flight
        self._pool = ThreadPoolExecutor(self.max_in_flight)  # starts no thread before it is used

    def turn(self) -> list[tuple[int, Any]]:
        over, idle, scorer = [], self._idle(), self.scorer
        if not isinstance(scorer, ConcurrentScorer):
            self._give_scores(list(idle.values()))
        for place, running in idle.items():
            match running.ask():
                case DrawAsk() as ask:
                    running.expect(ask, self._draws_at_once())
                case ScoreAsk() as ask if isinstance(scorer, ConcurrentScorer):
                    self._score_elsewhere(scorer, place, ask)
                case _:
                    over.append(place)
        self._send()
        if over:
            # There is room for more searches, and they do not wait for the replies to others.
            return self._over(over)
        if self.active:
            self._show(self._land(waits=True))
        return []

    def close(self) -> None:
        super().close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _give_scores(self, idle: Sequence[Running]) -> None:
        while asks := [(running, ask) for running in idle if isinstance(ask := running.ask(), ScoreAsk)]:
            tell_all(asks, self._score)
            for running in idle:
                running.stop_in_time()

    def _draws_at_once(self) -> int | None:
        return self.proposer.draws_at_once if isinstance(self.proposer, ConcurrentProposer) else None

    def _send(self) -> None:
        """Requests for the free places, no search more than its share."""
        share = max(1, self.max_in_flight // max(1, len(self.active)))
        num_out = sum(running.num_out for running in self.active.values())
        for place, running in self.active.items():
            room = min(share - running.num_out, self.max_in_flight - num_out)
            for _ in range(min(len(running.queue), room)):
                number, request = running.queue.popleft()
                if not self._fly(place, number, partial(self._submit, request)):
                    break
                running.num_out += 1
                num_out += 1

    def _submit(self, request: Request) -> Future[Reply]:
        if isinstance(self.proposer, ConcurrentProposer):
            return self.proposer.submit(request)
        return self._pool.submit(_propose_one, self.proposer, request)


def _propose_one(proposer: Proposer, request: Request) -> Reply:
    (reply,) = _answers(proposer.propose, [request])
    return reply  # type: ignore[no-any-return]


def tell_all(asked: Sequence[tuple[Running, Any]], answer: Callable[[list[Any]], Sequence[Any]]) -> None:
    """Answer all asks in one call; where that fails, one search after another, so that only the culprit fails."""
    requests = [request for _, ask in asked for request in ask.requests]
    if not requests:
        return
    try:
        replies = _answers(answer, requests)
    except Exception as error:
        if len(asked) == 1:
            asked[0][0].program.cancel(failure(error))
            return
        for one in asked:
            tell_all([one], answer)
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
