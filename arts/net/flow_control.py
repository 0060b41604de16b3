"""How hard a server is pressed: how many requests fly at once, what is tried again and when, and when to give up.

Pure rules that are told the time; `arts.net.client` applies them. The ideas are old ones: additive increase and
multiplicative decrease (Chiu and Jain 1989), retry budgets (Google SRE book, ch. 21), exponential back-off with full
jitter (Brooker 2015), circuit breakers (Nygard, Release It!).
"""

import math
import random
from dataclasses import dataclass

_LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When to stop trying. The defaults wait out a server that restarts."""

    max_attempts: int = 6
    "of one request, while the server answers others"
    first_wait_s: float = 0.5
    "longest wait before the second attempt; it doubles with each further one"
    longest_wait_s: float = 30.0
    give_up_s: float = 300.0
    "without one good answer, and with nothing but failures, the server counts as down"
    first_contact_s: float = 3.0
    "the same for a server that was never reached"
    num_failures: int = 10
    "in a row before the server is tried with one request at a time only; 3 where it was never reached"
    retry_ratio: float = 0.5
    "retries allowed for each good answer, so that a sick server is not buried in them"
    spare_retries: int = 100
    "allowed besides"
    again_after_s: float = math.inf
    "after which a server that was given up is tried once more, by a program that does not end; a run stops instead"

    def __post_init__(self) -> None:
        for name in ("max_attempts", "num_failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        times = ("first_contact_s", "first_wait_s", "longest_wait_s", "give_up_s", "again_after_s")
        for name in (*times, "retry_ratio", "spare_retries"):
            if not getattr(self, name) >= 0:  # also not a number
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")

    def wait_s(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait after the failure of this attempt, the first being 1: anything up to a bound that doubles."""
        return rng.uniform(0.0, min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(attempt - 1, 30)))


class AdaptiveLimit:
    """Requests that may fly at once: fewer when the server says it is too much, slowly more while all goes well.

    Args:
        most: never more than this.
        calm_s: complaints within this time of a cut are about requests sent before it and cut no further.
    """

    def __init__(self, most: int, *, calm_s: float = 1.0) -> None:
        if most < 1:
            raise ValueError(f"at most {most} requests at once; at least 1 must be allowed")
        self.most, self.calm_s = most, calm_s
        self._limit = float(most)
        self._cut_at = -1e9

    @property
    def now(self) -> int:
        return max(1, int(self._limit))

    def good(self) -> None:
        """One more for every full load of good answers."""
        self._limit = min(float(self.most), self._limit + 1.0 / self._limit)

    def overloaded(self, now_s: float) -> None:
        if now_s - self._cut_at >= self.calm_s:
            self._limit = max(1.0, self._limit * 0.7)
            self._cut_at = now_s


class RetryBudget:
    """Retries that are paid for by good answers."""

    def __init__(self, patience: Patience) -> None:
        self._most = float(max(patience.spare_retries, 1))
        self._left = float(patience.spare_retries)
        self._ratio = patience.retry_ratio

    def good(self) -> None:
        self._left = min(self._most, self._left + self._ratio)

    def take(self) -> bool:
        """May one more request be tried again?"""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Breaker:
    """Notices a server that does nothing but fail.

    `is_open`: it is tried with one request at a time until one succeeds. `is_down`: it has had its time.
    """

    def __init__(self, patience: Patience, now_s: float) -> None:
        self.patience = patience
        self._in_a_row = 0
        self.was_reached = False
        self._first_failure_at = now_s
        self._quiet_until = now_s

    @property
    def _excess(self) -> int:
        """Failures in a row beyond those that open it; negative while it is closed."""
        few = min(3, self.patience.num_failures)
        return self._in_a_row - (self.patience.num_failures if self.was_reached else few)

    @property
    def is_open(self) -> bool:
        return self._excess >= 0

    @property
    def pause_s(self) -> float:
        """Time to leave an open server alone before it is tried again: longer after every further failure."""
        wait_s = self.patience.first_wait_s * 2.0 ** min(self._excess, 30)
        return min(_LONGEST_PAUSE_S, wait_s) if self.is_open else 0.0

    def is_down(self, now_s: float) -> bool:
        give_up_s = self.patience.give_up_s
        if not self.was_reached:
            give_up_s = min(give_up_s, self.patience.first_contact_s)
        return self.is_open and self.failing_s(now_s) >= give_up_s

    def failing_s(self, now_s: float) -> float:
        """For how long there was no good answer."""
        return now_s - self._first_failure_at if self._in_a_row else 0.0

    def good(self) -> None:
        self._in_a_row, self.was_reached = 0, True

    def failed(self, now_s: float, *, was_reached: bool = False) -> None:
        """Note a failure; `was_reached`: there is a server, though it did not do what it should."""
        self.was_reached |= was_reached
        if self._in_a_row == 0:
            self._first_failure_at = now_s
        # What fails while it is left alone was sent before: a full load of failures at once makes no longer pause.
        if not self.is_open or now_s >= self._quiet_until:
            self._in_a_row += 1
            self._quiet_until = now_s + self.pause_s
