"""A Python function as a verifier: `function(problem, steps)` scores partial solutions, for every table and search.

The function returns one number, the score of all steps so far together, or one number a step. What the numbers are is
said by the scale: chances from 0 to 1 (`log_value`), Bradley-Terry strengths (`log_strength`) or flows above 0
(`log_flow`). Only paths go in: a function sees no verdict and no other path. Needs no torch.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence

from arts.protocols import ScoredTrees, ScoreScale
from arts.tree import Problem, ReasoningTree, StopReason

ScoreFunction = Callable[[Problem, Sequence[str]], float | Sequence[float]]
"""(problem, texts of the steps so far, at least one) -> the score of them together, or one score a step."""

LOWEST_VALUE = sys.float_info.min  # a chance of 0 counts as this one: its logarithm exists, and none ranks below it
_ALLOWED = {
    "log_value": "a chance from 0 to 1",
    "log_strength": "a finite number",
    "log_flow": "a finite number above 0",
}


class FunctionScorer:
    """`Scorer` over a Python function.

    A function that returns one number is called for every step of a tree; one that returns a number a step is called
    once for each leaf, and a step that several leaves share gets its number from the last of them. The root, before any
    step, is 0. A failed draw has the score of its parent. No tokens are counted.

    Args:
        scale: what the numbers are, and how those of a path are put together.
    """

    def __init__(self, function: ScoreFunction, *, scale: ScoreScale = ScoreScale(kind="log_value")) -> None:
        if scale.kind not in _ALLOWED:
            raise ValueError(f"kind is {scale.kind!r}; a function's numbers can be {', '.join(map(repr, _ALLOWED))}")
        self.function = function
        self.scale = scale

    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        """Raises ValueError where the function fails or returns what its scale does not allow."""
        return ScoredTrees([tree.with_log_flows(self._log_scores(tree)) for tree in trees], 0, 0, self.scale)

    def _log_scores(self, tree: ReasoningTree) -> list[float]:
        """Score of every node, children first, so that a number a step settles the steps above a leaf too."""
        scores: dict[int, float] = {0: 0.0}
        failed = [node.id for node in tree.nodes if node.stop is StopReason.ERROR]
        for node_id in range(len(tree.nodes) - 1, 0, -1):
            if node_id in scores or node_id in failed:
                continue
            path = tree.path(node_id)
            values = self._call(tree.problem, [node.text for node in path])
            for node, value in zip(path[-len(values) :], values, strict=True):
                scores.setdefault(node.id, value)
        for node_id in failed:
            scores[node_id] = scores[tree.nodes[node_id].parent]
        return [scores[node.id] for node in tree.nodes]

    def _call(self, problem: Problem, steps: list[str]) -> list[float]:
        """Log scores of the last step (one number) or of all of them."""
        try:
            returned = self.function(problem, tuple(steps))
        except (Exception, SystemExit) as error:
            raise ValueError(
                f"problem {problem.id!r}: the score function failed on {_shown(steps)} with "
                f"{type(error).__name__}: {error}"
            ) from error
        if _is_series(returned):
            values = list(returned)  # type: ignore[arg-type]
            if len(values) != len(steps):
                raise ValueError(
                    f"problem {problem.id!r}: the score function returned {len(values)} numbers for {_shown(steps)}; "
                    "return one number for all the steps together, or one a step"
                )
            return [self._log(problem, steps[: count + 1], value) for count, value in enumerate(values)]
        return [self._log(problem, steps, returned)]

    def _log(self, problem: Problem, steps: list[str], value: object) -> float:
        number = _number(value)
        if not _fits(number, self.scale.kind):
            raise ValueError(
                f"problem {problem.id!r}: the score function returned {value!r} for {_shown(steps)}; with kind "
                f"{self.scale.kind!r} each score is {_ALLOWED[self.scale.kind]}"
            )
        if self.scale.kind == "log_strength":
            return number
        return math.log(max(number, LOWEST_VALUE) if self.scale.kind == "log_value" else number)


def _is_series(value: object) -> bool:
    """True for lists and arrays, not for texts, nor for arrays without a dimension."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return False
    return getattr(value, "ndim", 1) > 0


def _number(value: object) -> float:
    """The value as a float, NaN for what is no number."""
    if isinstance(value, str | bytes):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan


def _fits(number: float, kind: str) -> bool:
    if not math.isfinite(number):
        return False
    return {"log_value": 0 <= number <= 1, "log_flow": number > 0}.get(kind, True)


def _shown(steps: list[str]) -> str:
    """`step 2, '3+5=8;'`: where on a path it was."""
    text = steps[-1] if len(steps[-1]) <= 60 else steps[-1][:60] + "…"
    return f"step {len(steps)}, {text!r}"
