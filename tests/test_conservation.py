"""Exact flows and values of the toy tree keep their law at every depth; each breaks the other's."""

import math
from dataclasses import replace

import numpy as np
import pytest

from arts.evaluate.conservation import ResidualRow, conservation_residuals
from arts.tasks.toy import ToyTree, toy_problem
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, build_tree

TOY = ToyTree.random(7, 3, 3)
# Probabilities in quarters, so that four draws can have exactly these shares.
QUARTERS = ToyTree.nested(
    {
        "a": (0.25, {"a": (1.0, False)}),
        "b": (0.75, {"a": (1 / 3, True), "b": (2 / 3, {"a": (0.5, True), "b": (0.5, False)})}),
    }
)


def rows_of(trees: list[ReasoningTree], law: str) -> list[ResidualRow]:
    return [row for row in conservation_residuals(trees) if row.law == law]


def scored_by(toy: ToyTree, tree: ReasoningTree, exact: np.ndarray) -> ReasoningTree:
    return tree.with_log_flows([math.log(exact[toy.find(tree.text(node.id))]) for node in tree.nodes])


def test_exact_flows_keep_the_sum_law_on_the_enumerated_tree() -> None:
    tree = build_tree(toy_problem(TOY), TOY.rollouts())
    rows = rows_of([scored_by(TOY, tree, TOY.flows)], "sum")
    assert [(row.depth, row.count) for row in rows] == [(0, 1), (1, 3), (2, 9)]
    for row in rows:
        assert [row.mean, row.median, row.p10, row.p25, row.p75, row.p90] == pytest.approx([0] * 6, abs=1e-12)


def test_exact_values_keep_the_mean_law_where_draws_have_the_shares_of_the_prior() -> None:
    texts = ["a;a", "b;a", "b;b;a", "b;b;b"]
    nodes = [QUARTERS.find(text) for text in texts]
    steps = [tuple(map(QUARTERS.step, QUARTERS.path(node))) for node in nodes if node is not None]
    tree = build_tree(toy_problem(QUARTERS), [Rollout(index, index, 0, some) for index, some in enumerate(steps)])
    rows = rows_of([scored_by(QUARTERS, tree, QUARTERS.values)], "mean")
    assert [(row.depth, row.count) for row in rows] == [(0, 1), (1, 2), (2, 1)]
    for row in rows:
        assert [row.mean, row.p10, row.p90] == pytest.approx([0] * 3, abs=1e-12)
    other = rows_of([scored_by(QUARTERS, tree, QUARTERS.flows)], "mean")
    assert other[0].mean > 0.1  # a sum is no mean


def fork(merge: bool) -> ReasoningTree:
    """Behind a; two draws, equal; behind b; one."""
    paths = [("a;", "r"), ("a;", "r"), ("b;", "w")]
    rollouts = [
        Rollout(i, i, 0, (Step(first, (), None, StopReason.STOP), Step(last, (), None, StopReason.EOS)))
        for i, (first, last) in enumerate(paths)
    ]
    return build_tree(Problem("p", ""), rollouts, merge=merge)


@pytest.mark.parametrize("merge", [True, False])
def test_observed_sums_and_means_keep_their_laws_merged_or_not(merge: bool) -> None:
    tree = fork(merge)
    draws = {"": 3, "a;": 2 if merge else 1, "b;": 1}
    sums = {"": 20.1, "a;": 20.0 if merge else 10.0, "b;": 0.1}
    ends = {"a;r": 10.0, "b;w": 0.1}
    means = {text: sums[text] / draws[text] for text in sums}
    for law, exact in (("sum", sums | ends), ("mean", means | ends)):
        scored = tree.with_log_flows([math.log(exact[tree.text(node.id)]) for node in tree.nodes])
        for row in rows_of([scored], law):
            assert row.mean == pytest.approx(0, abs=1e-12), (law, row.depth)


def test_residual_is_the_logarithm_of_how_much_too_large_a_parent_is() -> None:
    tree = scored_by(TOY, build_tree(toy_problem(TOY), TOY.rollouts()), TOY.flows)
    doubled = tree.with_log_flows([node.log_flow + math.log(2) * (node.id == 0) for node in tree.nodes])  # type: ignore[operator]
    (root, *below) = rows_of([doubled, tree], "sum")
    assert (root.mean, root.median, root.count) == pytest.approx((math.log(2) / 2, math.log(2) / 2, 2))
    assert root.p90 == pytest.approx(0.9 * math.log(2))
    assert all(row.mean == pytest.approx(0, abs=1e-12) for row in below)


def test_failed_draws_are_no_children_and_nodes_without_a_score_are_left_out() -> None:
    tree = fork(merge=True).with_log_flows([math.log(x) for x in (20.1, 20.0, 10.0, 0.1, 0.1)])
    failed = build_tree(Problem("p", ""), [Rollout(0, 0, 0, (Step("a;", (), None, StopReason.STOP), ERROR))])
    assert conservation_residuals([failed.with_log_flows([0.0] * 3)]) == []
    unscored = replace(tree, nodes=tuple(replace(n, log_flow=None) if n.id == 2 else n for n in tree.nodes))
    assert [(row.depth, row.count) for row in rows_of([unscored], "sum")] == [(0, 1), (1, 1)]
    assert conservation_residuals([]) == []


ERROR = Step("", (), None, StopReason.ERROR)
