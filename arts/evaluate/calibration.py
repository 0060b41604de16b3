"""Does a score of 0.7 mean right seven times in ten? Chances stated by scores, outcomes, and what a fit mends.

A unit is a chance and an outcome. `answers`: the finished main trajectories. `inner`: the inner nodes, each with the
outcomes of the draws that went on from it. A calibrator is fitted on validation trees and measured on others. Knows
scored trees; draws, scores and shows nothing.

Shape suffix: U units.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from arts.evaluate.calibrators import FITS, Calibrator, calibrator_from_json, sigmoid
from arts.evaluate.metrics import Floats, chosen_aggregation, path_score
from arts.evaluate.reliability import NUM_BINS, Pairs, Quality, measure_quality
from arts.facts import TreeFacts
from arts.files import write_atomically
from arts.protocols import Aggregation, ScoredTrees, ScoreScale
from arts.tree import ReasoningTree

Where = Literal["answers", "inner"]
AS_SCORED = "as scored"


def success_probability(log_score_U: Floats, scale: ScoreScale) -> Floats:
    """The chance to end right that a score states.

    log_flow      p = (F - wrong) / (right - wrong), kept in 0..1; a sum of flows at an inner node states none
    log_value     p = exp(score), kept below 1
    log_strength  p = sigmoid(score): Bradley-Terry strengths have no zero, so this means something after a fit only
    """
    if scale.kind == "log_strength":
        return sigmoid(log_score_U)
    score_U = np.exp(np.minimum(log_score_U, 700.0))
    if scale.kind == "log_flow":
        score_U = (score_U - scale.reward_wrong) / (scale.reward_right - scale.reward_wrong)
    return np.clip(score_U, 0.0, 1.0)


class _Unit(NamedTuple):
    problem: int
    log_score: float
    right: float
    weight: float


def calibration_pairs(
    scored: ScoredTrees,
    where: Where = "answers",
    *,
    aggregation: Aggregation | None = None,
) -> Pairs:
    """Chances that scores state, and outcomes.

    Args:
        where: `answers`: each finished main trajectory by the score of its path. Unfinished ones are left out, as no
            selector takes them. `inner`: each inner node by its own score, see `_inner_units`.
        aggregation: how the scores of an answer's path become one; None: as the scale says.

    Raises:
        ValueError: inner nodes where their scores are no values; a node without a score; an answer without a verdict.
    """
    if where not in get_args(Where):
        raise ValueError(f"where is {where!r}; allowed are {', '.join(get_args(Where))}")
    if where == "inner" and not states_inner_chances(scored.scale):
        raise ValueError(
            f"scores of kind {scored.scale.kind!r} with inner_is_value={scored.scale.inner_is_value} state no chance "
            "at inner nodes (a sum of flows does not); use where='answers'"
        )
    how = chosen_aggregation(scored.scale, aggregation)
    units = [
        unit
        for problem, tree in enumerate(scored.trees)
        for unit in (_answer_units(problem, tree, how) if where == "answers" else _inner_units(problem, tree))
    ]
    for unit in units:
        if math.isnan(unit.log_score):
            name = scored.trees[unit.problem].problem.id
            raise ValueError(f"a node of problem {name!r} has no score; let the verifier score the trees first")
    column = np.array(units, dtype=np.float64).reshape(-1, 4)
    return Pairs(
        num_problems=len(scored.trees),
        problem_U=column[:, 0].astype(np.int64),
        chance_U=success_probability(column[:, 1], scored.scale),
        right_U=column[:, 2],
        weight_U=column[:, 3],
    )


def states_inner_chances(scale: ScoreScale) -> bool:
    """Whether a score at an inner node states a chance to end right."""
    return scale.inner_is_value and scale.kind != "log_strength"


def _answer_units(problem: int, tree: ReasoningTree, aggregation: Aggregation) -> Iterator[_Unit]:
    for leaf in tree.trunks:
        verdict = tree.nodes[leaf].verdict
        if tree.nodes[leaf].is_answer:
            if verdict is None:
                raise ValueError(
                    f"an answer to problem {tree.problem.id!r} has no verdict; let the task judge it first"
                )
            yield _Unit(problem, path_score(tree, leaf, aggregation), float(verdict.correct), 1.0)


def _inner_units(problem: int, tree: ReasoningTree) -> Iterator[_Unit]:
    """Two units a node, right and wrong, weighted by the draws that went on from it.

    In a pool without forks these are the draws that pass through the node. With forks, the draws from s are its n_c
    steps to children c, and the share of them that ends right is sum_c n_c share(c) / sum_c n_c: a trunk counts once
    however often it was forked further down, else trunks with many forks would weigh more than others.
    """
    facts = TreeFacts.of(tree)
    right_share, num_known = facts.success, facts.draws_below
    inner = {node.parent for node in tree.nodes[1:]} - {0}
    for node in sorted(inner):
        weight = num_known[node]
        log_score = path_score(tree, node, "last")
        for right, share in ((1.0, right_share[node]), (0.0, 1.0 - right_share[node])):
            if weight * share > 0:
                yield _Unit(problem, log_score, right, weight * share)


# --- before and after a fit -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One verifier's chances on a test pool: as scored, and after each fit on validation trees."""

    where: Where
    num_problems: int
    num_outcomes: float
    num_right: float
    num_fitted: float
    "outcomes of validation; 0 where nothing was fitted"
    num_bins: int
    calibrators: Mapping[str, Calibrator]
    quality: Mapping[str, Quality]
    "`as scored`, and the names of `calibrators`"

    def to_json(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "num_problems": self.num_problems,
            "num_outcomes": self.num_outcomes,
            "num_right": self.num_right,
            "num_fitted": self.num_fitted,
            "num_bins": self.num_bins,
            "calibrators": {name: calibrator.to_json() for name, calibrator in self.calibrators.items()},
            "quality": {name: quality.to_json() for name, quality in self.quality.items()},
        }


def calibrate(
    test: ScoredTrees,
    validation: ScoredTrees | None = None,
    *,
    where: Where = "answers",
    aggregation: Aggregation | None = None,
    num_bins: int = NUM_BINS,
    seed: int = 0,
) -> Calibration:
    """Fit every calibrator on validation trees, and measure all of them on the test trees.

    Args:
        validation: trees of other problems by the same verifier; None measures the scores as they are.
        where, aggregation: see `calibration_pairs`; the same for both.

    Raises:
        ValueError: the two were scored on different scales, or share a problem; or see `calibration_pairs`.
    """
    pairs = calibration_pairs(test, where, aggregation=aggregation)
    calibrators: dict[str, Calibrator] = {}
    num_fitted = 0.0
    if validation is not None:
        _check_apart(test, validation)
        fitted = calibration_pairs(validation, where, aggregation=aggregation)
        calibrators = {name: fit(fitted.chance_U, fitted.right_U, fitted.weight_U) for name, fit in FITS.items()}
        num_fitted = fitted.num_outcomes
    stated = {AS_SCORED: pairs} | {name: pairs.calibrated(calibrator) for name, calibrator in calibrators.items()}
    return Calibration(
        where=where,
        num_problems=pairs.num_problems,
        num_outcomes=pairs.num_outcomes,
        num_right=float(pairs.weight_U @ pairs.right_U),
        num_fitted=num_fitted,
        num_bins=num_bins,
        calibrators=calibrators,
        quality={name: measure_quality(some, num_bins=num_bins, seed=seed) for name, some in stated.items()},
    )


def _check_apart(test: ScoredTrees, validation: ScoredTrees) -> None:
    if test.scale != validation.scale:
        raise ValueError(f"the trees were scored on different scales: {test.scale} and, validation, {validation.scale}")
    shared = {tree.problem.id for tree in test.trees} & {tree.problem.id for tree in validation.trees}
    if shared:
        raise ValueError(
            f"{len(shared)} problems are in both the test and the validation trees ({min(shared)!r} is one); fit on "
            "trees that were collected with --split validation"
        )


def write_calibrations(calibrations: Mapping[str, Sequence[Calibration]], folder: Path) -> Path:
    """Write `calibration.json` into a folder: what was fitted and measured, by verifier."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "calibration.json"
    rows = {name: [calibration.to_json() for calibration in some] for name, some in calibrations.items()}
    write_atomically(path, json.dumps(rows, indent=2) + "\n")
    return path


def read_calibrators(path: Path, verifier: str, where: Where = "answers") -> dict[str, Calibrator]:
    """The fitted calibrators of one verifier, by name.

    Raises:
        ValueError: the file holds none for this verifier and place.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows.get(verifier, ()):
        if row["where"] == where:
            return {name: calibrator_from_json(fitted) for name, fitted in row["calibrators"].items()}
    raise ValueError(f"{path} holds no calibration of {verifier!r} at {where!r}; it has those of {sorted(rows)}")
