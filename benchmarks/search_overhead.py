"""What the search itself costs a node, as its tree grows: proposer and verifier are instant and taken off the time.

`search_cost.py` shows it as one of its parts and `growth.py` keeps it as rows. A node should cost the same in every
tree. A tree is left out where the next smaller one says that it takes more than half a minute. Runs no model.
"""

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

from arts.protocols import Reply, Request, ScoreReply, ScoreRequest, ScoreScale
from arts.search.budget import Budget
from arts.search.program import DrawAsk, Search
from arts.search.strategies import parse_strategy
from arts.tree import Problem, Step, StopReason, Usage, Verdict

Row = dict[str, Any]
DEPTH = 8  # steps of a solution
LIMIT_S = 30.0
AGAIN_S = 5.0
VOCABULARY = 512


class FixedSteps:
    """Draws steps of random ids and a fixed length; the step at the given depth ends a solution."""

    log_prior_law = "raw"
    tokenizer_fingerprint = "random"
    fingerprint = "fixed steps"
    batch_invariant = True

    def __init__(self, depth: int, num_tokens: int) -> None:
        self.depth, self.num_tokens = depth, num_tokens

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        replies = []
        for request in requests:
            first = len(request.prefix) + 1
            depths = range(first, self.depth + 1 if request.whole else first + 1)
            draws = tuple(tuple(self._step(seed + depth, depth) for depth in depths) for seed in request.seeds)
            replies.append(Reply(draws, Usage(0, self.num_tokens * len(depths) * len(draws), 1)))
        return replies

    def _step(self, seed: int, depth: int) -> Step:
        rng = random.Random(seed)
        ids = tuple(rng.choices(range(1, VOCABULARY), k=self.num_tokens))
        return Step(f"{rng.random()};", ids, -1.0, StopReason.EOS if depth == self.depth else StopReason.STOP)


# Every strategy; those that would stop by themselves are told not to.
STRATEGIES = (
    "best-of-n",
    "flow-vote",
    "self-consistency:n=1000000,sure=2",
    "arts:settled=1.01,give_up=0",
    "beam",
    "dvts",
    "rebase",
    "ets",
    "particle-filter",
    "flow-sampling",
    "best-first",
    "global-frontier",
    "mcts",
    "dts",
    "dts-star",
)


def fixed_search(
    strategy: str, budget: Budget, max_new_tokens: int, scale: ScoreScale, *, keep_curve: bool = False
) -> Search:
    return Search(
        Problem("fixed", "fixed"),
        parse_strategy(strategy),
        budget,
        judge=lambda text: Verdict(False, text[:4]),
        max_new_tokens=max_new_tokens,
        scale=scale,
        keep_curve=keep_curve,
    )


class InstantScorer:
    """Random values."""

    scale = ScoreScale(kind="log_value")

    caches = False

    def __init__(self) -> None:
        self.rng = random.Random(0)

    def forget(self) -> None:
        """Nothing is kept."""

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return [ScoreReply(tuple(-self.rng.random() for _ in range(one.num_new)), one.num_new) for one in requests]


def overhead(strategy: str, sizes: Sequence[int], *, keep_curve: bool = False) -> Iterator[Row]:
    """Microseconds a node in trees of rising size; what is expected to take too long is left out.

    The least of five runs, or of as many as fit into five seconds: a machine with other work only adds to them.

    Args:
        keep_curve: note after every reply what stopping there would give.
    """
    us_per_node = 0.0
    for size in sizes:
        if us_per_node * size > 1e6 * LIMIT_S:
            return
        search, seconds = _timed(strategy, size, keep_curve)
        times = [seconds]
        while len(times) < 5 and sum(times) < AGAIN_S:
            times.append(_timed(strategy, size, keep_curve)[1])
        us_per_node = 1e6 * min(times) / search.bill.nodes
        row = {"part": "overhead", "strategy": strategy, "size": size, "nodes": search.bill.nodes}
        yield row | {"us_per_node": us_per_node, "stopped": search.stopped}


def _timed(strategy: str, size: int, keep_curve: bool) -> tuple[Search, float]:
    """A finished search, and its own seconds of a processor."""
    proposer, scorer = FixedSteps(DEPTH, 1), InstantScorer()
    search = fixed_search(strategy, Budget(nodes=size), DEPTH, scorer.scale, keep_curve=keep_curve)
    elsewhere_s, started = 0.0, time.process_time()
    while (ask := search.ask()) is not None:
        asked = time.process_time()
        replies = proposer.propose(ask.requests) if isinstance(ask, DrawAsk) else scorer.score_steps(ask.requests)
        elsewhere_s += time.process_time() - asked
        search.tell(replies)
    return search, time.process_time() - started - elsewhere_s
