"""Who may come in: so many at a time, so many more in line, and nobody else."""

import asyncio
import math
import time
from collections import deque
from types import TracebackType

from arts.serve.errors import ApiError
from arts.serve.limits import Limits

_LONGEST_WAIT_S = 60


class Gate:
    """First come, first served. Lives on one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.num_inside = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self._mean_s = 1.0
        "how long one is inside, the last ones counting most"

    @property
    def num_waiting(self) -> int:
        return len(self._line)

    def join(self) -> "Place":
        """A place inside or in line. Raises ApiError 429 where the line is full; it says when to come again."""
        if self.num_inside < self._limits.max_active and not self._line:
            self.num_inside += 1
            return Place(self, None)
        if len(self._line) >= self._limits.max_waiting:
            seconds = math.ceil(self._mean_s * (1 + len(self._line)) / self._limits.max_active)
            again = min(_LONGEST_WAIT_S, max(1, seconds))
            raise ApiError(429, "too many requests at a time", code="queue_full", retry_after_s=again)
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        return Place(self, turn)

    def leave(self, turn: "asyncio.Future[None] | None", entered_at: float | None) -> None:
        if turn is not None and not turn.done():
            self._line.remove(turn)
            return
        if entered_at is not None:
            self._mean_s += 0.1 * (time.monotonic() - entered_at - self._mean_s)
        self.num_inside -= 1
        while self._line and self.num_inside < self._limits.max_active:
            self.num_inside += 1
            self._line.popleft().set_result(None)


class Place:
    """To be held with `with`; leaving it lets the next one in."""

    def __init__(self, gate: Gate, turn: "asyncio.Future[None] | None") -> None:
        self._gate, self._turn = gate, turn
        self._entered_at: float | None = None
        self._is_left = False

    @property
    def waits(self) -> bool:
        return self._turn is not None and not self._turn.done()

    async def enter(self, timeout_s: float) -> None:
        """Wait for one's turn. Raises ApiError 503 where it does not come in time."""
        if self._turn is not None:
            await asyncio.wait({self._turn}, timeout=max(0.0, timeout_s))
            if not self._turn.done():
                raise ApiError(503, "it was not your turn in time", code="queue_timeout", retry_after_s=2)
        self._entered_at = time.monotonic()

    def leave(self) -> None:
        """Let the next one in; a second time does nothing."""
        if not self._is_left:
            self._is_left = True
            self._gate.leave(self._turn, self._entered_at)

    def __enter__(self) -> "Place":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()
