"""Which problems are worth a look: the named groups that the viewer filters by and that reports link to."""

from collections.abc import Mapping, Sequence

from arts.pages.links import Group
from arts.tree import ReasoningTree
from arts.view.columns import Ends, is_right

MAX_RARE = 2  # 1 or 2 right draws, as in the tables


def usual_groups(
    trees: Sequence[ReasoningTree], ends: Sequence[Ends], chosen: Sequence[int | None]
) -> dict[str, Group]:
    """Groups that any set of trees has, by name; empty ones too, so that a link never leads nowhere.

    Args:
        ends: how the draws of each tree came out.
        chosen: the end that a verifier or search picked in each tree.
    """
    places = range(len(trees))
    picked_right = [end is not None and is_right(tree.nodes[end]) for tree, end in zip(trees, chosen, strict=True)]
    groups = {
        "rare": Group("Rare: 1 or 2 draws right", [p for p in places if 1 <= ends[p].right <= MAX_RARE]),
        "none": Group("No draw right", [p for p in places if ends[p].right == 0]),
        "unfinished": Group("With unfinished draws", [p for p in places if ends[p].unfinished]),
    }
    if any(end is not None for end in chosen):
        groups |= {
            "picked": Group("Right one chosen", [p for p in places if picked_right[p]]),
            "rare-picked": Group("Rare, and chosen", [p for p in groups["rare"].members if picked_right[p]]),
            "missed": Group("Right one missed", [p for p in places if ends[p].right and not picked_right[p]]),
        }
    return groups


def groups_to_json(groups: Mapping[str, Group]) -> list[dict[str, object]]:
    return [{"name": name, "title": group.title, "members": list(group.members)} for name, group in groups.items()]
