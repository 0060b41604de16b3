"""Chances that scores state, the outcomes they are set against, and what a fit on validation trees mends."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pools import RIGHT, UNFINISHED, WRONG, Draw, pool_tree, scored

from arts.evaluate.calibration import (
    AS_SCORED,
    calibrate,
    calibration_pairs,
    read_calibrators,
    success_probability,
    write_calibrations,
)
from arts.proposers.table import TableProposer
from arts.protocols import Request, ScoredTrees, ScoreScale
from arts.tasks.toy import ToyTask, ToyTree, toy_problem, toy_tree
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree

FLOW, STRENGTH = (ScoreScale(kind=kind) for kind in ("log_flow", "log_strength"))
VALUE = ScoreScale(kind="log_value", inner_is_value=True)
TOY = ToyTree.random(5, 3, 3)


def enumerated() -> ReasoningTree:
    """Every path of the toy tree once."""
    problem = toy_problem(TOY)
    return build_tree(problem, TOY.rollouts(), judge=lambda text: ToyTask().judge(problem, text))


def with_exact(tree: ReasoningTree, exact: np.ndarray) -> ReasoningTree:
    return tree.with_log_flows([math.log(max(exact[TOY.find(tree.text(n.id))], 1e-300)) for n in tree.nodes])


def test_scores_state_chances_by_their_scale() -> None:
    flows = np.log([0.1, 5.05, 10.0, 20.0, 0.01])
    assert success_probability(flows, FLOW).tolist() == pytest.approx([0, 0.5, 1, 1, 0])
    assert success_probability(np.log([2.0, 3.0]), ScoreScale(reward_right=4.0, reward_wrong=2.0)) == pytest.approx(
        [0, 0.5]
    )
    assert success_probability(np.array([-math.inf, math.log(0.25), 0.0, 0.1]), VALUE).tolist() == pytest.approx(
        [0, 0.25, 1, 1]
    )
    assert success_probability(np.array([-1000.0, 0.0, math.log(3), 1000.0]), STRENGTH).tolist() == pytest.approx(
        [0, 0.5, 0.75, 1]
    )
    assert success_probability(np.array([5000.0]), FLOW).tolist() == [1.0]


def test_exact_mean_flows_state_the_exact_chances() -> None:
    assert success_probability(np.log(TOY.values), FLOW) == pytest.approx(TOY.success_probabilities)


# --- units ------------------------------------------------------------------------------------------------------------


def test_answers_are_the_finished_draws_each_as_often_as_drawn() -> None:
    trees = [pool_tree([RIGHT, RIGHT, WRONG, UNFINISHED], forks=[Draw("right", True, 50.0)]), pool_tree([WRONG] * 4)]
    pairs = calibration_pairs(scored(trees))
    assert pairs.problem_U.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert pairs.right_U.tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert pairs.weight_U.tolist() == [1] * 7
    stated = success_probability(np.array([1.0, -1.0]), FLOW)
    assert pairs.chance_U == pytest.approx(stated[[0, 0, 1, 1, 1, 1, 1]])


def test_answers_take_the_score_of_the_whole_path() -> None:
    trees = [pool_tree([RIGHT, WRONG]).with_log_flows([0.0, -2.0, -1.0, -3.0, -4.0])]
    values = ScoredTrees(trees, 0, 0, VALUE)
    assert calibration_pairs(values).chance_U == pytest.approx(np.exp([-1.0, -4.0]))
    assert calibration_pairs(values, aggregation="min").chance_U == pytest.approx(np.exp([-2.0, -4.0]))
    product = values._replace(scale=ScoreScale(kind="log_value", aggregation="product"))
    assert calibration_pairs(product).chance_U == pytest.approx(np.exp([-3.0, -7.0]))


def test_inner_nodes_have_the_outcome_of_every_draw_through_them() -> None:
    problem = toy_problem(TOY)
    steps = TableProposer().propose([Request(problem, (), tuple(range(200)), 99)])[0].draws
    rollouts = [Rollout(index, index, 0, drawn) for index, drawn in enumerate(steps)]
    tree = build_tree(problem, rollouts, judge=lambda text: ToyTask().judge(problem, text))
    tree = tree.with_log_flows([math.log((node.id + 1) / 100) for node in tree.nodes])  # the score names the node
    pairs = calibration_pairs(ScoredTrees([tree], 0, 0, VALUE), "inner")
    texts = ["".join(step.text for step in drawn) for drawn in steps]
    rights = {text: ToyTask().judge(problem, text).correct for text in texts}
    for node in {node.parent for node in tree.nodes[1:]} - {0}:
        ends = [rights[text] for text in texts if text.startswith(tree.text(node))]
        of_node = np.isclose(pairs.chance_U, (node + 1) / 100, rtol=1e-9)
        assert pairs.weight_U[of_node].sum() == pytest.approx(len(ends))
        assert (pairs.weight_U * pairs.right_U)[of_node].sum() == pytest.approx(sum(ends))


def step(text: str, stop: StopReason = StopReason.STOP) -> Step:
    return Step(text, (), None, stop)


def judge(text: str) -> Verdict:
    return Verdict(text.endswith("r"), text)


def test_failed_draws_are_unknown_and_unfinished_ones_wrong() -> None:
    ends = [("r", StopReason.EOS), ("c", StopReason.LENGTH), ("", StopReason.ERROR)]
    rollouts = [Rollout(index, index, 0, (step("a;"), step(*end))) for index, end in enumerate(ends)]
    rollouts.append(Rollout(3, 3, 0, (step("b;"), step("", StopReason.ERROR))))
    tree = build_tree(Problem("p", ""), rollouts, judge=judge)
    flat = tree.with_log_flows([math.log(0.5)] * len(tree.nodes))
    pairs = calibration_pairs(ScoredTrees([flat], 0, 0, VALUE), "inner")
    assert pairs.weight_U.tolist() == [1, 1] and pairs.right_U.tolist() == [1, 0]


def test_inner_flows_state_no_chance_unless_they_are_means() -> None:
    trees = scored([with_exact(enumerated(), TOY.values)])
    with pytest.raises(ValueError, match=r"inner_is_value=False state no chance"):
        calibration_pairs(trees, "inner")
    means = trees._replace(scale=replace(trees.scale, inner_is_value=True))
    assert len(calibration_pairs(means, "inner").chance_U) > 0
    with pytest.raises(ValueError, match="state no chance"):
        calibration_pairs(trees._replace(scale=replace(STRENGTH, inner_is_value=True)), "inner")
    with pytest.raises(ValueError, match="allowed are answers, inner"):
        calibration_pairs(trees, "leaves")  # type: ignore[arg-type]


def test_nodes_without_score_or_verdict_are_refused() -> None:
    tree = pool_tree([RIGHT, WRONG])
    unscored = build_tree(tree.problem, [Rollout(0, 0, 0, (step("r", StopReason.EOS),))], judge=judge)
    with pytest.raises(ValueError, match="has no score"):
        calibration_pairs(scored([unscored]))
    unjudged = build_tree(tree.problem, [Rollout(0, 0, 0, (step("r", StopReason.EOS),))]).with_log_flows([0.0, 0.0])
    with pytest.raises(ValueError, match="has no verdict"):
        calibration_pairs(scored([unjudged]))


# --- fits -------------------------------------------------------------------------------------------------------------


def toy_pool(split: str, num_problems: int, num_samples: int = 8, *, temperature: float = 1.0) -> ScoredTrees:
    """Draws of toy problems; every node says the exact chance, with its logit divided by a temperature."""
    task, proposer = ToyTask(3, 3), TableProposer()
    trees = []
    for _, problem in zip(range(num_problems), task.problems(split, 0), strict=False):  # type: ignore[arg-type]
        draws = proposer.propose([Request(problem, (), tuple(range(num_samples)), 99)])[0].draws
        rollouts = [Rollout(index, index, 0, steps) for index, steps in enumerate(draws)]
        tree = build_tree(problem, rollouts, judge=lambda text, problem=problem: task.judge(problem, text))  # type: ignore[misc]
        toy = toy_tree(problem)
        chances = np.clip([toy.success_probabilities[toy.find(tree.text(n.id))] for n in tree.nodes], 1e-3, 1 - 1e-3)
        trees.append(tree.with_log_flows((-np.log1p(np.exp(-np.log(chances / (1 - chances)) / temperature))).tolist()))
    return ScoredTrees(trees, 0, 0, VALUE)


def test_exact_chances_of_inner_nodes_are_calibrated_and_tempered_ones_are_mended() -> None:
    exact = calibrate(toy_pool("test", 150), toy_pool("validation", 150), where="inner")
    assert exact.calibrators["temperature"].temperature == pytest.approx(1, abs=0.15)  # type: ignore[union-attr]
    as_scored = exact.quality[AS_SCORED]
    assert as_scored.ece_mass.value is not None and as_scored.ece_mass.value < 0.06
    sure = calibrate(
        toy_pool("test", 150, temperature=0.4), toy_pool("validation", 150, temperature=0.4), where="inner"
    )
    before, after = sure.quality[AS_SCORED], sure.quality["temperature"]
    assert sure.calibrators["temperature"].temperature == pytest.approx(2.5, rel=0.15)  # type: ignore[union-attr]
    for name in ("ece_mass", "ece_width", "brier", "log_loss"):
        assert getattr(after, name).value < getattr(before, name).value
    assert after.brier.value == pytest.approx(as_scored.brier.value, abs=0.01)
    assert list(sure.quality) == [AS_SCORED, "temperature", "platt", "isotonic"]


def test_without_validation_only_the_scores_as_they_are_are_measured() -> None:
    trees = [pool_tree([RIGHT, WRONG, UNFINISHED], problem=str(index)) for index in range(5)]
    calibration = calibrate(scored(trees))
    assert list(calibration.quality) == [AS_SCORED]
    assert (calibration.num_problems, calibration.num_outcomes, calibration.num_right) == (5, 10, 5)
    assert (calibration.num_fitted, calibration.calibrators) == (0, {})


def test_fitting_on_the_test_problems_or_another_scale_is_refused() -> None:
    trees = [pool_tree([RIGHT, WRONG], problem=str(index)) for index in range(3)]
    other = [pool_tree([RIGHT, WRONG], problem=f"v{index}") for index in range(3)]
    with pytest.raises(ValueError, match="3 problems are in both"):
        calibrate(scored(trees), scored(trees))
    with pytest.raises(ValueError, match="different scales"):
        calibrate(scored(trees), scored(other)._replace(scale=VALUE))


def test_calibrators_are_read_back_by_verifier_and_place(tmp_path: Path) -> None:
    trees = [pool_tree([RIGHT, WRONG], problem=str(index)) for index in range(6)]
    calibration = calibrate(scored(trees[:3]), scored(trees[3:]))
    path = write_calibrations({"arts": [calibration]}, tmp_path / "new")
    assert json.loads(path.read_text())["arts"][0]["quality"][AS_SCORED]["points"]
    assert read_calibrators(path, "arts") == calibration.calibrators
    for verifier, where in (("arts", "inner"), ("other", "answers")):
        with pytest.raises(ValueError, match="holds no calibration"):
            read_calibrators(path, verifier, where)  # type: ignore[arg-type]
