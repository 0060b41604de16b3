"""What one sampled tree says about each of its nodes, before any objective: outcomes, counts, shares of draws, priors.

Everything here is arithmetic on numpy arrays of one tree, from the leaves up. Knows no model and no loss.

Shapes: N nodes of a tree, parents before children, the root first; E pairs of a node and a leaf below it.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arts.tree import ReasoningTree, StopReason

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


class LeafPairs(NamedTuple):
    """Every node with every terminal below it, itself included where it is one [E]."""

    node: Ints
    leaf: Ints
    share: Floats
    "chance to reach the leaf from the node under the observed draws; sums to 1 for each known node"
    log_prior: Floats
    "log pi_0(leaf | node), the sum over the steps between them"


@dataclass(frozen=True)
class TreeFacts:
    """A tree as flat arrays [N]."""

    parent: Ints
    "-1 at the root"
    depth: Ints
    "steps from the root"
    num_draws: Ints
    "how often the step was drawn from its parent"
    num_tokens: Ints
    log_prior: Floats
    "log pi_0(step | parent); NaN where it is not known, 0 at the root"
    is_terminal: Bools
    "a leaf with a known outcome: finished, or cut off and therefore wrong"
    is_right: Bools
    is_known: Bools
    "a terminal is at or below the node; failed and unexplored leaves are not known and take no part"

    @classmethod
    def of(cls, tree: ReasoningTree) -> "TreeFacts":
        nodes = tree.nodes
        parent = np.array([node.parent for node in nodes], dtype=np.int64)
        has_children = np.zeros(len(nodes), dtype=np.bool_)
        has_children[parent[1:]] = True
        ended = np.array([node.stop in (StopReason.EOS, StopReason.LENGTH) for node in nodes], dtype=np.bool_)
        is_terminal = ~has_children & ended
        right = [node.is_answer and node.verdict is not None and node.verdict.correct for node in nodes]
        log_prior = [math.nan if node.log_prior is None else node.log_prior for node in nodes]
        return cls(
            parent=parent,
            depth=np.array(tree.depths(), dtype=np.int64),
            num_draws=np.array([node.num_draws for node in nodes], dtype=np.int64),
            num_tokens=np.array([node.num_tokens for node in nodes], dtype=np.int64),
            log_prior=np.array([0.0, *log_prior[1:]]),
            is_terminal=is_terminal,
            is_right=is_terminal & np.array(right, dtype=np.bool_),
            is_known=_reach_up(parent, is_terminal),
        )

    def sum_up(self, terminal: Floats, weight: Floats) -> Floats:
        """x(s) = sum over known children c of weight(c) x(c); `terminal` at terminals, 0 where nothing is known."""
        totals = np.where(self.is_terminal, terminal, 0.0)
        carried = np.where(self.is_known, weight, 0.0)
        for node in range(len(totals) - 1, 0, -1):
            totals[self.parent[node]] += carried[node] * totals[node]
        return totals

    @cached_property
    def draw_share(self) -> Floats:
        """Share of a step among the known draws of its parent: the observed pi_0(c | s). 1 at the root."""
        share = np.where(self.is_known, self.num_draws, 0).astype(np.float64)
        share[1:] /= np.maximum(self.draws_below[self.parent[1:]], 1.0)
        share[0] = 1.0
        return share

    @cached_property
    def draws_below(self) -> Floats:
        """Draws of children whose end is known; at a terminal its own draws."""
        known_draws = np.where(self.is_known, self.num_draws, 0).astype(np.float64)
        total = np.where(self.is_terminal, known_draws, 0.0)
        np.add.at(total, self.parent[1:], known_draws[1:])
        return total

    @cached_property
    def leaf_draws(self) -> Floats:
        """Draws of a terminal, 1 elsewhere: how often a step counts in a sum over leaves."""
        return np.where(self.is_terminal, self.num_draws, 1).astype(np.float64)

    @cached_property
    def num_leaves(self) -> Floats:
        """L(s), observed terminal draws below; at a terminal its own draws."""
        return self._count(np.ones(len(self.parent)))

    @cached_property
    def num_right(self) -> Floats:
        """k(s), those of them that are right."""
        return self._count(self.is_right.astype(np.float64))

    def _count(self, terminal: Floats) -> Floats:
        below = self.sum_up(terminal, self.leaf_draws)
        return np.where(self.is_terminal, below * self.num_draws, below)

    @cached_property
    def success(self) -> Floats:
        """Unbiased estimate of the chance to end right from each node: the mean over its draws, not over its leaves.

        A fork below a node adds leaves there without being a draw of the node itself, so each child counts by its own
        draws (SYSTEMS: mean flow).
        """
        return self.sum_up(self.is_right.astype(np.float64), self.draw_share)

    @cached_property
    def leaf_pairs(self) -> LeafPairs:
        return self.leaf_pairs_of(self.log_prior)

    def leaf_pairs_of(self, step_log_prior: Floats) -> LeafPairs:
        """The pairs with log-priors summed from `step_log_prior` [N] instead of the tree's own."""
        node_of, leaf_of, share_of, prior_of = [], [], [], []
        for leaf in np.flatnonzero(self.is_terminal):
            node, share, log_prior = int(leaf), 1.0, 0.0
            while node >= 0:
                node_of.append(node)
                leaf_of.append(leaf)
                share_of.append(share)
                prior_of.append(log_prior)
                share *= self.draw_share[node]
                log_prior += step_log_prior[node]
                node = int(self.parent[node])
        return LeafPairs(
            np.array(node_of, dtype=np.int64),
            np.array(leaf_of, dtype=np.int64),
            np.array(share_of),
            np.array(prior_of),
        )


def _reach_up(parent: Ints, marked: Bools) -> Bools:
    """True at marked nodes and above them."""
    reached = marked.copy()
    for node in range(len(parent) - 1, 0, -1):
        reached[parent[node]] |= reached[node]
    return reached
