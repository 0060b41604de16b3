"""The two loops that keep searches going: in rounds on a local model, request by request on a server.

A loop knows the searches that run now. `turn` takes them one step further and gives back those that ended; between two
turns others may join. Who feeds a loop decides the rest: `arts.search.driver` runs given searches to their end,
`arts.search.engine` those that come and go. All waiting and failing happens here: a search that fails, or that is slow,
is its own affair; the others go on, and it keeps the best answer it had.
"""

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from arts.protocols import ConcurrentProposer, Proposer, Reply, Request, ScoreReply, ScoreRequest, StepScorer
from arts.search.budget import Budget
from arts.search.program import DrawAsk, ScoreAsk, failure


class Program(Protocol):
    """What a loop can run: a `Search`, or anything else that asks and is told."""

    budget: Budget
    stopped: str | None

    def ask(self) -> DrawAsk | ScoreAsk | None: ...

    def tell(self, replies: Sequence[Reply] | Sequence[ScoreReply]) -> None: ...

    def cancel(self, reason: str = "cancelled") -> None: ...


@dataclass
class Running:
    """A program on its way."""

    program: Any
    since: float
    owners: list[int] = field(default_factory=list)
    "for every piece of its ask, the request it is a part of; empty where it waits for none"
    replies: list[Reply | None] = field(default_factory=list)
    "to those pieces, as far as they are there"
    queue: deque[tuple[int, Request]] = field(default_factory=deque)
    "pieces that were not sent yet, with their number"
    num_out: int = 0
    "pieces that were sent and are not answered"

    @property
    def num_landed(self) -> int:
        """Draws of its ask that are there; the program is told when all of them are."""
        return sum(len(reply.draws) for reply in self.replies if reply is not None)

    def seconds_left(self) -> float:
        seconds = self.program.budget.seconds
        return math.inf if seconds is None else self.since + seconds - time.monotonic()

    def ask(self) -> DrawAsk | ScoreAsk | None:
        with suppress(Exception):  # the search has noted it and stopped
            return self.program.ask()  # type: ignore[no-any-return]
        return None

    def tell(self, replies: Sequence[Any]) -> None:
        """Hand replies over; what is wrong with them, or goes wrong with them, ends this program only."""
        if self.program.stopped is None:
            try:
                self.program.tell(replies)
            except Exception as error:
                self.program.cancel(failure(error))

    def stop_in_time(self) -> None:
        if self.seconds_left() <= 0:
            self.program.cancel("budget")

    def expect(self, ask: DrawAsk, draws_at_once: int | None) -> None:
        """Get ready to send an ask, in pieces of so many draws; None: a request each."""
        pieces = [(number, part) for number, one in enumerate(ask.requests) for part in _parts(one, draws_at_once)]
        self.owners = [number for number, _ in pieces]
        self.replies = [None] * len(pieces)
        self.queue = deque(enumerate(part for _, part in pieces))

    def land(self, number: int, reply: Reply) -> None:
        self.replies[number] = reply
        landed = [reply for reply in self.replies if reply is not None]
        if len(landed) == len(self.replies):
            by_request = groupby(zip(self.owners, landed, strict=True), key=lambda pair: pair[0])
            self.replies, self.owners = [], []
            self.tell([_joined([reply for _, reply in pairs]) for _, pairs in by_request])


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

    def start(self, place: int, program: Program, *, since: float | None = None) -> None:
        """Take a program in. Its seconds count from `since` (of `time.monotonic`), or from now."""
        self.active[place] = Running(program, time.monotonic() if since is None else since)

    @abstractmethod
    def turn(self) -> list[tuple[int, Any]]:
        """Go on, and give those that ended, with their places. Where some did, nobody has waited for anything."""

    def wake(self) -> None:
        """End the wait of a turn that is on in another thread, where it waits at all."""
        return

    def close(self) -> None:
        """Let go of all that runs, and of what it waits for."""
        self.active.clear()

    def _over(self, places: Iterable[int]) -> list[tuple[int, Any]]:
        return [(place, self.active.pop(place).program) for place in places]

    def _show(self, places: Iterable[int]) -> None:
        if self._watch is not None:
            for place in places:
                self._watch(place, self.active[place])

    def _score(self, requests: list[ScoreRequest]) -> Sequence[ScoreReply]:
        if self.scorer is None:
            raise ValueError("the strategy looks at scores, but no verifier was given")
        return self.scorer.score_steps(requests)


class Rounds(Loop):
    """For a local model: one batch of draws and one of scores a turn, of all that runs."""

    def turn(self) -> list[tuple[int, Any]]:
        for running in self.active.values():
            running.stop_in_time()
        asks = {place: ask for place, running in self.active.items() if (ask := running.ask()) is not None}
        if over := self._over([place for place in self.active if place not in asks]):
            return over  # others may join before the next batch
        for kind, answer in ((DrawAsk, self.proposer.propose), (ScoreAsk, self._score)):
            tell_all([(self.active[place], ask) for place, ask in asks.items() if isinstance(ask, kind)], answer)
        self._show(asks)
        return []


class Flights(Loop):
    """For a server: every request on its own, at most `max_in_flight` at a time, no rounds.

    Scores are asked for together, by whoever wants some at that time, on the thread of the turn. Requests in flight are
    shared out evenly, so that a slow search leaves room for the others. One that fails, that is cancelled, or whose
    seconds are over, does not wait for its requests: no more are sent, and replies are dropped.
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
        self._flying: dict[Future[Reply], tuple[int, int]] = {}
        self._landed: SimpleQueue[Future[Reply] | None] = SimpleQueue()
        self._pool = ThreadPoolExecutor(self.max_in_flight)  # starts no thread before it is used

    def turn(self) -> list[tuple[int, Any]]:
        over = []
        idle = {place: running for place, running in self.active.items() if self._is_idle(running)}
        self._give_scores(list(idle.values()))
        for place, running in idle.items():
            match running.ask():
                case DrawAsk() as ask:
                    running.expect(ask, self._draws_at_once())
                case _:
                    over.append(place)
        self._send()
        if over:
            # There is room for more searches, and they do not wait for the replies to others.
            self._drop(set(over))
            return self._over(over)
        if self.active:
            self._show(self._land())
        return []

    def wake(self) -> None:
        self._landed.put(None)

    def close(self) -> None:
        self._drop({place for place, _ in self._flying.values()})
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    @staticmethod
    def _is_idle(running: Running) -> bool:
        running.stop_in_time()
        return not running.replies or running.program.stopped is not None

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
        for place, running in self.active.items():
            room = min(share - running.num_out, self.max_in_flight - len(self._flying))
            for _ in range(min(len(running.queue), room)):
                number, request = running.queue.popleft()
                try:
                    future = self._submit(request)
                except Exception as error:
                    running.program.cancel(failure(error))
                    self.wake()
                    break
                self._flying[future] = (place, number)
                running.num_out += 1
                future.add_done_callback(self._landed.put)

    def _submit(self, request: Request) -> Future[Reply]:
        if isinstance(self.proposer, ConcurrentProposer):
            return self.proposer.submit(request)
        return self._pool.submit(_propose_one, self.proposer, request)

    def _land(self) -> list[int]:
        """Wait for a reply, for the seconds of a search to be over, or to be woken; then take all that is there."""
        seconds = min((running.seconds_left() for running in self.active.values()), default=math.inf)
        places = []
        with suppress(Empty):
            future = self._landed.get(timeout=None if seconds == math.inf else max(0.0, seconds))
            while True:
                if future is not None and future in self._flying:
                    places.append(self._take(future))
                future = self._landed.get_nowait()
        return list(dict.fromkeys(places))

    def _take(self, done: Future[Reply]) -> int:
        place, number = self._flying.pop(done)
        running = self.active[place]
        running.num_out -= 1
        try:
            reply = done.result()
        except (Exception, CancelledError) as error:  # the proposer's own: what we cancel is not flying any more
            running.program.cancel(failure(error))
        else:
            running.land(number, reply)
        return place

    def _drop(self, places: set[int]) -> None:
        """Forget the requests of searches that are over; one that waits for a thread is never sent."""
        for future in [future for future, (owner, _) in self._flying.items() if owner in places]:
            del self._flying[future]
            future.cancel()


def _parts(request: Request, draws_at_once: int | None) -> list[Request]:
    if draws_at_once is None or len(request.seeds) <= draws_at_once:
        return [request]
    starts = range(0, len(request.seeds), draws_at_once)
    return [replace(request, seeds=request.seeds[start : start + draws_at_once]) for start in starts]


def _joined(replies: Sequence[Reply]) -> Reply:
    """One reply of those to the parts of a request."""
    if len(replies) == 1:
        return replies[0]
    usage = replies[0].usage
    for reply in replies[1:]:
        usage = usage.plus(reply.usage)
    failures = [reply.failure for reply in replies if reply.failure]
    return Reply(tuple(draw for reply in replies for draw in reply.draws), usage, failures[0] if failures else "")


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
