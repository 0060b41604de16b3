"""Score many trees some at a time, and show how far it is. Knows the protocol of a scorer, not one of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from arts.console import progress
from arts.protocols import ScoredTrees, Scorer, ScoreScale
from arts.tree import ReasoningTree

_SCORED_AT_ONCE = 128


def score_with_progress(scorer: Scorer, trees: Sequence[ReasoningTree], title: str) -> ScoredTrees:
    """All trees scored, with the bills added up; at least one tree."""
    parts = []
    with progress(title, len(trees)) as tell:
        for start in range(0, len(trees), _SCORED_AT_ONCE):
            parts.append(scorer.score(trees[start : start + _SCORED_AT_ONCE]))
            tell(min(len(trees), start + _SCORED_AT_ONCE))
    return ScoredTrees(
        [tree for part in parts for tree in part.trees],
        sum(part.computed_tokens for part in parts),
        sum(part.distinct_tokens for part in parts),
        parts[0].scale,
    )


def stored_scores(trees: Sequence[ReasoningTree], scale: Mapping[str, Any]) -> ScoredTrees:
    """Scores that came with the trees, as of a verifier that costs nothing here."""
    return ScoredTrees(list(trees), 0, 0, ScoreScale(**scale))
