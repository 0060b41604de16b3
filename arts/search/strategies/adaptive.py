"""`arts`: our own default for a token budget. Give hopeless paths up early, stop when an answer is good enough."""

import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from arts.search.strategies.limits import require
from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree


@dataclass(frozen=True, kw_only=True)
class Adaptive(Strategy):
    """Paths from the problem, in waves that grow slowly, until one answer has value `settled`.

    Paths are drawn step by step, and one is given up where going on would buy less chance of a right answer per token
    than starting anew, by a factor of `give_up`:

        V(s) / max(1, L - tokens(s))  <  give_up P / L,      P = V(problem) trust / (trust + failed)

    with L the mean length of the answers so far. P is the chance of a new path: the verifier's word about the problem,
    worth `trust` draws, and the paths that did not settle it. So a problem that turns out hard is searched with more
    patience, and a verifier that says the same of every step gives nothing up. One that says nothing of a problem
    before its first step (V = 1) has the mean of the first steps drawn stand in. Where inner scores are no chances
    (`ScoreScale.inner_is_value`), or with give_up = 0, paths are drawn whole: one request each.
    """

    id: ClassVar[str] = "arts"
    paper: ClassVar[str] = "ours; adaptive stopping on the terminal flow of ARTS (arXiv 2602.12846)"
    scores: ClassVar[Scores] = "all"
    first: int = 1
    "paths of the first wave"
    growth: float = 0.25
    "a wave has this share of the paths before it, at least one: fewer waves, and at most this share too much"
    settled: float = 0.9
    give_up: float = 0.4
    trust: float = 4.0
    n: int = 64
    "most paths; with a budget, on until it is spent"

    def __post_init__(self) -> None:
        require(self, "first", "n", least=1)
        require(self, "growth", "give_up", least=0)
        require(self, "trust", above=0)

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        step_by_step = self.give_up > 0 and tree.scale.inner_is_value
        failed = sum(tree.num_draws[node] for node in tree.children[0])
        begun = 0
        while begun < self.n:
            count = min(self.n - begun, max(1, int(self.growth * failed)) if failed else self.first)
            active = [0] * count
            while active:
                ends = yield [Expand(node, times, whole=not step_by_step) for node, times in Counter(active).items()]
                best = tree.best_answer()
                if best is not None and tree.path_value(best) >= self.settled:
                    return "settled"
                # Without an answer nothing is promised, and nothing given up.
                length = tree.answer_tokens / len(tree.answers) if tree.answers else math.inf
                least = self.least_promise(tree, failed, length)
                reached = [node for children in ends for node in children if step_by_step and tree.is_open(node)]
                active = [node for node in reached if self.promise(tree, node, length) >= least]
            begun += count
            failed += count
        return None

    @staticmethod
    def promise(tree: SearchTree, node: int, length: float) -> float:
        """Chance of a right answer per token that is still to be drawn."""
        return tree.value(node) / max(1.0, length - tree.num_tokens[node])

    def least_promise(self, tree: SearchTree, failed: int, length: float) -> float:
        chance = tree.value(0)
        if chance == 1.0:
            drawn = {node: tree.num_draws[node] for node in tree.children[0]}
            chance = sum(count * tree.value(node) for node, count in drawn.items()) / sum(drawn.values())
        return self.give_up * chance / length * self.trust / (self.trust + failed)
