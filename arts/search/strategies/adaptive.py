"""`arts`: our own default for a token budget. Draw few, look, go on where it pays, stop when the answer is settled."""

import random
from dataclasses import dataclass
from typing import ClassVar

from arts.search.strategies.limits import require
from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree


@dataclass(frozen=True, kw_only=True)
class Adaptive(Strategy):
    """Rollouts in small waves, each from the problem or from a promising step, until one end is good enough.

    A rollout goes down the tree from the problem: at a node it starts anew with chance fresh / (fresh + guide sum of
    the values of the draws below that can go on), else follows one of these with chance proportional to its value. So
    the first wave comes from the problem, and later ones start deeper the better the verifier thinks of what it has
    seen. The search stops as soon as some answer has value `settled`, and answers with the highest score.
    """

    id: ClassVar[str] = "arts"
    paper: ClassVar[str] = "ours; adaptive stopping on the terminal flow of ARTS (arXiv 2602.12846)"
    scores: ClassVar[Scores] = "all"
    first: int = 4
    "rollouts of the first wave"
    wave: int = 2
    settled: float = 0.9
    guide: float = 0.0
    "0: every rollout starts from the problem"
    fresh: float = 1.0
    n: int = 64
    "most rollouts; with a budget, on until it is spent"

    def __post_init__(self) -> None:
        require(self, "first", "wave", "n", least=1)
        require(self, "guide", least=0)
        require(self, "fresh", above=0)

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        drawn = looked_at = 0
        while drawn < self.n:
            if any(tree.value(node) >= self.settled for node in tree.answers[looked_at:]):
                return "settled"
            looked_at = len(tree.answers)
            count = min(self.n - drawn, self.wave if drawn else self.first)
            starts = [self._start(tree, rng) for _ in range(count)] if self.guide else [0] * count
            yield [Expand(start, starts.count(start), whole=True) for start in dict.fromkeys(starts)]
            drawn += count
        return None

    def _start(self, tree: SearchTree, rng: random.Random) -> int:
        node = 0
        while True:
            below = [child for child in tree.children[node] if tree.is_open(child)]
            weights = [self.guide * tree.num_draws[child] * tree.value(child) for child in below]
            chosen = rng.choices([node, *below], [self.fresh, *weights])[0]
            if chosen == node:
                return node
            node = chosen
