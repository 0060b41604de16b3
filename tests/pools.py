"""Small judged trees whose draws are written down one by one, for the tests of `arts.evaluate`."""

from collections.abc import Sequence
from typing import NamedTuple

from arts.protocols import ScoredTrees
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Usage, Verdict, build_tree


class Draw(NamedTuple):
    """One main trajectory: what it answers, whether that is right, and its flow."""

    answer: str | None = "a"
    correct: bool = False
    log_flow: float = 0.0
    finished: bool = True


RIGHT, WRONG = Draw("right", True, 1.0), Draw("wrong", False, -1.0)
UNFINISHED = Draw("cut", False, 9.0, finished=False)


def pool_tree(
    draws: Sequence[Draw],
    *,
    problem: Problem | str = "p",
    forks: Sequence[Draw] = (),
    usage: Usage = Usage(),
    steps: int = 2,
) -> ReasoningTree:
    """A tree of two steps (or more, or one) a draw, in which equal draws are merged. Forks leave draw 0's first step.

    The score of a draw is that of its last step; those before it have 0.
    """
    problem = problem if isinstance(problem, Problem) else Problem(problem, f"prompt of {problem}")
    by_text = {_end(draw): draw for draw in (*draws, *forks)}

    def judge(text: str) -> Verdict:
        draw = by_text[text.split(" => ")[-1]]
        return Verdict(draw.correct, draw.answer, "" if draw.correct else "not it")

    trunks = [
        Rollout(index, index, 0, (*[_think(draw)] * (steps - 1), _answer(draw))) for index, draw in enumerate(draws)
    ]
    extra = [Rollout(len(draws) + index, 0, 1, (_answer(draw),)) for index, draw in enumerate(forks)]
    tree = build_tree(problem, [*trunks, *extra], judge=judge, usage=usage)
    ends = {node.id: by_text[node.text] for node in tree.leaves() if node.text}
    return tree.with_log_flows([ends[node.id].log_flow if node.id in ends else 0.0 for node in tree.nodes])


def _think(draw: Draw) -> Step:
    return Step(f"think of {draw.answer} => ", (1, 2), -0.5, StopReason.STOP)


def _end(draw: Draw) -> str:
    return f"{draw.answer}, {draw.correct}, {draw.log_flow}, {draw.finished}"


def _answer(draw: Draw) -> Step:
    return Step(_end(draw), (3,), -0.5, StopReason.EOS if draw.finished else StopReason.LENGTH)


def scored(trees: Sequence[ReasoningTree], computed: int = 70, distinct: int = 70) -> ScoredTrees:
    return ScoredTrees(list(trees), computed, distinct)
