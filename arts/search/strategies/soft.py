"""Diffusion Tree Sampling: rollouts that together follow pi_0 exp(lambda r), from soft values kept in the tree.

The soft value of a node is v(s) = (1 / lambda) log of the mean of exp(lambda v(c)) over its draws c; of an end, r, the
verifier's value. Children were drawn from pi_0, so a mean over *draws* is what the law needs: pi_0 is in it once.
"""

import math
import random
from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree


@dataclass(frozen=True, kw_only=True)
class SoftTree(Strategy):
    """Go down by soft values, draw a rollout where a node may still get a child, back its end up."""

    scores: ClassVar[Scores] = "ends"
    sharpness: float = 10.0
    "lambda"
    widening: float = 0.5
    "a node that n rollouts went through has at most ceil(first n^widening) draws below it"
    first: float = 2.0
    n: int = 64
    "rollouts; with a budget, on until it is spent"

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        soft = _Soft(tree, self.sharpness)
        for _ in range(self.n):
            node = 0
            while tree.is_open(node) and soft.draws(node) >= math.ceil(
                self.first * (1 + soft.visits(node)) ** self.widening
            ):
                children = [child for child in tree.children[node] if child in soft.value]
                if not children:
                    break
                node = self.descend(soft, node, children, rng)
            if tree.is_open(node):
                ends = yield [Expand(node, 1, whole=True)]
                soft.add(node, ends[0][0] if ends[0] else None)
            else:
                soft.visit(node)
        return None

    @abstractmethod
    def descend(self, soft: "_Soft", node: int, children: list[int], rng: random.Random) -> int:
        """The child to go on with."""


@dataclass(frozen=True, kw_only=True)
class DTS(SoftTree):
    """Descend with chance proportional to draws times exp(lambda v): the rollouts follow pi_0 exp(lambda r) / Z."""

    id: ClassVar[str] = "dts"
    paper: ClassVar[str] = "Diffusion Tree Sampling, Jain et al. 2025, arXiv 2506.20701"

    def descend(self, soft: "_Soft", node: int, children: list[int], rng: random.Random) -> int:
        highest = max(soft.value[child] for child in children)
        weights = [soft.drawn[child] * math.exp(self.sharpness * (soft.value[child] - highest)) for child in children]
        return rng.choices(children, weights)[0]


@dataclass(frozen=True, kw_only=True)
class DTSStar(SoftTree):
    """The greedy form: descend by v + c sqrt(log N(s) / N(c)), to find the best end instead of drawing from the law."""

    id: ClassVar[str] = "dts-star"
    paper: ClassVar[str] = "DTS*, Jain et al. 2025, arXiv 2506.20701"
    explore: float = 0.3
    "c"

    def descend(self, soft: "_Soft", node: int, children: list[int], rng: random.Random) -> int:
        def bound(child: int) -> float:
            return soft.value[child] + self.explore * math.sqrt(
                math.log(1 + soft.visits(node)) / (1 + soft.visits(child))
            )

        return max(children, key=bound)


class _Soft:
    """Soft values, draws and visits of the nodes of one tree."""

    def __init__(self, tree: SearchTree, sharpness: float) -> None:
        self.tree, self.sharpness = tree, sharpness
        self.value: dict[int, float] = {}
        self.drawn: dict[int, int] = {}
        "rollouts that drew this step from its parent"
        self._visits: dict[int, int] = {}
        self._below: dict[int, int] = {}
        for end in tree.answers:  # a search that starts again knows what it has found
            self.add(0, end, times=tree.num_draws[end])

    def draws(self, node: int) -> int:
        return self._below.get(node, 0)

    def visits(self, node: int) -> int:
        return self._visits.get(node, 0)

    def visit(self, node: int) -> None:
        for one in [0, *self.tree.path(node)]:
            self._visits[one] = self.visits(one) + 1

    def add(self, start: int, end: int | None, times: int = 1) -> None:
        """A rollout from `start` came to `end`. A failed one tells nothing, an unfinished one is worth 0."""
        if end is None:
            return
        path = [start, *(node for node in self.tree.path(end) if self.tree.depth[node] > self.tree.depth[start])]
        for parent, child in pairwise(path):
            self._below[parent] = self.draws(parent) + times
            self.drawn[child] = self.drawn.get(child, 0) + times
        self.value[end] = self.tree.value(end) if self.tree.is_answer(end) else 0.0
        for node in reversed([0, *self.tree.path(end)][:-1]):
            children = [child for child in self.tree.children[node] if child in self.value]
            highest = max(self.value[child] for child in children)
            total = math.fsum(self.drawn[child] for child in children)
            mean = math.fsum(
                self.drawn[child] * math.exp(self.sharpness * (self.value[child] - highest)) for child in children
            )
            self.value[node] = highest + math.log(mean / total) / self.sharpness
        self.visit(end)
