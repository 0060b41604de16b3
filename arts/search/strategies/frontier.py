"""One node at a time, the best of the whole frontier: best-first search and DeepSearch's global frontier."""

import heapq
import math
import random
from dataclasses import dataclass
from typing import ClassVar, Literal

from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree


@dataclass(frozen=True, kw_only=True)
class BestFirst(Strategy):
    """Go on below the open path with the highest priority, wherever it is; each is expanded once.

    Priority is the value of the path, or its log pi_0 divided by length^a as provers do. It ends at `end_gate`: a
    finished path whose value is that high.
    """

    id: ClassVar[str] = "best-first"
    paper: ClassVar[str] = (
        "Koh et al. 2024, arXiv 2407.01476 (value); BFS-Prover, arXiv 2502.03438 (log-prob / length^a)"
    )
    scores: ClassVar[Scores] = "all"
    priority: Literal["value", "log_prob"] = "value"
    expand: int = 4
    length_power: float = 0.5
    "a of `log_prob`"
    end_gate: float = 1.01
    "above 1: never"

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        heap = [(0.0, 0)]
        seen = {0}
        while heap:
            _, node = heapq.heappop(heap)
            ends = yield [Expand(node, self.expand)]
            for child in ends[0]:
                if tree.is_answer(child) and tree.value(child) >= self.end_gate:
                    return "settled"
                if tree.is_open(child) and child not in seen:
                    seen.add(child)
                    heapq.heappush(heap, (-self._priority(tree, child), child))
        return None

    def _priority(self, tree: SearchTree, node: int) -> float:
        if self.priority == "value":
            return tree.value(node)
        path = tree.path(node)
        total = math.fsum(tree.log_prior(one) for one in path)
        return total / float(tree.num_tokens[node] ** self.length_power)


@dataclass(frozen=True, kw_only=True)
class GlobalFrontier(Strategy):
    """Dig down by UCT among siblings until a path ends, then jump to the best node of the whole frontier.

    Frontier score: lambda_q tanh(Q(parent)) + lambda_h H(step) + lambda_d sqrt(depth / deepest), H the mean -log pi_0
    of a step's tokens. Q grows by what ends found below it: q(s_i) += max(i / l, 0.1) q_end along a path of l steps,
    and a node that led to something good is never made worse by a bad end. The verifier's word 2 v - 1 stands in for
    the reward that training has.
    """

    id: ClassVar[str] = "global-frontier"
    paper: ClassVar[str] = "DeepSearch, arXiv 2509.25454"
    scores: ClassVar[Scores] = "all"
    expand: int = 4
    lambda_q: float = 0.4
    lambda_h: float = 0.01
    lambda_d: float = 0.3
    uct: float = 2.0

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        quality: dict[int, float] = {}
        visits: dict[int, int] = {}
        expanded: set[int] = set()
        frontier = [0]
        while frontier:
            node: int | None = max(frontier, key=lambda one: self._jump(tree, one, quality))
            while node is not None:
                expanded.add(node)
                ends = yield [Expand(node, self.expand)]
                for one in [0, *tree.path(node)]:
                    visits[one] = visits.get(one, 0) + 1
                finished = [child for child in dict.fromkeys(ends[0]) if tree.is_answer(child)]
                for child in finished:
                    self._back_up(tree, child, quality)
                below = [child for child in dict.fromkeys(ends[0]) if tree.is_open(child) and child not in expanded]
                node = (
                    None if finished or not below else max(below, key=lambda one: self._uct(tree, one, quality, visits))
                )
            frontier = [one for one in range(len(tree)) if tree.is_open(one) and one not in expanded]
        return None

    def _jump(self, tree: SearchTree, node: int, quality: dict[int, float]) -> float:
        if node == 0:
            return 0.0
        length = tree.num_tokens[node] - tree.num_tokens[tree.parent[node]]
        entropy = -tree.log_prior(node) / max(1, length)
        depth = math.sqrt(tree.depth[node] / max(tree.depth))
        parent = quality.get(tree.parent[node], 0.0)
        return (
            self.lambda_q * math.tanh(parent)
            + self.lambda_h * (entropy if entropy == entropy else 0.0)
            + (self.lambda_d * depth)
        )

    def _uct(self, tree: SearchTree, node: int, quality: dict[int, float], visits: dict[int, int]) -> float:
        parent = tree.parent[node]
        explored = math.sqrt(math.log(1 + visits.get(parent, 0)) / (1 + visits.get(node, 0)))
        return quality.get(node, 2 * tree.value(node) - 1) + self.uct * explored

    def _back_up(self, tree: SearchTree, end: int, quality: dict[int, float]) -> None:
        reward = 2 * tree.value(end) - 1
        path = tree.path(end)
        for index, node in enumerate(path, start=1):
            old, gain = quality.get(node, 0.0), max(index / len(path), 0.1) * reward
            if gain < 0 < old:
                continue
            quality[node] = gain if old < 0 < gain else old + gain
