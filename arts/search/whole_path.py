"""Any Scorer as one that is asked while a tree grows: it reads the whole path every time, and says what that costs."""

from collections.abc import Sequence

from arts.protocols import Scorer, ScoreReply, ScoreRequest, ScoreScale
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
        while len(self._prompt_tokens) > _PROMPTS_KEPT:
            del self._prompt_tokens[next(iter(self._prompt_tokens))]
        for indices in calls.values():
            replies |= zip(indices, self._score([requests[index] for index in indices]), strict=True)
        return [replies[index] for index in range(len(requests))]

    def _score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        scored = self.scorer.score([self._chain(request) for request in requests])
        # One bill for all. A request's part must be what it would be alone: prompts differ in length, and a search that
        # is billed for its neighbours would end elsewhere beside others.
        sizes = [sum(len(node.token_ids) or len(node.text) for node in tree.nodes) for tree in scored.trees]
        prompt = max(0, scored.computed_tokens - sum(sizes)) // len(sizes)
        sizes = [
            size + self._prompt_tokens.setdefault(request.problem.id, prompt)
            for request, size in zip(requests, sizes, strict=True)
        ]
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

    def _chain(self, request: ScoreRequest) -> ReasoningTree:
        steps = (Node(id=index, parent=index - 1, **step._asdict()) for index, step in enumerate(request.steps, 1))
        return ReasoningTree(problem=request.problem, nodes=(Node(id=0, parent=-1), *steps), tokenizer=self.tokenizer)

    def forget(self) -> None:
        """There is nothing to forget: every path is read as a whole."""
