"""Ranks against slow loops and against toy trees, where the exact value of every node is known."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arts.evaluate.inner import InnerValue, choose_inner_nodes, draw_inner_values
from arts.evaluate.ranks import average_ranks, count_pairs, rank_correlation, spearman
from arts.proposers.table import TableProposer
from arts.protocols import Request, ScoredTrees
from arts.tasks.toy import ToyTask, ToyTree, toy_tree
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree

pairs_strategy = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(pairs_strategy)
def test_ranks_pairs_and_correlation_match_slow_loops(pairs: list[tuple[int, int]]) -> None:
    scores, values = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    slow_ranks = [sum(b < a for b in scores) + (sum(b == a for b in scores) - 1) / 2 for a in scores]
    assert average_ranks(scores).tolist() == slow_ranks
    right, num = 0.0, 0
    for (score, value), (other_score, other_value) in combinations(pairs, 2):
        if value != other_value:
            num += 1
            right += 0.5 if score == other_score else float((score > other_score) == (value > other_value))
    assert count_pairs(scores, values) == (right, num)
    correlation = spearman(scores, values)
    if len(set(values)) == 1:
        assert correlation is None
    elif len(set(scores)) == 1:
        assert correlation == 0
    else:
        expected = np.corrcoef(average_ranks(scores), average_ranks(values))[0, 1]
        assert correlation == pytest.approx(expected)


def test_scores_of_minus_infinity_are_ranked() -> None:
    scores = np.array([-math.inf, -math.inf, 0.0])
    assert count_pairs(scores, np.array([0.0, 0.5, 1.0])) == (2.5, 3)
    assert average_ranks(scores).tolist() == [0.5, 0.5, 2]


def test_close_values_may_be_left_out() -> None:
    scores, values = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.45, 0.9])
    assert count_pairs(scores, values) == (2.0, 3)
    assert count_pairs(scores, values, least_difference=0.1) == (2.0, 2)


# --- on toy trees -----------------------------------------------------------------------------------------------------


def toy_trees(num_problems: int = 12, *, merge: bool = True) -> list[ReasoningTree]:
    task, trees = ToyTask(3, 3), []
    for _, problem in zip(range(num_problems), task.problems("test", 0), strict=False):
        draws = TableProposer().propose([Request(problem, (), tuple(range(20)), 99)])[0].draws
        trees.append(build_tree(problem, [Rollout(i, i, 0, steps) for i, steps in enumerate(draws)], merge=merge))
    return trees


def exact_of(tree: ReasoningTree, quantity: str) -> list[float]:
    toy = toy_tree(tree.problem)
    exact = np.round(getattr(toy, quantity), 9)  # equal values stay equal, whatever the order of adding up
    return [float(exact[toy.find(tree.text(node.id))]) for node in tree.nodes]


def exact_values(trees: list[ReasoningTree]) -> list[InnerValue]:
    return [
        InnerValue(tree.problem.id, node, tree.text(node), exact_of(tree, "success_probabilities")[node], 1)
        for tree in trees
        for node in choose_inner_nodes(tree, 99)
    ]


def scored(trees: list[ReasoningTree], quantity: str, sign: float = 1.0) -> ScoredTrees:
    return ScoredTrees([tree.with_log_flows(sign * np.log(exact_of(tree, quantity))) for tree in trees], 0, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("merge", [True, False])
def test_exact_mean_flows_rank_perfectly_in_every_group(merge: bool) -> None:
    trees = toy_trees(merge=merge)
    for sign, expected in ((1.0, 1.0), (-1.0, 0.0)):
        found = rank_correlation(scored(trees, "values", sign), exact_values(trees))
        assert list(found) == ["siblings", "depth", "problem"]
        for quality in found.values():
            assert quality.pair_accuracy.value == pytest.approx(expected)
            assert quality.spearman.value == pytest.approx(2 * expected - 1)
            assert quality.num_pairs > 0 and quality.num_groups > 0
        assert found["siblings"].num_pairs < found["depth"].num_pairs < found["problem"].num_pairs
        assert found["siblings"].num_groups > found["problem"].num_groups


def test_exact_sum_flows_are_worse_across_depths_than_exact_means() -> None:
    trees = toy_trees()
    means, sums = (rank_correlation(scored(trees, name), exact_values(trees)) for name in ("values", "flows"))
    assert sums["problem"].spearman.value < means["problem"].spearman.value - 0.1  # type: ignore[operator]


def test_drawn_values_agree_with_exact_scores_nearly_always() -> None:
    trees = toy_trees()
    values = draw_inner_values(ToyTask(3, 3), TableProposer(), trees, num_rollouts=200)
    found = rank_correlation(scored(trees, "values"), values, least_difference=0.15)
    for quality in found.values():
        assert quality.pair_accuracy.value is not None and quality.pair_accuracy.value > 0.98
        assert quality.spearman.value is not None and quality.spearman.value > 0.8


def forked() -> tuple[ReasoningTree, list[InnerValue]]:
    """Below a; one of two forks is right (value 1/2); below b; the only draw is right (value 1)."""
    ends = [("a;", "r"), ("a;", "w"), ("b;", "r")]
    rollouts = [
        Rollout(i, i, 0, (Step(first, (), None, StopReason.STOP), Step(last, (), None, StopReason.EOS)))
        for i, (first, last) in enumerate(ends)
    ]
    tree = build_tree(Problem("p", ""), rollouts, judge=lambda text: Verdict(text.endswith("r"), text))
    at = {tree.text(node.id): node.id for node in tree.nodes}
    return tree, [InnerValue("p", at["a;"], "a;", 0.5, 9), InnerValue("p", at["b;"], "b;", 1.0, 9)]


def test_sum_flow_ranks_a_twice_forked_node_above_a_better_one() -> None:
    """W1: 10 + 0.1 of two draws beats 10 of one; the means 5.05 and 10 are in the right order."""
    tree, values = forked()
    for flows, expected in (({"a;": 10.1, "b;": 10.0}, 0.0), ({"a;": 5.05, "b;": 10.0}, 1.0)):
        log_flows = [math.log(flows.get(tree.text(node.id), 1.0)) for node in tree.nodes]
        found = rank_correlation(ScoredTrees([tree.with_log_flows(log_flows)], 0, 0), values)
        assert found["siblings"].pair_accuracy.value == expected
        assert found["siblings"].spearman.value == pytest.approx(2 * expected - 1)


def test_scores_may_be_those_of_the_path_so_far() -> None:
    toy = ToyTree.nested({"a": (0.5, {"a": (0.5, {"a": (1.0, True)}), "b": (0.5, True)}), "b": (0.5, True)})
    tree = build_tree(Problem("p", ""), toy.rollouts())
    low = {"a;": -2.0, "a;a;": -1.0}
    log_flows = [low.get(tree.text(node.id), 0.0) for node in tree.nodes]
    at = {tree.text(node.id): node.id for node in tree.nodes}
    values = [InnerValue("p", at["a;"], "a;", 0.2, 1), InnerValue("p", at["a;a;"], "a;a;", 0.9, 1)]
    trees = ScoredTrees([tree.with_log_flows(log_flows)], 0, 0)
    assert rank_correlation(trees, values)["problem"].pair_accuracy.value == 1
    assert rank_correlation(trees, values, aggregation="min")["problem"].pair_accuracy.value == 0.5


def test_values_of_other_trees_and_nodes_without_a_score_are_refused() -> None:
    tree, values = forked()
    flat = ScoredTrees([tree.with_log_flows([0.0] * len(tree.nodes))], 0, 0)
    for wrong in (
        InnerValue("q", 1, "a;", 0.5, 9),
        InnerValue("p", 1, "z;", 0.5, 9),
        InnerValue("p", 99, "a;", 0.5, 9),
    ):
        with pytest.raises(ValueError, match="is not in these trees"):
            rank_correlation(flat, [*values, wrong])
    with pytest.raises(ValueError, match="has no score"):
        rank_correlation(ScoredTrees([tree], 0, 0), values)


def test_groups_with_nothing_to_rank_leave_the_figures_undefined() -> None:
    tree, values = forked()
    flat = ScoredTrees([tree.with_log_flows([0.0] * len(tree.nodes))], 0, 0)
    found = rank_correlation(flat, values)["siblings"]
    assert (found.pair_accuracy.value, found.spearman.value) == (0.5, 0.0)  # equal scores: a coin
    alone = rank_correlation(flat, values[:1])["siblings"]
    assert alone.to_json() == {
        "pair_accuracy": {"value": None, "low": None, "high": None},
        "num_pairs": 0,
        "spearman": {"value": None, "low": None, "high": None},
        "num_groups": 0,
    }
