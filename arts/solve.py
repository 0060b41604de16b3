"""Solve one problem within a budget: search, score, choose, and say why."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from arts.protocols import Proposer, Scorer, ScoreScale, StepScorer, Task
from arts.search.budget import Bill, Budget
from arts.search.driver import run_searches
from arts.search.program import Search
from arts.search.strategies.adaptive import Adaptive
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
    scale: ScoreScale
    "what the nodes' scores are"

    @property
    def text(self) -> str | None:
        return None if self.leaf is None else self.tree.text(self.leaf.id)

    @property
    def correct(self) -> bool:
        return self.leaf is not None and self.leaf.verdict is not None and self.leaf.verdict.correct

    def lines(self, max_alternatives: int = 5) -> Iterator[str]:
        """The report of `arts solve`."""
        prompt, bill = self.tree.problem.prompt, self.bill
        if self.leaf is None:
            why = self.stopped if self.stopped.startswith("failed") else "draw more samples, or give more tokens"
            yield f"{prompt}: none of {bill.draws} draws finished; {why}"
            return
        others = sorted(self._others(), key=_rank)
        yield f"problem      {prompt}"
        yield f"chosen       {self.text}"
        if self.leaf.log_flow is not None:
            name = self.scale.kind.removeprefix("log_")
            yield f"{name:<12} {self._score(self.leaf):.2f}{self._share(others)}"
        verdict = self.leaf.verdict
        if verdict is not None:
            yield f"checker      {'agrees: right' if verdict.correct else f'disagrees: {verdict.reason}'}"
        for leaf in others[:max_alternatives]:
            mark = "" if leaf.verdict is None else "right" if leaf.verdict.correct else f"wrong, {leaf.verdict.reason}"
            score = "" if leaf.log_flow is None else f"{self._score(leaf):6.2f}  "
            yield f"  against    {score}{self.tree.text(leaf.id)}  x{leaf.num_draws}  {mark}"
        if len(others) > max_alternatives:
            yield f"             and {len(others) - max_alternatives} more"
        read = f", {bill.verifier_tokens} read by the verifier" if bill.verifier_tokens else ""
        yield f"tokens       {bill.generated_tokens} generated in {bill.draws} draws{read}"
        left_out = "".join(f", {count} draws {what}" for what, count in sorted(self.counts.items()))
        yield f"stopped      {self.stopped}{left_out}"

    def _score(self, leaf: Node) -> float:
        """As people read it: flows and chances themselves, strengths as they are added and compared."""
        assert leaf.log_flow is not None
        return leaf.log_flow if self.scale.kind == "log_strength" else math.exp(min(leaf.log_flow, 700.0))

    def _others(self) -> list[Node]:
        """The finished solutions besides the chosen one; where that has a score, what has none is no answer."""
        assert self.leaf is not None
        scored = self.leaf.log_flow is not None
        answers = (node for node in self.tree.leaves() if node.is_answer and (node.log_flow is not None) == scored)
        return [node for node in answers if node is not self.leaf]

    def _share(self, others: Sequence[Node]) -> str:
        """How much of the flow that was found ends in the chosen solution, every draw counted; of flows only."""
        if self.scale.kind != "log_flow":
            return ""
        if not others:
            return ", the only solution found"
        found = [(leaf.log_flow or 0.0, leaf.num_draws) for leaf in (self.leaf, *others) if leaf]
        own, num_draws = found[0][0], sum(draws for _, draws in found)
        relative = [draws * math.exp(min(log_flow - own, 700.0)) for log_flow, draws in found]
        return f", {relative[0] / math.fsum(relative):.0%} of the flow of all {num_draws} finished draws"


def solve(
    task: Task,
    proposer: Proposer,
    scorer: Scorer | StepScorer | None,
    problem: Problem,
    *,
    num_samples: int | None = None,
    strategy: Strategy | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    watch: Callable[[Search], None] | None = None,
) -> Solution:
    """Search for the best answer.

    Args:
        scorer: a `StepScorer` pays every token once; any other `Scorer` reads whole paths. None will do for a
            strategy that looks at no scores.
        num_samples: N of best-of-N, where no strategy is given.
        strategy: None: `arts` within a budget, best of N (16) without one, where N is given, or where scores are
            strengths.
        budget: the most to spend; without one, what the strategy takes by itself.
        seed: of the draws; the same seed draws the same solutions.
        watch: called with the search whenever it has grown.
    """
    step_scorer = None if scorer is None else as_step_scorer(scorer, proposer)
    search = Search(
        problem,
        strategy or _default_strategy(num_samples, has_budget=budget not in (None, Budget()), scorer=step_scorer),
        budget or Budget(),
        judge=lambda text: task.judge(problem, text),
        max_new_tokens=task.max_new_tokens,
        scale=None if step_scorer is None else step_scorer.scale,
        seed=seed,
        verifier_caches=step_scorer is not None and step_scorer.caches,
    )
    ((_, result),) = run_searches([search], proposer, step_scorer, watch=(lambda _, one: watch(one)) if watch else None)
    leaf = None if result.answer is None else result.tree.nodes[result.answer]
    return Solution(result.tree, leaf, result.bill, result.stopped, result.counts, search.tree.scale)


def _default_strategy(num_samples: int | None, *, has_budget: bool, scorer: StepScorer | None) -> Strategy:
    """`arts` within a budget, where scores are chances that it can stop by; else best of N."""
    says_chances = scorer is not None and scorer.scale.kind != "log_strength"
    if has_budget and num_samples is None and says_chances:
        return Adaptive()
    return BestOfN(n=16 if num_samples is None else num_samples)


def as_step_scorer(scorer: Scorer | StepScorer, proposer: Proposer) -> StepScorer:
    """The scorer itself where it can be asked step by step, else around it one that reads whole paths."""
    if isinstance(scorer, StepScorer):
        return scorer
    return WholePathScorer(scorer, tokenizer=proposer.tokenizer_fingerprint)


def _rank(leaf: Node) -> tuple[float, int, int]:
    """The highest flow first, of equals and without flows what was drawn most often, then in order of drawing."""
    return (math.inf if leaf.log_flow is None else -leaf.log_flow, -leaf.num_draws, leaf.id)
