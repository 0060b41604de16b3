"""Which problems of an evaluation are worth a look: one of each kind, by rule. Knows nothing of how they are shown."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from arts.evaluate.metrics import draw_subsets, read_draws, read_log_flows, vote_accuracy
from arts.evaluate.run import Evaluation
from arts.tree import ReasoningTree


class Example(NamedTuple):
    """A problem to show: why, and which draw the first verifier picks (None without one)."""

    position: int
    "of the tree among the trees"
    title: str
    chosen: int | None
    "leaf of the picked draw"


class _Facts(NamedTuple):
    num_right: int
    picked_right: bool
    majority: float


def choose_examples(evaluation: Evaluation, trees: Sequence[ReasoningTree]) -> list[Example]:
    """The first problem of each kind, those with the fewest right draws first; the same every time."""
    draws = read_draws(trees)
    every_draw_SN = draw_subsets(draws.num_samples, draws.num_samples, evaluation.seed)
    majority_P = vote_accuracy(draws, np.zeros(draws.correct_PN.shape), every_draw_SN)
    picked_P = None
    if evaluation.verifiers:
        picked_P = read_log_flows(trees, evaluation.scales[evaluation.verifiers[0]].aggregation).argmax(axis=1)
    facts = [
        _Facts(
            int(draws.num_correct_P[p]),
            picked_P is not None and bool(draws.correct_PN[p, picked_P[p]]),
            float(majority_P[p]),
        )
        for p in range(len(trees))
    ]
    examples: list[Example] = []
    for title, is_kind in _kinds(with_verifier=picked_P is not None):
        taken = {example.position for example in examples}
        fitting = [p for p in range(len(trees)) if p not in taken and is_kind(facts[p])]
        if fitting:
            index = min(fitting, key=lambda p: (facts[p].num_right, p))
            chosen = None if picked_P is None else trees[index].trunks[picked_P[index]]
            examples.append(
                Example(index, f"{title}: {facts[index].num_right} of {draws.num_samples} draws are right", chosen)
            )
    return examples


def _kinds(*, with_verifier: bool) -> list[tuple[str, Callable[[_Facts], bool]]]:
    if not with_verifier:
        return [
            ("Rare", lambda facts: 1 <= facts.num_right <= 2),
            ("The majority is wrong", lambda facts: facts.num_right > 2 and facts.majority < 0.5),
            ("The majority is right", lambda facts: facts.majority == 1),
        ]
    return [
        ("A rare right path, picked", lambda facts: facts.num_right >= 1 and facts.picked_right),
        (
            "The majority is wrong, the verifier right",
            lambda facts: facts.num_right > 2 and facts.majority == 0 and facts.picked_right,
        ),
        ("The verifier picks a wrong one", lambda facts: facts.num_right > 2 and not facts.picked_right),
        ("Nothing to pick from", lambda facts: facts.num_right == 0),
    ]
