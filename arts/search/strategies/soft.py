"""Diffusion Tree Sampling: rollouts that together follow pi_0 exp(lambda r), from soft values kept in the tree.

The soft value of a node is v(s) = (1 / lambda) log of the mean of exp(lambda v(c)) over its draws c; of an end, r, the
verifier's value. Children were drawn from pi_0, so a mean over *draws* is what the law needs: pi_0 is in it once.
"""

import math
import random
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from arts.search.strategies.limits import require
from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree

_FAR = 30.0  # logarithm of the largest weight of a draw, and of the smallest mean of them


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
                while tree.is_open(node) and soft.draws[node] >= self.first * (1 + soft.visits[node]) ** self.widening:
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
        return rng.choices(soft.tree.children[node], soft.weights(node))[0]


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
        children, wide = soft.tree.children[node], self.explore * math.sqrt(math.log(soft.visits[node]))
        value, visits = soft.value, soft.visits
        bounds = [value[child] + wide / math.sqrt(visits[child]) for child in children]
        return children[bounds.index(max(bounds))]


class SoftValues:
    """Soft values and visits of the nodes of one tree; what it holds already counts, as in a search that starts again.

    A rollout changes one child of each node on its path: one weight is computed for it, and the others are summed.

    Attributes:
        value: v of every node that a rollout went through; 0 for a path that came to no answer.
        visits: rollouts that went through each node, and descents that ended there without a new one.
        draws: made from each node; whatever lies deeper was drawn from its children.
    """

    def __init__(self, tree: SearchTree, sharpness: float) -> None:
        self.tree, self.sharpness = tree, sharpness
        self.value: list[float] = []
        self.visits: list[int] = []
        self.draws: list[int] = []
        self._counted: list[int] = []
        "of each node's draws, those that are in `draws` of the node above"
        self._weight: list[float] = []
        self._reference: list[float] = []
        "of each node: a draw from it weighs 1 where it has this value"
        self._make_room()
        for node in range(len(tree) - 1, 0, -1):  # children come before their parents
            if tree.children[node]:
                self._weigh_children(node)
            else:
                self._end(node)
                self.visits[node] = tree.num_draws[node]
            self.visits[tree.parent[node]] += self.visits[node]
        if tree.children[0]:
            self._weigh_children(0)

    def weights(self, node: int) -> list[float]:
        """Of each child: draws times exp(lambda v), up to a factor that keeps it from overflowing."""
        return list(map(self._weight.__getitem__, self.tree.children[node]))

    def back_up(self, end: int) -> None:
        """A rollout came to `end`."""
        self._make_room()
        self._end(end)
        for child in reversed(self.tree.path(end)):
            self._pass_up(child)
        self.visit(end)

    def visit(self, node: int) -> None:
        for one in [0, *self.tree.path(node)]:
            self.visits[one] += 1

    def _make_room(self) -> None:
        """For nodes that came since."""
        new = len(self.tree) - len(self.value)
        self.value += [-math.inf] * new
        self.visits += [0] * new
        self.draws += [0] * new
        self._counted += [0] * new
        self._weight += [0.0] * new
        self._reference += [-math.inf] * new

    def _end(self, node: int) -> None:
        if not self.tree.children[node]:
            self.value[node] = self.tree.value(node) if self.tree.is_answer(node) else 0.0

    def _pass_up(self, child: int) -> None:
        """Give a node the soft value that it has with what became of this child."""
        node = self.tree.parent[child]
        exponent = self.sharpness * (self.value[child] - self._reference[node])
        if exponent > _FAR:
            self._weigh_children(node)
        else:
            self._weigh(node, child, exponent)
            self._sum_up(node)

    def _weigh_children(self, node: int) -> None:
        """All of them anew, by the highest value that is there."""
        children = self.tree.children[node]
        self._reference[node] = highest = max(self.value[child] for child in children)
        for child in children:
            self._weigh(node, child, self.sharpness * (self.value[child] - highest))
        self._sum_up(node)

    def _weigh(self, node: int, child: int, exponent: float) -> None:
        draws = self.tree.num_draws[child]
        self._weight[child] = draws * math.exp(exponent)
        self.draws[node] += draws - self._counted[child]
        self._counted[child] = draws

    def _sum_up(self, node: int) -> None:
        mean = math.fsum(self.weights(node)) / self.draws[node]
        if mean < math.exp(-_FAR):
            self._weigh_children(node)  # after it the mean is 1 / draws at least
        else:
            self.value[node] = self._reference[node] + math.log(mean) / self.sharpness
