"""The task of imported rollouts: problems that are in the trees, with verdicts, and nowhere else."""

from collections.abc import Iterator

from arts.protocols import Split
from arts.tree import Problem, Verdict

_NONE = "imported rollouts have only the problems of their trees, judged there; name a task of your own to draw: "


class RolloutsTask:
    """Stands where a collection names its task. Draws nothing and judges nothing."""

    name = "rollouts"
    step_separator = "\n\n"
    max_new_tokens = 2048

    def problems(self, split: Split, seed: int) -> Iterator[Problem]:
        raise ValueError(_NONE + "--task FILE.jsonl")

    def parse(self, text: str) -> Problem:
        raise ValueError(_NONE + "--task FILE.jsonl")

    def judge(self, problem: Problem, solution: str) -> Verdict:
        raise ValueError(_NONE + "--task FILE.jsonl")

    def difficulty(self, problem: Problem) -> str | None:
        """Levels and subjects are fields of the problems themselves, by which tables group them anyway."""
        return None
