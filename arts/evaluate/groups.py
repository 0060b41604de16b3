"""Which problems are behind a number: those that a selector gets right, those that it misses, each subset of problems.

Reports link to these groups and the tree viewer filters by them.
"""

from arts.evaluate.run import Evaluation
from arts.evaluate.table import label
from arts.pages.links import Group


def problem_groups(evaluation: Evaluation) -> dict[str, Group]:
    """Groups of the evaluated trees, by name: `right:SELECTOR`, `missed:SELECTOR`, and the names of subsets.

    A selector that picks by chance among equals counts as right where it is right more often than not.
    """
    groups: dict[str, Group] = {}
    for name, chances in evaluation.chances.items():
        if name == "random":
            continue  # it has no choice of its own
        said = label(evaluation, name)
        groups[f"right:{name}"] = Group(
            f"{said}: right", [place for place, chance in enumerate(chances) if chance > 0.5]
        )
        if name != "oracle":
            missed = [
                place
                for place, (chance, best) in enumerate(zip(chances, evaluation.chances["oracle"], strict=True))
                if chance <= 0.5 and best > 0
            ]
            groups[f"missed:{name}"] = Group(f"{said}: right one missed", missed)
    for name, subset in evaluation.subsets.items():
        if name != "rare":  # which the viewer finds by itself
            groups[name] = Group(name.capitalize(), list(subset.members))
    return groups
