"""Diffusion Tree Sampling: rollouts that together follow pi_0 exp(lambda r), from soft values kept in the tree.

The soft value of a node is v(s) = (1 / lambda) log of the mean of exp(lambda v(c)) over its draws c; of an end, r, the
verifier's value. Children were drawn from pi_0, so a mean over *draws* is what the law needs: pi_0 is in it once.
"""

import math
import random
from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from arts.search.strategies.limits import require
from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree


@dataclass(frozen=True, kw_only=True)
class SoftTree(Strategy):
    """Go down by soft values, draw a rollout where a node may still get a child, back its end up."""

    scores: ClassVar[Scores] = "ends"
    sharpness: float = 10.0
    "lambda"
    widening: float = 0.5
    "a node that n rollouts went through gets new draws below it while it has fewer than first (1 + n)^widening"
    first: float = 2.0
    n: int = 64
    "rollouts; with a budget, on until it is spent"

    def __post_init__(self) -> None:
        require(self, "n", least=1)
        require(self, "widening", least=0)
        require(self, "sharpness", "first", above=0)

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        soft = SoftValues(tree, self.sharpness)
        while True:
            for _ in range(self.n):
                node = 0
                while tree.is_open(node) and soft.draws(node) >= self.first * (1 + soft.visits[node]) ** self.widening:
                    node = self.descend(soft, node, rng)
                if tree.is_open(node):
                    ends = yield [Expand(node, 1, whole=True)]
                    for end in ends[0]:  # none where the draw failed: that tells nothing
                        soft.back_up(end)
                else:
                    soft.visit(node)
            yield []

    @abstractmethod
    def descend(self, soft: "SoftValues", node: int, rng: random.Random) -> int:
        """The child to go on with."""


@dataclass(frozen=True, kw_only=True)
class DTS(SoftTree):
    """Descend with chance proportional to draws times exp(lambda v): the rollouts follow pi_0 exp(lambda r) / Z."""

    id: ClassVar[str] = "dts"
    paper: ClassVar[str] = "Diffusion Tree Sampling, Jain et al. 2025, arXiv 2506.20701"

    def descend(self, soft: "SoftValues", node: int, rng: random.Random) -> int:
        children = soft.children(node)
        return rng.choices(children, soft.weights(children))[0]


@dataclass(frozen=True, kw_only=True)
class DTSStar(SoftTree):
    """The greedy form: descend by v + c sqrt(log N(s) / N(c)), to find the best end instead of drawing from the law."""

    id: ClassVar[str] = "dts-star"
    paper: ClassVar[str] = "DTS*, Jain et al. 2025, arXiv 2506.20701"
    explore: float = 0.3
    "c"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "explore", least=0)

    def descend(self, soft: "SoftValues", node: int, rng: random.Random) -> int:
        def bound(child: int) -> float:
            return soft.value[child] + self.explore * math.sqrt(math.log(soft.visits[node]) / soft.visits[child])

        return max(soft.children(node), key=bound)


class SoftValues:
    """Soft values and visits of the nodes of one tree; what it holds already counts, as in a search that starts again.

    Attributes:
        value: v of every node that a rollout went through; 0 for a path that came to no answer.
        visits: rollouts that went through each node, and descents that ended there without a new one.
    """

    def __init__(self, tree: SearchTree, sharpness: float) -> None:
        self.tree, self.sharpness = tree, sharpness
        self.value: dict[int, float] = {}
        self.visits: Counter[int] = Counter()
        for node in range(1, len(tree)):
            if not tree.children[node]:
                self.back_up(node, times=tree.num_draws[node])

    def children(self, node: int) -> list[int]:
        return [child for child in self.tree.children[node] if child in self.value]

    def draws(self, node: int) -> int:
        """Draws made from a node; whatever lies deeper was drawn from its children."""
        return sum(self.tree.num_draws[child] for child in self.children(node))

    def weights(self, children: list[int]) -> list[float]:
        """Draws times exp(lambda v) of siblings, up to a factor that keeps it from overflowing."""
        highest = max(self.value[child] for child in children)
        return [
            self.tree.num_draws[child] * math.exp(self.sharpness * (self.value[child] - highest)) for child in children
        ]

    def back_up(self, end: int, times: int = 1) -> None:
        """Rollouts came to `end`."""
        self.value.setdefault(end, self.tree.value(end) if self.tree.is_answer(end) else 0.0)
        for node in reversed([0, *self.tree.path(end)[:-1]]):
            children = self.children(node)
            mean = math.fsum(self.weights(children)) / self.draws(node)
            self.value[node] = max(self.value[child] for child in children) + math.log(mean) / self.sharpness
        self.visit(end, times)

    def visit(self, node: int, times: int = 1) -> None:
        for one in [0, *self.tree.path(node)]:
            self.visits[one] += times
