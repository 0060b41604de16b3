"""What a search strategy is: a rule that says which nodes to draw from next, and which answer to give.

A strategy is a frozen set of options with two pure methods. `grow` is a generator: it yields a wave of expansions and
is sent, for each, the nodes its draws ended in; between two waves the tree has grown and is scored. It knows no model,
no server, no clock and no budget: the search cuts a wave off where the budget ends, and closes the generator.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from arts.search.answer import highest
from arts.search.tree import SearchTree

Scores = Literal["none", "ends", "all"]


@dataclass(frozen=True, slots=True)
class Expand:
    """Draw `count` times from a node: one step each, or down to the end."""

    node: int
    count: int = 1
    whole: bool = False


Waves: TypeAlias = Generator[list[Expand], list[list[int]], str | None]
"""Yields expansions, is sent for each the node every draw ended in (fewer where draws failed), and returns why it
stopped; None where it only came to its end, so that it may start again while there is budget. A rule that would rather
keep what it knows yields an empty wave there, and goes on when it is asked to."""


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """One way to spend a budget on one problem."""

    id: ClassVar[str]
    paper: ClassVar[str]
    scores: ClassVar[Scores]
    "what it looks at: no scores, those of finished paths, or those of all nodes"

    @abstractmethod
    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        """Wave after wave of expansions. `rng` is the only source of chance."""

    def answer(self, tree: SearchTree) -> int | None:
        """The finished node to answer with, of what there is now; None where nothing is finished."""
        return highest(tree)
