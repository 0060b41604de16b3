"""Step after step, all paths at once: beam search and its relatives. They differ in whom they let go on."""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from arts.search.strategies.limits import require
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

    def __post_init__(self) -> None:
        require(self, "width", "expand", least=1)

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

    def __post_init__(self) -> None:
        require(self, "subtrees", "expand", least=1)

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

    def __post_init__(self) -> None:
        require(self, "n", least=1)
        require(self, "temperature", above=0)

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        wave, left = [Expand(0, self.n)], self.n
        while wave:
            ends = yield wave
            left -= sum(tree.is_answer(node) for children in ends for node in children)
            wave = self.deal(tree, open_nodes(tree, ends), left)
        return None

    def deal(self, tree: SearchTree, paths: list[int], left: int) -> list[Expand]:
        return shares(tree, paths, left, self.temperature)


@dataclass(frozen=True, kw_only=True)
class ETS(Rebase):
    """REBASE among fewer paths: those that together hold much reward in few nodes and still differ from each other.

    Kept is the set of leaves that maximises (their part of REBASE's draws) - lambda_b (nodes on their paths / all such
    nodes) + lambda_s (clusters among them / all clusters); then REBASE deals among them. The best of all sets is found
    up to `exact` leaves; above that the set grows leaf by leaf, while that makes it better. A cluster is the last steps
    of the same words, where the paper clusters embeddings.
    """

    id: ClassVar[str] = "ets"
    paper: ClassVar[str] = "Efficient Tree Search, Hooper et al. 2025, arXiv 2502.13575"
    lambda_b: float = 1.0
    lambda_s: float = 1.4
    exact: int = 12
    "2^exact sets are compared"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "lambda_b", "lambda_s", "exact", least=0)

    def deal(self, tree: SearchTree, paths: list[int], left: int) -> list[Expand]:
        draws = {expand.node: expand.count for expand in super().deal(tree, paths, left)}
        return super().deal(tree, self.kept(tree, paths, draws) if draws else [], left)

    def kept(self, tree: SearchTree, leaves: list[int], draws: Mapping[int, int]) -> list[int]:
        """The leaves to go on from; `draws` are those that REBASE would give them."""
        above = {leaf: set(tree.path(leaf)) for leaf in leaves}
        cluster = {leaf: " ".join(sorted(tree.steps(leaf)[-1].text.split())) for leaf in leaves}
        num_nodes, num_clusters = len(set().union(*above.values())), len(set(cluster.values()))

        def worth(chosen: Sequence[int]) -> float:
            if not chosen:
                return -math.inf
            reward = sum(draws.get(leaf, 0) for leaf in chosen) / sum(draws.values())
            nodes = len(set().union(*(above[leaf] for leaf in chosen))) / num_nodes
            covered = len({cluster[leaf] for leaf in chosen}) / num_clusters
            return reward - self.lambda_b * nodes + self.lambda_s * covered

        if len(leaves) <= self.exact:
            codes = range(1, 1 << len(leaves))
            return max(([leaf for bit, leaf in enumerate(leaves) if code >> bit & 1] for code in codes), key=worth)
        chosen: list[int] = []
        while rest := [leaf for leaf in leaves if leaf not in chosen]:
            added = max(rest, key=lambda leaf: worth([*chosen, leaf]))
            if worth([*chosen, added]) <= worth(chosen):
                break
            chosen.append(added)
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

    def __post_init__(self) -> None:
        require(self, "n", least=1)

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        particles = [0] * self.n
        while counts := Counter(filter(tree.is_open, particles)):
            ends = yield [Expand(node, count) for node, count in counts.items()]
            moved = [(node, 0.0) for node in particles if tree.is_answer(node)]
            for parent, children in zip(counts, ends, strict=True):
                start = tree.log_flow(parent) if parent else 0.0  # all come from the problem: its own flow cancels out
                moved += [(child, tree.log_flow(child) - start) for child in children]
            particles = systematic(rng, moved, self.n)
        return None


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
    highest = max(values)
    weights = [math.exp((value - highest) / temperature) for value in values]
    whole = math.fsum(weights)
    exact = [total * weight / whole for weight in weights]
    counts = [math.floor(share + 1e-9) for share in exact]
    order = sorted(range(len(nodes)), key=lambda index: -round(exact[index] - counts[index], 9))
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return [Expand(node, count) for node, count in zip(nodes, counts, strict=True) if count]


def systematic(rng: random.Random, weighted: Sequence[tuple[int, float]], count: int) -> list[int]:
    """`count` of the items with chances proportional to their weights, by one random number and equal distances.

    Each item comes floor(count p) or ceil(count p) times. Equal weights of `count` items give each of them once.

    Args:
        weighted: items with the log of their weight.

    Returns:
        Nothing where no weight is above 0.
    """
    highest = max((log for _, log in weighted), default=-math.inf)
    if highest == -math.inf:
        return []
    totals = list(accumulate(math.exp(log - highest) for _, log in weighted))
    offset = rng.random()
    # On a line of length `count`, an item gets the marks offset, offset + 1, ... that lie in its part.
    marks = [math.ceil(total / totals[-1] * count - offset) for total in totals]
    return [
        item
        for (item, _), before, after in zip(weighted, [0, *marks], marks, strict=False)
        for _ in range(after - before)
    ]
