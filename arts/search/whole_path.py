"""Any Scorer as one that is asked while a tree grows: it reads the whole path every time, and says what that costs."""

from collections.abc import Sequence

from arts.protocols import Scorer, ScoreReply, ScoreRequest, ScoreScale
from arts.tree import Node, ReasoningTree


class WholePathScorer:
    """A `StepScorer` over a `Scorer`: reward models, Python functions, and the alternative to compare a cache with.

    Args:
        tokenizer: fingerprint of the tokenizer that the steps' token ids belong to, as a proposer reports it.
    """

    def __init__(self, scorer: Scorer, *, tokenizer: str | None = None) -> None:
        self.scorer, self.tokenizer = scorer, tokenizer
        self.scale: ScoreScale = getattr(scorer, "scale", ScoreScale())

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        if not requests:
            return []
        scored = self.scorer.score([self._chain(request) for request in requests])
        # One bill for all; a request's part goes by the length of its path.
        sizes = [1 + sum(len(node.token_ids) or len(node.text) for node in tree.nodes) for tree in scored.trees]
        marks = [scored.computed_tokens * sum(sizes[:count]) // sum(sizes) for count in range(len(sizes) + 1)]
        return [
            ScoreReply(tuple(float(node.log_flow or 0.0) for node in tree.nodes[-request.num_new :]), after - before)
            for request, tree, before, after in zip(requests, scored.trees, marks, marks[1:], strict=False)
        ]

    def _chain(self, request: ScoreRequest) -> ReasoningTree:
        steps = (Node(id=index, parent=index - 1, **step._asdict()) for index, step in enumerate(request.steps, 1))
        return ReasoningTree(problem=request.problem, nodes=(Node(id=0, parent=-1), *steps), tokenizer=self.tokenizer)
