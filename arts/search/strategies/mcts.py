"""Monte-Carlo tree search over steps: go down by upper confidence, expand, evaluate, back up.

One rule with options; `preset` names the options that published systems use, and any option given besides it is kept.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree

Preset = Literal["none", "rest-mcts", "vm-mcts", "x1", "mcts-dpo"]
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "rest-mcts": {"select": "uct", "explore": 1.0, "expand": 3, "look_ahead": 0.5, "end_gate": 0.95},
    "vm-mcts": {"select": "uct", "explore": 0.2, "expand": 5, "whole": True, "keep": 3},
    "x1": {"select": "x1", "expand": 2, "discount": 0.96},
    "mcts-dpo": {"select": "puct", "explore": 1.0, "expand": 8, "length_power": 1.25},
}


@dataclass(frozen=True, kw_only=True)
class MCTS(Strategy):
    """Select, expand `expand` draws, take the verifier's values as theirs, back up visit-weighted means."""

    id: ClassVar[str] = "mcts"
    paper: ClassVar[str] = (
        "ReST-MCTS*, arXiv 2406.03816; VM-MCTS (ReST-RL), arXiv 2508.19576; x1, arXiv 2501.11223; "
        "MCTS-DPO, arXiv 2405.00451"
    )
    scores: ClassVar[Scores] = "all"
    preset: Preset = "none"
    select: Literal["uct", "puct", "x1"] = "uct"
    explore: float = 1.0
    expand: int = 4
    keep: int | None = None
    "children that stay visible, the highest values"
    whole: bool = False
    "expand by rollouts, whose first steps are the children"
    look_ahead: float = 0.0
    "weight of the best value on a rollout from the best new child, against its own value"
    discount: float = 1.0
    length_power: float = 1.25
    "of PUCT's prior exp(log pi_0 / length^a)"
    end_gate: float = 1.01
    "value of a finished path that ends the search; above 1: never"
    n: int = 64
    "iterations; with a budget, on until it is spent"

    def __post_init__(self) -> None:
        defaults = {name: spec.default for name, spec in type(self).__dataclass_fields__.items()}
        for name, value in PRESETS.get(self.preset, {}).items():
            if getattr(self, name) == defaults[name]:
                object.__setattr__(self, name, value)

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        state = _State(self, tree)
        for _ in range(self.n):
            node = 0
            while state.visible(node):
                node = max(state.visible(node), key=lambda child: state.bound(child))
            if not tree.is_open(node):
                state.back_up(node, state.own[node])  # an end that is visited again counts again
                if node == 0 or not state.open_below():
                    return None
                continue
            ends = yield [Expand(node, self.expand, whole=self.whole)]
            state.expanded(node)
            if any(tree.is_answer(end) and tree.value(end) >= self.end_gate for end in ends[0]):
                return "settled"
            if self.look_ahead and (best := state.best_open(node)) is not None:
                ahead = yield [Expand(best, 1, whole=True)]
                seen = [
                    tree.value(one) for end in ahead[0] for one in tree.path(end) if tree.depth[one] > tree.depth[best]
                ]
                state.own[best] = (1 - self.look_ahead) * state.own[best] + self.look_ahead * max(seen, default=0.0)
            for child in state.visible(node):
                state.back_up(child, state.own[child])
            if not state.visible(node):
                state.back_up(node, 0.0)  # nothing lies below it
                state.own[node] = 0.0
                state.lost.add(node)
        return None


@dataclass
class _State:
    """Visits and values of one search."""

    options: MCTS
    tree: SearchTree
    visits: dict[int, int] = field(default_factory=dict)
    total: dict[int, float] = field(default_factory=dict)
    own: dict[int, float] = field(default_factory=dict)
    children: dict[int, list[int]] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)

    def visible(self, node: int) -> list[int]:
        return self.children.get(node, [])

    def expanded(self, node: int) -> None:
        tree = self.tree
        alive = [child for child in tree.children[node] if tree.is_answer(child) or tree.is_open(child)]
        for child in alive:
            self.own.setdefault(child, tree.value(child))
        self.children[node] = sorted(alive, key=lambda child: -self.own[child])[: self.options.keep]

    def best_open(self, node: int) -> int | None:
        return max(filter(self.tree.is_open, self.visible(node)), key=lambda child: self.own[child], default=None)

    def open_below(self) -> bool:
        """Some visible path can still go on."""
        shown = [child for children in self.children.values() for child in children]
        return any(self.tree.is_open(child) and child not in self.children for child in shown)

    def back_up(self, node: int, value: float) -> None:
        for one in reversed([0, *self.tree.path(node)]):
            self.visits[one] = self.visits.get(one, 0) + 1
            self.total[one] = self.total.get(one, 0.0) + value
            value *= self.options.discount

    def quality(self, node: int) -> float:
        return self.total.get(node, 0.0) / max(1, self.visits.get(node, 0))

    def bound(self, node: int) -> float:
        options, parent = self.options, self.tree.parent[node]
        above, own = self.visits.get(parent, 0), self.visits.get(node, 0)
        match options.select:
            case "uct":
                return self.quality(node) + options.explore * math.sqrt((1 + math.log(max(1, above))) / (0.1 + own))
            case "puct":
                length = max(1, self.tree.num_tokens[node] - self.tree.num_tokens[parent])
                prior = math.exp(self.tree.log_prior(node) / length**options.length_power)
                return self.quality(node) + options.explore * prior * math.sqrt(above) / (1 + own)
            case "x1":
                qualities = [self.quality(child) for child in self.visible(parent)]
                spread = max(qualities) - min(qualities)
                scaled = (self.quality(node) - min(qualities)) / spread if spread else 0.5
                growing = 1.25 + math.log((above + 19652) / 19652)
                return scaled + math.sqrt(max(0, above - 1)) / (1 + own) * growing
