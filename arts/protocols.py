"""What a user implements: a Task, a Proposer, a Scorer, one to three methods each. Values live in `arts.tree`.

Implementations are built where the program starts (`cli.py`, a recipe, a test) and passed in; nothing is registered.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from arts.tree import LogPriorLaw, Problem, ReasoningTree, Step, StopReason, Usage, Verdict

Split = Literal["train", "validation", "test"]


class Task(Protocol):
    """A stream of problems and a checker for them."""

    name: str
    step_separator: str
    """Text that ends a step; the step keeps it."""
    max_new_tokens: int
    """Default limit for one solution."""

    def problems(self, split: Split, seed: int) -> Iterator[Problem]:
        """Distinct problems of one split; the first n do not depend on n. Splits never overlap, for any two seeds."""
        ...

    def parse(self, text: str) -> Problem:
        """A problem from what a user typed. Raises ValueError that says what is allowed."""
        ...

    def judge(self, problem: Problem, solution: str) -> Verdict:
        """Exact verdict on the text of a finished solution."""
        ...

    def difficulty(self, problem: Problem) -> str | None:
        """Name of the problem's difficulty class, for tables; None where there are no classes."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for one draw per seed, all going on from the same prefix."""

    problem: Problem
    prefix: tuple[Step, ...]
    "steps already taken, from the first one; empty to start at the problem"
    seeds: tuple[int, ...]
    "one draw each; a draw depends on its seed, the problem and the prefix, not on the batch it runs in"
    max_new_tokens: int
    whole: bool = True
    "True: draw down to the end (a rollout). False: one step."


class Reply(NamedTuple):
    """Answer to one request: `draws[i]` holds the steps drawn with `seeds[i]`, at least one."""

    draws: tuple[tuple[Step, ...], ...]
    usage: Usage
    failure: str = ""
    "why those that ended with ERROR did: a kind, a colon, and what is known"


FAILED_DRAW: tuple[Step, ...] = (Step("", (), None, StopReason.ERROR),)


class ProposerIdentity(Protocol):
    """What decides the draws of a proposer: what its trees are stored under."""

    @property
    def log_prior_law(self) -> LogPriorLaw: ...

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """Names the tokenizer of the drawn token ids; None where none are reported."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the weights and the sampling settings: equal fingerprints draw the same from the same seeds."""
        ...


class Proposer(Protocol):
    """A frozen generator pi_0."""

    log_prior_law: LogPriorLaw
    tokenizer_fingerprint: str | None
    """Names the tokenizer of the drawn token ids; None where none are reported."""
    fingerprint: str
    """Names the weights and the sampling settings: equal fingerprints draw the same from the same seeds."""
    batch_invariant: bool
    """True: a draw is the same bit for bit in every batch, so work may be resumed draw by draw. False (float32 on a
    local model): rounding depends on the batch, so an interrupted batch is run again as a whole."""

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of the requests. A failed draw is a step with stop reason ERROR, not an exception."""
        ...


@runtime_checkable
class ConcurrentProposer(Proposer, Protocol):
    """A proposer that works on many requests at once, each of which is answered as soon as it is done: a server."""

    max_in_flight: int
    """Requests of one draw that it takes at a time; more wait in line."""
    draws_at_once: int
    """Draws of one request that are made together and answered together. Those of a request of more are made apart, so
    that somebody who wants each of them as soon as it is done asks for this many."""

    def submit(self, request: Request) -> Future[Reply]:
        """Start on a request. Cancelling the future stops the work.

        The future raises an exception, a ValueError with advice, where no request makes sense any more.
        """
        ...


def answer_all(proposer: ConcurrentProposer, requests: Sequence[Request]) -> list[Reply]:
    """Replies in the order of the requests, which are worked on at once; where one raises, the others are dropped."""
    futures = [proposer.submit(request) for request in requests]
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


Aggregation = Literal["last", "min", "mean", "product"]
"""How the scores of the steps of a path become the score of the path: that of its last step, the lowest, the arithmetic
mean, the product (mean and product of the positive scores, not of their logarithms)."""


def aggregate(log_scores: Sequence[float], how: Aggregation) -> float:
    """The log score of a path from those of its steps, first step first, at least one."""
    if how == "last":
        return log_scores[-1]
    if how == "min":
        return min(log_scores)
    if how == "product":
        return math.fsum(log_scores)
    highest = max(log_scores)
    if not math.isfinite(highest):
        return highest
    return highest + math.log(math.fsum(math.exp(score - highest) for score in log_scores) / len(log_scores))


@dataclass(frozen=True, kw_only=True)
class ScoreScale:
    """What a scorer's number is the natural log of. It is stored on nodes as `log_flow`, whatever the scorer."""

    kind: Literal["log_flow", "log_value", "log_strength"] = "log_flow"
    """`log_flow`: a flow of reward, `reward_right` or `reward_wrong` at the end of a path. `log_value`: the chance to
    end right. `log_strength`: a Bradley-Terry strength; only differences inside one problem mean something."""
    reward_right: float = 10.0
    "of `log_flow` only"
    reward_wrong: float = 0.1
    "of `log_flow` only"
    aggregation: Aggregation = "last"
    "over a path, where the evaluator is told no other"
    inner_is_value: bool = False
    """Scores of inner steps mean the same as those of ends, as an expectation: the chance to end right, or the expected
    reward. Not so for a sum of flows, for progress, or where only ends were trained on."""


class ScoredTrees(NamedTuple):
    trees: list[ReasoningTree]
    "the same trees with `log_flow` on every node"
    computed_tokens: int
    "tokens that went through the backbone, padding left out"
    distinct_tokens: int
    "tokens of the trees, prompts included, each node's once: the least that could be computed"
    scale: ScoreScale = ScoreScale()


class Scorer(Protocol):
    """A verifier: log F(s) for every node of every tree."""

    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees: ...


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Ask for the scores of the last steps of one path, as a search does that has the others already."""

    problem: Problem
    steps: tuple[Step, ...]
    "the whole path, first step first; empty for the problem itself"
    num_new: int = 1
    "how many steps at its end are to be scored; 1 also for the problem itself"


class PathTooLong(ValueError):
    """A path has more tokens than a scorer can read."""


class ScoreReply(NamedTuple):
    log_scores: tuple[float, ...]
    "of the last `num_new` steps, first step first, on the scorer's scale"
    computed_tokens: int
    "tokens that went through the verifier for this request; those it still knew are not among them"


@runtime_checkable
class StepScorer(Protocol):
    """A verifier that is asked while a tree grows."""

    scale: ScoreScale
    caches: bool
    """A new step costs its own tokens only (and the prompt once). Otherwise every request pays for its whole path."""

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """Replies in the order of the requests. A request may rely on paths of those before it."""
        ...

    def forget(self) -> None:
        """Know nothing of what was scored so far, so that the next search pays for all it asks."""
        ...


@runtime_checkable
class ConcurrentScorer(StepScorer, Protocol):
    """A verifier that works elsewhere: it is asked for the scores of one search while others wait for theirs."""

    def submit(self, requests: Sequence[ScoreRequest]) -> Future[list[ScoreReply]]:
        """Start on requests about one problem. Cancelling the future stops the work.

        The future raises an exception where there are no scores.
        """
        ...
