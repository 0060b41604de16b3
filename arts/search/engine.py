"""Searches that come and go, on one loop that never ends: submit one at any time, watch it grow, cancel it.

The loop runs in a thread of its own, so that a local model draws and scores for all that runs in shared batches, and a
server has all their requests in flight together. Results come as futures. Knows no network and no clock but the loop's.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from arts.protocols import ConcurrentProposer, Proposer, StepScorer
from arts.search.driver import check_scale
from arts.search.loops import Flights, Loop, Rounds
from arts.search.program import Search
from arts.search.running import Program, Running

P = TypeVar("P", bound=Program)
CLOSED = "closed"
"What a program says it stopped for where the engine was closed under it."


@dataclass(frozen=True, eq=False)
class Ticket(Generic[P]):
    """A program that was submitted."""

    program: P
    "not to be touched before `done`: it belongs to the engine's thread"
    done: "Future[P]" = field(default_factory=Future)
    "gives the program back once it is over, however that came about"
    watch: Callable[[Running], None] | None = None
    since: float = field(default_factory=time.monotonic)


class Engine:
    """Args:
    proposer: a `ConcurrentProposer` is asked for all programs at once, any other in rounds.
    scorer: None where no program looks at scores.
    """

    def __init__(self, proposer: Proposer, scorer: StepScorer | None) -> None:
        self.proposer, self.scorer = proposer, scorer
        self._inbox: SimpleQueue[tuple[Ticket[Program], str | None] | None] = SimpleQueue()
        self._tickets: dict[int, Ticket[Program]] = {}
        self._places = count()
        self._over = False
        self._door = threading.Lock()
        self._loop = self._new_loop()
        self._thread = threading.Thread(target=self._work, name="arts-engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return not self._over and self._thread.is_alive()

    def submit(self, program: P, *, watch: Callable[[Running], None] | None = None) -> Ticket[P]:
        """Start a program; its seconds count from now.

        Args:
            watch: called in the engine's thread whenever it may have grown. It must be quick.

        Raises:
            ValueError: it would misread the verifier's scores, or the engine is closed.
        """
        if isinstance(program, Search):
            check_scale(program, self.scorer)
        ticket = Ticket(program, watch=watch)
        ticket.done.set_running_or_notify_cancel()  # only `cancel` below ends a program
        with self._door:
            if not self.is_alive:
                raise ValueError("the engine is closed; make another one")
            self._post((ticket, None))  # type: ignore[arg-type]
        return ticket

    def cancel(self, ticket: Ticket[P], reason: str = "cancelled") -> None:
        """Stop a program: what it asked for is no longer waited for. One that is over stays as it is."""
        self._post((ticket, reason))  # type: ignore[arg-type]

    def close(self) -> None:
        """Stop all programs; each is given back with what it has."""
        self._post(None)
        self._thread.join()

    def _post(self, letter: tuple[Ticket[Program], str | None] | None) -> None:
        self._inbox.put(letter)
        self._loop.wake()

    # --- in the engine's thread ---------------------------------------------------------------------------------------

    def _new_loop(self) -> Loop:
        kind = Flights if isinstance(self.proposer, ConcurrentProposer) else Rounds
        return kind(self.proposer, self.scorer, self._show)

    def _work(self) -> None:
        try:
            while not self._over:
                self._read_letters()
                if self._loop.active:
                    self._give_back(self._loop.turn())
        finally:
            # Also where a turn failed that never should: whoever waits must not wait for ever.
            with self._door:
                self._over = True
            self._loop.close()
            for ticket in self._tickets.values():
                ticket.program.cancel(CLOSED)
                ticket.done.set_result(ticket.program)
            self._tickets.clear()
            self._refuse_letters()

    def _read_letters(self) -> None:
        """Those that are there; where nothing runs, wait for one."""
        try:
            letter = self._inbox.get(block=not self._loop.active)
            while True:
                self._read(letter)
                letter = self._inbox.get_nowait()
        except Empty:
            return

    def _read(self, letter: tuple[Ticket[Program], str | None] | None) -> None:
        if letter is None:
            self._over = True
            return
        ticket, reason = letter
        if reason is None:
            place = next(self._places)
            self._tickets[place] = ticket
            self._loop.start(place, ticket.program, since=ticket.since)
        elif not ticket.done.done():
            ticket.program.cancel(reason)

    def _refuse_letters(self) -> None:
        while not self._inbox.empty():
            letter = self._inbox.get()
            if letter is not None and letter[1] is None:
                letter[0].program.cancel(CLOSED)
                letter[0].done.set_result(letter[0].program)

    def _give_back(self, over: list[tuple[int, Program]]) -> None:
        for place, program in over:
            self._tickets.pop(place).done.set_result(program)

    def _show(self, place: int, running: Running) -> None:
        if (watch := self._tickets[place].watch) is not None:
            watch(running)
