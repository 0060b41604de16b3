"""The toy tree: every exact quantity against values worked out by hand, and the identities that tie them together."""

import json
import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from arts.protocols import Split, Task
from arts.tasks.toy import DIFFICULTIES, ToyTask, ToyTree, sample_visibility, toy_problem, toy_tree, tree_visibility
from arts.tree import Problem, Rollout, Step, StopReason, build_tree

# Leaves in order: `a` right, `b;a` right but rare, `b;b` wrong, `c` wrong.
HAND = ToyTree.nested({"a": (0.5, True), "b": (0.3, {"a": (0.1, True), "b": (0.9, False)}), "c": (0.2, False)})
ROOT, A, B, BA, BB, C = range(6)
RANDOM_TREES = [
    ToyTree.random(seed, arity, depth) for seed, (arity, depth) in enumerate([(2, 1), (2, 4), (3, 3), (5, 2)])
]
POWERS = [-1.0, 0.0, 0.25, 0.5, 1.0]
GOLDEN_VALUE = 4.494776092165275  # V(root) of `toy 3x3 seed 7`


def rollouts_of(tree: ToyTree, *texts: str) -> list[Rollout]:
    """Main trajectories along the given paths."""
    ends = [tree.find(text) for text in texts]
    steps = [tuple(tree.step(node) for node in tree.path(end or 0)) for end in ends]
    return [Rollout(index, index, 0, path) for index, path in enumerate(steps)]


def test_paths_and_steps_of_a_hand_made_tree() -> None:
    assert HAND.leaves == (A, BA, BB, C)
    assert [HAND.text(node) for node in range(6)] == ["", "a", "b;", "b;a", "b;b", "c"]
    assert [HAND.find(text) for text in ("", "a", "b;", "b;a", "b;b", "c")] == list(range(6))
    assert HAND.find("a;") is None
    assert HAND.step(B) == Step("b;", (1, 26), math.log(0.3), StopReason.STOP)
    assert HAND.step(BA) == Step("a", (0, 27), math.log(0.1), StopReason.EOS)


def test_values_flows_and_success_match_the_hand_calculation() -> None:
    np.testing.assert_allclose(HAND.priors, [1, 0.5, 0.3, 0.03, 0.27, 0.2])
    np.testing.assert_allclose(HAND.rewards, [0, 10, 0, 10, 0.1, 0.1])
    # V(b) = .1 * 10 + .9 * .1 = 1.09; V(root) = .5 * 10 + .3 * 1.09 + .2 * .1 = 5.347
    np.testing.assert_allclose(HAND.values, [5.347, 10, 1.09, 10, 0.1, 0.1])
    np.testing.assert_allclose(HAND.flows, [20.2, 10, 10.1, 10, 0.1, 0.1])
    np.testing.assert_allclose(HAND.success_probabilities, [0.53, 1, 0.1, 1, 0, 0])


def test_tempered_flow_matches_the_hand_calculation_and_runs_from_value_to_flow() -> None:
    below_b = math.sqrt(0.1) * 10 + math.sqrt(0.9) * 0.1
    root = math.sqrt(0.5) * 10 + math.sqrt(0.3) * below_b + math.sqrt(0.2) * 0.1
    np.testing.assert_allclose(HAND.tempered_flows(0.5)[[ROOT, B]], [root, below_b])
    np.testing.assert_array_equal(HAND.tempered_flows(0.0), HAND.values)
    np.testing.assert_array_equal(HAND.tempered_flows(1.0), HAND.flows)


def test_tempered_flow_is_its_definition_over_all_paths() -> None:
    for tree in RANDOM_TREES:
        for power in POWERS:
            for node in range(len(tree.parents)):
                below = [leaf for leaf in tree.leaves if leaf == node or node in (0, *tree.path(leaf))]
                priors = [tree.priors[leaf] / tree.priors[node] for leaf in below]
                definition = sum(p * tree.rewards[leaf] * p**-power for p, leaf in zip(priors, below, strict=True))
                assert tree.tempered_flows(power)[node] == pytest.approx(definition, rel=1e-12)


def test_under_a_uniform_prior_the_value_is_the_flow_over_the_number_of_leaves() -> None:
    for tree in RANDOM_TREES:
        arity = len(tree.children[0])
        uniform = replace(tree, probabilities=(1.0, *[1 / arity] * (len(tree.parents) - 1)))
        num_leaves = uniform.tempered_flows(1.0) * 0
        for leaf in uniform.leaves:
            for node in (0, *uniform.path(leaf)):
                num_leaves[node] += 1
        np.testing.assert_allclose(uniform.values * num_leaves, uniform.flows, rtol=1e-12)


def test_flow_is_conserved_and_value_is_the_mean_over_steps() -> None:
    for tree in RANDOM_TREES:
        for node, children in enumerate(tree.children):
            if children:
                below = list(children)
                law = np.array(tree.probabilities)[below]
                assert tree.flows[node] == pytest.approx(tree.flows[below].sum(), rel=1e-12)
                assert tree.values[node] == pytest.approx(law @ tree.values[below], rel=1e-12)


def test_path_laws_match_the_hand_calculation() -> None:
    np.testing.assert_allclose(HAND.prior_law(), [0.5, 0.03, 0.27, 0.2])
    np.testing.assert_allclose(HAND.path_law(0.0), np.array([5, 0.3, 0.027, 0.02]) / 5.347)
    np.testing.assert_allclose(HAND.path_law(1.0), np.array([10, 10, 0.1, 0.1]) / 20.2)
    squared = np.array([2.5, 0.009, 0.00729, 0.004])
    np.testing.assert_allclose(HAND.path_law(-1.0), squared / squared.sum())


@pytest.mark.parametrize("power", POWERS)
def test_laws_sum_to_one_and_steps_multiply_to_paths(power: float) -> None:
    for tree in [HAND, *RANDOM_TREES]:
        assert tree.path_law(power).sum() == pytest.approx(1.0, rel=1e-12)
        step_law = tree.step_law(power)
        for children in filter(None, tree.children):
            assert step_law[list(children)].sum() == pytest.approx(1.0, rel=1e-12)
        by_steps = [math.prod(step_law[node] for node in tree.path(leaf)) for leaf in tree.leaves]
        np.testing.assert_allclose(by_steps, tree.path_law(power), rtol=1e-10)


def test_counting_the_prior_twice_suppresses_the_rare_right_path() -> None:
    rare = HAND.leaves.index(BA)
    squared, posterior, flow = (HAND.path_law(power)[rare] for power in (-1.0, 0.0, 1.0))
    assert squared == pytest.approx(0.0036, abs=1e-4)
    assert posterior == pytest.approx(0.056, abs=1e-3)
    assert flow == pytest.approx(0.495, abs=1e-3)


def test_log_mean_exp_matches_the_hand_calculation_and_its_limits() -> None:
    assert HAND.log_mean_exp(1.0)[B] == pytest.approx(math.log(0.1 * math.e + 0.9))
    np.testing.assert_allclose(HAND.log_mean_exp(1e-6), HAND.success_probabilities, atol=1e-6)
    # -> infinity: 1 where anything right lies below; at most log(1 / pi_0) / lambda short of it
    np.testing.assert_allclose(HAND.log_mean_exp(500.0), [1, 1, 1, 1, 0, 0], atol=math.log(10) / 500 + 1e-9)
    # With R = R_wrong exp(lambda r) it is the mean flow on a log scale.
    scale = math.log(HAND.reward_right / HAND.reward_wrong)
    np.testing.assert_allclose(HAND.log_mean_exp(scale), np.log(HAND.values / 0.1) / scale, atol=1e-12)


def test_a_step_said_in_two_ways_keeps_its_value_and_doubles_its_flow() -> None:
    split = HAND.with_split_step(B)
    assert split.values[ROOT] == pytest.approx(HAND.values[ROOT])
    assert split.success_probabilities[ROOT] == pytest.approx(HAND.success_probabilities[ROOT])
    assert split.flows[ROOT] == pytest.approx(HAND.flows[ROOT] + HAND.flows[B])
    twin = split.find("d;")
    assert twin is not None
    assert split.values[[B, twin]].tolist() == [HAND.values[B]] * 2
    assert [split.text(node) for node in split.children[twin]] == ["d;a", "d;b"]


def test_visibility_in_a_tree_is_below_that_of_as_many_samples() -> None:
    """The worked example: K = 4, H = 3, p = .2 a step."""
    assert tree_visibility([0.2] * 3, 4) == pytest.approx(0.281, abs=5e-4)
    assert sample_visibility(0.2**3, 4**3) == pytest.approx(0.402, abs=5e-4)
    tree = ToyTree.random(0, 4, 3, rare=True)
    path = tree.path(tree.right.index(True))
    assert tree_visibility([tree.probabilities[node] for node in path], 4) == pytest.approx(0.281, abs=5e-4)
    assert tree_visibility([0.3], 5) == pytest.approx(sample_visibility(0.3, 5))
    assert tree_visibility([0.1, 0.3], 2) == pytest.approx(1 - (1 - 0.1 * (1 - 0.7**2)) ** 2)


def test_visibility_matches_simulated_trees() -> None:
    """How often the path is found in a K-ary tree: found nodes of one level propose K times each for the next."""
    rng = np.random.default_rng(0)
    num_trees = 200_000
    found = np.ones(num_trees, dtype=np.int64)
    for _ in range(3):
        found = rng.binomial(4 * found, 0.2)
    assert (found > 0).mean() == pytest.approx(
        tree_visibility([0.2] * 3, 4), abs=4 * math.sqrt(0.281 * 0.719 / num_trees)
    )
    assert found.mean() == pytest.approx(4**3 * 0.2**3, abs=4 * found.std() / math.sqrt(num_trees))  # the paper's count


def test_observed_flow_of_all_paths_is_the_full_flow() -> None:
    for toy in [HAND, *RANDOM_TREES]:
        tree = build_tree(toy_problem(toy), toy.rollouts())
        ids = [node for node in (toy.find(tree.text(node.id)) for node in tree.nodes) if node is not None]
        assert sorted(ids) == list(range(len(toy.parents)))
        flows, num_leaves = toy.observed(tree)
        np.testing.assert_allclose(flows, toy.flows[ids], rtol=1e-12)
        assert num_leaves[0] == len(toy.leaves)


def test_observed_flow_agrees_between_merged_and_unmerged_trees_when_draws_are_counted() -> None:
    rollouts = rollouts_of(HAND, "b;a", "a", "b;b", "b;a")
    merged, unmerged = (build_tree(toy_problem(HAND), rollouts, merge=merge) for merge in (True, False))
    assert HAND.observed(merged).flows[0] == pytest.approx(30.1)
    assert HAND.observed(unmerged).flows[0] == pytest.approx(30.1)
    node = next(node.id for node in merged.nodes if node.text == "b;")
    assert HAND.observed(merged).flows[node] == pytest.approx(20.1)
    assert HAND.observed(merged).num_leaves[node] == 3
    assert HAND.observed(merged, counted=False).flows[node] == pytest.approx(10.1)  # a lower bound of F(b) = 10.1


def test_duplicate_forks_turn_the_ranking_of_the_observed_sum_but_not_of_the_mean() -> None:
    """W1: one of two right below `b` outranks `a`, which is right always; the mean puts them in order of V."""
    fork = Rollout(index=2, trunk=0, num_shared=1, steps=(HAND.step(BB),))
    tree = build_tree(toy_problem(HAND), [*rollouts_of(HAND, "b;a", "a"), fork])
    flows, num_leaves = HAND.observed(tree)
    by_text = {tree.text(node.id): node.id for node in tree.nodes}
    a, b = by_text["a"], by_text["b;"]
    assert flows[b] == pytest.approx(10.1)
    assert flows[b] > flows[a]
    assert flows[b] / num_leaves[b] < flows[a] / num_leaves[a]
    assert HAND.values[B] < HAND.values[A]  # the mean is right
    assert HAND.flows[B] > HAND.flows[A]  # and even the exact sum flow is not


def test_unfinished_and_failed_leaves_add_no_flow() -> None:
    cut = HAND.step(B)._replace(stop=StopReason.LENGTH)
    failed = Step("", (), None, StopReason.ERROR)
    rollouts = [*rollouts_of(HAND, "a"), Rollout(1, 1, 0, (cut,)), Rollout(2, 2, 0, (failed,))]
    flows, num_leaves = HAND.observed(build_tree(toy_problem(HAND), rollouts))
    assert flows.tolist() == [10.0, 10.0, 0.0, 0.0]
    assert num_leaves.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ({}, "at least one step"),
        ({"a": (0.5, True), "b": (0.4, False)}, "sum to 1"),
        ({"a": (1.0, True), "b": (0.0, False)}, "must be positive"),
        ({"ab": (1.0, True)}, "different letters"),
        ({"A": (1.0, True)}, "different letters"),
    ],
)
def test_impossible_trees_are_refused(branches: dict[str, tuple[float, bool]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ToyTree.nested(branches)


def test_impossible_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="before their children"):
        ToyTree((-1, 2, 0), ("", "a", "b"), (1.0, 1.0, 1.0), (False, True, False))
    with pytest.raises(ValueError, match="different letters"):
        ToyTree((-1, 0, 0), ("", "a", "a"), (1.0, 0.5, 0.5), (False, True, False))
    with pytest.raises(ValueError, match="only leaves can be right"):
        ToyTree((-1, 0, 1), ("", "a", "b"), (1.0, 1.0, 1.0), (False, True, False))
    with pytest.raises(ValueError, match="one length"):
        ToyTree((-1, 0), ("", "a"), (1.0,), (False, True))
    with pytest.raises(ValueError, match="0 < wrong < right"):
        replace(HAND, reward_wrong=0.0)
    with pytest.raises(ValueError, match="at most 4096 leaves"):
        ToyTree.random(0, 10, 4)


def test_random_trees_are_a_function_of_seed_and_shape() -> None:
    assert ToyTree.random(7, 3, 3) == ToyTree.random(7, 3, 3)
    assert ToyTree.random(7, 3, 3) != ToyTree.random(8, 3, 3)
    # Fixed for ever: the id of a problem is all that is kept of it.
    assert ToyTree.random(7, 3, 3).values[0] == pytest.approx(GOLDEN_VALUE, rel=1e-12)
    for seed in range(50):
        tree = ToyTree.random(seed, 2, 1)  # two leaves: the hardest shape to have both
        assert {tree.right[leaf] for leaf in tree.leaves} == {True, False}


def test_the_rare_variant_has_one_right_path_of_known_small_probability() -> None:
    for seed in range(20):
        tree = ToyTree.random(seed, 3, 3, rare=True)
        assert sum(tree.right) == 1
        assert tree.success_probabilities[0] == pytest.approx(0.2**3)


def test_explicit_problems_survive_json() -> None:
    problem = toy_problem(HAND)
    again = Problem(problem.id, problem.prompt, json.loads(json.dumps(problem.metadata)))
    assert again == problem
    assert toy_tree(again) == HAND
    assert toy_problem(replace(HAND, reward_right=20.0)).id != problem.id
    verdict = ToyTask().judge(again, "b;a")
    assert (verdict.correct, verdict.answer) == (True, "b;a")


@pytest.mark.parametrize("shape", [(3, 3, False), (4, 2, True)])
def test_problems_are_distinct_and_splits_never_overlap(shape: tuple[int, int, bool]) -> None:
    arity, depth, rare = shape
    task: Task = ToyTask(arity, depth, rare=rare)
    splits: tuple[Split, ...] = ("train", "validation", "test")
    ids = {split: [p.id for seed in (0, 1) for p in islice(task.problems(split, seed), 200)] for split in splits}
    for split in splits:
        assert len(set(ids[split])) == 400  # two seeds, and all of them new
        assert [p.id for p in islice(task.problems(split, 0), 7)] == ids[split][:7]
    assert not set(ids["train"]) & set(ids["test"])
    assert not set(ids["train"]) & set(ids["validation"])
    assert not set(ids["validation"]) & set(ids["test"])
    assert toy_tree(task.parse(ids["test"][0])) == toy_tree(next(task.problems("test", 0)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write 'toy 3x3 seed 7'"),
        ("toy 3x3", "write 'toy 3x3 seed 7'"),
        ("toy 3x3 seed 07", "write 'toy 3x3 seed 7'"),
        ("toy 3x3 seed ٧", "write 'toy 3x3 seed 7'"),
        ("toy 3x3 seed " + "7" * 10_000, "write 'toy 3x3 seed 7'"),
        ("toy 1x3 seed 7", "must be 2 to 26"),
        ("toy 27x1 seed 7", "must be 2 to 26"),
        ("toy 9x9 seed 7", "at most 4096 leaves"),
    ],
)
def test_texts_that_are_no_toy_problem_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ToyTask().parse(text)
    assert len(str(error.value)) < 300


def test_verdicts_follow_the_leaves() -> None:
    task, problem = ToyTask(), toy_problem(HAND)
    assert task.judge(problem, "a") == (True, "a", "")
    assert task.judge(problem, "b;b") == (False, "b;b", "wrong leaf")
    assert task.judge(problem, "b;") == (False, None, "ends above a leaf")
    for text in ("", "a;", "b", "b;a;", " a", "d", "b;a\n"):
        verdict = task.judge(problem, text)
        assert not verdict.correct
        assert verdict.answer is None


def test_difficulty_is_the_exact_chance_of_one_sample() -> None:
    task = ToyTask()
    classes = []
    for chance in (0.1, 0.4, 0.6):
        tree = ToyTree.nested({"a": (chance, True), "b": (1 - chance, False)})
        classes.append(task.difficulty(toy_problem(tree)))
    assert classes == list(DIFFICULTIES)
