"""What a tree says of its nodes: forks do not make a trunk count more, and failed draws are unknown."""

import numpy as np
import pytest

from arts.facts import TreeFacts
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree


def step(text: str, stop: StopReason = StopReason.STOP, log_prior: float | None = -1.0) -> Step:
    return Step(text, (), log_prior, stop)


def judge(text: str) -> Verdict:
    return Verdict(text.endswith("r"), text)


def forked_tree(*, merge: bool = True) -> ReasoningTree:
    """Two trunks behind a;, one right and one wrong; the wrong one is forked twice further down, wrong again."""
    trunks = [
        Rollout(0, 0, 0, (step("a;"), step("r", StopReason.EOS))),
        Rollout(1, 1, 0, (step("a;"), step("b;"), step("x", StopReason.EOS))),
    ]
    forks = [Rollout(index, 1, 2, (step(f"{index}", StopReason.EOS),)) for index in (2, 3)]
    return build_tree(Problem("p", ""), [*trunks, *forks], judge=judge, merge=merge)


def places(tree: ReasoningTree) -> dict[str, int]:
    return {tree.text(node.id): node.id for node in reversed(tree.nodes)}  # the first of nodes with equal texts


def test_forks_further_down_do_not_make_a_trunk_count_more() -> None:
    tree = forked_tree()
    facts, at = TreeFacts.of(tree), places(tree)
    assert (facts.success[at["a;"]], facts.draws_below[at["a;"]]) == (0.5, 2)  # not 1 of 4
    assert (facts.success[at["a;b;"]], facts.draws_below[at["a;b;"]]) == (0.0, 3)
    assert (facts.num_right[at["a;"]], facts.num_leaves[at["a;"]]) == (1, 4)
    unmerged = TreeFacts.of(forked_tree(merge=False))
    assert (unmerged.success[0], unmerged.draws_below[0]) == (facts.success[0], facts.draws_below[0]) == (0.5, 2)


def test_failed_draws_are_unknown_and_unfinished_ones_wrong() -> None:
    ends = [("r", StopReason.EOS), ("c", StopReason.LENGTH), ("", StopReason.ERROR)]
    rollouts = [Rollout(index, index, 0, (step("a;"), step(*end))) for index, end in enumerate(ends)]
    rollouts.append(Rollout(3, 3, 0, (step("b;"), step("", StopReason.ERROR))))
    tree = build_tree(Problem("p", ""), rollouts, judge=judge)
    facts, at = TreeFacts.of(tree), places(tree)
    assert (facts.success[at["a;"]], facts.draws_below[at["a;"]]) == (0.5, 2)
    assert (facts.is_known[at["b;"]], facts.draws_below[at["b;"]]) == (False, 0)
    assert facts.is_terminal[at["a;c"]] and not facts.is_right[at["a;c"]]
    assert facts.draw_share[at["a;"]] == 1.0  # the other first step is not known


def test_merged_draws_are_counted_in_leaves_and_shares() -> None:
    rollouts = [Rollout(index, index, 0, (step(text, StopReason.EOS),)) for index, text in enumerate("rrrx")]
    facts = TreeFacts.of(build_tree(Problem("p", ""), rollouts, judge=judge))
    assert facts.num_leaves.tolist() == [4, 3, 1]
    assert facts.num_right.tolist() == [3, 3, 0]
    assert facts.draw_share.tolist() == [1, 0.75, 0.25]
    assert facts.success[0] == 0.75


def test_leaf_pairs_sum_to_one_for_every_known_node_and_carry_the_prior_between_the_two() -> None:
    tree = forked_tree()
    facts = TreeFacts.of(tree)
    pairs = facts.leaf_pairs
    total = np.zeros(len(tree.nodes))
    np.add.at(total, pairs.node, pairs.share)
    np.testing.assert_allclose(total, 1)
    np.testing.assert_allclose(pairs.log_prior, facts.depth[pairs.node] - facts.depth[pairs.leaf])  # -1 a step
    assert len(pairs.node) == sum(len(tree.path(leaf.id)) + 1 for leaf in tree.leaves())


def test_missing_prior_is_nan_and_the_root_has_none_to_miss() -> None:
    rollout = Rollout(0, 0, 0, (step("r", StopReason.EOS, None),))
    facts = TreeFacts.of(build_tree(Problem("p", ""), [rollout], judge=judge))
    assert facts.log_prior[0] == 0
    assert np.isnan(facts.log_prior[1])
    assert facts.leaf_pairs.share.tolist() == pytest.approx([1, 1])
