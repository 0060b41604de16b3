"""Whole solutions drawn from the problem itself, and one of them chosen: best of N, votes, and when to stop drawing."""

import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from arts.search.answer import vote
from arts.search.strategies.limits import require
from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree


@dataclass(frozen=True, kw_only=True)
class Pool(Strategy):
    """N solutions; with a budget, N more until it is spent."""

    n: int = 16

    def __post_init__(self) -> None:
        require(self, "n", least=1)

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        yield [Expand(0, self.n, whole=True)]
        return None


@dataclass(frozen=True, kw_only=True)
class BestOfN(Pool):
    """The solution with the highest score."""

    id: ClassVar[str] = "best-of-n"
    paper: ClassVar[str] = "Cobbe et al. 2021, arXiv 2110.14168; ARTS (arXiv 2602.12846) with the terminal flow"
    scores: ClassVar[Scores] = "ends"


@dataclass(frozen=True, kw_only=True)
class Majority(Pool):
    """The answer that most solutions reach."""

    id: ClassVar[str] = "majority"
    paper: ClassVar[str] = "self-consistency, Wang et al. 2022, arXiv 2203.11171"
    scores: ClassVar[Scores] = "none"

    def answer(self, tree: SearchTree) -> int | None:
        return vote(tree)


@dataclass(frozen=True, kw_only=True)
class WeightedVote(Pool):
    """Every solution votes with its value, its stated chance to be right."""

    id: ClassVar[str] = "weighted-vote"
    paper: ClassVar[str] = "Li et al. 2022 (DIVERSE), arXiv 2206.02336"
    scores: ClassVar[Scores] = "ends"

    def answer(self, tree: SearchTree) -> int | None:
        return vote(tree, tree.value)


@dataclass(frozen=True, kw_only=True)
class FlowVote(Pool):
    """Every solution votes with its flow: an answer's share of all the flow that was found."""

    id: ClassVar[str] = "flow-vote"
    paper: ClassVar[str] = "the flow of a set of leaves, from ARTS (arXiv 2602.12846)"
    scores: ClassVar[Scores] = "ends"

    def answer(self, tree: SearchTree) -> int | None:
        return vote(tree, tree.flow)


@dataclass(frozen=True, kw_only=True)
class SelfConsistency(Strategy):
    """Draw until it is sure enough which answer has most votes.

    With v1 votes for the first answer and v2 for the second, P(p1 > p2) under Beta(v1 + 1, v2 + 1) is that of at most
    v1 heads in v1 + v2 + 1 fair throws.
    """

    id: ClassVar[str] = "self-consistency"
    paper: ClassVar[str] = "Adaptive-Consistency, Aggarwal et al. 2023, arXiv 2305.11860"
    scores: ClassVar[Scores] = "none"
    n: int = 64
    "most solutions"
    window: int = 4
    "solutions between two looks at the votes"
    sure: float = 0.95
    "chance of its lead; above 1: never sure enough"

    def __post_init__(self) -> None:
        require(self, "n", "window", least=1)
        require(self, "sure", above=0)

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        lead, drawn = _Lead(), 0
        while drawn < self.n:
            count = min(self.window, self.n - drawn)
            ends = yield [Expand(0, count, whole=True)]
            drawn += count
            for end in ends[0]:
                if tree.is_answer(end) and (key := tree.answer_key(end)) is not None:
                    lead.vote(key)
            if lead.first > 0 and lead_is_sure(lead.first, lead.second) >= self.sure:
                return "settled"
        return "complete"

    def answer(self, tree: SearchTree) -> int | None:
        return vote(tree)


class _Lead:
    """Votes of the two most frequent answers, kept as they come: a look at all answers would cost more every time."""

    def __init__(self) -> None:
        self.first = self.second = 0
        self._leader: str | None = None
        self._counts: Counter[str] = Counter()

    def vote(self, key: str) -> None:
        self._counts[key] += 1
        own = self._counts[key]
        if key == self._leader:
            self.first = own
        elif own > self.first:
            self.first, self.second, self._leader = own, self.first, key
        else:
            self.second = max(self.second, own)


def lead_is_sure(first: int, second: int) -> float:
    """P(p > 1/2) for p ~ Beta(first + 1, second + 1), first >= second: that of at most `first` heads in so many throws.

    The throws are first + second + 1, so the chances of at most `second` heads and of more than `first` are equal, and
    only what lies between them is summed: as many terms as the lead.
    """
    throws = first + second + 1
    term, between = math.comb(throws, second + 1), 0
    for heads in range(second + 1, first + 1):
        between += term
        term = term * (throws - heads) // (heads + 1)
    return float((((1 << throws) + between) // 2) / (1 << throws))
