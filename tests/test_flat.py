"""What a unit costs does not grow with how many there are: operations counted, bytes counted, nothing timed."""

import gc
import math
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import RIGHT, WRONG, pool_tree

from arts.evaluate import examples, metrics
from arts.evaluate.examples import choose_examples
from arts.evaluate.metrics import (
    Draws,
    argmax_accuracy,
    hit_chance,
    paired_bootstrap,
    read_draws,
    resample,
    vote_accuracy,
)
from arts.evaluate.run import evaluate_trees
from arts.facts import TreeFacts
from arts.lm.packing import join_packed, pack_tree, split_nodes
from arts.pages.tree import tree_markup
from arts.protocols import ScoreScale
from arts.search.answer import highest
from arts.search.strategies.pool import _Lead, lead_is_sure
from arts.search.tree import SearchTree
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree
from arts.verifier.objectives import PairwiseRM, RewardSettings, SiblingRank
from arts.view import page
from arts.view.page import View, render_view

PROBLEM = Problem("p", "problem")


class Seen(list[Any]):
    """A list that notes which of its items were looked at."""

    def __init__(self, items: Sequence[Any]) -> None:
        super().__init__(items)
        self.places: list[int] = []

    def __getitem__(self, place: Any) -> Any:
        self.places.append(place)
        return super().__getitem__(place)


def comb(depth: int) -> list[int]:
    """Parents of a path of so many nodes below the root, with a leaf beside each of them."""
    parents = [-1]
    above = 0
    for _ in range(depth):
        parents += [above, above]
        above = len(parents) - 1
    return parents


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that a call had at a time."""
    gc.collect()
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def steps(count: int, text: str = "step;") -> tuple[Step, ...]:
    stops = [StopReason.STOP] * (count - 1) + [StopReason.EOS]
    return tuple(Step(f"{place} {text}", (place,), -1.0, stop) for place, stop in enumerate(stops))


# --- packing ----------------------------------------------------------------------------------------------------------


def test_packing_a_part_looks_at_its_own_nodes_only() -> None:
    """A tree of many parts would otherwise cost the square of its size."""
    parents, ids = Seen(comb(500)), Seen([(1, 2)] * 1001)
    part = [0, 1, 2, 3]
    pack_tree(parents, ids, part)
    assert {*parents.places, *ids.places} <= set(part)


def test_splitting_climbs_to_known_nodes_only() -> None:
    """Every leaf's whole path would be the square of the depth: 500 * 501 / 2 lookups here."""
    parents = Seen(comb(500))
    parts = split_nodes(parents, [1] * len(parents), 900)
    assert len(parts) == 2
    assert len(parents.places) < 3 * len(parents)


def test_a_batch_looks_for_keys_in_the_tree_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    trees = [pack_tree(comb(20), [(1, 2, 3)] * 41) for _ in range(30)]
    looked_at: list[int] = []
    flatnonzero = np.flatnonzero
    monkeypatch.setattr(np, "flatnonzero", lambda values: looked_at.append(len(values)) or flatnonzero(values))
    join_packed(trees, block_size=16)
    whole, *blocks = looked_at
    assert whole == 30 * 123
    assert max(blocks) < 123


def test_a_packed_token_takes_four_bytes() -> None:
    packed = pack_tree(comb(10), [range(100_000, 100_050)] * 21)
    assert sum(array.nbytes for array in packed) == 4 * 21 * 50 + 20 * 21


# --- trees and pages --------------------------------------------------------------------------------------------------


def test_the_text_of_a_path_is_put_together_at_its_end_only() -> None:
    """The texts of all prefixes of a path of 2,000 steps of 100 characters would be 200 MB."""
    rollout = Rollout(0, 0, 0, steps(2_000, "x" * 100))
    texts: list[str] = []

    def judge(text: str) -> Verdict:
        texts.append(text)
        return Verdict(True, "x")

    assert peak_bytes(lambda: build_tree(PROBLEM, [rollout], judge=judge)) < 5e6
    assert texts[0] == "".join(step.text for step in rollout.steps)


def test_forks_may_be_nested_deeper_than_calls() -> None:
    trunk = steps(1_500)
    forks = [Rollout(index, 0, index, steps(1, f"fork {index}")) for index in range(1, 1_499)]
    drawn = tree_markup(build_tree(PROBLEM, [Rollout(0, 0, 0, trunk), *forks]))
    assert drawn.count("<details") == drawn.count("</details>") == 1_498
    assert drawn.index("1 step;") < drawn.index("1499 step;") < drawn.index("fork 1498") < drawn.index("fork 1<")


def test_examples_count_the_right_draws_of_all_problems_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted anew for every problem it was the square of their number, and most of `arts evaluate` at 100,000."""
    trees = [pool_tree([RIGHT, WRONG], problem=str(number)) for number in range(50)]
    evaluation, summed = evaluate_trees(trees), []

    class Watched(np.ndarray):
        def sum(self, *arguments: Any, **options: Any) -> Any:
            summed.append(self.shape)
            return np.asarray(self).sum(*arguments, **options)

    def read_watched(given: Sequence[ReasoningTree]) -> Draws:
        draws = read_draws(given)
        return replace(draws, correct_PN=draws.correct_PN.view(Watched))

    monkeypatch.setattr(examples, "read_draws", read_watched)
    assert choose_examples(evaluation, trees)
    assert summed == [(50, 2)]


def test_the_viewer_holds_the_columns_of_one_tree_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Columns(dict[str, Any]):
        """A dictionary that can be watched."""

        __hash__ = object.__hash__  # type: ignore[assignment]

    alive: weakref.WeakSet[Columns] = weakref.WeakSet()
    most = []
    tree_columns = page.tree_columns

    def watched(tree: ReasoningTree, **options: Any) -> Columns:
        columns = Columns(tree_columns(tree, **options))
        alive.add(columns)
        most.append(len(alive))
        return columns

    monkeypatch.setattr(page, "tree_columns", watched)
    render_view(View(title="many", trees=[pool_tree([RIGHT, WRONG], problem=str(number)) for number in range(20)]))
    assert len(most) == 20
    assert max(most) <= 2


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_problems", [1, 3, 40, 257, 1000])
def test_resamples_in_bytes_give_the_intervals_of_floats(num_problems: int) -> None:
    """Bit for bit those of one product with all counts as floats, 16 kB a problem."""
    rng = np.random.default_rng(num_problems)
    value_P = rng.random(num_problems)
    law = np.full(num_problems, 1 / num_problems)
    weight_BP = np.random.default_rng(7).multinomial(num_problems, law, size=2000).astype(float)
    expected = metrics.percentile_interval((weight_BP @ value_P) / (weight_BP @ np.ones(num_problems)))
    found = paired_bootstrap(num_problems, 7)(value_P, np.ones(num_problems))
    assert (found.low, found.high) == expected
    assert resample(num_problems, 7).nbytes == 2000 * num_problems


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5))
def test_ranks_are_those_of_all_pairs(values: list[list[int]]) -> None:
    value_PN = np.where(np.array(values) == 0, -np.inf, values)
    larger_PN, equal_PN = metrics._ranks(value_PN)
    np.testing.assert_array_equal(larger_PN, (value_PN[:, None, :] > value_PN[:, :, None]).sum(axis=2))
    np.testing.assert_array_equal(equal_PN, (value_PN[:, None, :] == value_PN[:, :, None]).sum(axis=2))


def test_many_draws_are_ranked_without_all_their_pairs() -> None:
    """16 million pairs of 4,000 draws."""
    correct_PN = np.arange(4_000)[None] % 2 == 0
    draws = Draws(np.ones_like(correct_PN), correct_PN, np.zeros((1, 4_000), dtype=np.int64))
    assert peak_bytes(lambda: argmax_accuracy(draws, np.arange(4_000.0)[None], 2)) < 4e6


@pytest.mark.parametrize(("num_samples", "k"), [(1, 1), (7, 3), (16, 16), (64, 20)])
def test_hit_chances_from_each_other_are_those_of_the_formula(num_samples: int, k: int) -> None:
    total = math.comb(num_samples, k)
    expected = [1.0 - math.comb(num_samples - m, k) / total for m in range(num_samples + 1)]
    assert hit_chance(num_samples, k).tolist() == expected


def test_votes_for_a_thousand_answers_need_no_table_of_draws_and_answers() -> None:
    answer_PN = np.arange(1_000)[None]
    draws = Draws(np.ones((1, 1_000), dtype=np.bool_), answer_PN == 3, answer_PN)
    weight_PN = np.where(answer_PN == 3, 1.0, 0.0)
    member_SN = np.ones((1, 1_000), dtype=np.bool_)
    assert vote_accuracy(draws, weight_PN, member_SN).tolist() == [1.0]
    assert peak_bytes(lambda: vote_accuracy(draws, weight_PN, member_SN)) < 1e6


# --- objectives -------------------------------------------------------------------------------------------------------


def wide_tree(num_draws: int) -> ReasoningTree:
    """Draws of two steps, half of them right, some below the same first step."""
    rollouts = []
    for index in range(num_draws):
        first = Step(f"{index % 7};", (index % 7,), -1.0, StopReason.STOP)
        rollouts.append(Rollout(index, index, 0, (first, Step(str(index), (index,), -1.0, StopReason.EOS))))
    return build_tree(PROBLEM, rollouts, judge=lambda text: Verdict(int(text.partition(";")[2]) % 2 == 0, text))


def slow_pairs(facts: TreeFacts, label: Sequence[Any]) -> list[tuple[int, int, float]]:
    """All pairs of nodes with equal labels, by definition; None takes no part."""
    nodes = range(len(label))
    return [
        (i, j, facts.success[i] * (1 - facts.success[j]))
        for group in sorted({one for one in label if one is not None})
        for i in nodes
        for j in nodes
        if i != j and label[i] == label[j] == group and facts.success[i] * (1 - facts.success[j]) > 0
    ]


@pytest.mark.parametrize("objective", [SiblingRank(), PairwiseRM(), PairwiseRM(steps=False)], ids=repr)
def test_numbered_pairs_are_those_of_the_slow_definition(objective: SiblingRank | PairwiseRM) -> None:
    facts = TreeFacts.of(wide_tree(20))
    label: list[Any] = [None] * len(facts.parent)
    for node in range(1, len(label)):
        if isinstance(objective, SiblingRank):
            label[node] = int(facts.parent[node])
        elif facts.is_terminal[node]:
            label[node] = 0
        elif objective.steps:
            label[node] = int(facts.depth[node])
    targets = objective.targets(facts, RewardSettings())
    found = list(zip(*(targets[name].tolist() for name in ("better_index", "worse_index", "weight")), strict=True))
    assert found == slow_pairs(facts, label)


def test_a_part_of_many_pairs_is_drawn_without_making_all() -> None:
    """4,000 ends have 4 million pairs of a right and a wrong one; the part is the same every time."""
    facts = TreeFacts.of(wide_tree(4_000))
    objective = PairwiseRM(steps=False, max_pairs=1_000)
    assert facts.success is not None  # made once, for all objectives
    assert peak_bytes(lambda: objective.targets(facts, RewardSettings())) < 4e6
    one, again = objective.targets(facts, RewardSettings()), objective.targets(facts, RewardSettings())
    pairs = list(zip(one["better_index"].tolist(), one["worse_index"].tolist(), strict=True))
    assert len(set(pairs)) == 1_000
    assert all(facts.is_right[better] and not facts.is_right[worse] for better, worse in pairs)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert len(np.unique(one["better_index"])) > 700  # of 2,000: drawn from all of them


# --- search -----------------------------------------------------------------------------------------------------------


def test_each_answer_is_looked_at_once_however_often_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A curve asks after every reply: with all answers each time it cost their square."""
    tree = SearchTree(PROBLEM, scale=ScoreScale(), judge=lambda text: Verdict(False, text), scored=True)
    looked_at: Counter[int] = Counter()
    path_log_score = tree.path_log_score
    monkeypatch.setattr(tree, "path_log_score", lambda node: looked_at.update([node]) or path_log_score(node))
    scores = [(7 * number) % 50 for number in range(100)]
    assert highest(tree) is None
    for number, score in enumerate(scores):
        (node,) = tree.add(0, [Step(str(number), (number,), -1.0, StopReason.EOS)])
        tree.set_scores([node], [score])
        assert highest(tree) == 1 + scores.index(max(scores[: number + 1]))
    assert set(looked_at.values()) == {1}
    assert len(looked_at) == 100


@given(st.lists(st.sampled_from("abcde"), max_size=60))
def test_the_lead_is_that_of_all_votes_counted(keys: list[str]) -> None:
    lead = _Lead()
    for count, key in enumerate(keys, start=1):
        lead.vote(key)
        first, second = [*sorted(Counter(keys[:count]).values(), reverse=True), 0][:2]
        assert (lead.first, lead.second) == (first, second)


def test_a_sure_lead_is_that_of_the_whole_sum() -> None:
    for first in range(40):
        for second in range(first + 1):
            throws = first + second + 1
            whole = sum(math.comb(throws, heads) for heads in range(first + 1)) / (1 << throws)
            assert lead_is_sure(first, second) == whole
