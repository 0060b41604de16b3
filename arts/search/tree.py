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
_BLANK = ";\n\r\t ."  # a text of nothing else says nothing


class SearchTree:
    """Steps, draws, scores and answers of one problem.

    Args:
        scale: what scores mean; strategies ask for `flow` and `value` instead of raw scores.
        judge: called with the text of each finished solution. Strategies see only the answer it reads there, the key
            that votes are counted by; its verdict is kept for evaluation.
        max_new_tokens: limit of one solution.
        scored: a finished solution becomes one of `answers` when its score is known; otherwise as soon as it is drawn.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        scale: ScoreScale | None = None,
        judge: Callable[[str], Verdict] | None = None,
        max_new_tokens: int = 1 << 20,
        scored: bool = False,
    ) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; a solution has at least 1 token")
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
        self.answer_tokens = 0
        "of all of these paths"
        self.counts: Counter[str] = Counter()
        """Draws that led to no answer, by what went wrong: `failed` (the proposer), `unfinished` (the token limit),
        `empty`, `repeated`; a draw may have two of them."""
        self._best: tuple[int, int | None, float] = (0, None, -math.inf)
        "how many answers were compared, the one with the highest path score, and that score"
        self.num_correct = 0
        "finished solutions that are right, for curves; no strategy may look"
        self._judge, self._scored = judge, scored
        self._steps: list[Step | None] = [None]
        self._verdicts: dict[int, Verdict] = {}
        self._dead: dict[int, str] = {}
        "paths that are not drawn from again, and why"
        self._known: dict[tuple[int, tuple[int, ...], str, StopReason], int] = {}

    def __len__(self) -> int:
        return len(self.parent)

    # --- what strategies ask ------------------------------------------------------------------------------------------

    def is_answer(self, node: int) -> bool:
        """The path is finished and says something. Nothing else is ever an answer."""
        return self.stop(node) is StopReason.EOS and node not in self._dead

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

    def verdict(self, node: int) -> Verdict | None:
        """The checker's word on a finished path, to be shown; no strategy may look."""
        return self._verdicts.get(node)

    def is_correct(self, node: int) -> bool:
        """The same for curves; no strategy may look."""
        verdict = self.verdict(node)
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
        return self._own_score(node) if self.is_answer(node) or self.is_open(node) else -math.inf

    def _own_score(self, node: int) -> float:
        score = self.log_score[node]
        if score is None:
            raise ValueError(f"node {node} has no score; a strategy that looks at scores must say so in `scores`")
        return score

    def flow(self, node: int) -> float:
        """The score itself, F(s): a flow of reward, a chance, or the exponential of a strength."""
        return _exp(self.log_flow(node))

    def value(self, node: int) -> float:
        """The score as a number in [0, 1]: the chance to end right, where the scale has one.

        A flow is put between the two rewards; a strength goes through the logistic function, which keeps its order.
        """
        return self.as_value(self.log_flow(node))

    def path_value(self, node: int) -> float:
        """The same of the score of the whole path (`path_log_score`)."""
        return self.as_value(self.path_log_score(node))

    def as_value(self, log_score: float) -> float:
        flow = _exp(log_score)
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
        end = self.log_flow(node)
        if self.scale.aggregation == "last" or end == -math.inf:
            return end
        # Steps that no draw may go on from have a score too where a draw went through them to its end.
        return aggregate([self._own_score(one) for one in self.path(node) or [node]], self.scale.aggregation)

    def best_answer(self) -> int | None:
        """The answer with the highest score of its path; the first of equals. An answer's score never changes, so that
        each is looked at once, however often this is asked."""
        count, best, highest = self._best
        for node in self.answers[count:]:
            score = self.path_log_score(node)
            if best is None or score > highest:
                best, highest = node, score
        self._best = len(self.answers), best, highest
        return best

    # --- growing ------------------------------------------------------------------------------------------------------

    def add(self, parent: int, steps: Sequence[Step], *, room: int | None = None) -> list[int]:
        """Hang drawn steps below a node.

        Args:
            room: how many nodes may be new; the rest of the draw is left out. None: any number.

        Returns:
            The nodes they became, first step first; none for a draw that failed.
        """
        if any(step.stop is StopReason.ERROR for step in steps):
            self.counts["failed"] += 1
            return []
        path: list[int] = []
        limit = math.inf if room is None else len(self) + room
        for step in steps:
            key = (parent, step.token_ids, step.text, step.stop)
            node = self._known.get(key)
            if node is not None:
                self.num_draws[node] += 1
            elif len(self) < limit:
                node = self._known[key] = self._new(parent, step)
            else:
                break
            path.append(node)
            parent = node
        self._count_faults(path, cut=len(path) < len(steps))
        return path

    def _count_faults(self, path: list[int], *, cut: bool) -> None:
        if path and self.is_answer(path[-1]):
            return
        faults = {self._dead[node] for node in path if node in self._dead}
        if cut or (path and self.stop(path[-1]) is StopReason.LENGTH):
            faults.add("unfinished")
        self.counts.update(sorted(faults) if path or cut else ["empty"])

    def _new(self, parent: int, step: Step) -> int:
        node = len(self.parent)
        # First of all, as a judge may fail: a tree has the whole of a node or nothing of it.
        text = self.text(parent) + step.text if step.stop is StopReason.EOS else ""
        if self._judge and step.stop is StopReason.EOS:
            self._verdicts[node] = self._judge(text)
            self.num_correct += self._verdicts[node].correct
        self.parent.append(parent)
        self.children.append([])
        self.children[parent].append(node)
        self.depth.append(self.depth[parent] + 1)
        self.num_draws.append(1)
        self.num_tokens.append(self.num_tokens[parent] + step.num_tokens)
        self.log_score.append(None)
        self._steps.append(step)
        if step.stop is StopReason.EOS and not text.strip(_BLANK):
            self._dead[node] = "empty"
        elif step.stop is StopReason.EOS and not self._scored:
            self._add_answer(node)
        elif step.stop is StopReason.STOP and (fault := self._dead_end(node)):
            self._dead[node] = fault
        return node

    def _add_answer(self, node: int) -> None:
        self.answers.append(node)
        self.answer_tokens += self.num_tokens[node]

    def _dead_end(self, node: int) -> str | None:
        """Why going on below a step is of no use."""
        step = self._steps[node]
        assert step is not None
        if not step.text.strip(_BLANK):
            return "empty"
        above = node
        for _ in range(_REPEATS - 1):
            above = self.parent[above]
            other = self._steps[above]
            if other is None or other.text != step.text:
                break
        else:
            return "repeated"
        if self.tokens_left(node) < 1:
            return "unfinished"
        return self._dead.get(self.parent[node])

    def set_scores(self, nodes: Sequence[int], log_scores: Sequence[float]) -> None:
        """Keep the scores of nodes; finished ones become answers, in this order."""
        for node, score in zip(nodes, log_scores, strict=True):
            if self._scored and self.log_score[node] is None and self.is_answer(node):
                self._add_answer(node)
            self.log_score[node] = float(score)

    # --- afterwards ---------------------------------------------------------------------------------------------------

    def frozen(
        self, *, log_prior_law: LogPriorLaw = "raw", tokenizer: str | None = None, usage: Usage = Usage()
    ) -> ReasoningTree:
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
            usage=usage,
        )


def _exp(log_score: float) -> float:
    return math.exp(min(log_score, 700.0))
