"""Which problems are behind a number: those that a selector gets right, those that it misses, each class of problems.

Reports link to these groups and the tree viewer filters by them. Knows how a selector fares on one problem; no page.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from arts.evaluate.metrics import read_draws, read_log_flows
from arts.evaluate.run import Evaluation, accuracies, difficulty_masks
from arts.evaluate.table import label
from arts.pages.links import Group
from arts.protocols import ScoredTrees
from arts.tree import Problem, ReasoningTree


def problem_groups(
    evaluation: Evaluation,
    trees: Sequence[ReasoningTree],
    verifiers: Mapping[str, ScoredTrees],
    *,
    difficulty: Callable[[Problem], str | None] | None = None,
) -> dict[str, Group]:
    """Groups of the evaluated trees, by name: `right:SELECTOR`, `missed:SELECTOR`, `difficulty: CLASS`.

    A selector that picks by chance among equals counts as right where it is right more often than not.

    Args:
        trees, verifiers, difficulty: as they were evaluated.
    """
    draws = read_draws(trees)
    log_flows = {
        name: read_log_flows(scored.trees, evaluation.scales[name].aggregation) for name, scored in verifiers.items()
    }
    final = accuracies(draws, log_flows, evaluation.num_samples, evaluation.seed)
    solvable_P = final["oracle"] > 0
    groups: dict[str, Group] = {}
    for name, accuracy_P in final.items():
        if name == "random":
            continue  # it has no choice of its own
        right_P = accuracy_P > 0.5
        said = label(evaluation, name)
        groups[f"right:{name}"] = Group(f"{said}: right", np.flatnonzero(right_P).tolist())
        if name != "oracle":
            groups[f"missed:{name}"] = Group(
                f"{said}: right one missed", np.flatnonzero(solvable_P & ~right_P).tolist()
            )
    for name, mask_P in difficulty_masks(trees, difficulty).items():
        groups[name] = Group(name.capitalize(), np.flatnonzero(mask_P).tolist())
    return groups
