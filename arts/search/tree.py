"""The tree of a search while it grows: what strategies look at and decide by.

Nodes are steps, numbered in the order they came; node 0 is the problem. Equal steps below one parent are one node that
counts its draws, so no token is drawn into two places or scored twice. At the end it becomes a `ReasoningTree`.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from arts.protocols import ScoreScale, aggregate
from arts.tree import LogPriorLaw, Node, Problem, ReasoningTree, Step, StopReason, Usage, Verdict

_REPEATS = 3  # the same step text this often in a row: the proposer turns in a circle


class SearchTree:
    """Steps, draws, scores and answers of one problem.

    Args:
        scale: what scores mean; strategies ask for `flow` and `value` instead of raw scores.
        judge: called with the text of each finished solution. Strategies see only the answer it reads there, the key
            that votes are counted by; its verdict is kept for evaluation.
        max_new_tokens: limit of one solution.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        scale: ScoreScale | None = None,
        judge: Callable[[str], Verdict] | None = None,
        max_new_tokens: int = 1 << 20,
    ) -> None:
        self.problem = problem
        self.scale = scale or ScoreScale()
        self.max_new_tokens = max_new_tokens
        self.parent: list[int] = [-1]
        self.children: list[list[int]] = [[]]
        self.depth: list[int] = [0]
        self.num_draws: list[int] = [1]
        self.num_tokens: list[int] = [0]
        "tokens of the path down to each node, without the prompt"
        self.log_score: list[float | None] = [None]
        self.answers: list[int] = []
        "finished solutions, in the order they were first drawn"
        self.counts: Counter[str] = Counter()
        "what went wrong: `failed`, `unfinished`, `empty` and `repeated` draws"
        self.num_correct = 0
        "finished solutions that are right, for curves; no strategy may look"
        self._judge = judge
        self._steps: list[Step | None] = [None]
        self._verdicts: dict[int, Verdict] = {}
        self._dead: set[int] = set()
        self._known: dict[tuple[int, tuple[int, ...], str, StopReason], int] = {}

    def __len__(self) -> int:
        return len(self.parent)

    # --- what strategies ask ------------------------------------------------------------------------------------------

    def is_answer(self, node: int) -> bool:
        """The path is finished. Nothing else is ever an answer."""
        return self.stop(node) is StopReason.EOS

    def is_open(self, node: int) -> bool:
        """The path can go on."""
        return node not in self._dead and self.stop(node) in (None, StopReason.STOP)

    def stop(self, node: int) -> StopReason | None:
        step = self._steps[node]
        return None if step is None else step.stop

    def answer_key(self, node: int) -> str | None:
        """What votes are counted by; None takes no part in them."""
        verdict = self._verdicts.get(node)
        return None if verdict is None else verdict.answer

    def is_correct(self, node: int) -> bool:
        """The checker's word, for curves; no strategy may look."""
        verdict = self._verdicts.get(node)
        return verdict is not None and verdict.correct

    def log_prior(self, node: int) -> float:
        """log pi_0 of the last step of a path; 0 at the root, NaN where it is unknown."""
        step = self._steps[node]
        return 0.0 if step is None else math.nan if step.log_prior is None else step.log_prior

    def path(self, node: int) -> list[int]:
        """Node ids from the first step down to `node`, without the root."""
        path = []
        while node > 0:
            path.append(node)
            node = self.parent[node]
        return path[::-1]

    def steps(self, node: int) -> tuple[Step, ...]:
        return tuple(step for one in self.path(node) if (step := self._steps[one]) is not None)

    def text(self, node: int) -> str:
        return "".join(step.text for step in self.steps(node))

    def tokens_left(self, node: int) -> int:
        """How long the rest of a solution may be."""
        return self.max_new_tokens - self.num_tokens[node]

    def log_flow(self, node: int) -> float:
        """The natural log of a node's own score; of a path that cannot go on and is no answer, minus infinity.

        Raises:
            ValueError: it was not scored.
        """
        if node and not self.is_answer(node) and not self.is_open(node):
            return -math.inf
        score = self.log_score[node]
        if score is None:
            raise ValueError(f"node {node} has no score; a strategy that looks at scores must say so in `scores`")
        return score

    def flow(self, node: int) -> float:
        """The score itself, F(s): a flow of reward, a chance, or the exponential of a strength."""
        return math.exp(min(self.log_flow(node), 700.0))

    def value(self, node: int) -> float:
        """The score as a number in [0, 1]: the chance to end right, where the scale has one.

        A flow is put between the two rewards; a strength goes through the logistic function, which keeps its order.
        """
        flow = self.flow(node)
        match self.scale.kind:
            case "log_value":
                return min(1.0, flow)
            case "log_flow":
                low, high = self.scale.reward_wrong, self.scale.reward_right
                return min(1.0, max(0.0, (flow - low) / (high - low)))
            case "log_strength":
                return flow / (1.0 + flow)

    def path_log_score(self, node: int) -> float:
        """The log score of a whole path, as the scorer aggregates: its last step, the lowest, the mean or product."""
        if self.scale.aggregation == "last":
            return self.log_flow(node)
        return aggregate([self.log_flow(one) for one in self.path(node)], self.scale.aggregation)

    # --- growing ------------------------------------------------------------------------------------------------------

    def add(self, parent: int, steps: Sequence[Step]) -> list[int]:
        """Hang drawn steps below a node; the nodes they became, first step first. Failed draws become none."""
        if any(step.stop is StopReason.ERROR for step in steps):
            self.counts["failed"] += 1
            return []
        path = []
        for step in steps:
            key = (parent, step.token_ids, step.text, step.stop)
            node = self._known.get(key)
            if node is None:
                node = self._known[key] = self._new(parent, step)
            else:
                self.num_draws[node] += 1
            path.append(node)
            parent = node
        if path and self.stop(path[-1]) is StopReason.LENGTH:
            self.counts["unfinished"] += 1
        return path

    def _new(self, parent: int, step: Step) -> int:
        node = len(self.parent)
        self.parent.append(parent)
        self.children.append([])
        self.children[parent].append(node)
        self.depth.append(self.depth[parent] + 1)
        self.num_draws.append(1)
        self.num_tokens.append(self.num_tokens[parent] + num_tokens(step))
        self.log_score.append(None)
        self._steps.append(step)
        if step.stop is StopReason.EOS:
            self.answers.append(node)
            if self._judge:
                self._verdicts[node] = self._judge(self.text(node))
                self.num_correct += self._verdicts[node].correct
        elif step.stop is StopReason.STOP:
            problem = self._circular(node)
            if problem:
                self.counts[problem] += 1
            if problem or self.tokens_left(node) < 1 or parent in self._dead:
                self._dead.add(node)
        return node

    def _circular(self, node: int) -> str | None:
        """Why going on below a step is of no use."""
        step = self._steps[node]
        assert step is not None
        if not step.text.strip(";\n\r\t ."):
            return "empty"
        above = node
        for _ in range(_REPEATS - 1):
            above = self.parent[above]
            other = self._steps[above]
            if other is None or other.text != step.text:
                return None
        return "repeated"

    # --- afterwards ---------------------------------------------------------------------------------------------------

    def frozen(self, *, log_prior_law: LogPriorLaw = "raw", tokenizer: str | None = None) -> ReasoningTree:
        """The same tree as a value, with verdicts and scores, to be stored, looked at and evaluated."""
        nodes = [Node(id=0, parent=-1, log_flow=self.log_score[0])]
        for node in range(1, len(self)):
            step = self._steps[node]
            assert step is not None
            nodes.append(
                Node(
                    id=node,
                    parent=self.parent[node],
                    **step._asdict(),
                    num_draws=self.num_draws[node],
                    verdict=self._verdicts.get(node),
                    log_flow=self.log_score[node],
                )
            )
        return ReasoningTree(
            problem=self.problem,
            nodes=tuple(nodes),
            log_prior_law=log_prior_law,
            tokenizer=tokenizer,
            usage=Usage(),
        )


def num_tokens(step: Step) -> int:
    """Tokens of a step; where the proposer reports no ids, four characters count as one."""
    return len(step.token_ids) or -(-len(step.text) // 4)
