"""Values of inner nodes are the proposer's own chances, the chosen nodes have siblings, and files come back whole."""

import math
from pathlib import Path

import pytest

from arts.evaluate.inner import InnerValue, choose_inner_nodes, draw_inner_values, load_inner_values, save_inner_values
from arts.proposers.table import TableProposer
from arts.protocols import Request
from arts.tasks.toy import ToyTask, ToyTree, toy_problem, toy_tree
from arts.tree import ReasoningTree, Rollout, StopReason, Usage, build_tree

TASK = ToyTask(3, 4)
PROBLEM = TASK.parse("toy 3x4 seed 5")
TOY = toy_tree(PROBLEM)


def sampled(num_draws: int = 30, *, merge: bool = True) -> ReasoningTree:
    draws = TableProposer().propose([Request(PROBLEM, (), tuple(range(num_draws)), 99)])[0].draws
    rollouts = [Rollout(index, index, 0, steps) for index, steps in enumerate(draws)]
    return build_tree(PROBLEM, rollouts, merge=merge, judge=lambda text: TASK.judge(PROBLEM, text))


class Recorder:
    """A table proposer that keeps what it was asked."""

    def __init__(self, **settings: object) -> None:
        self.inner = TableProposer(**settings)  # type: ignore[arg-type]
        self.requests: list[Request] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def propose(self, requests: list[Request]) -> object:
        self.requests += requests
        return self.inner.propose(requests)


# --- values -----------------------------------------------------------------------------------------------------------


def test_values_estimate_the_exact_chance_to_end_right() -> None:
    values = draw_inner_values(TASK, TableProposer(), [sampled()], nodes_per_problem=16, num_rollouts=600)
    assert len(values) == 16
    for value in values:
        node = TOY.find(value.text)
        assert node is not None and TOY.children[node]
        exact = TOY.success_probabilities[node]
        assert value.value_01 == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 600) + 1e-12)
        assert value.num_rollouts == 600


def test_rollouts_are_new_draws_from_the_prefix_with_the_tokens_that_are_left() -> None:
    recorder, tree = Recorder(), sampled()
    values = draw_inner_values(TASK, recorder, [tree], nodes_per_problem=5, num_rollouts=7, max_new_tokens=9)  # type: ignore[arg-type]
    assert len(recorder.requests) == len(values) == 5
    for request, value in zip(recorder.requests, values, strict=True):
        assert "".join(step.text for step in request.prefix) == value.text == tree.text(value.node)
        assert request.whole and request.max_new_tokens == 9 - 2 * len(request.prefix)
        assert value.usage.requests == 1 and value.usage.generated_tokens > 0
    seeds = [seed for request in recorder.requests for seed in request.seeds]
    assert len(set(seeds)) == 35


def test_equal_seeds_give_equal_values_whatever_else_is_drawn() -> None:
    tree, other = sampled(), sampled(5)
    first = draw_inner_values(TASK, TableProposer(), [tree], num_rollouts=5, seed=3)
    assert draw_inner_values(TASK, TableProposer(), [other, tree], num_rollouts=5, seed=3)[-len(first) :] == first
    assert draw_inner_values(TASK, TableProposer(), [tree], num_rollouts=5, seed=4) != first


def test_failed_rollouts_do_not_count_and_unfinished_ones_are_wrong() -> None:
    tree, recorder = sampled(), Recorder()
    draw_inner_values(TASK, recorder, [tree], nodes_per_problem=2, num_rollouts=4)  # type: ignore[arg-type]
    failing = recorder.requests[0].seeds[:1] + recorder.requests[1].seeds
    values = draw_inner_values(TASK, TableProposer(failing_seeds=failing), [tree], nodes_per_problem=2, num_rollouts=4)
    assert [value.num_rollouts for value in values] == [3]  # all rollouts of the second node failed
    short = draw_inner_values(TASK, TableProposer(), [tree], num_rollouts=4, max_new_tokens=7)
    assert {value.value_01 for value in short} == {0.0}  # a whole solution has 8 tokens
    deepest = 2 * max(len(tree.path(node)) for node in choose_inner_nodes(tree, 99))
    left_out = draw_inner_values(TASK, TableProposer(), [tree], nodes_per_problem=99, num_rollouts=1, max_new_tokens=6)
    assert deepest == 6 and all(value.text.count(";") < 3 for value in left_out)


def test_progress_is_told_and_impossible_numbers_are_refused() -> None:
    told: list[tuple[int, int]] = []
    draw_inner_values(TASK, TableProposer(), [sampled()] * 9, num_rollouts=1, watch=lambda *state: told.append(state))
    assert told == [(64, 72), (72, 72)]
    for wrong in ({"nodes_per_problem": 0}, {"num_rollouts": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            draw_inner_values(TASK, TableProposer(), [sampled()], **wrong)  # type: ignore[arg-type]


class Killed(Exception):
    pass


@pytest.mark.parametrize("cut", [0, 9])
def test_a_killed_run_goes_on_and_draws_nothing_twice(tmp_path: Path, cut: int) -> None:
    trees = [sampled()] * 30  # 240 nodes: blocks of 64, 64, 64 and 48
    journal = tmp_path / "values.journal"

    def kill(done: int, total: int) -> None:
        if done == 128:
            raise Killed

    whole = draw_inner_values(TASK, TableProposer(), trees, num_rollouts=2)
    with pytest.raises(Killed):
        draw_inner_values(TASK, TableProposer(), trees, num_rollouts=2, journal=journal, watch=kill)
    if cut:  # the kill came in the middle of a write
        journal.write_bytes(journal.read_bytes()[:-cut])
    recorder = Recorder()
    assert draw_inner_values(TASK, recorder, trees, num_rollouts=2, journal=journal) == whole  # type: ignore[arg-type]
    assert len(recorder.requests) == (240 - 64 if cut else 240 - 128)
    assert draw_inner_values(TASK, recorder, trees, num_rollouts=2, journal=journal) == whole  # type: ignore[arg-type]
    assert len(recorder.requests) == (240 - 64 if cut else 240 - 128)  # all was there


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "values.journal"
    draw_inner_values(TASK, TableProposer(), [sampled()], num_rollouts=2, journal=journal)
    with pytest.raises(ValueError, match=r"values\.journal is the journal of another run"):
        draw_inner_values(TASK, TableProposer(), [sampled()], num_rollouts=3, journal=journal)


# --- which nodes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("num_nodes", [2, 6, 12])
def test_chosen_nodes_are_distinct_inner_ones_and_nearly_all_have_a_sibling(merge: bool, num_nodes: int) -> None:
    tree = sampled(merge=merge)
    chosen = choose_inner_nodes(tree, num_nodes)
    texts = [tree.text(node) for node in chosen]
    assert len(set(texts)) == len(chosen) == num_nodes
    assert all(tree.nodes[node].stop is StopReason.STOP for node in chosen)
    parents = [tree.text(tree.nodes[node].parent) for node in chosen]
    assert sum(parents.count(parent) > 1 for parent in parents) >= num_nodes - 1
    assert choose_inner_nodes(tree, num_nodes) == chosen
    assert any(choose_inner_nodes(tree, num_nodes, seed=seed) != chosen for seed in range(1, 5))


def test_all_inner_nodes_are_chosen_where_there_are_few() -> None:
    tree = sampled()
    inner = [node.id for node in tree.nodes if node.stop is StopReason.STOP]
    assert choose_inner_nodes(tree, 1000) == inner
    chain = build_tree(PROBLEM, TOY.rollouts()[:1])
    assert choose_inner_nodes(chain, 8) == [1, 2, 3]  # no siblings at all


def test_nodes_without_siblings_share_what_pairs_leave() -> None:
    """Eight first steps, each with a chain below: not all of a choice of eight are first steps."""
    toy = ToyTree.nested({letter: (1 / 8, {"a": (1.0, {"a": (1.0, True)})}) for letter in "abcdefgh"})
    tree = build_tree(toy_problem(toy), toy.rollouts())
    depths = [len(tree.path(node)) for node in choose_inner_nodes(tree, 8)]
    assert (depths.count(1), depths.count(2)) == (5, 3)


# --- files ------------------------------------------------------------------------------------------------------------


def test_values_come_back_from_their_file(tmp_path: Path) -> None:
    values = [InnerValue("p", 3, "a;\n„b“;", 1 / 3, 12, Usage(1, 2, 3)), InnerValue("q", 1, "", 0.0, 1)]
    path = tmp_path / "new" / "values.jsonl"
    save_inner_values(path, values)
    assert load_inner_values(path) == values
    assert [file.name for file in path.parent.iterdir()] == ["values.jsonl"]
    path.write_text(path.read_text() + '{"problem": "r"}\n')
    with pytest.raises(ValueError, match=r"values\.jsonl line 3 is damaged"):
        load_inner_values(path)
