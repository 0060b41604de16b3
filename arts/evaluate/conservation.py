"""How far the scores of many trees are from their conservation laws: the distribution of residuals, depth by depth.

The laws and the residual of one node are in `arts.residuals`. Knows scored trees only.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from arts.residuals import LAWS, Law, tree_residuals
from arts.tree import ReasoningTree


@dataclass(frozen=True, kw_only=True)
class ResidualRow:
    """Residuals of the inner nodes at one depth, in nats; each node counts once."""

    law: Law
    depth: int
    "of the parent; 0 is the problem itself, before any step"
    count: int
    mean: float
    median: float
    p10: float
    p25: float
    p75: float
    p90: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def conservation_residuals(trees: Sequence[ReasoningTree]) -> list[ResidualRow]:
    """Distribution of the residuals of both laws at every depth.

    Nodes are left out where they or one of their children have no finite score. Failed draws are no children.
    """
    residuals = [residual for tree in trees for residual in tree_residuals(tree)]
    rows = []
    for law in LAWS:
        for depth in sorted({residual.depth for residual in residuals}):
            values = np.array([getattr(residual, law) for residual in residuals if residual.depth == depth])
            p10, p25, median, p75, p90 = np.percentile(values, [10, 25, 50, 75, 90]).tolist()
            rows.append(
                ResidualRow(
                    law=law, depth=depth, count=len(values), mean=float(values.mean()),
                    median=median, p10=p10, p25=p25, p75=p75, p90=p90,
                )
            )  # fmt: skip
    return rows
