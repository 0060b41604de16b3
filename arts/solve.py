"""Solve one problem within a budget: search, score, choose, and say why. Without a strategy: best of N by flow."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from arts.protocols import Proposer, Scorer, StepScorer, Task
from arts.search.budget import Bill, Budget
from arts.search.driver import run_batched
from arts.search.program import Search
from arts.search.strategies.pool import BestOfN
from arts.search.strategy import Strategy
from arts.search.whole_path import WholePathScorer
from arts.tree import Node, Problem, ReasoningTree


@dataclass(frozen=True)
class Solution:
    """What was chosen, and what from. `leaf` is None where no draw finished: an unfinished path is never an answer."""

    tree: ReasoningTree
    leaf: Node | None
    bill: Bill
    stopped: str
    "budget, settled, complete, cancelled, or failed: ..."
    counts: dict[str, int]
    "draws that failed, did not finish, were empty or repeated themselves"

    @property
    def text(self) -> str | None:
        return None if self.leaf is None else self.tree.text(self.leaf.id)

    @property
    def correct(self) -> bool:
        return self.leaf is not None and self.leaf.verdict is not None and self.leaf.verdict.correct

    def lines(self, max_alternatives: int = 5) -> Iterator[str]:
        """The report of `arts solve`."""
        if self.leaf is None:
            why = self.stopped if self.stopped.startswith("failed") else "draw more samples, or give more tokens"
            yield f"{self.tree.problem.prompt}: none of {self.bill.draws} draws finished; {why}"
            return
        ranked = sorted((node for node in self.tree.leaves() if node.is_answer), key=_rank)
        yield f"problem      {self.tree.problem.prompt}"
        yield f"chosen       {self.text}"
        if self.leaf.log_flow is not None:
            total = math.fsum(_flow(leaf) * leaf.num_draws for leaf in ranked)
            share = _flow(self.leaf) * self.leaf.num_draws / total if total else 1.0
            yield f"flow         {_flow(self.leaf):.2f}, {share:.0%} of the flow of all {self.bill.draws} draws"
        verdict = self.leaf.verdict
        if verdict is not None:
            yield f"checker      {'agrees: right' if verdict.correct else f'disagrees: {verdict.reason}'}"
        others = [leaf for leaf in ranked if leaf is not self.leaf]
        for leaf in others[:max_alternatives]:
            mark = "" if leaf.verdict is None else "right" if leaf.verdict.correct else f"wrong, {leaf.verdict.reason}"
            flow = "     –" if leaf.log_flow is None else f"{_flow(leaf):6.2f}"
            yield f"  against    {flow}  {self.tree.text(leaf.id)}  x{leaf.num_draws}  {mark}"
        if len(others) > max_alternatives:
            yield f"             and {len(others) - max_alternatives} more"
        yield f"tokens       {self.bill.generated_tokens} generated, {self.bill.verifier_tokens} read by the verifier"
        left_out = "".join(f", {count} draws {what}" for what, count in sorted(self.counts.items()))
        yield f"stopped      {self.stopped}{left_out}"


def solve(
    task: Task,
    proposer: Proposer,
    scorer: Scorer | StepScorer,
    problem: Problem,
    *,
    num_samples: int = 16,
    strategy: Strategy | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    watch: Callable[[Search], None] | None = None,
) -> Solution:
    """Search for the best answer.

    Args:
        scorer: a `StepScorer` pays every token once; any other `Scorer` reads whole paths.
        num_samples: N of best-of-N, where no strategy is given.
        budget: the most to spend; without one, what the strategy takes by itself.
        seed: of the draws; the same seed draws the same solutions.
        watch: called with the search whenever it has grown.
    """
    step_scorer = as_step_scorer(scorer, proposer)
    search = Search(
        problem,
        strategy or BestOfN(n=num_samples),
        budget or Budget(),
        judge=lambda text: task.judge(problem, text),
        max_new_tokens=task.max_new_tokens,
        scale=step_scorer.scale,
        seed=seed,
    )
    ((_, result),) = run_batched([search], proposer, step_scorer, watch=(lambda _, one: watch(one)) if watch else None)
    leaf = None if result.answer is None else result.tree.nodes[result.answer]
    return Solution(result.tree, leaf, result.bill, result.stopped, result.counts)


def as_step_scorer(scorer: Scorer | StepScorer, proposer: Proposer) -> StepScorer:
    """The scorer itself where it can be asked step by step, else around it one that reads whole paths."""
    if isinstance(scorer, StepScorer):
        return scorer
    return WholePathScorer(scorer, tokenizer=proposer.tokenizer_fingerprint)


def _rank(leaf: Node) -> tuple[float, int]:
    """The highest flow first, equals in order of drawing."""
    return (-(leaf.log_flow if leaf.log_flow is not None else -math.inf), leaf.id)


def _flow(node: Node) -> float:
    return math.exp(min(node.log_flow or 0.0, 700.0))
