"""Any Scorer as one that is asked while a tree grows: it reads the whole path every time, and says what that costs.

One behind a server (`RemotePathScorer`) is asked for one search while others wait for their scores.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from arts.net.client import Client
from arts.protocols import ScoredTrees, Scorer, ScoreReply, ScoreRequest, ScoreScale
from arts.tree import Node, ReasoningTree

_PROMPTS_KEPT = 4096


class WholePathScorer:
    """A `StepScorer` over a `Scorer`: reward models, Python functions, and the alternative to compare a cache with.

    Args:
        tokenizer: fingerprint of the tokenizer that the steps' token ids belong to, as a proposer reports it.
    """

    caches = False

    def __init__(self, scorer: Scorer, *, tokenizer: str | None = None) -> None:
        self.scorer, self.tokenizer = scorer, tokenizer
        self.scale: ScoreScale = getattr(scorer, "scale", ScoreScale())
        self._prompt_tokens: dict[str, int] = {}  # of the problems seen last: a server sees ever new ones

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """One call of the scorer for all, and one more for each problem that is seen for the first time."""
        calls: dict[str | None, list[int]] = {}
        for index, request in enumerate(requests):
            known = request.problem.id in self._prompt_tokens
            calls.setdefault(None if known else request.problem.id, []).append(index)
        replies: dict[int, ScoreReply] = {}
        for indices in calls.values():
            replies |= zip(indices, self._score([requests[index] for index in indices]), strict=True)
        return [replies[index] for index in range(len(requests))]

    def _score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return self.replies(requests, self.scorer.score(self.chains(requests)))

    def replies(self, requests: Sequence[ScoreRequest], scored: ScoredTrees) -> list[ScoreReply]:
        """What a scorer said of the chains of some requests, with each one's part of the bill."""
        # One bill for all. A request's part must be what it would be alone: prompts differ in length, and a search that
        # is billed for its neighbours would end elsewhere beside others.
        sizes = [sum(len(node.token_ids) or len(node.text) for node in tree.nodes) for tree in scored.trees]
        prompt = max(0, scored.computed_tokens - sum(sizes)) // len(sizes)
        sizes = [
            size + self._prompt_tokens.setdefault(request.problem.id, prompt)
            for request, size in zip(requests, sizes, strict=True)
        ]
        while len(self._prompt_tokens) > _PROMPTS_KEPT:
            del self._prompt_tokens[next(iter(self._prompt_tokens))]
        marks = [scored.computed_tokens * sum(sizes[:count]) // max(1, sum(sizes)) for count in range(len(sizes) + 1)]
        return [
            ScoreReply(tuple(self._scores(request, tree)), after - before)
            for request, tree, before, after in zip(requests, scored.trees, marks, marks[1:], strict=False)
        ]

    def _scores(self, request: ScoreRequest, tree: ReasoningTree) -> list[float]:
        scores = [node.log_flow for node in tree.nodes[-request.num_new :] if node.log_flow is not None]
        if len(scores) < request.num_new:
            raise ValueError(f"the scorer left steps of problem {request.problem.id!r} without a score")
        return scores

    def chains(self, requests: Sequence[ScoreRequest]) -> list[ReasoningTree]:
        """Each path as a tree of its own."""
        return [self._chain(request) for request in requests]

    def _chain(self, request: ScoreRequest) -> ReasoningTree:
        steps = (Node(id=index, parent=index - 1, **step._asdict()) for index, step in enumerate(request.steps, 1))
        return ReasoningTree(problem=request.problem, nodes=(Node(id=0, parent=-1), *steps), tokenizer=self.tokenizer)

    def forget(self) -> None:
        """There is nothing to forget: every path is read as a whole."""


class RemoteScorer(Scorer, Protocol):
    """A scorer behind a server."""

    client: Client

    async def ascore(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        """`score`, on the client's own loop."""
        ...


class RemotePathScorer:
    """A `ConcurrentScorer` over a scorer behind a server."""

    caches = False

    def __init__(self, scorer: RemoteScorer, *, tokenizer: str | None = None) -> None:
        self._scorer, self._paths = scorer, WholePathScorer(scorer, tokenizer=tokenizer)
        self.client, self.scale = scorer.client, self._paths.scale

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return self._paths.score_steps(requests)

    def submit(self, requests: Sequence[ScoreRequest]) -> Future[list[ScoreReply]]:
        return self.client.start(self._score(requests))

    async def _score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return self._paths.replies(requests, await self._scorer.ascore(self._paths.chains(requests)))

    def forget(self) -> None:
        """There is nothing to forget: every path is read as a whole."""
