"""Problems that reasoning-gym generates, judged by checkers of our own.

The package only makes problems: its scorers execute or accept what they should not, and never see text of a model. Its
item i of seed S is drawn from S + i, so that neighbouring seeds share all items but one; seeds are spaced here, and the
split of a problem is decided by its text, so that no two splits share a problem whatever their seeds.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from arts.protocols import Split
from arts.tasks.gym_checks import GYM_CHECKS, judge_gym
from arts.tree import Problem, Verdict

INSTRUCTION = (
    "{problem}\n\nReason step by step. Then give your final answer, and nothing else, between <answer> and </answer>."
)
_SPACING = 10_000_000  # problems of one seed; no stream gets that far


@dataclass(frozen=True, kw_only=True)
class GymSettings:
    """Options of reasoning-gym tasks, as in `gym:gcd,lcm?max_new_tokens=512`."""

    config: str = "{}"
    """JSON object of the package's options for the task, which say how hard it is, like `{"max_value": 50}`; where
    several tasks are named, all of them must take it"""
    prompt: str = INSTRUCTION
    "what the model is asked, with {problem} in it"
    separator: str = "\n\n"
    "text that ends a step"
    max_new_tokens: int = 1024
    "limit of one solution"

    def __post_init__(self) -> None:
        if "{problem}" not in self.prompt:
            raise ValueError(f"prompt is {self.prompt!r}; it must have {{problem}} in it")
        if not self.separator:
            raise ValueError("separator is empty; give the text that ends a step")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        try:
            config = json.loads(self.config)
        except ValueError as error:
            raise ValueError(f"config is {self.config!r}, and must be a JSON object: {error}") from error
        if not isinstance(config, dict) or {"seed", "size"} & set(config):
            raise ValueError(f"config is {self.config!r}; it must be a JSON object, without seed and size")


class GymTask:
    """One or several tasks of reasoning-gym, in turn.

    Raises:
        ValueError: a task has no checker here, the package is not installed, or it does not take the options.
    """

    def __init__(self, names: tuple[str, ...], settings: GymSettings, *, name: str) -> None:
        unknown = [one for one in names if one not in GYM_CHECKS]
        if unknown:
            raise ValueError(
                f"no checker for the reasoning-gym task {', '.join(map(repr, unknown))}; there are checkers for "
                f"{', '.join(sorted(GYM_CHECKS))}"
            )
        if find_spec("reasoning_gym") is None:
            raise ValueError('gym tasks need reasoning-gym: pip install "arts-llm[gym]"')
        self.name, self.names, self.settings = name, names, settings
        self.step_separator, self.max_new_tokens = settings.separator, settings.max_new_tokens
        for one in names:
            self._item(one, 0)

    def problems(self, split: Split, seed: int) -> Iterator[Problem]:
        """The tasks in turn, each with distinct problems."""
        seen: set[str] = set()
        for place in range(seed * _SPACING, (seed + 1) * _SPACING):
            for name in self.names:
                problem = self._problem(name, place)
                if problem.metadata["split"] == split and problem.prompt not in seen:
                    seen.add(problem.prompt)
                    yield problem

    def parse(self, text: str) -> Problem:
        """A problem by its id, `gcd/17`."""
        name, slash, place = text.strip().partition("/")
        if name not in self.names or not slash or not place.isdecimal():
            raise ValueError(
                f"{text[:80]!r} is no problem of {self.name}; its problems are named like {self.names[0]}/17"
            )
        return self._problem(name, int(place))

    def judge(self, problem: Problem, solution: str) -> Verdict:
        fields = problem.metadata
        return judge_gym(str(fields["task"]), str(fields["problem"]), str(fields["answer"]), solution)

    def difficulty(self, problem: Problem) -> str | None:
        """The task it is from, where there are several."""
        return str(problem.metadata["task"]) if len(self.names) > 1 else None

    def _problem(self, name: str, place: int) -> Problem:
        item = self._item(name, place)
        text, digest = str(item["question"]), hashlib.sha256(str(item["question"]).encode()).digest()
        split = ("test", "validation", *["train"] * 8)[digest[0] % 10]
        metadata = {"problem": text, "answer": str(item["answer"]), "task": name, "split": split}
        return Problem(f"{name}/{place}", self.settings.prompt.replace("{problem}", text), metadata)

    def _item(self, name: str, place: int) -> dict[str, Any]:
        import reasoning_gym

        config = json.loads(self.settings.config)
        try:
            # The first item of a set of one: item i of seed S is item 0 of seed S + i, and size never matters.
            item: dict[str, Any] = reasoning_gym.create_dataset(name, seed=place, size=1, **config)[0]
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"reasoning-gym's {name} does not take {config}: {error}") from error
        return item
