"""Do scores of a tree keep their conservation law? log F(s) against what its children make of it, node by node.

    sum    log F(s) - log sum_c w_c F(c)                w_c = n_c at terminal children, 1 at inner ones
    mean   log F(s) - log sum_c n_c F(c) / sum_c n_c

n_c is how often step c was drawn from s. The sum is that of Reasoning Flow Matching (paper, method 5), in which a
terminal drawn twice counts twice and an inner F(c) holds the counts below it already; so it is 0 for observed sums,
merged or not. The mean is 0 for observed means (values). Both see a verifier's consistency, not its truth: a constant
keeps the mean law. Knows one scored tree at a time.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from arts.facts import TreeFacts
from arts.tree import Node, ReasoningTree

Law = Literal["sum", "mean"]
LAWS: tuple[Law, ...] = ("sum", "mean")


class Residual(NamedTuple):
    """Residuals of one inner node, in nats."""

    node: int
    depth: int
    "of the node; 0 is the problem itself, before any step"
    sum: float
    mean: float


def tree_residuals(tree: ReasoningTree) -> Iterator[Residual]:
    """Residuals of the inner nodes, in the order of the nodes.

    Nodes are left out where they or one of their children have no finite score. Failed draws are no children.
    """
    depths, children = tree.depths(), tree.children()
    is_known = TreeFacts.of(tree).is_known
    for node in tree.nodes:
        below = [tree.nodes[child] for child in children[node.id] if is_known[child]]
        if below and all(_is_finite(one) for one in (node, *below)):
            log_flow = node.log_flow or 0.0
            draws = [one.num_draws for one in below]
            weights = [1 if children[one.id] else one.num_draws for one in below]
            mean = _log_sum(draws, below) - math.log(sum(draws))
            yield Residual(node.id, depths[node.id], log_flow - _log_sum(weights, below), log_flow - mean)


def _is_finite(node: Node) -> bool:
    return node.log_flow is not None and math.isfinite(node.log_flow)


def _log_sum(weights: Sequence[int], nodes: Sequence[Node]) -> float:
    """log sum_c w_c F(c)."""
    log_flows = [node.log_flow or 0.0 for node in nodes]
    highest = max(log_flows)
    return highest + math.log(math.fsum(w * math.exp(x - highest) for w, x in zip(weights, log_flows, strict=True)))
