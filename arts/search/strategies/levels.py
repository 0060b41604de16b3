"""Step after step, all paths at once: beam search and its relatives. They differ in whom they let go on."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree


@dataclass(frozen=True, kw_only=True)
class Beam(Strategy):
    """Keep the `width` best paths of each level; finished ones keep their place."""

    id: ClassVar[str] = "beam"
    paper: ClassVar[str] = "step beam, Xie et al. 2023, arXiv 2305.00633; Snell et al. 2024, arXiv 2408.03314"
    scores: ClassVar[Scores] = "all"
    width: int = 4
    expand: int = 4
    "draws from each kept path"

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        beam, count = [0], self.width * self.expand  # as many draws at the first level as at the others
        while open_ := [node for node in beam if tree.is_open(node)]:
            ends = yield [Expand(node, count) for node in open_]
            finished = [node for node in beam if tree.is_answer(node)]
            beam = best(tree, [*finished, *alive(tree, ends)], self.width)
            count = self.expand
        return None


@dataclass(frozen=True, kw_only=True)
class DVTS(Strategy):
    """`subtrees` greedy searches beside each other: each keeps its best child only, so that they stay diverse."""

    id: ClassVar[str] = "dvts"
    paper: ClassVar[str] = "Diverse Verifier Tree Search, Beeching et al. 2024 (Hugging Face, search-and-learn)"
    scores: ClassVar[Scores] = "all"
    subtrees: int = 4
    expand: int = 4

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        # The first level is dealt out: every subtree starts with draws of its own.
        ends = yield [Expand(0, self.expand) for _ in range(self.subtrees)]
        while True:
            paths = [kept[0] for children in ends if (kept := best(tree, alive(tree, [children]), 1))]
            if not (open_ := [node for node in paths if tree.is_open(node)]):
                return None
            ends = yield [Expand(node, self.expand) for node in open_]


@dataclass(frozen=True, kw_only=True)
class Rebase(Strategy):
    """Deal N draws of every level out to the open paths by softmax(value / temperature)."""

    id: ClassVar[str] = "rebase"
    paper: ClassVar[str] = "REBASE, Wu et al. 2024, arXiv 2408.00724"
    scores: ClassVar[Scores] = "all"
    n: int = 16
    temperature: float = 0.2

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        wave, left = [Expand(0, self.n)], self.n
        while wave:
            ends = yield wave
            left -= sum(tree.is_answer(node) for children in ends for node in children)
            wave = shares(tree, self.kept(tree, open_nodes(tree, ends), left), left, self.temperature)
        return None

    def kept(self, tree: SearchTree, paths: list[int], left: int) -> list[int]:
        """The open paths that take part."""
        return paths


@dataclass(frozen=True, kw_only=True)
class ETS(Rebase):
    """REBASE among fewer paths: those that together hold much reward in few nodes and still differ from each other.

    Chosen is the set of leaves that maximises (share of REBASE's draws) - lambda_b (nodes kept / all nodes) +
    lambda_s (clusters covered / all clusters); exactly for up to `exact` leaves, above that greedily, leaf by leaf.
    Clusters are last steps with the same words, where the paper clusters embeddings.
    """

    id: ClassVar[str] = "ets"
    paper: ClassVar[str] = "Efficient Tree Search, Hooper et al. 2025, arXiv 2502.13575"
    lambda_b: float = 1.0
    lambda_s: float = 1.4
    exact: int = 12

    def kept(self, tree: SearchTree, paths: list[int], left: int) -> list[int]:
        if len(paths) < 2:
            return paths
        dealt = shares(tree, paths, max(left, 1), self.temperature)
        count = {expand.node: expand.count for expand in dealt}
        above = {leaf: set(tree.path(leaf)) for leaf in paths}
        cluster = {leaf: " ".join(sorted(tree.steps(leaf)[-1].text.split())) for leaf in paths}
        num_nodes, num_clusters = len(set().union(*above.values())), len(set(cluster.values()))

        def worth(leaves: Sequence[int]) -> float:
            if not leaves:
                return -math.inf
            reward = sum(count.get(leaf, 0) for leaf in leaves) / max(1, sum(count.values()))
            nodes = len(set().union(*(above[leaf] for leaf in leaves))) / num_nodes
            covered = len({cluster[leaf] for leaf in leaves}) / num_clusters
            return reward - self.lambda_b * nodes + self.lambda_s * covered

        if len(paths) <= self.exact:
            subsets = (
                [leaf for bit, leaf in enumerate(paths) if code >> bit & 1] for code in range(1, 1 << len(paths))
            )
            return max(subsets, key=worth)
        chosen: list[int] = []
        while len(chosen) < len(paths):
            rest = [leaf for leaf in paths if leaf not in chosen]
            best_leaf = max(rest, key=lambda leaf: worth([*chosen, leaf]))
            if chosen and worth([*chosen, best_leaf]) <= worth(chosen):
                break
            chosen.append(best_leaf)
        return sorted(chosen)


@dataclass(frozen=True, kw_only=True)
class ParticleFilter(Strategy):
    """N particles draw a step each, are weighed by F(child) / F(parent), and resampled: many where flow grows.

    Resampling is systematic, so equal weights leave every particle where it is. Finished particles stay in the race:
    their last weight counts once.
    """

    id: ClassVar[str] = "particle-filter"
    paper: ClassVar[str] = "Puri et al. 2025, arXiv 2502.01618, with the twist F(child) / F(parent)"
    scores: ClassVar[Scores] = "all"
    n: int = 16

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        particles = [0] * self.n
        while True:
            counts = Counter(node for node in particles if tree.is_open(node))
            if not counts:
                return None
            ends = yield [Expand(node, count) for node, count in counts.items()]
            moved = [node for node in particles if tree.is_answer(node)]
            log_weights = [0.0] * len(moved)
            for parent, children in zip(counts, ends, strict=True):
                moved += children
                log_weights += [tree.log_flow(child) - tree.log_flow(parent) for child in children]
            if not any(math.isfinite(weight) for weight in log_weights):
                return None  # every particle is lost
            particles = systematic(rng, moved, log_weights, self.n)


# --- shared by them ---------------------------------------------------------------------------------------------------


def alive(tree: SearchTree, ends: Sequence[Sequence[int]]) -> list[int]:
    """The different nodes that draws reached and that are answers or can go on, first drawn first."""
    nodes = dict.fromkeys(node for children in ends for node in children)
    return [node for node in nodes if tree.is_answer(node) or tree.is_open(node)]


def open_nodes(tree: SearchTree, ends: Sequence[Sequence[int]]) -> list[int]:
    return [node for node in alive(tree, ends) if tree.is_open(node)]


def best(tree: SearchTree, nodes: Sequence[int], count: int) -> list[int]:
    """The highest path scores; the first of equals."""
    return sorted(nodes, key=lambda node: -tree.path_log_score(node))[:count]


def shares(tree: SearchTree, nodes: Sequence[int], total: int, temperature: float) -> list[Expand]:
    """`total` draws by softmax(value / temperature), whole by largest remainder; ties go to the first."""
    if not nodes or total < 1:
        return []
    values = [tree.value(node) for node in nodes]
    weights = [math.exp((value - max(values)) / temperature) for value in values]
    exact = [total * weight / math.fsum(weights) for weight in weights]
    counts = [math.floor(share + 1e-9) for share in exact]
    order = sorted(range(len(nodes)), key=lambda index: -round(exact[index] - counts[index], 9))
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return [Expand(node, count) for node, count in zip(nodes, counts, strict=True) if count]


def systematic(rng: random.Random, items: Sequence[int], log_weights: Sequence[float], count: int) -> list[int]:
    """`count` draws with chances proportional to the weights, by one random number and equal distances.

    Each item comes floor(count p) or ceil(count p) times. Equal weights of `count` items give each of them once.
    """
    highest = max(log_weights)
    weights = [math.exp(weight - highest) for weight in log_weights]
    step = math.fsum(weights) / count
    position, total = rng.random() * step, 0.0
    drawn: list[int] = []
    for item, weight in zip(items, weights, strict=True):
        total += weight
        while position < total and len(drawn) < count:
            drawn.append(item)
            position += step
    return drawn or [items[log_weights.index(highest)]]
