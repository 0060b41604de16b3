"""Which problems the tables of subsets are about: masks over the problems of a pool. Knows no selector and no page."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from arts.evaluate.metrics import Bools, Draws, read_draws
from arts.tree import Problem, ReasoningTree

Difficulty = Callable[[Problem], str | None]


def subset_masks(
    trees: Sequence[ReasoningTree],
    draws: Draws,
    *,
    difficulty: Difficulty | None = None,
    groups: Sequence[str] = (),
    against: Sequence[ReasoningTree] | None = None,
) -> dict[str, Bools]:
    """Shape (P,) each: `rare`, `difficulty: ...`, `FIELD: VALUE`, `rare, subject: ...` and the extinction zone.

    Raises:
        ValueError: the trees to compare against lack problems.
    """
    masks = {"rare": draws.rare_P}
    classes = [difficulty(tree.problem) if difficulty else None for tree in trees]
    masks |= _by_value("difficulty", classes)
    for field in groups:
        by_value = _by_value(field, [tree.problem.metadata.get(field) for tree in trees])
        masks |= by_value if len(by_value) > 1 else {}
    rare = {f"rare, {name}": mask_P & draws.rare_P for name, mask_P in masks.items() if name.startswith("subject: ")}
    masks |= {name: mask_P for name, mask_P in rare.items() if mask_P.any()}
    return masks if against is None else masks | _extinction(trees, draws, against)


def check_same_problems(trees: Sequence[ReasoningTree], others: Sequence[ReasoningTree]) -> None:
    """Raises ValueError where two trees that share an id are of different problems: numbers from 0 are not enough."""
    for tree, other in zip(trees, others, strict=True):
        if tree.problem.prompt != other.problem.prompt:
            raise ValueError(
                f"problem {tree.problem.id[:60]!r} is {tree.problem.prompt[:60]!r} in one of the two and "
                f"{other.problem.prompt[:60]!r} in the other; both must be of the same problems"
            )


def _by_value(field: str, values: Sequence[object]) -> dict[str, Bools]:
    """One mask a value, in natural order: "3-9 solutions" comes before "10-29 solutions"."""
    names = sorted({str(value) for value in values if value is not None}, key=_natural_key)
    return {
        f"{field}: {name}": np.array([value is not None and str(value) == name for value in values]) for name in names
    }


def _natural_key(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _extinction(trees: Sequence[ReasoningTree], draws: Draws, against: Sequence[ReasoningTree]) -> dict[str, Bools]:
    """Problems that another policy never solves (the paper's extinction zone), and those of them that this one does."""
    others = {tree.problem.id: tree for tree in against}
    missing = [tree.problem.id for tree in trees if tree.problem.id not in others]
    if missing:
        raise ValueError(
            f"the rollouts to compare against lack {len(missing)} of {len(trees)} problems, such as "
            f"{missing[0][:60]!r}; both must be of the same problems"
        )
    check_same_problems(trees, [others[tree.problem.id] for tree in trees])
    extinct_P = read_draws([others[tree.problem.id] for tree in trees]).num_correct_P == 0
    return {"extinction zone": extinct_P, "extinct, solved here": extinct_P & (draws.num_correct_P > 0)}
