"""Searches on toy problems, for tests: exact scores that say what they cost, fake proposers, a plain driver."""

import math
import random
from collections.abc import Callable, Sequence
from functools import partial

from arts.proposers.table import TableProposer
from arts.protocols import Proposer, Reply, Request, ScoreReply, ScoreRequest, ScoreScale, StepScorer
from arts.search.budget import Budget
from arts.search.program import DrawAsk, Search
from arts.search.strategy import Strategy
from arts.tasks.toy import ToyTask, toy_tree
from arts.tree import LogPriorLaw, Problem, Step, StopReason, Usage

TASK = ToyTask(3, 3)
MAX_NEW_TOKENS = 12  # twice the longest solution
SCALE = ScoreScale(inner_is_value=True)


def toy(seed: int = 7, shape: str = "3x3") -> Problem:
    return TASK.parse(f"toy {shape} seed {seed}")


def prompt_tokens(problem: Problem) -> int:
    """As the table proposer counts them."""
    return len(problem.prompt.split())


class ExactScorer:
    """The exact expected reward of every path.

    Args:
        caches: bill what was not read before, once for every path, as a verifier does that keeps keys and values.
            Otherwise every request costs its whole path and the prompt.
    """

    def __init__(self, *, caches: bool = False, scale: ScoreScale = SCALE) -> None:
        self.caches, self.scale = caches, scale
        self.asked: list[ScoreRequest] = []
        self._read: set[tuple[str, str]] = set()

    def forget(self) -> None:
        """Nothing is kept."""

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        self.asked += requests
        return [ScoreReply(tuple(map(math.log, self._flows(one))), self._cost(one)) for one in requests]

    def _flows(self, request: ScoreRequest) -> list[float]:
        tree = toy_tree(request.problem)
        texts = ["".join(step.text for step in request.steps[:count]) for count in range(len(request.steps) + 1)]
        nodes = [tree.find(text) for text in texts]
        return [float(tree.values[node]) for node in nodes[-request.num_new :] if node is not None]

    def _cost(self, request: ScoreRequest) -> int:
        sizes = [prompt_tokens(request.problem), *(len(step.token_ids) for step in request.steps)]
        if not self.caches:
            return sum(sizes)
        keys = [
            (request.problem.id, "".join(step.text for step in request.steps[:count])) for count in range(len(sizes))
        ]
        cost = sum(size for key, size in zip(keys, sizes, strict=True) if key not in self._read)
        self._read.update(keys)
        return cost


class FakeProposer:
    """Draws what a function of (request, seed) says; `given` keeps every request."""

    log_prior_law: LogPriorLaw = "raw"
    tokenizer_fingerprint: str | None = None
    fingerprint = "fake"
    batch_invariant = True

    def __init__(self, draw: Callable[[Request, int], tuple[Step, ...]]) -> None:
        self.draw = draw
        self.given: list[Request] = []

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        self.given += requests
        replies = []
        for request in requests:
            draws = tuple(self.draw(request, seed) for seed in request.seeds)
            generated = sum(len(step.token_ids) for steps in draws for step in steps)
            replies.append(Reply(draws, Usage(prompt_tokens(request.problem), generated, 1)))
        return replies


def step(text: str, stop: StopReason = StopReason.STOP, num_tokens: int = 2) -> Step:
    """A step whose token ids are a function of its text."""
    return Step(text, tuple(random.Random(text).randrange(1000) for _ in range(num_tokens)), -1.0, stop)


def search(
    problem: Problem, strategy: Strategy, budget: Budget | None = None, *, prompt: int | None = None, **options: object
) -> Search:
    settings = {
        "judge": partial(TASK.judge, problem),
        "max_new_tokens": MAX_NEW_TOKENS,
        "scale": SCALE,
        "prompt_tokens": prompt_tokens(problem) if prompt is None else prompt,
        **options,
    }
    return Search(problem, strategy, budget or Budget(), **settings)  # type: ignore[arg-type]


def answer(
    ask: object, proposer: Proposer, scorer: StepScorer, rng: random.Random | None = None
) -> list[Reply] | list[ScoreReply]:
    """Replies to one ask; with `rng`, draws are made one request at a time, in any order."""
    assert ask is not None
    if not isinstance(ask, DrawAsk):
        return scorer.score_steps(ask.requests)  # type: ignore[attr-defined]
    if rng is None:
        return proposer.propose(ask.requests)
    order = list(range(len(ask.requests)))
    rng.shuffle(order)
    replies = {number: proposer.propose([ask.requests[number]])[0] for number in order}
    return [replies[number] for number in range(len(order))]


def drive(
    one: Search,
    proposer: Proposer | None = None,
    scorer: StepScorer | None = None,
    *,
    rng: random.Random | None = None,
    most: int = 20_000,
    watch: Callable[[Search], None] | None = None,
) -> Search:
    """Run a search to its end, which must come within `most` asks."""
    proposer, scorer = proposer or TableProposer(), scorer or ExactScorer()
    for _ in range(most):
        ask = one.ask()
        if ask is None:
            return one
        one.tell(answer(ask, proposer, scorer, rng))
        if watch is not None:
            watch(one)
    raise AssertionError(f"{one.strategy.id} did not end within {most} asks")
