"""Solve one problem: draw N solutions, score them, choose the one with the highest terminal flow (paper, method 6)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from arts.protocols import Proposer, Request, Scorer, Task
from arts.tree import Node, Problem, ReasoningTree, Rollout, Usage, build_tree


@dataclass(frozen=True)
class Solution:
    """What was chosen, and what from. `leaf` is None where no draw finished: an unfinished path is never an answer."""

    tree: ReasoningTree
    leaf: Node | None
    proposer_usage: Usage
    verifier_tokens: int

    @property
    def text(self) -> str | None:
        return None if self.leaf is None else self.tree.text(self.leaf.id)

    @property
    def correct(self) -> bool:
        return self.leaf is not None and self.leaf.verdict is not None and self.leaf.verdict.correct

    def lines(self, max_alternatives: int = 5) -> Iterator[str]:
        """The report of `arts solve`."""
        if self.leaf is None:
            yield f"{self.tree.problem.prompt}: none of {len(self.tree.trunks)} draws finished; draw more samples"
            return
        ranked = _answers(self.tree)
        total = math.fsum(_flow(leaf) * leaf.num_draws for leaf in ranked)
        yield f"problem      {self.tree.problem.prompt}"
        yield f"chosen       {self.text}"
        share = _flow(self.leaf) * self.leaf.num_draws / total
        yield f"flow         {_flow(self.leaf):.2f}, {share:.0%} of the flow of all {len(self.tree.trunks)} draws"
        verdict = self.leaf.verdict
        if verdict is not None:
            yield f"checker      {'agrees: right' if verdict.correct else f'disagrees: {verdict.reason}'}"
        for leaf in ranked[1 : 1 + max_alternatives]:
            mark = "" if leaf.verdict is None else "right" if leaf.verdict.correct else f"wrong, {leaf.verdict.reason}"
            yield f"  against    {_flow(leaf):6.2f}  {self.tree.text(leaf.id)}  x{leaf.num_draws}  {mark}"
        hidden = len(ranked) - 1 - max_alternatives
        if hidden > 0:
            yield f"             and {hidden} more with less flow"
        generated = self.proposer_usage.generated_tokens
        yield f"tokens       {generated} generated, {self.verifier_tokens} read by the verifier"


def solve(
    task: Task, proposer: Proposer, scorer: Scorer, problem: Problem, *, num_samples: int = 16, seed: int = 0
) -> Solution:
    """Best-of-N by terminal flow.

    Args:
        num_samples: N, solutions to draw.
        seed: of the draws; the same seed draws the same solutions.
    """
    request = Request(problem, (), tuple(seed * 1_000_003 + index for index in range(num_samples)), task.max_new_tokens)
    reply = proposer.propose([request])[0]
    rollouts = [Rollout(index, index, 0, steps) for index, steps in enumerate(reply.draws)]
    tree = build_tree(
        problem,
        rollouts,
        log_prior_law=proposer.log_prior_law,
        tokenizer=proposer.tokenizer_fingerprint,
        usage=reply.usage,
        judge=lambda text: task.judge(problem, text),
    )
    scored = scorer.score([tree])
    ranked = _answers(scored.trees[0])
    return Solution(scored.trees[0], ranked[0] if ranked else None, reply.usage, scored.computed_tokens)


def _answers(tree: ReasoningTree) -> list[Node]:
    """Finished leaves, the highest flow first; ties in order of drawing."""
    answers = [node for node in tree.leaves() if node.is_answer]
    return sorted(answers, key=lambda node: -(node.log_flow if node.log_flow is not None else -math.inf))


def _flow(node: Node) -> float:
    return math.exp(min(node.log_flow or 0.0, 700.0))
