"""The exact solver of Countdown as a verifier: the ceiling that a learned one could reach, never a fair method.

arts search --verifier "python:recipes/solver_score.py:reach?inner_is_value=true" ...
"""

from collections.abc import Sequence

from arts.tasks.countdown import STEP_SEPARATOR, check, parse_problem, parse_steps, reachable
from arts.tree import Problem

OPEN = 0.9
"chance stated for a step from which the target can still be reached; about what the shipped proposer makes of it"


def reach(problem: Problem, steps: Sequence[str]) -> float:
    """1 for a right solution, `OPEN` where one can still be reached, 0 otherwise."""
    countdown, text = parse_problem(problem.prompt), "".join(steps)
    if not text.endswith(STEP_SEPARATOR):
        return float(not check(countdown, text))
    text = text.removesuffix(STEP_SEPARATOR)
    found = parse_steps(text)
    # A path that is right so far is wrong only for what is left to do.
    if found is None or not check(countdown, text).endswith("are left"):
        return 0.0
    return OPEN * reachable(tuple(sorted(found[-1][1])), countdown.target)
