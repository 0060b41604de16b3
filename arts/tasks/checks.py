"""Is a solution right, by a gold answer? The ways that users name: `number`, `math`, `exact`, `python:MODULE:FUNCTION`.

Knows no file and no task.
"""

from collections.abc import Callable

from arts.functions import CallError
from arts.tasks.answers import find_answer, find_number, plain_text, same_text, to_number
from arts.tasks.math_answer import answer_key, judge_math, require_library
from arts.tree import Verdict

Function = Callable[[str, str, str], bool]
"""(problem, gold answer, solution) -> is the solution right? May raise CallError."""
CHECKS = ("number", "math", "exact")


class Checker:
    """One way to check.

    Args:
        name: of `CHECKS`, or `python:MODULE:FUNCTION`.
        function: what a `python:` name stands for.

    Raises:
        ValueError: there is no such way, or math-verify is not installed.
    """

    def __init__(self, name: str, function: Function | None = None) -> None:
        if name not in CHECKS and not name.startswith("python:"):
            raise ValueError(
                f"check is {name!r}; allowed are {', '.join(map(repr, CHECKS))} and 'python:MODULE:FUNCTION'"
            )
        if name == "math":
            require_library()
        self.name, self._function = name, function

    def judge(self, problem: str, gold: str, solution: str) -> Verdict:
        """The verdict on a whole solution.

        Raises:
            ValueError: a Python function failed on it.
        """
        if self._function is not None:
            return self._judge_by_function(self._function, problem, gold, solution)
        if self.name == "math":
            return judge_math(gold, solution)
        if self.name == "exact":
            answer = find_answer(solution) or solution.strip().rpartition("\n")[2]
            right = same_text(answer, gold)
            return Verdict(right, plain_text(answer) or None, "" if right else f"not {gold}")
        number = find_number(solution)
        if number is None:
            return Verdict(False, None, "no number in it")
        right = number == to_number(gold)
        return Verdict(right, str(number), "" if right else f"not {gold}")

    def _judge_by_function(self, function: Function, problem: str, gold: str, solution: str) -> Verdict:
        answer = find_answer(solution)
        key = None if answer is None else answer_key(answer)
        try:
            right = function(problem, gold, solution)
        except CallError as error:
            if error.kind == "raised":
                raise ValueError(
                    f"problem {problem[:80]!r}: the check {self.name!r} failed on {solution[:80]!r} with {error}; "
                    "it must return True or False for every text"
                ) from error
            return Verdict(False, key, f"the check gave no answer: {error}")
        return Verdict(right, key, "" if right else "the check says so")
