"""One tree as the JSON that the viewer's script reads: a list a field, so that thousands of trees stay small.

What the script could not know by itself is computed here: the share of right ends, residuals, the chosen end. Knows
trees; nothing of how they are drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arts.facts import TreeFacts
from arts.protocols import Aggregation, aggregate
from arts.residuals import Law, tree_residuals
from arts.tree import Node, ReasoningTree, StopReason

_STOPS = {None: "-", StopReason.EOS: "e", StopReason.STOP: "s", StopReason.LENGTH: "l", StopReason.ERROR: "x"}
_DIGITS = 3  # of logarithms: a thousandth of a nat is far below what anybody can see


@dataclass(frozen=True, kw_only=True)
class Ends:
    """How the draws of a tree came out. A tree without trunks, as searches make them, has the draws of its leaves."""

    draws: int
    right: int
    unfinished: int
    "cut off by a limit, or failed"


def draw_ends(tree: ReasoningTree) -> list[Node]:
    """The end of every draw, repeated where equal draws were merged."""
    if tree.trunks:
        return [tree.nodes[leaf] for leaf in tree.trunks]
    return [leaf for leaf in tree.leaves() if leaf.id > 0 for _ in range(leaf.num_draws)]


def count_ends(tree: ReasoningTree) -> Ends:
    ends = draw_ends(tree)
    return Ends(
        draws=len(ends),
        right=sum(is_right(end) for end in ends),
        unfinished=sum(end.stop in (StopReason.LENGTH, StopReason.ERROR) for end in ends),
    )


def is_right(node: Node) -> bool:
    return node.is_answer and node.verdict is not None and node.verdict.correct


def choose_end(tree: ReasoningTree, aggregation: Aggregation = "last") -> int | None:
    """The finished end that the scores in the tree pick: the first of the highest; None where none has a score."""
    best, chosen = -math.inf, None
    for end in draw_ends(tree):
        scores = [node.log_flow for node in tree.path(end.id)]
        if not end.is_answer or scores[-1] is None or (aggregation != "last" and None in scores):
            continue
        score = aggregate([0.0 if one is None else one for one in scores], aggregation)
        if chosen is None or score > best:
            best, chosen = score, end.id
    return chosen


def tree_columns(tree: ReasoningTree, *, chosen: int | None, law: Law) -> dict[str, Any]:
    """The tree as lists with one value a node, the root first.

    Args:
        law: which residual is shown.
    """
    nodes = tree.nodes
    facts = TreeFacts.of(tree)
    residuals = {one.node: getattr(one, law) for one in tree_residuals(tree)}
    columns: dict[str, Any] = {
        "prompt": tree.problem.prompt,
        "law": tree.log_prior_law,
        "chosen": chosen,
        "trunks": sorted(set(tree.trunks)),
        "tokens": tree.num_distinct_tokens(),
        "paid": tree.usage.generated_tokens,
        "parents": [node.parent for node in nodes],
        "texts": [node.text for node in nodes],
        "stops": "".join(_STOPS[node.stop] for node in nodes),
        "draws": [node.num_draws for node in nodes],
        "priors": [_number(node.log_prior) for node in nodes],
        "shares": [
            _number(float(share)) if known else None for share, known in zip(facts.success, facts.is_known, strict=True)
        ],
        "verdicts": {node.id: list(node.verdict) for node in nodes if node.verdict is not None},
    }
    if any(node.log_flow is not None for node in nodes):
        columns["flows"] = [_number(node.log_flow) for node in nodes]
        columns["residuals"] = {node: _number(value) for node, value in residuals.items()}
    return columns


def _number(value: float | None) -> float | None:
    """Rounded; None where it is not known or not finite, which JSON has no word for."""
    return None if value is None or not math.isfinite(value) else round(value, _DIGITS)


def flow_range(trees: Sequence[ReasoningTree]) -> tuple[float, float] | None:
    """The lowest and the highest log-flow of all steps; None where there is no score."""
    flows = [
        node.log_flow
        for tree in trees
        for node in tree.nodes[1:]
        if node.log_flow is not None and math.isfinite(node.log_flow)
    ]
    return (min(flows), max(flows)) if flows else None


def largest_residual(columns: Mapping[str, Any]) -> float | None:
    """The largest distance from the conservation law in a tree, in nats."""
    return max((abs(value) for value in columns.get("residuals", {}).values() if value is not None), default=None)
