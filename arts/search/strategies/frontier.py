"""One node at a time, the best of the whole frontier: best-first search and DeepSearch's global frontier."""

import heapq
import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Literal

from arts.search.strategies.limits import known_log_prior, require
from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree


@dataclass(frozen=True, kw_only=True)
class BestFirst(Strategy):
    """Go on below the open path with the highest priority, wherever it is; each is expanded once.

    Priority is the value of the path, or as in provers (log pi_0) / L^a for a path of L steps. It ends at `end_gate`: a
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

    def __post_init__(self) -> None:
        require(self, "expand", least=1)
        require(self, "length_power", least=0)

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
        log_prior = math.fsum(known_log_prior(self, tree, one) for one in tree.path(node))
        return log_prior / float(tree.depth[node] ** self.length_power)


@dataclass(frozen=True, kw_only=True)
class GlobalFrontier(Strategy):
    """Dig down by the best of each step's children until a path ends, then jump to the best node of the whole frontier.

    Frontier score (eq. 7): lambda_q tanh(Q(parent)) + lambda_h H(step) + lambda_d sqrt(depth / deepest), H the mean
    -log pi_0 of a step's tokens (0 where it is unknown). Q = q / N is the mean of what ends brought to a node, q by
    eq. 3 to 5. The verifier's word 2 v - 1 stands in for the reward +1 or -1 that training has, and its value for UCT
    among new siblings, none of which has been visited more often than another. When all of it is expanded it starts
    again, with every open node as its frontier.
    """

    id: ClassVar[str] = "global-frontier"
    paper: ClassVar[str] = "DeepSearch, arXiv 2509.25454"
    scores: ClassVar[Scores] = "all"
    expand: int = 4
    lambda_q: float = 0.4
    lambda_h: float = 0.01
    "below 0: steps that the proposer is sure of first"
    lambda_d: float = 0.3

    def __post_init__(self) -> None:
        require(self, "expand", least=1)

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        frontier = _Frontier(self, tree)
        while (node := frontier.best()) is not None:
            while node is not None:
                frontier.leave(node)
                ends = yield [Expand(node, self.expand)]
                children = dict.fromkeys(ends[0])
                finished = [child for child in children if tree.is_answer(child)]
                for end in finished:
                    frontier.back_up(end)
                below = [child for child in children if frontier.add(child)]
                node = None if finished else max(below, key=tree.value, default=None)
        return None

    def score(self, gains: "_Gains", node: int, deepest: int) -> float:
        tree, parent = gains.tree, max(0, gains.tree.parent[node])
        num_tokens = tree.num_tokens[node] - tree.num_tokens[parent]
        entropy = -tree.log_prior(node) / max(1, num_tokens)
        return (
            self.lambda_q * math.tanh(gains.mean(parent))
            + self.lambda_h * (0.0 if math.isnan(entropy) else entropy)
            + self.lambda_d * math.sqrt(tree.depth[node] / deepest)
        )


class _Frontier:
    """Open nodes that were not expanded, by score. A score changes with the gain of its parent and the deepest node."""

    def __init__(self, rule: GlobalFrontier, tree: SearchTree) -> None:
        self.rule, self.tree, self.gains = rule, tree, _Gains(tree)
        self.expanded: set[int] = set()
        self.waiting: set[int] = set()
        self.deepest = 1
        self.heap: list[tuple[float, int]] = []
        "every node that waits with its score as it is, and with some that it had"
        for node in range(len(tree)):
            self.add(node)

    def add(self, node: int) -> bool:
        """Let a node wait; False where it cannot be gone on from, or was."""
        if self.tree.depth[node] > self.deepest:
            self.deepest = self.tree.depth[node]
            self.heap = []
            for one in self.waiting:
                self._push(one)
        if not self.tree.is_open(node) or node in self.expanded:
            return False
        if node not in self.waiting:
            self.waiting.add(node)
            self._push(node)
        return True

    def leave(self, node: int) -> None:
        self.waiting.discard(node)
        self.expanded.add(node)

    def back_up(self, end: int) -> None:
        self.gains.back_up(end)
        for node in (0, *self.tree.path(end)):
            for child in self.tree.children[node]:
                if child in self.waiting:
                    self._push(child)

    def best(self) -> int | None:
        """The highest score, the first node of equals."""
        while self.heap:
            score, node = self.heap[0]
            if node in self.waiting and -score == self._score(node):
                return node
            heapq.heappop(self.heap)
        return None

    def _score(self, node: int) -> float:
        return self.rule.score(self.gains, node, self.deepest)

    def _push(self, node: int) -> None:
        heapq.heappush(self.heap, (-self._score(node), node))


class _Gains:
    """q and N of DeepSearch: what the ends below a node brought to it, and how many there were."""

    def __init__(self, tree: SearchTree) -> None:
        self.tree = tree
        self.total: dict[int, float] = {}
        self.num_ends: Counter[int] = Counter()

    def mean(self, node: int) -> float:
        return self.total.get(node, 0.0) / max(1, self.num_ends[node])

    def back_up(self, end: int) -> None:
        """q(s_i) += max(i / l, 0.1) q(end) along a path of l steps, but what led to a good end never gets worse by a
        bad one, and forgets the bad ones before it."""
        reward = 2 * self.tree.value(end) - 1
        path = [0, *self.tree.path(end)]
        for index, node in enumerate(path):
            old, gain = self.total.get(node, 0.0), max(index / (len(path) - 1), 0.1) * reward
            self.num_ends[node] += 1
            self.total[node] = max(old, gain) if old * gain < 0 else old + gain
