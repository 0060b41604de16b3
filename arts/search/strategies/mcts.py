"""Monte-Carlo tree search over steps: go down by upper confidence, expand, evaluate, back up.

One rule with options; `preset` names the options that published systems use, and any option given besides it is kept.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from arts.search.strategies.limits import known_log_prior, require
from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree

Preset = Literal["none", "rest-mcts", "vm-mcts", "x1", "mcts-dpo"]
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "rest-mcts": {"select": "uct", "explore": 0.7, "expand": 3, "look_ahead": 0.5, "end_gate": 0.9},
    "vm-mcts": {"select": "vm", "explore": 0.2, "expand": 5, "whole": True, "keep": 3},
    "x1": {"select": "x1", "expand": 2, "discount": 0.96},
    "mcts-dpo": {"select": "puct", "expand": 8, "length_power": 1.25},
}


@dataclass(frozen=True, kw_only=True, init=False)
class MCTS(Strategy):
    """Select, expand by `expand` draws, take the verifier's values of the new steps, back up visit-weighted means.

    The bound of a child with quality Q and n visits, below a node with N visits, c being `explore`:
    uct   Q + c sqrt(2 ln N / n)
    vm    Q + c sqrt((1 + ln N) / (0.1 + n))
    puct  Q + c p sqrt(N) / (1 + n), p = exp(log pi_0 / length^a) for a step of `length` tokens
    x1    Q + c sqrt(N - 1) / (1 + n) (1.25 + ln((N + 19652) / 19652))
    """

    id: ClassVar[str] = "mcts"
    paper: ClassVar[str] = (
        "ReST-MCTS*, arXiv 2406.03816; VM-MCTS (ReST-RL), arXiv 2508.19576; x1, arXiv 2501.11223; "
        "MCTS-DPO, arXiv 2405.00451"
    )
    scores: ClassVar[Scores] = "all"
    preset: Preset = "none"
    select: Literal["uct", "vm", "puct", "x1"] = "uct"
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
    "a of `puct`"
    end_gate: float = 1.01
    "value of a finished path that ends the search; above 1: never"
    n: int = 64
    "iterations; with a budget, on until it is spent"

    def __init__(self, *, preset: Preset = "none", **options: Any) -> None:
        if preset not in PRESETS:
            raise ValueError(f"strategy mcts: preset is {preset!r}; allowed are {', '.join(map(repr, PRESETS))}")
        defaults = {spec.name: spec.default for spec in fields(self)}
        if unknown := options.keys() - defaults.keys():
            raise ValueError(f"strategy mcts has no option {min(unknown)!r}; its options are {', '.join(defaults)}")
        for name, value in {**defaults, **PRESETS[preset], **options, "preset": preset}.items():
            object.__setattr__(self, name, value)
        require(self, "expand", "keep", "n", least=1)
        require(self, "explore", "length_power", least=0)
        require(self, "look_ahead", least=0, most=1)
        require(self, "discount", above=0, most=1)

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        state, has_drawn = _State(self, tree), True
        while has_drawn:
            has_drawn = False
            for _ in range(self.n):
                node = 0
                while shown := state.shown(node):
                    node = max(shown, key=state.bound)
                if tree.is_open(node):
                    has_drawn = True
                    ends = yield [Expand(node, self.expand, whole=self.whole)]
                    state.expand(node)
                    best = max(
                        filter(tree.is_open, state.shown(node)), key=lambda one: state.quality[one], default=None
                    )
                    if self.look_ahead and best is not None:
                        ahead = yield [Expand(best, 1, whole=True)]
                        state.look_ahead(best, ahead[0])
                        ends = [*ends, *ahead]
                    if any(tree.is_answer(end) and tree.value(end) >= self.end_gate for some in ends for end in some):
                        return "settled"
                elif not state.may_go_on():
                    return None
                state.back_up(node)
            if has_drawn:  # else it only came to finished paths, and would again: a new search draws from the problem
                yield []
        return None


@dataclass
class _State:
    """Visits and qualities of one search. A new node has one visit and its own value."""

    options: MCTS
    tree: SearchTree
    visits: dict[int, int] = field(default_factory=lambda: {0: 0})
    quality: dict[int, float] = field(default_factory=dict)
    children: dict[int, list[int]] = field(default_factory=dict)
    "of every node that was expanded, those that are shown"

    def shown(self, node: int) -> list[int]:
        return self.children.get(node, [])

    def expand(self, node: int) -> None:
        tree = self.tree
        alive = [child for child in tree.children[node] if tree.is_answer(child) or tree.is_open(child)]
        self.children[node] = sorted(alive, key=lambda child: -tree.value(child))[: self.options.keep]
        for child in self.children[node]:
            self.visits[child], self.quality[child] = 1, tree.value(child)

    def look_ahead(self, node: int, ends: list[int]) -> None:
        """Mix the highest value on a rollout into that of the node it started from."""
        ahead = [one for end in ends for one in self.tree.path(end) if self.tree.depth[one] > self.tree.depth[node]]
        if ahead:
            weight, highest = self.options.look_ahead, max(map(self.tree.value, ahead))
            self.quality[node] = (1 - weight) * self.quality[node] + weight * highest

    def may_go_on(self) -> bool:
        """Some path that is shown can still be expanded, or was not yet."""
        shown = (child for children in self.children.values() for child in children)
        return any(self.tree.is_open(child) and child not in self.children for child in shown)

    def back_up(self, node: int) -> None:
        """One visit more from a node up to the problem; Q = discount sum n Q / sum n of its children, 0 without any."""
        for one in [*reversed(self.tree.path(node)), 0]:
            self.visits[one] += 1
            if one in self.children:
                weights = [self.visits[child] for child in self.children[one]]
                total = math.fsum(self.visits[child] * self.quality[child] for child in self.children[one])
                self.quality[one] = self.options.discount * total / max(1, sum(weights))

    def bound(self, node: int) -> float:
        """How promising a child is at best."""
        options, tree, parent = self.options, self.tree, self.tree.parent[node]
        quality, above, own = self.quality[node], self.visits[parent], self.visits[node]
        match options.select:
            case "uct":
                return quality + options.explore * math.sqrt(2 * math.log(above) / own)
            case "vm":
                return quality + options.explore * math.sqrt((1 + math.log(above)) / (0.1 + own))
            case "puct":
                length = max(1, tree.num_tokens[node] - tree.num_tokens[parent])
                prior = math.exp(known_log_prior(options, tree, node) / length**options.length_power)
                return quality + options.explore * prior * math.sqrt(above) / (1 + own)
            case "x1":
                growing = 1.25 + math.log((above + 19652) / 19652)
                return quality + options.explore * math.sqrt(above - 1) / (1 + own) * growing
