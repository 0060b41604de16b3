"""The tree: built from rollouts in any order, merged or not, walked, checked and drawn."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arts.tree import (
    Node,
    Problem,
    ReasoningTree,
    Rollout,
    Step,
    StopReason,
    Usage,
    Verdict,
    build_tree,
    draw_tree,
    path_log_prior,
)

PROBLEM = Problem(id="p", prompt="say it")


def steps_of(letters: str, *, end: StopReason = StopReason.EOS) -> tuple[Step, ...]:
    """`abc` -> steps `a;`, `b;`, `c`; two tokens each, log-prior -1 each."""
    last = len(letters) - 1
    return tuple(
        Step(
            text=letter if index == last else f"{letter};",
            token_ids=(ord(letter), 1 if index == last else 0),
            log_prior=-1.0,
            stop=end if index == last else StopReason.STOP,
        )
        for index, letter in enumerate(letters)
    )


def main_trajectory(index: int, letters: str, *, end: StopReason = StopReason.EOS) -> Rollout:
    return Rollout(index=index, trunk=index, num_shared=0, steps=steps_of(letters, end=end))


def fork(index: int, trunk: int, num_shared: int, letters: str) -> Rollout:
    return Rollout(index=index, trunk=trunk, num_shared=num_shared, steps=steps_of(letters))


@st.composite
def rollout_sets(draw: st.DrawFn) -> list[Rollout]:
    """Main trajectories over two letters (so that many steps are equal), then forks of them."""
    words = draw(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=6))
    rollouts = [main_trajectory(index, word) for index, word in enumerate(words)]
    long_trunks = [index for index, word in enumerate(words) if len(word) > 1]
    if long_trunks:
        for index in range(len(words), len(words) + draw(st.integers(0, 5))):
            trunk = draw(st.sampled_from(long_trunks))
            num_shared = draw(st.integers(1, len(words[trunk]) - 1))
            rollouts.append(fork(index, trunk, num_shared, draw(st.text("ab", min_size=1, max_size=3))))
    return rollouts


def draws_by_path(tree: ReasoningTree) -> Counter[tuple[str, StopReason | None]]:
    counts: Counter[tuple[str, StopReason | None]] = Counter()
    for node in tree.nodes[1:]:
        counts[tree.text(node.id), node.stop] += node.num_draws
    return counts


@given(rollout_sets())
@settings(max_examples=100, deadline=None)
def test_merged_and_unmerged_trees_count_the_same_draws(rollouts: list[Rollout]) -> None:
    merged, unmerged = build_tree(PROBLEM, rollouts), build_tree(PROBLEM, rollouts, merge=False)
    num_steps = sum(len(rollout.steps) for rollout in rollouts)
    assert len(unmerged.nodes) == num_steps + 1
    assert sum(node.num_draws for node in merged.nodes[1:]) == num_steps
    assert draws_by_path(merged) == draws_by_path(unmerged)
    assert len(merged.nodes) == len(draws_by_path(merged)) + 1  # one node a distinct path
    assert [merged.text(leaf) for leaf in merged.trunks] == [unmerged.text(leaf) for leaf in unmerged.trunks]


@given(rollout_sets(), st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=100, deadline=None)
def test_order_of_arrival_does_not_matter(rollouts: list[Rollout], rng: random.Random, merge: bool) -> None:
    shuffled = list(rollouts)
    rng.shuffle(shuffled)
    assert build_tree(PROBLEM, shuffled, merge=merge) == build_tree(PROBLEM, rollouts, merge=merge)


@given(rollout_sets(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_parents_children_depths_and_leaves_agree(rollouts: list[Rollout], merge: bool) -> None:
    tree = build_tree(PROBLEM, rollouts, merge=merge)
    children, depths, leaf_ids = tree.children(), tree.depths(), {leaf.id for leaf in tree.leaves()}
    assert sorted(child for below in children for child in below) == list(range(1, len(tree.nodes)))
    for node in tree.nodes:
        assert len(tree.path(node.id)) == depths[node.id]
        assert (children[node.id] == ()) == (node.id in leaf_ids)
        assert all(tree.nodes[child].parent == node.id for child in children[node.id])
    assert depths[0] == 0
    assert tree.path(0) == ()


@pytest.mark.parametrize("merge", [True, False])
def test_forks_share_the_nodes_of_their_trunk(merge: bool) -> None:
    tree = build_tree(PROBLEM, [main_trajectory(0, "aba"), fork(1, 0, 2, "b")], merge=merge)
    assert [tree.text(node.id) for node in tree.nodes] == ["", "a;", "a;b;", "a;b;a", "a;b;b"]
    assert [node.num_draws for node in tree.nodes[1:]] == [1, 1, 1, 1]  # shared steps were drawn once
    assert tree.children() == ((1,), (2,), (3, 4), (), ())
    assert tree.trunks == (3,)  # a fork is no main trajectory
    assert tree.num_distinct_tokens() == 8


def test_a_fork_goes_on_from_its_own_trunk_where_equal_trunks_are_not_merged() -> None:
    rollouts = [main_trajectory(0, "ab"), main_trajectory(1, "ab"), fork(2, 1, 1, "a")]
    tree = build_tree(PROBLEM, rollouts, merge=False)
    second_trunk = tree.path(tree.trunks[1])
    assert tree.path(5)[0] is second_trunk[0]
    assert tree.trunks == (2, 4)


def test_trunks_repeat_where_equal_paths_are_merged() -> None:
    tree = build_tree(PROBLEM, [main_trajectory(0, "ab"), main_trajectory(1, "b"), main_trajectory(2, "ab")])
    assert tree.trunks == (2, 3, 2)
    assert [node.num_draws for node in tree.nodes[1:]] == [2, 2, 1]


def test_equal_texts_of_different_tokens_or_stop_reasons_stay_apart() -> None:
    finished, cut = steps_of("a")[0], steps_of("a", end=StopReason.LENGTH)[0]
    other_tokens = finished._replace(token_ids=(7,))
    rollouts = [Rollout(i, i, 0, (step,)) for i, step in enumerate([finished, cut, other_tokens])]
    assert len(build_tree(PROBLEM, rollouts).nodes) == 4


@pytest.mark.parametrize("stop", [StopReason.LENGTH, StopReason.ERROR, StopReason.STOP])
def test_an_unfinished_path_is_never_an_answer(stop: StopReason) -> None:
    asked = []

    def judge(text: str) -> Verdict:
        asked.append(text)
        return Verdict(correct=True, answer=text)

    tree = build_tree(PROBLEM, [main_trajectory(0, "ab", end=stop), main_trajectory(1, "ab")], judge=judge)
    unfinished, finished = (tree.nodes[leaf] for leaf in tree.trunks)
    assert not unfinished.is_answer
    assert unfinished.verdict is None
    assert finished.is_answer
    assert finished.verdict == Verdict(correct=True, answer="a;b")
    assert asked == ["a;b"]


def test_the_tree_keeps_what_it_was_told_of_its_drawing() -> None:
    usage = Usage(3, 4, 1).plus(Usage(1, 1, 1))
    tree = build_tree(PROBLEM, [main_trajectory(0, "a")], log_prior_law="sampling", tokenizer="t", usage=usage)
    assert (tree.log_prior_law, tree.tokenizer, tree.usage) == ("sampling", "t", Usage(4, 5, 2))


def test_a_tree_without_rollouts_is_its_root() -> None:
    tree = build_tree(PROBLEM, [])
    assert tree.leaves() == [Node(id=0, parent=-1)]
    assert tree.trunks == ()
    assert list(draw_tree(tree)) == ["say it"]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "first node must be the root"),
        ((Node(id=0, parent=0),), "first node must be the root"),
        ((Node(id=1, parent=-1),), "node 0 has id 1"),
        ((Node(id=0, parent=-1), Node(id=2, parent=0)), "node 1 has id 2"),
        ((Node(id=0, parent=-1), Node(id=1, parent=1)), "node 1 has id 1 and parent 1"),
        ((Node(id=0, parent=-1), Node(id=1, parent=-1)), "node 1 has id 1 and parent -1"),
        ((Node(id=0, parent=-1), Node(id=1, parent=2), Node(id=2, parent=0)), "node 1 has id 1 and parent 2"),
    ],
)
def test_nodes_out_of_order_are_refused(nodes: tuple[Node, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReasoningTree(problem=PROBLEM, nodes=nodes)


def test_log_flows_are_set_on_every_node_and_nothing_else_changes() -> None:
    tree = build_tree(PROBLEM, [main_trajectory(0, "ab"), main_trajectory(1, "b")])
    scored = tree.with_log_flows([0.0, 1.0, 2.0, 3.0])
    assert [node.log_flow for node in scored.nodes] == [0.0, 1.0, 2.0, 3.0]
    unscored = replace(scored, nodes=tuple(replace(node, log_flow=None) for node in scored.nodes))
    assert unscored == tree
    with pytest.raises(ValueError, match="shorter"):
        tree.with_log_flows([0.0, 1.0, 2.0])


def test_log_prior_of_a_path_is_the_sum_of_its_steps_and_unknown_where_one_is() -> None:
    tree = build_tree(PROBLEM, [main_trajectory(0, "aba")])
    path = tree.path(tree.trunks[0])
    assert path_log_prior(path) == -3.0
    assert path_log_prior(()) == 0.0
    assert math.isnan(path_log_prior([*path, replace(path[0], log_prior=None)]))


def test_drawing_shows_draws_flows_verdicts_and_unfinished_paths() -> None:
    rollouts = [
        main_trajectory(0, "ab"),
        main_trajectory(1, "aa"),
        main_trajectory(2, "ab"),
        main_trajectory(3, "b", end=StopReason.LENGTH),
    ]
    tree = build_tree(PROBLEM, rollouts, judge=lambda text: Verdict(correct=text == "a;b", answer=text))
    assert list(draw_tree(tree)) == ["say it", "├─ a;  ×3", "│  ├─ b  ×2  ✓", "│  └─ a  ✗", "└─ b  (length)"]
    scored = tree.with_log_flows([0.0, math.log(2.0), -math.inf, 1e9, 0.0])
    assert list(draw_tree(scored))[1:3] == ["├─ a;  ×3  F=2.00", "│  ├─ b  ×2  F=0.00  ✓"]


def test_drawing_says_how_many_steps_it_left_out() -> None:
    tree = build_tree(PROBLEM, [main_trajectory(0, "aaaa"), main_trajectory(1, "b")])
    lines = list(draw_tree(tree, max_nodes=3))
    assert len(lines) == 5
    assert lines[-1] == "   … 2 more steps"
