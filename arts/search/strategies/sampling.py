"""Paths drawn step by step from a tilted law: several candidates from the proposer, one of them kept by its score.

Candidates come from pi_0 already, so choosing among them by F gives pi_0 F; weighing by pi_0 once more would square it
and lose what is rare (docs/choose_objective.md, W5). The more candidates, the closer to the law.
"""

import math
import random
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from arts.search.strategies.limits import require
from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree


@dataclass(frozen=True, kw_only=True)
class Tilted(Strategy):
    """`paths` paths; at every step each draws `candidates` and keeps one of them."""

    scores: ClassVar[Scores] = "all"
    paths: int = 4
    candidates: int = 4

    def __post_init__(self) -> None:
        require(self, "paths", "candidates", least=1)

    @abstractmethod
    def log_weight(self, tree: SearchTree, node: int) -> float:
        """The log of a candidate's weight."""

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        paths = [0] * self.paths
        while paths:
            ends = yield [Expand(node, self.candidates) for node in paths]
            picked = [self._pick(tree, children, rng) for children in ends]
            paths = [node for node in picked if node is not None and tree.is_open(node)]
        return None

    def _pick(self, tree: SearchTree, children: list[int], rng: random.Random) -> int | None:
        """One of the draws, equal ones counted; None where none has a weight."""
        alive = [node for node in children if tree.is_answer(node) or tree.is_open(node)]
        logs = [self.log_weight(tree, node) for node in alive]
        highest = max(logs, default=-math.inf)
        if highest == -math.inf:
            return None
        return rng.choices(alive, [math.exp(log - highest) for log in logs])[0]


@dataclass(frozen=True, kw_only=True)
class FlowSampling(Tilted):
    """Keep a candidate with chance proportional to its flow: draws from pi_0 R, as flow is conserved."""

    id: ClassVar[str] = "flow-sampling"
    paper: ClassVar[str] = "ARTS (arXiv 2602.12846): spend tokens where flow goes; GFlowNet sampling, arXiv 2106.04399"

    def log_weight(self, tree: SearchTree, node: int) -> float:
        return tree.log_flow(node)


@dataclass(frozen=True, kw_only=True)
class ValueAugmented(Tilted):
    """Keep a candidate with chance proportional to exp(beta value): the optimum of value minus KL / beta, by steps."""

    id: ClassVar[str] = "value-augmented"
    paper: ClassVar[str] = "Value Augmented Sampling, Han et al. 2024, arXiv 2405.06639, at step level"
    beta: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "beta", least=0)

    def log_weight(self, tree: SearchTree, node: int) -> float:
        return self.beta * tree.value(node)
