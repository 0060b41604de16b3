"""Scores of given paths as a program of its own, so that they share batches with the searches that run beside it."""

from collections.abc import Sequence

from arts.protocols import Reply, ScoreReply, ScoreRequest
from arts.search.budget import Budget
from arts.search.program import DrawAsk, ScoreAsk
from arts.search.replies import checked_scores


class PathScores:
    """Asks for the scores of all its paths at once, and is over. Draws nothing."""

    def __init__(self, requests: Sequence[ScoreRequest], budget: Budget | None = None) -> None:
        self.requests = tuple(requests)
        self.budget = budget or Budget()
        self.stopped: str | None = None
        self.replies: tuple[ScoreReply, ...] = ()

    def ask(self) -> DrawAsk | ScoreAsk | None:
        return ScoreAsk(self.requests) if self.stopped is None else None

    def tell(self, replies: Sequence[Reply] | Sequence[ScoreReply]) -> None:
        """Raises ValueError where these are no scores of the paths."""
        self.replies = tuple(checked_scores(*pair) for pair in zip(self.requests, replies, strict=True))
        self.stopped = "complete"

    def cancel(self, reason: str = "cancelled") -> None:
        if self.stopped is None:
            self.stopped = reason
