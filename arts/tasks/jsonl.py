"""Problems that lie in a file or a data set, with their answers, as a `Task`.

A row has a problem and an answer, and perhaps an id, a subject, a level and a split (`arts.tasks.rows` reads them).
Without a split a problem belongs to the one that its text falls into, four fifths to train and a tenth each to the
others, so that equal texts never lie in two of them. A problem that is there twice counts once. Knows no model.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from arts.protocols import Split
from arts.tasks.answers import to_number
from arts.tasks.checks import Checker
from arts.tasks.rows import ProblemRow, read_problem
from arts.tree import Problem, Verdict

INSTRUCTION = "{problem}\n\nReason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, kw_only=True)
class JsonlSettings:
    r"""Options of a file of problems, as in `problems.jsonl?check=exact&max_new_tokens=2048`."""

    check: str = "number"
    """`number`: equal as numbers; `math`: the same formula, by math-verify; `exact`: equal as texts; or
    `python:MODULE:FUNCTION` of problem, answer and solution, called in a process of its own"""
    check_seconds: float = 10.0
    "processor seconds that a Python function may take for one solution; one that takes longer is wrong"
    prompt: str = INSTRUCTION
    "what the model is asked, with {problem} in it"
    separator: str = "\n\n"
    "text that ends a step"
    max_new_tokens: int = 1024
    "limit of one solution"
    split: Literal["text", "train", "validation", "test", "train+validation"] = "text"
    """where problems belong whose rows do not say it: by their text, all to one split, or nine tenths to train and one
    to validation"""

    def __post_init__(self) -> None:
        if "{problem}" not in self.prompt:
            raise ValueError(
                f"prompt is {self.prompt!r}; it must have {{problem}} in it, where the problem's text goes"
            )
        if not self.separator:
            raise ValueError("separator is empty; give the text that ends a step")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.check_seconds <= 0:
            raise ValueError(f"check_seconds is {self.check_seconds:g}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class HubSettings(JsonlSettings):
    """Options of a data set of the hub: those of a file, and which of its rows are meant."""

    config: str | None = None
    "the data set's configuration; `*` for all of them"
    rows: str | None = None
    "which of the data set's own splits: train, test, ...; default: all"


class JsonlTask:
    """Rows of problems as a `Task`.

    Args:
        rows: each with where it is, for messages.
        name: how it is named on the command line, which makes the same task again.
        checker: of `settings.check`.

    Raises:
        ValueError: there is no row, or one is no problem; names it.
    """

    problems_may_change = True
    """The file decides them: whoever goes on with a run has to look whether it is still the same."""

    def __init__(
        self, rows: Iterable[tuple[str, Any]], settings: JsonlSettings, *, name: str, checker: Checker
    ) -> None:
        self.name, self.settings = name, settings
        self.step_separator, self.max_new_tokens = settings.separator, settings.max_new_tokens
        self._checker = checker
        self._problems = list(_read(rows, settings))
        if not self._problems:
            raise ValueError(f"{name.partition('?')[0]!r} holds no problem")
        self._by_text = {str(problem.metadata["problem"]).strip(): problem for problem in self._problems}

    def all_problems(self) -> list[Problem]:
        """Of all splits, in the order of the rows."""
        return list(self._problems)

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
        return self._checker.judge(str(problem.metadata["problem"]), str(problem.metadata["answer"]), solution)

    def difficulty(self, problem: Problem) -> str | None:
        level = problem.metadata.get("level")
        return None if level is None else str(level)


def _read(rows: Iterable[tuple[str, Any]], settings: JsonlSettings) -> Iterator[Problem]:
    seen: dict[str, Problem] = {}
    for where, row in rows:
        read = read_problem(where, row)
        try:
            problem = _problem(read, settings)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        before = seen.setdefault(problem.id, problem)
        if before is problem:
            yield problem
        elif before.metadata["answer"] != problem.metadata["answer"]:
            raise ValueError(
                f"{where}: the problem {problem.id!r} was there before, with the answer {before.metadata['answer']!r}"
            )


def _problem(row: ProblemRow, settings: JsonlSettings) -> Problem:
    if settings.check == "number" and to_number(row.answer) is None:
        raise ValueError(f"answer {row.answer!r} is no number; formulas want check=math, and texts check=exact")
    digest = hashlib.sha256(" ".join(row.text.casefold().split()).encode()).digest()
    split = row.split or _split_of(digest, settings.split)
    if split not in get_args(Split):
        raise ValueError(f"split is {split!r}; allowed are {', '.join(get_args(Split))}")
    metadata: dict[str, Any] = {"problem": row.text, "answer": row.answer, "split": split}
    metadata |= {name: value for name in ("subject", "level") if (value := getattr(row, name)) is not None}
    prompt = settings.prompt.replace("{problem}", row.text)
    return Problem(id=row.id or digest.hex()[:16], prompt=prompt, metadata=metadata)


def _split_of(digest: bytes, how: str) -> str:
    if how == "text":
        return ("test", "validation", *["train"] * 8)[digest[0] % 10]
    if how == "train+validation":
        return "validation" if digest[0] % 10 == 1 else "train"
    return how
