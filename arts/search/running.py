"""One search on its way: what it asked for, what of that is there, and how much time it has.

What is wrong with a reply, or goes wrong with it, ends this search and no other. Sends nothing: a loop does.
"""

import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

from arts.protocols import Reply, Request, ScoreReply
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
    is_scored_elsewhere: bool = False
    "it waits for scores of a `ConcurrentScorer`"

    @property
    def waits(self) -> bool:
        return bool(self.replies or self.is_scored_elsewhere) and self.program.stopped is None

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
