"""Reasoning Flow Matching: zero at the observed flows and only there, gradients by hand, and what a sum cannot see."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_verifier import holds_c, letter_rollout, letter_tree

from arts.proposers.table import TableProposer
from arts.protocols import Request
from arts.tasks.toy import ToyTask, ToyTree, toy_problem
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree
from arts.verifier.objectives import (
    NodeTargets,
    RewardSettings,
    RFMSettings,
    TargetBatch,
    join_targets,
    log_child_sum,
    node_targets,
    rfm_loss,
    rfm_targets,
)

REWARDS = RewardSettings()
MONTE_CARLO = RFMSettings(target="monte_carlo")
BOOTSTRAP = RFMSettings(target="bootstrap")
RESIDUAL_GRADIENT = RFMSettings(target="bootstrap", stop_gradient=False)
ALL = [MONTE_CARLO, BOOTSTRAP, RESIDUAL_GRADIENT]
TOYS = [ToyTree.random(seed, arity, depth) for seed, (arity, depth) in enumerate([(2, 1), (2, 4), (3, 3), (5, 2)])]


def toy_sample(toy: ToyTree, *, num_samples: int = 24, merge: bool = True) -> ReasoningTree:
    """Main trajectories of the table proposer, with forks behind the first step of every third."""
    problem, task, proposer = toy_problem(toy), ToyTask(), TableProposer()
    [drawn] = proposer.propose([Request(problem, (), tuple(range(num_samples)), 100)])
    rollouts = [Rollout(index, index, 0, steps) for index, steps in enumerate(drawn.draws)]
    for trunk in range(0, num_samples, 3):
        steps = drawn.draws[trunk]
        if len(steps) > 1:
            index = len(rollouts)
            [fork] = proposer.propose([Request(problem, steps[:1], (1000 + index,), 100)])
            rollouts.append(Rollout(index, trunk, 1, fork.draws[0]))
    return build_tree(problem, rollouts, merge=merge, judge=lambda text: task.judge(problem, text))


def observed_flows(toy: ToyTree, tree: ReasoningTree) -> np.ndarray:
    """The toy tree's own count. It has a leaf's draws in the leaf's flow already, RFM only in the sum of the parent."""
    flows, num_leaves = toy.observed(tree)
    is_leaf = ~np.isin(np.arange(len(tree.nodes)), [node.parent for node in tree.nodes])
    return np.where(is_leaf, flows / num_leaves, flows)


def targets_of(tree: ReasoningTree, settings: RFMSettings = MONTE_CARLO) -> NodeTargets:
    return node_targets(tree, REWARDS, settings)


def batch_of(*trees: ReasoningTree, settings: RFMSettings = MONTE_CARLO) -> TargetBatch:
    return join_targets([targets_of(tree, settings) for tree in trees])


def leaf(stop: StopReason, text: str = "x", token: int = 1) -> Step:
    return Step(text, (token,) if text else (), -1.0, stop)


def judged(text: str) -> Verdict:
    return Verdict("right" in text, text)


def tree_of(*paths: Sequence[Step]) -> ReasoningTree:
    rollouts = [Rollout(index, index, 0, tuple(steps)) for index, steps in enumerate(paths)]
    return build_tree(Problem("p", "p"), rollouts, judge=judged)


# --- the exact flows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", ALL, ids=str)
@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: f"{len(toy.parents)} nodes")
def test_residual_is_zero_at_the_flows_of_the_enumerated_tree(toy: ToyTree, settings: RFMSettings) -> None:
    """Every path drawn once: the observed flow is the full flow F(s), known to the toy tree by its own recursion."""
    problem = toy_problem(toy)
    tree = build_tree(problem, toy.rollouts(), judge=lambda text: ToyTask().judge(problem, text))
    flows = [toy.flows[toy.find(tree.text(node.id)) or 0] for node in tree.nodes]
    batch = batch_of(tree, settings=settings)
    log_flow = torch.tensor(np.log(flows))
    np.testing.assert_allclose(rfm_targets(log_flow, batch, settings), log_flow, rtol=0, atol=1e-12)
    assert float(rfm_loss(log_flow, batch, settings)) < 1e-24


@pytest.mark.parametrize("settings", ALL, ids=str)
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: f"{len(toy.parents)} nodes")
def test_residual_is_zero_at_the_observed_flows_of_a_sample_and_nowhere_near(
    toy: ToyTree, merge: bool, settings: RFMSettings
) -> None:
    tree = toy_sample(toy, merge=merge)
    batch = batch_of(tree, settings=settings)
    exact = torch.tensor(np.log(observed_flows(toy, tree)))
    np.testing.assert_allclose(rfm_targets(exact, batch, settings), exact, rtol=0, atol=1e-12)
    assert float(rfm_loss(exact, batch, settings)) < 1e-24
    for node in range(len(tree.nodes)):  # one wrong flow, at whichever node, is seen: at least its own square
        wrong = exact.clone()
        wrong[node] += 0.5
        assert float(rfm_loss(wrong, batch, settings)) > 0.24 / len(tree.nodes)


def test_monte_carlo_residual_is_zero_to_the_last_bit() -> None:
    for toy in TOYS:
        tree = toy_sample(toy)
        exact = torch.tensor(np.log(observed_flows(toy, tree)))
        assert float(rfm_loss(exact, batch_of(tree), MONTE_CARLO)) == 0.0


def test_bootstrapped_targets_settle_at_the_monte_carlo_targets() -> None:
    """From any start, each round of bootstrapping gets one more level right; a tree of depth d is done after d + 1."""
    for toy in TOYS:
        tree = toy_sample(toy)
        batch = batch_of(tree)
        monte_carlo = rfm_targets(torch.zeros(len(tree.nodes), dtype=torch.float64), batch, MONTE_CARLO)
        log_flow = torch.from_numpy(np.random.default_rng(0).normal(scale=3.0, size=len(tree.nodes)))
        for _ in range(max(tree.depths())):
            log_flow = rfm_targets(log_flow, batch, BOOTSTRAP)
            assert not torch.allclose(log_flow, monte_carlo, rtol=0, atol=1e-6)
        log_flow = rfm_targets(log_flow, batch, BOOTSTRAP)
        np.testing.assert_allclose(log_flow, monte_carlo, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_trained_table_verifier_finds_the_observed_flows(settings: RFMSettings) -> None:
    """One free number a node, plain gradient descent on the loss, from zero."""
    toys = TOYS[1:3]
    trees = [toy_sample(toy) for toy in toys]
    batch = batch_of(*trees, settings=settings)
    exact = np.log(np.concatenate([observed_flows(toy, tree) for toy, tree in zip(toys, trees, strict=True)]))
    log_flow = torch.zeros(len(exact), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_flow], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        optimizer.zero_grad()
        rfm_loss(log_flow, batch, settings).backward()
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(log_flow.detach(), exact, rtol=0, atol=1e-3)


# --- child sums and gradients -----------------------------------------------------------------------------------------


@st.composite
def target_batches(draw: st.DrawFn) -> TargetBatch:
    """Any forest, with unknown nodes anywhere and draws on the terminals."""
    targets = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 8))
        parent = np.array([-1, *(draw(st.integers(0, node - 1)) for node in range(1, size))])
        is_terminal = ~np.isin(np.arange(size), parent)
        draws = np.array([draw(st.integers(1, 5)) for _ in range(size)])
        targets.append(
            NodeTargets(
                parent=parent,
                is_terminal=is_terminal,
                is_known=np.array([draw(st.booleans()) for _ in range(size)]),
                log_reward=np.zeros(size),
                log_observed_flow=np.zeros(size),
                log_draws=np.where(is_terminal, np.log(draws), 0.0),
            )
        )
    return join_targets(targets)


@hypothesis_settings(max_examples=60, deadline=None)
@given(target_batches(), st.data())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_log_child_sum_is_the_slow_loop(
    dtype: torch.dtype, tolerance: float, batch: TargetBatch, data: st.DataObject
) -> None:
    size = len(batch.parent)
    flows = data.draw(hnp.arrays(np.float64, size, elements=st.floats(-600, 600)))
    log_flow = torch.tensor(flows, dtype=dtype)
    expected = []
    for node in range(size):
        children = [child for child in range(size) if batch.parent[child] == node and batch.is_known[child]]
        expected.append(np.logaddexp.reduce([float(log_flow[c]) + float(batch.log_draws[c]) for c in children]))
    result = log_child_sum(log_flow, batch)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


def test_joined_trees_keep_to_themselves() -> None:
    trees = [letter_tree("a"), letter_tree("b", num_samples=2), letter_tree("c")]
    joined = batch_of(*trees)
    offset = 0
    for tree in trees:
        own = slice(offset, offset + len(tree.nodes))
        alone = batch_of(tree)
        assert [parent - offset if parent >= 0 else -1 for parent in joined.parent[own].tolist()] == (
            alone.parent.tolist()
        )
        for one, other in zip(joined[1:], alone[1:], strict=True):
            assert torch.equal(one[own], other)
        offset += len(tree.nodes)
    flow = torch.randn(offset, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = flow.split([len(tree.nodes) for tree in trees])
    sums = [log_child_sum(part, batch_of(tree)) for part, tree in zip(parts, trees, strict=True)]
    assert torch.equal(log_child_sum(flow, joined), torch.cat(sums))


def gradient(log_flow: torch.Tensor, batch: TargetBatch, settings: RFMSettings) -> torch.Tensor:
    leaf_tensor = log_flow.clone().requires_grad_()
    (result,) = torch.autograd.grad(rfm_loss(leaf_tensor, batch, settings), leaf_tensor)
    return result


@pytest.mark.parametrize("leaf_weight", [1.0, 3.0])
@pytest.mark.parametrize("settings", ALL, ids=str)
def test_gradient_is_the_hand_formula(settings: RFMSettings, leaf_weight: float) -> None:
    """With r = log F - target, p the parent of i, n_i its draws, W the sum of the weights w:

    target held fixed:   dL/dF_i = 2 w_i r_i / W
    target moves too:    dL/dF_i = 2 (w_i r_i - w_p r_p n_i F_i / sum_{c of p} n_c F_c) / W
    """
    settings = replace(settings, leaf_weight=leaf_weight)
    tree = toy_sample(TOYS[2])
    batch = batch_of(tree, settings=settings)
    size = len(tree.nodes)
    log_flow = torch.from_numpy(np.random.default_rng(1).normal(size=size))
    weight = np.where(batch.is_terminal, leaf_weight, 1.0)
    weighted = weight * (log_flow - rfm_targets(log_flow, batch, settings)).numpy()
    expected = weighted.copy()
    if not settings.stop_gradient:
        counted = np.exp((log_flow + batch.log_draws).numpy())
        sums = np.zeros(size)
        np.add.at(sums, batch.parent[1:], counted[1:])
        for node in range(1, size):
            parent = int(batch.parent[node])
            expected[node] -= weighted[parent] * counted[node] / sums[parent]
    np.testing.assert_allclose(gradient(log_flow, batch, settings), 2 * expected / weight.sum(), rtol=1e-10, atol=1e-14)


def test_residual_gradient_is_that_of_finite_differences_and_the_stopped_one_is_not() -> None:
    batch = batch_of(letter_tree("a"), letter_tree("b"))
    log_flow = torch.from_numpy(np.random.default_rng(2).normal(size=len(batch.parent)))
    steps = 1e-6 * torch.eye(len(log_flow), dtype=torch.float64)
    numeric = torch.stack(
        [
            (rfm_loss(log_flow + step, batch, BOOTSTRAP) - rfm_loss(log_flow - step, batch, BOOTSTRAP)) / 2e-6
            for step in steps
        ]
    )
    assert (gradient(log_flow, batch, RESIDUAL_GRADIENT) - numeric).abs().max() < 1e-8
    assert (gradient(log_flow, batch, BOOTSTRAP) - numeric).abs().max() > 1e-3


def test_loss_in_float32_is_that_of_float64() -> None:
    batch = batch_of(letter_tree("a"))
    log_flow = torch.from_numpy(np.random.default_rng(3).normal(size=len(batch.parent)))
    for chosen in ALL:
        single = rfm_loss(log_flow.float(), batch, chosen)
        assert single.dtype == torch.float32
        assert float(single) == pytest.approx(float(rfm_loss(log_flow, batch, chosen)), rel=1e-5)


def test_leaf_weight_weighs_terminals_against_inner_nodes() -> None:
    """One step, then a right end. All flows 0: residuals are log 10 at the leaf, at the step and at the root."""
    tree = tree_of([leaf(StopReason.STOP, "a;"), leaf(StopReason.EOS, "right")])
    log_flow = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    square, near = math.log(10) ** 2, (math.log(10) - 1) ** 2
    for leaf_weight in (1.0, 4.0, 0.25):
        settings = RFMSettings(leaf_weight=leaf_weight)
        expected = (square + near + leaf_weight * square) / (2 + leaf_weight)
        assert float(rfm_loss(log_flow, batch_of(tree), settings)) == pytest.approx(expected, rel=1e-12)


# --- what is known of a tree ------------------------------------------------------------------------------------------


def test_counted_draws_give_merged_and_unmerged_trees_the_same_root_flow() -> None:
    for toy in TOYS:
        merged, unmerged = toy_sample(toy), toy_sample(toy, merge=False)
        assert len(merged.nodes) < len(unmerged.nodes)
        expected = toy.observed(unmerged).flows[0]
        for tree in (merged, unmerged):
            for chosen in (MONTE_CARLO, BOOTSTRAP):
                found = targets_of(tree, chosen).log_observed_flow
                assert math.exp(found[0]) == pytest.approx(expected, rel=1e-12)
                root_sum = log_child_sum(torch.from_numpy(found), batch_of(tree, settings=chosen))[0]
                assert math.exp(root_sum) == pytest.approx(expected, rel=1e-12)


def test_uncounted_draws_count_every_leaf_node_once() -> None:
    for toy in TOYS:
        tree = toy_sample(toy)
        found = targets_of(tree, RFMSettings(count_draws=False)).log_observed_flow
        np.testing.assert_allclose(np.exp(found), toy.observed(tree, counted=False).flows, rtol=1e-12)
        assert found[0] < targets_of(tree).log_observed_flow[0] - 0.1


def test_terminal_flows_are_rewards_whatever_the_number_of_draws() -> None:
    tree = tree_of(*[[leaf(StopReason.EOS, "right")]] * 3, [leaf(StopReason.EOS, "no", 2)])
    targets = targets_of(tree)
    np.testing.assert_allclose(np.exp(targets.log_reward[1:]), [10, 0.1])
    np.testing.assert_allclose(np.exp(targets.log_observed_flow), [30.1, 10, 0.1])
    np.testing.assert_allclose(np.exp(targets.log_draws), [1, 3, 1])


def test_unfinished_leaf_is_wrong() -> None:
    """An unfinished path is no answer, even if a file claims that somebody judged it right."""
    tree = tree_of([leaf(StopReason.EOS, "right")], [leaf(StopReason.LENGTH, "right", 2)])
    claimed = replace(tree.nodes[2], verdict=Verdict(True, "right"))
    tree = replace(tree, nodes=(*tree.nodes[:2], claimed))
    targets = targets_of(tree)
    assert targets.is_terminal.tolist() == [False, True, True]
    np.testing.assert_allclose(np.exp(targets.log_observed_flow), [10.1, 10, 0.1])


@pytest.mark.parametrize("stop", [StopReason.ERROR, StopReason.STOP])
def test_failed_and_unexplored_leaves_are_unknown_and_so_is_a_node_with_nothing_else_below(stop: StopReason) -> None:
    lost = leaf(stop, "", 0)
    tree = tree_of(
        [leaf(StopReason.STOP, "a;"), leaf(StopReason.EOS, "right")],
        [leaf(StopReason.STOP, "a;"), lost],
        [leaf(StopReason.STOP, "b;", 2), lost],
    )
    assert [node.text for node in tree.nodes] == ["", "a;", "right", "", "b;", ""]
    targets = targets_of(tree)
    assert targets.is_known.tolist() == [True, True, True, False, False, False]
    assert targets.is_terminal.tolist() == [False, False, True, False, False, False]
    np.testing.assert_allclose(np.exp(targets.log_observed_flow[targets.is_known]), [10, 10, 10])
    batch = join_targets([targets])
    log_flow = torch.from_numpy(np.random.default_rng(4).normal(size=6))
    for settings in ALL:
        slope = gradient(log_flow, batch, settings)
        assert slope[:3].abs().min() > 1e-3
        assert torch.equal(slope[3:], torch.zeros(3, dtype=torch.float64))
        elsewhere = log_flow.clone()
        elsewhere[3:] += 50.0
        assert torch.equal(rfm_loss(elsewhere, batch, settings), rfm_loss(log_flow, batch, settings))


def test_tree_of_failed_draws_only_has_no_loss() -> None:
    batch = batch_of(tree_of([leaf(StopReason.ERROR, "", 0)]))
    assert not batch.is_known.any()
    for settings in ALL:
        assert float(rfm_loss(torch.ones(2, dtype=torch.float64), batch, settings)) == 0.0


def test_other_rewards_are_used() -> None:
    tree = tree_of([leaf(StopReason.EOS, "right")], [leaf(StopReason.EOS, "no", 2)])
    targets = node_targets(tree, RewardSettings(right=1.0, wrong=0.25), MONTE_CARLO)
    np.testing.assert_allclose(np.exp(targets.log_observed_flow), [1.25, 1.0, 0.25])


def test_duplicate_forks_raise_a_half_right_node_above_an_unforked_right_one() -> None:
    """W1, a weakness of the paper's objective and not of this code: the sum sees the number of forks as quality.

    `a;` was forked and is right one time in two; `b;` was drawn once and is right. V says 5.05 < 10, F says 10.1 > 10.
    """
    rollouts = [
        letter_rollout(0, "abc"),
        letter_rollout(1, "aba", trunk=0, num_shared=1),
        letter_rollout(2, "bac"),
    ]
    tree = build_tree(Problem("p", "p"), rollouts, judge=holds_c)
    half_right, right = (node.id for node in tree.nodes if node.text in ("a;", "b;") and node.parent == 0)
    targets = targets_of(tree)
    np.testing.assert_allclose(np.exp(targets.log_observed_flow[[half_right, right]]), [10.1, 10.0])
    rewards: dict[str, list[float]] = {"a;": [], "b;": []}
    for leaf_node in tree.leaves():
        rewards[tree.path(leaf_node.id)[0].text].append(math.exp(targets.log_reward[leaf_node.id]))
    np.testing.assert_allclose([np.mean(rewards["a;"]), np.mean(rewards["b;"])], [5.05, 10.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: RewardSettings(wrong=0.0),
        lambda: RewardSettings(right=0.1),
        lambda: RewardSettings(right=math.inf),
        lambda: RewardSettings(wrong=math.nan),
        lambda: RFMSettings(target="mean"),  # type: ignore[arg-type]
        lambda: RFMSettings(leaf_weight=0.0),
        lambda: RFMSettings(leaf_weight=math.nan),
    ],
)
def test_impossible_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"wrong|target|leaf_weight"):
        make()  # type: ignore[operator]
