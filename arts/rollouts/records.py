"""What a file of rollouts says, in one shape for all formats. Plain values; knows no file, no tree and no checker."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

UNNAMED = "unnamed"
"""Policy of samples whose file names none."""
RIGHT = 0.99
"""A graded sample is right from this score on: partial credit counts as wrong."""

ScoreKind = Literal["log_value", "log_strength"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One solution that a policy wrote. An empty text is one too: the policy said nothing."""

    text: str
    policy: str = UNNAMED
    answer: str | None = None
    "as the file gives it; None: to be found in the text"
    correct: bool | None = None
    "the file's own label; None: it has none"
    steps: tuple[str, ...] = ()
    "where the file itself cuts the text: joined, they are the text"
    step_scores: tuple[float, ...] = ()
    "somebody's scores, one for each of the steps that blank lines make, or of `steps`; or one for the whole text"
    is_finished: bool = True
    "False: cut off by a limit of tokens"
    is_draw: bool = True
    "False: a path of a search that was looked at and left, which is no draw of the policy"

    def __post_init__(self) -> None:
        if self.steps and "".join(self.steps) != self.text:
            raise ValueError("steps that do not make up the text")
        if not all(math.isfinite(score) for score in self.step_scores):
            raise ValueError("a step score that is no number")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One problem, and the samples of all policies on it."""

    problem_id: str
    prompt: str
    gold: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    "what tables group problems by: subject, level, task, dataset"
    samples: tuple[Sample, ...] = ()
    score_kind: ScoreKind = "log_value"
    "what the step scores are: chances to end right, or strengths that are comparable inside one problem only"
    selected: frozenset[str] = frozenset()
    "policies that are selectors already: their one sample was picked among many"

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("a problem without text")
        if not self.samples:
            raise ValueError("a problem without samples")
        scores = [score for sample in self.samples for score in sample.step_scores]
        if self.score_kind == "log_value" and scores and not 0 <= min(scores) <= max(scores) <= 1:
            raise ValueError(f"step scores from {min(scores):g} to {max(scores):g}; chances lie in 0..1")
