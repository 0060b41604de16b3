"""Problems from a file of one JSON object a line: `{"problem": ..., "answer": ...}`.

Optional fields: `id`, `split` (train, validation or test), `level` (for tables). Without `split` a problem belongs to
the split that its text falls into, four fifths to train and a tenth each to the others, so that equal texts never lie
in two of them. A problem that is there twice counts once. Knows no model.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from arts.protocols import Split
from arts.tasks.answers import find_answer, find_number, plain_text, same_text, to_number
from arts.tree import Problem, Verdict

Check = Callable[[str, str, str], bool]
"""(problem, answer of the file, solution) -> is the solution right?"""

INSTRUCTION = "{problem}\n\nReason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, kw_only=True)
class JsonlSettings:
    r"""Options of a file of problems, as in `problems.jsonl?check=exact&max_new_tokens=2048`."""

    check: str = "number"
    "`number`: equal as numbers; `exact`: equal as texts; `python:MODULE:FUNCTION` of problem, answer and solution"
    prompt: str = INSTRUCTION
    "what the model is asked, with {problem} in it"
    separator: str = "\n\n"
    "text that ends a step"
    max_new_tokens: int = 1024
    "limit of one solution"

    def __post_init__(self) -> None:
        if "{problem}" not in self.prompt:
            raise ValueError(
                f"prompt is {self.prompt!r}; it must have {{problem}} in it, where the problem's text goes"
            )
        if not self.separator:
            raise ValueError("separator is empty; give the text that ends a step")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")


class JsonlTask:
    """A file of problems as a `Task`.

    Args:
        name: how it is named on the command line, which makes the same task again.
        check: of `settings.check`, where that names a Python function.

    Raises:
        ValueError: the file is missing or empty, or a line is no problem; names the line.
    """

    problems_may_change = True
    """The file decides them: whoever goes on with a run has to look whether it is still the same."""

    def __init__(self, path: Path, settings: JsonlSettings, *, name: str, check: Check | None = None) -> None:
        self.name, self.settings = name, settings
        self.step_separator, self.max_new_tokens = settings.separator, settings.max_new_tokens
        if check is None and settings.check not in _CHECKS:
            raise ValueError(
                f"check is {settings.check!r}; allowed are {', '.join(map(repr, _CHECKS))} and 'python:MODULE:FUNCTION'"
            )
        self._check = check
        self._problems = list(_read(path, settings))
        self._by_text = {str(problem.metadata["problem"]).strip(): problem for problem in self._problems}

    def problems(self, split: Split, seed: int) -> Iterator[Problem]:
        """All problems of the split, in an order of the seed's that others in the file do not change."""
        own = [problem for problem in self._problems if problem.metadata["split"] == split]
        return iter(sorted(own, key=lambda problem: hashlib.sha256(f"{seed} {problem.id}".encode()).digest()))

    def parse(self, text: str) -> Problem:
        """A problem of the file, by its id or its text."""
        found = self._by_text.get(text.strip())
        if found is None:
            found = next((problem for problem in self._problems if problem.id == text.strip()), None)
        if found is None:
            raise ValueError(f"{self.name} has no problem with the id or text {text[:80]!r}")
        return found

    def judge(self, problem: Problem, solution: str) -> Verdict:
        gold = str(problem.metadata["answer"])
        if self._check is not None:
            right = bool(self._check(str(problem.metadata["problem"]), gold, solution))
            return Verdict(right, find_answer(solution), "" if right else "the check says so")
        if self.settings.check == "exact":
            answer = find_answer(solution) or solution.strip().rpartition("\n")[2]
            right = same_text(answer, gold)
            return Verdict(right, plain_text(answer) or None, "" if right else f"not {gold}")
        number = find_number(solution)
        if number is None:
            return Verdict(False, None, "no number in it")
        right = number == to_number(gold)
        return Verdict(right, str(number), "" if right else f"not {gold}")

    def difficulty(self, problem: Problem) -> str | None:
        level = problem.metadata.get("level")
        return None if level is None else str(level)


_CHECKS = ("number", "exact")


def _read(path: Path, settings: JsonlSettings) -> Iterator[Problem]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a file of problems: {error}") from error
    seen: dict[str, Problem] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                problem = _problem(json.loads(line), settings)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                why = f"no field {error}" if isinstance(error, KeyError) else str(error)
                raise ValueError(
                    f"{path} line {number} is no problem ({why}); a line is "
                    '{"problem": "What is 2 + 2?", "answer": "4"}'
                ) from error
            before = seen.setdefault(problem.id, problem)
            if before is problem:
                yield problem
            elif before.metadata["answer"] != problem.metadata["answer"]:
                raise ValueError(
                    f"{path} line {number}: the problem {problem.id!r} was there before, with the answer "
                    f"{before.metadata['answer']!r}"
                )
    if not seen:
        raise ValueError(f"{str(path)!r} holds no problem")


def _problem(row: dict[str, Any], settings: JsonlSettings) -> Problem:
    text, answer = row["problem"], row["answer"]
    if not isinstance(text, str) or not text.strip():
        raise TypeError(f"problem is {text!r}, and must be a text")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise TypeError(f"answer is {answer!r}, and must be a text or a number")
    if settings.check == "number" and to_number(str(answer)) is None:
        raise ValueError(f"answer {answer!r} is no number; texts want check=exact")
    digest = hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()
    split = row.get("split") or ("test", "validation", *["train"] * 8)[digest[0] % 10]
    if split not in get_args(Split):
        raise ValueError(f"split is {split!r}; allowed are {', '.join(get_args(Split))}")
    metadata = {"problem": text, "answer": str(answer), "split": split}
    if "level" in row:
        metadata["level"] = row["level"]
    prompt = settings.prompt.replace("{problem}", text)
    return Problem(id=str(row.get("id") or digest.hex()[:16]), prompt=prompt, metadata=metadata)
