"""Every objective: targets and losses against slow loops, known optima on the toy tree, and the options users give.

What the objectives estimate from samples is in tests/test_acceptance.py.
"""

import json
import math
import runpy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny_verifier import holds_c, letter_rollout, letter_tree

from arts.options import parse_options
from arts.protocols import ScoreScale
from arts.tasks.toy import ToyTask, ToyTree, toy_problem
from arts.tree import Node, Problem, ReasoningTree, Rollout, Step, StopReason, Verdict, build_tree
from arts.verifier.objectives import (
    OBJECTIVES,
    RFM,
    Batch,
    DebiasedFlow,
    LogMeanExp,
    McValue,
    MeanFlow,
    Objective,
    Outcome,
    PairwiseRM,
    PointwisePRM,
    RestValue,
    RewardSettings,
    SiblingRank,
    SubTB,
    TemperedFlow,
    TreeFacts,
    build_objective,
    describe_objective,
    join_targets,
)
from arts.verifier.objectives.base import Bounds, NodeRegression, deviance, linked_log_flow

RECIPE = runpy.run_path(str(ROOT / "recipes" / "toy_objectives.py"))
MIXED: ToyTree = RECIPE["MIXED"]
REWARDS = RewardSettings()
TOYS = [ToyTree.random(seed, arity, depth) for seed, (arity, depth) in enumerate([(2, 1), (2, 4), (3, 3), (5, 2)])]
TEMPERED_SUM = TemperedFlow(alpha=0.4, self_normalised=False, clip=None, regression="poisson")
VARIANTS: list[Objective] = [
    *(build_objective(name) for name in OBJECTIVES),
    RFM(regression="poisson", count_draws=False, leaf_weight=3.0, inner_weight=0.5, weigh="draws"),
    RFM(target="bootstrap", stop_gradient=False),
    RFM(target="bootstrap", stop_gradient=False, count_draws=False, regression="poisson"),
    MeanFlow(regression="squared_log", weigh="draws"),
    MeanFlow(regression="poisson", inner_weight=0.0),
    MeanFlow(regression="brier", leaf_weight=2.0),
    MeanFlow(target="bootstrap", stop_gradient=False),
    DebiasedFlow(regression="poisson"),
    LogMeanExp(inverse_temperature=0.5),
    LogMeanExp(inverse_temperature=8.0, target="bootstrap", stop_gradient=False),
    TemperedFlow(alpha=0.0),
    TemperedFlow(alpha=1.0, clip=3.0),
    TemperedFlow(alpha=0.5, prior="token_mean", clip=None, regression="brier"),
    TEMPERED_SUM,
    TemperedFlow(alpha=1.0, self_normalised=False, clip=2.0, regression="squared_log"),
    SubTB(length_weight=0.0),
    SubTB(length_weight=1.0, leaf_weight=0.3),
    SubTB(length_weight=3.0),
    SubTB(length_weight=None),
    PairwiseRM(steps=False),
    McValue(prior_right=0.5, prior_wrong=1.5),
    McValue(leaf_weight=2.0, inner_weight=0.25),
    RestValue(weigh="draws"),
]
REGRESSIONS = [one for one in VARIANTS if isinstance(one, NodeRegression)]
MONTE_CARLO = [one for one in REGRESSIONS if getattr(one, "target", "monte_carlo") == "monte_carlo"]


def described(objective: Objective) -> str:
    """Name and options that are not the defaults."""
    options = describe_objective(objective)
    default = describe_objective(build_objective(objective.name))
    return "-".join([objective.name, *(f"{key}={value}" for key, value in options.items() if value != default[key])])


def for_each(objectives: Sequence[Objective]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("objective", objectives, ids=described)


def batch_of(objective: Objective, *trees: ReasoningTree, rewards: RewardSettings = REWARDS) -> Batch:
    targets = [objective.targets(TreeFacts.of(tree), rewards) for tree in trees]
    return join_targets(targets, [len(tree.nodes) for tree in trees])


def outputs(objective: Objective, num_nodes: int, *, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num_nodes, objective.num_outputs)))


def loss_of(objective: Objective, output_NK: torch.Tensor, *trees: ReasoningTree) -> torch.Tensor:
    return objective.loss(output_NK, batch_of(objective, *trees), REWARDS).mean


def gradient(objective: Objective, output_NK: torch.Tensor, batch: Batch) -> torch.Tensor:
    leaf_tensor = output_NK.clone().requires_grad_()
    (result,) = torch.autograd.grad(objective.loss(leaf_tensor, batch, REWARDS).mean, leaf_tensor)
    return result


# --- trees ------------------------------------------------------------------------------------------------------------

RIGHT, WRONG = Verdict(True, "right"), Verdict(False, "wrong")


@st.composite
def trees(draw: st.DrawFn) -> ReasoningTree:
    """Any shape and any draws (forks: more draws below a node than of it), with ends that are right, wrong, cut off,
    failed or never gone on from."""
    size = draw(st.integers(2, 9))
    parents = [-1, *(draw(st.integers(0, node - 1)) for node in range(1, size))]
    nodes = [Node(id=0, parent=-1)]
    for index in range(1, size):
        stop = StopReason.STOP
        if index not in parents:
            stop = draw(st.sampled_from([StopReason.EOS] * 4 + list(StopReason)))
        verdict = draw(st.sampled_from([RIGHT, WRONG])) if stop is StopReason.EOS else None
        nodes.append(
            Node(
                id=index,
                parent=parents[index],
                text=f"{index};",
                token_ids=tuple(range(draw(st.integers(0, 3)))),
                log_prior=draw(st.floats(-4, -0.01)),
                stop=stop,
                num_draws=draw(st.integers(1, 4)),
                verdict=verdict,
            )
        )
    return ReasoningTree(problem=Problem("p", "p"), nodes=tuple(nodes))


def step(stop: StopReason, text: str = "x", token: int = 1) -> Step:
    return Step(text, (token,) if text else (), -1.0, stop)


def tree_of(*paths: Sequence[Step]) -> ReasoningTree:
    rollouts = [Rollout(index, index, 0, tuple(steps)) for index, steps in enumerate(paths)]
    return build_tree(Problem("p", "p"), rollouts, judge=lambda text: Verdict("right" in text, text))


def toy_sample(toy: ToyTree, *, merge: bool = True) -> ReasoningTree:
    tree: ReasoningTree = RECIPE["sample_trees"](toy, 1, 24, merge=merge)[0]
    return tree


def every_path_once(toy: ToyTree) -> ReasoningTree:
    problem = toy_problem(toy)
    return build_tree(problem, toy.rollouts(), judge=lambda text: ToyTask().judge(problem, text))


def states(toy: ToyTree, tree: ReasoningTree) -> list[int]:
    return [toy.find(tree.text(node.id)) or 0 for node in tree.nodes]


# --- slow references --------------------------------------------------------------------------------------------------


class Slow:
    """One tree, node by node, in plain Python."""

    def __init__(self, tree: ReasoningTree) -> None:
        self.nodes = tree.nodes
        self.all_children = tree.children()

    def is_end(self, node: int) -> bool:
        return not self.all_children[node] and self.nodes[node].stop in (StopReason.EOS, StopReason.LENGTH)

    def is_right(self, node: int) -> bool:
        verdict = self.nodes[node].verdict
        return self.is_end(node) and verdict is not None and verdict.correct

    def is_known(self, node: int) -> bool:
        return self.is_end(node) or any(map(self.is_known, self.all_children[node]))

    def children(self, node: int) -> list[int]:
        return [child for child in self.all_children[node] if self.is_known(child)]

    def draws(self, node: int) -> int:
        return self.nodes[node].num_draws

    def ends(self, node: int) -> Iterator[tuple[int, int, float, float, float]]:
        """(end, its draws, chance to reach it, log pi_0 by steps, log pi_0 by token means) for each end below."""
        if self.is_end(node):
            yield node, self.draws(node), 1.0, 0.0, 0.0
        total = sum(self.draws(child) for child in self.children(node))
        for child in self.children(node):
            log_prior = self.nodes[child].log_prior or 0.0
            per_token = log_prior / max(1, len(self.nodes[child].token_ids))
            for end, draws, chance, below, below_per_token in self.ends(child):
                share = self.draws(child) / total
                yield end, draws, share * chance, below + log_prior, below_per_token + per_token

    def mean(self, node: int, of: Callable[[int], float]) -> float:
        return math.fsum(chance * of(end) for end, _, chance, _, _ in self.ends(node))

    def observed_sum(self, node: int, of: Callable[[int], float], counted: bool) -> float:
        """An end counts by its draws in the sums above it, and once for itself."""
        if self.is_end(node):
            return of(node)
        return math.fsum((draws if counted else 1) * of(end) for end, draws, _, _, _ in self.ends(node))

    def progress(self, node: int) -> float:
        if node == 0:
            return 0.0
        before = self.progress(self.nodes[node].parent)
        holder = node
        while holder > 0 and math.isinf(self.steps_to_right(holder)):
            holder = self.nodes[holder].parent
        sign = 1 if holder == node else -1
        return max(0.0, before + sign * (1 - before) / self.steps_to_right(holder))

    def steps_to_right(self, node: int) -> float:
        if self.is_right(node):
            return 1.0
        return min([self.steps_to_right(child) + 1 for child in self.all_children[node]], default=math.inf)


def slow_target(objective: NodeRegression, slow: Slow, node: int) -> float:
    bounds = objective.bounds(REWARDS)

    def reward(end: int) -> float:
        return bounds.right if slow.is_right(end) else bounds.wrong

    match objective:
        case RFM():
            return slow.observed_sum(node, reward, objective.count_draws)
        case DebiasedFlow():
            num_leaves = sum(draws for _, draws, _, _, _ in slow.ends(node))
            return math.fsum(draws * reward(end) for end, draws, _, _, _ in slow.ends(node)) / num_leaves
        case McValue():
            right = sum(draws for end, draws, _, _, _ in slow.ends(node) if slow.is_right(end))
            total = sum(draws for _, draws, _, _, _ in slow.ends(node))
            if slow.is_end(node):
                return right / total
            return (right + objective.prior_right) / (total + objective.prior_right + objective.prior_wrong)
        case RestValue():
            return slow.progress(node)
        case TemperedFlow():
            return slow_tempered(objective, slow, node, reward)
        case _:  # MeanFlow, LogMeanExp, PointwisePRM, Outcome
            return slow.mean(node, reward)


def slow_tempered(objective: TemperedFlow, slow: Slow, node: int, reward: Callable[[int], float]) -> float:
    ends = list(slow.ends(node))
    priors = [math.exp(by_token if objective.prior == "token_mean" else by_step) for *_, by_step, by_token in ends]
    weights = [prior**-objective.alpha for prior in priors]
    if objective.clip is not None:
        weights = [min(weight, objective.clip * min(weights)) for weight in weights]
    chances = [chance for _, _, chance, _, _ in ends]
    total = math.fsum(c * w * reward(end[0]) for c, w, end in zip(chances, weights, ends, strict=True))
    return total / (math.fsum(c * w for c, w in zip(chances, weights, strict=True)) if objective.self_normalised else 1)


def slow_weight(objective: NodeRegression, slow: Slow, node: int) -> float:
    if not slow.is_known(node):
        return 0.0
    weight = objective.leaf_weight if slow.is_end(node) else objective.inner_weight
    if isinstance(objective, McValue):
        return weight * sum(draws for _, draws, _, _, _ in slow.ends(node))
    return weight * (slow.draws(node) if objective.weigh == "draws" else 1)


def slow_deviance(objective: NodeRegression, output: float, target: float) -> float:
    bounds = objective.bounds(REWARDS)
    if objective.loss_name == "squared_log":
        return (output - math.log(target)) ** 2
    if objective.loss_name == "poisson":
        return (math.exp(output) - target - target * (output - math.log(target))) / bounds.right
    share, chance = (target - bounds.wrong) / (bounds.right - bounds.wrong), 1 / (1 + math.exp(-output))
    if objective.loss_name == "brier":
        return (chance - share) ** 2
    parts = ((share, chance), (1 - share, 1 - chance))
    return math.fsum(p * (math.log(p) - math.log(q)) for p, q in parts if p > 1e-15)


def slow_pairs(objective: Objective, slow: Slow) -> dict[tuple[int, int], float]:
    """(better, worse) -> chance that a draw below the one is right and below the other wrong."""

    def compared(i: int, j: int) -> bool:
        if isinstance(objective, SiblingRank):
            return slow.nodes[i].parent == slow.nodes[j].parent
        assert isinstance(objective, PairwiseRM)
        if slow.is_end(i) or slow.is_end(j):
            return slow.is_end(i) and slow.is_end(j)
        return objective.steps and depth(i) == depth(j)

    def depth(node: int) -> int:
        return 0 if node == 0 else 1 + depth(slow.nodes[node].parent)

    known = [node for node in range(1, len(slow.nodes)) if slow.is_known(node)]
    success = {node: slow.mean(node, lambda end: float(slow.is_right(end))) for node in known}
    chances = {(i, j): success[i] * (1 - success[j]) for i in known for j in known if i != j and compared(i, j)}
    return {pair: chance for pair, chance in chances.items() if chance > 0}


def slow_subtb(objective: SubTB, slow: Slow, output: Sequence[Sequence[float]]) -> float:
    """Over drawn paths, starts and ends of pieces."""

    def gain(node: int) -> float:
        siblings = slow.children(slow.nodes[node].parent)
        draws = {one: slow.nodes[one].num_draws for one in siblings}
        total = sum(count * math.exp(output[one][1]) for one, count in draws.items()) / sum(draws.values())
        return output[node][1] - math.log(total)

    loss = weight = 0.0
    for end in range(1, len(slow.nodes)):
        if not slow.is_end(end):
            continue
        path = [end]
        while path[0] > 0:
            path.insert(0, slow.nodes[path[0]].parent)
        log_reward = math.log(REWARDS.right if slow.is_right(end) else REWARDS.wrong)
        flows = [output[node][0] for node in path[:-1]] + [log_reward]
        squares, sizes = [], []
        for m in range(len(path)):
            for n in range(m + 1, len(path)):
                residual = flows[m] + sum(gain(path[j]) for j in range(m + 1, n + 1)) - flows[n]
                if objective.length_weight is None:
                    size = float(m == 0 and n == len(path) - 1)
                else:
                    size = objective.length_weight ** (n - m - 1)  # 0 ** 0 = 1: single steps
                squares.append(size * residual**2)
                sizes.append(size)
        draws = slow.draws(end)
        loss += draws * (sum(squares) / sum(sizes) + objective.leaf_weight * (output[end][0] - log_reward) ** 2)
        weight += draws * (1 + objective.leaf_weight)
    return loss / max(weight, 1e-12)


def slow_loss(objective: Objective, slow: Slow, output: Sequence[Sequence[float]]) -> float:
    if isinstance(objective, SubTB):
        return slow_subtb(objective, slow, output)
    if isinstance(objective, NodeRegression):
        terms = [
            (
                slow_weight(objective, slow, node),
                slow_deviance(objective, output[node][0], slow_target(objective, slow, node)),
            )
            for node in range(len(slow.nodes))
            if slow.is_known(node)
        ]
    else:
        terms = [
            (chance, math.log1p(math.exp(output[worse][0] - output[better][0])))
            for (better, worse), chance in slow_pairs(objective, slow).items()
        ]
    return sum(weight * loss for weight, loss in terms) / max(sum(weight for weight, _ in terms), 1e-12)


@for_each(REGRESSIONS)
@hypothesis_settings(max_examples=25, deadline=None)
@given(tree=trees())
def test_targets_and_weights_are_the_slow_loop(objective: NodeRegression, tree: ReasoningTree) -> None:
    slow, targets = Slow(tree), objective.targets(TreeFacts.of(tree), REWARDS)
    nodes = range(len(tree.nodes))
    np.testing.assert_allclose(targets["weight"], [slow_weight(objective, slow, node) for node in nodes], rtol=1e-12)
    for node in nodes:
        if targets["weight"][node] > 0:
            assert targets["target"][node] == pytest.approx(slow_target(objective, slow, node), rel=1e-9, abs=1e-12)


@for_each([SiblingRank(), PairwiseRM(), PairwiseRM(steps=False)])
@hypothesis_settings(max_examples=40, deadline=None)
@given(tree=trees())
def test_pairs_are_the_slow_loop(objective: Objective, tree: ReasoningTree) -> None:
    targets = objective.targets(TreeFacts.of(tree), REWARDS)
    pairs = zip(targets["better_index"].tolist(), targets["worse_index"].tolist(), strict=True)
    found = dict(zip(pairs, targets["weight"].tolist(), strict=True))
    expected = slow_pairs(objective, Slow(tree))
    assert len(found) == len(targets["weight"])
    assert {pair for pair, chance in found.items() if chance > 1e-12} == {p for p, c in expected.items() if c > 1e-12}
    for pair, chance in expected.items():
        assert found.get(pair, 0.0) == pytest.approx(chance, rel=1e-9, abs=1e-12)


@for_each([one for one in VARIANTS if one not in REGRESSIONS or one in MONTE_CARLO])
@hypothesis_settings(max_examples=25, deadline=None)
@given(tree=trees(), seed=st.integers(0, 99))
def test_loss_is_the_slow_loop(objective: Objective, tree: ReasoningTree, seed: int) -> None:
    output_NK = outputs(objective, len(tree.nodes), seed=seed)
    expected = slow_loss(objective, Slow(tree), output_NK.tolist())
    assert float(loss_of(objective, output_NK, tree)) == pytest.approx(expected, rel=1e-8, abs=1e-9)


@for_each([one for one in REGRESSIONS if one not in MONTE_CARLO])
@hypothesis_settings(max_examples=25, deadline=None)
@given(tree=trees(), seed=st.integers(0, 99))
def test_bootstrapped_loss_is_the_slow_loop(objective: NodeRegression, tree: ReasoningTree, seed: int) -> None:
    slow, output = Slow(tree), outputs(objective, len(tree.nodes), seed=seed)
    flow = objective.log_flow(output, REWARDS).exp().tolist()

    def target(node: int) -> float:
        children = slow.children(node)
        if slow.is_end(node):
            return slow_target(objective, slow, node)
        if isinstance(objective, RFM):
            return sum(
                flow[child] * (slow.draws(child) if objective.count_draws and slow.is_end(child) else 1)
                for child in children
            )
        total = sum(slow.draws(child) for child in children)
        return sum(flow[child] * slow.draws(child) / total for child in children)

    known = [node for node in range(len(tree.nodes)) if slow.is_known(node)]
    weights = [slow_weight(objective, slow, node) for node in known]
    losses = [slow_deviance(objective, float(output[node, 0]), target(node)) for node in known]
    expected = sum(w * x for w, x in zip(weights, losses, strict=True)) / max(sum(weights), 1e-12)
    assert float(loss_of(objective, output, tree)) == pytest.approx(expected, rel=1e-8, abs=1e-9)


# --- properties of all ------------------------------------------------------------------------------------------------


@for_each(VARIANTS)
def test_joined_trees_keep_to_themselves(objective: Objective) -> None:
    several = [letter_tree("a"), letter_tree("b", num_samples=2), letter_tree("c", merge=False)]
    sizes = [len(tree.nodes) for tree in several]
    output_NK = outputs(objective, sum(sizes))
    parts = [
        objective.loss(part, batch_of(objective, tree), REWARDS)
        for part, tree in zip(output_NK.split(sizes), several, strict=True)
    ]
    joined = objective.loss(output_NK, batch_of(objective, *several), REWARDS)
    assert float(joined.total) == pytest.approx(sum(float(part.total) for part in parts), rel=1e-12)
    assert float(joined.weight) == pytest.approx(sum(float(part.weight) for part in parts), rel=1e-12)


@for_each(VARIANTS)
def test_gradient_is_that_of_finite_differences(objective: Objective) -> None:
    several = [letter_tree("a"), letter_tree("b", num_samples=3)]
    batch = batch_of(objective, *several)
    output_NK = outputs(objective, sum(len(tree.nodes) for tree in several)).requires_grad_()
    assert torch.autograd.gradcheck(lambda output: objective.loss(output, batch, REWARDS).mean, output_NK, atol=1e-7)


@for_each(VARIANTS)
def test_loss_in_float32_is_that_of_float64(objective: Objective) -> None:
    batch = batch_of(objective, letter_tree("a"))
    output_NK = outputs(objective, len(letter_tree("a").nodes))
    single = objective.loss(output_NK.float(), batch, REWARDS).mean
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(float(objective.loss(output_NK, batch, REWARDS).mean), rel=1e-4)


LOST = tree_of(
    [step(StopReason.STOP, "a;"), step(StopReason.EOS, "right")],
    [step(StopReason.STOP, "a;"), step(StopReason.EOS, "no", 3)],
    [step(StopReason.STOP, "a;"), step(StopReason.ERROR, "", 0)],
    [step(StopReason.STOP, "b;", 2), step(StopReason.STOP, "c;", 2)],
    [step(StopReason.EOS, "no", 4)],
)


@pytest.mark.parametrize("rewards", [REWARDS, RewardSettings(right=0.5), RewardSettings(wrong=2.0)], ids=str)
@for_each(VARIANTS)
def test_failed_and_unexplored_nodes_take_no_part(objective: Objective, rewards: RewardSettings) -> None:
    """Whatever the head says there, up to overflow, and whatever the rewards are."""
    assert [node.text for node in LOST.nodes] == ["", "a;", "right", "no", "", "b;", "c;", "no"]
    lost = torch.tensor([False] * 4 + [True] * 3 + [False])
    batch = batch_of(objective, LOST, rewards=rewards)
    output_NK = outputs(objective, len(lost))
    loss = objective.loss(output_NK, batch, rewards).mean
    for value in (5.0, 1e4):
        elsewhere = torch.where(lost[:, None], value, output_NK).requires_grad_()
        same = objective.loss(elsewhere, batch, rewards).mean
        (slope,) = torch.autograd.grad(same, elsewhere)
        assert same.isfinite() and float(same.detach()) == float(loss)
        assert slope.isfinite().all() and not slope[lost].any() and slope[~lost].any()


@pytest.mark.parametrize("stop_gradient", [True, False])
@pytest.mark.parametrize("regression", ["squared_log", "poisson", "bce", "brier"])
@pytest.mark.parametrize("output", [-60.0, -25.0, 17.0, 25.0, 60.0])
def test_bootstrap_from_saturated_outputs_is_finite(output: float, regression: Any, stop_gradient: bool) -> None:
    """In float32 a mean of flows at the bounds comes out beyond them by rounding."""
    objective = MeanFlow(target="bootstrap", regression=regression, stop_gradient=stop_gradient)
    tree = letter_tree("a")
    output_NK = torch.full((len(tree.nodes), 1), output, requires_grad=True)
    loss = loss_of(objective, output_NK, tree)
    (slope,) = torch.autograd.grad(loss, output_NK)
    assert loss.isfinite() and slope.isfinite().all()


@pytest.mark.parametrize("loss", ["squared_log", "poisson", "bce", "brier"])
@pytest.mark.parametrize("bounds", [Bounds(10.0, 0.1), Bounds(1.0, 0.0), Bounds(0.5, 0.2)])
def test_deviance_is_zero_at_the_target_and_positive_elsewhere(loss: Any, bounds: Bounds) -> None:
    output = torch.linspace(-3, 3, 13, dtype=torch.float64)
    log_flow = linked_log_flow(loss, output, bounds)
    for index in range(len(output)):
        found = deviance(loss, output, log_flow.exp()[index].expand_as(output), bounds)
        assert abs(float(found[index])) < 1e-14
        assert (np.delete(found.numpy(), index) > 1e-6).all()
        assert (np.diff(found[index:].numpy()) > 0).all()


@pytest.mark.parametrize("loss", ["bce", "brier"])
def test_bounded_scores_stay_within_the_rewards(loss: Any) -> None:
    output = torch.tensor([-800.0, 0.0, 800.0], dtype=torch.float64)
    np.testing.assert_allclose(linked_log_flow(loss, output, Bounds(10.0, 0.1)).exp(), [0.1, 5.05, 10.0])
    np.testing.assert_allclose(linked_log_flow(loss, output, Bounds(1.0, 0.0)), [-800.0, math.log(0.5), 0.0])


# --- optima on the toy tree -------------------------------------------------------------------------------------------

PROPORTIONAL: ReasoningTree = RECIPE["proportional_tree"](MIXED, 1000)
"""Draws in exact proportion to pi_0: nothing is left to chance."""
STATES = states(MIXED, PROPORTIONAL)
INNER = [node.id for node in PROPORTIONAL.nodes if node.text.endswith(";")]


def head_output(objective: NodeRegression, flow: np.ndarray) -> torch.Tensor:
    """What the head says where F is `flow` [N]."""
    if objective.loss_name in ("squared_log", "poisson"):
        return torch.from_numpy(np.log(flow))[:, None]
    bounds = objective.bounds(REWARDS)
    share = (flow - bounds.wrong) / bounds.width
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.clip(np.log(share) - np.log1p(-share), -200, 200))[:, None]


def exact_flows(objective: NodeRegression) -> np.ndarray:
    toy = MIXED
    match objective:
        case RFM(count_draws=True):
            flow = np.where(toy.rewards > 0, toy.rewards, 1000 * toy.priors * toy.values)
        case RFM():
            flow = toy.flows
        case MeanFlow() | DebiasedFlow():
            flow = toy.values
        case LogMeanExp():
            flow = np.exp(objective.inverse_temperature * toy.log_mean_exp(objective.inverse_temperature))
        case TemperedFlow(self_normalised=True):
            flow = RECIPE["self_normalised_flow"](toy, objective.alpha)
        case TemperedFlow():
            flow = toy.tempered_flows(objective.alpha)
        case RestValue():
            flow = np.exp(RECIPE["CLAIMS"]["rest_value"].exact(toy))
        case _:
            flow = toy.success_probabilities
    return np.asarray(flow[STATES])


@for_each(
    [
        RFM(),
        RFM(regression="poisson"),
        RFM(count_draws=False),
        RFM(target="bootstrap"),
        RFM(target="bootstrap", stop_gradient=False, count_draws=False),
        *(MeanFlow(regression=loss) for loss in ("squared_log", "poisson", "bce", "brier")),
        MeanFlow(target="bootstrap"),
        DebiasedFlow(),
        *(LogMeanExp(inverse_temperature=scale) for scale in (0.1, 2.0, 10.0)),
        LogMeanExp(target="bootstrap", stop_gradient=False),
        *(
            TemperedFlow(alpha=alpha, self_normalised=False, clip=None, regression="poisson")
            for alpha in (0.0, 0.25, 1.0)
        ),
        *(TemperedFlow(alpha=alpha, clip=None) for alpha in (0.25, 1.0)),
        PointwisePRM(),
        Outcome(),
        McValue(),
        RestValue(),
    ]
)
def test_loss_is_zero_at_the_exact_values_and_only_there(objective: NodeRegression) -> None:
    output_NK = head_output(objective, exact_flows(objective))
    batch = batch_of(objective, PROPORTIONAL)
    assert float(objective.loss(output_NK, batch, REWARDS).mean) < 1e-12
    weight = batch["weight"].numpy()
    for node in INNER:
        off = output_NK.clone()
        off[node] += 0.5
        assert float(objective.loss(off, batch, REWARDS).total) > 1e-6 or weight[node] == 0


@pytest.mark.parametrize("length_weight", [0.0, 0.5, 0.9, 3.0, None])
def test_subtb_is_zero_at_the_value_and_the_posterior(length_weight: float | None) -> None:
    """log F = log V; with u = log V the selector is p(c | s) = pi_0(c | s) V(c) / V(s)."""
    log_value = torch.from_numpy(np.log(MIXED.values[STATES]))
    exact = torch.stack([log_value, log_value], dim=1)
    objective = SubTB(length_weight=length_weight)
    batch = batch_of(objective, PROPORTIONAL)
    assert float(objective.loss(exact, batch, REWARDS).mean) < 1e-24
    for column in (0, 1):
        off = exact.clone()
        off[1, column] += 0.5
        assert float(objective.loss(off, batch, REWARDS).mean) > 1e-4 or (length_weight is None and column == 0)


@for_each([SiblingRank(), PairwiseRM()])
def test_ranking_rests_where_differences_are_those_of_log_odds(objective: Objective) -> None:
    """The ends want infinite differences and are compared among themselves: only inner nodes can be at rest."""
    chance = np.clip(MIXED.success_probabilities[STATES], 1e-9, 1 - 1e-9)
    log_odds = torch.from_numpy(np.log(chance) - np.log1p(-chance))[:, None]
    batch = batch_of(objective, PROPORTIONAL)
    assert gradient(objective, log_odds, batch)[INNER].abs().max() < 1e-12
    off = log_odds.clone()
    off[1] += 0.5
    assert gradient(objective, off, batch)[INNER].abs().max() > 1e-3


def test_tempered_flow_at_zero_is_the_mean_flow_and_with_weights_of_one_path_the_reward() -> None:
    facts = [TreeFacts.of(toy_sample(toy)) for toy in TOYS]
    for one in facts:
        mean = MeanFlow().targets(one, REWARDS)["target"]
        for tempered in (TemperedFlow(alpha=0.0), replace(TEMPERED_SUM, alpha=0.0)):
            np.testing.assert_allclose(tempered.targets(one, REWARDS)["target"], mean, rtol=1e-12)


def test_log_mean_exp_runs_from_the_chance_to_be_right_to_whether_anything_is() -> None:
    facts = TreeFacts.of(toy_sample(TOYS[1]))

    def value(scale: float) -> np.ndarray:
        return np.log(LogMeanExp(inverse_temperature=scale).targets(facts, REWARDS)["target"]) / scale

    np.testing.assert_allclose(value(1e-3), facts.success, atol=1e-3)
    np.testing.assert_allclose(value(50.0), facts.num_right > 0, atol=math.log(100) / 50)


def test_progress_is_k_over_n_on_a_shortest_right_path_and_one_at_right_ends_only() -> None:
    for toy in [MIXED, *TOYS]:
        tree = toy_sample(toy)
        facts = TreeFacts.of(tree)
        value = RestValue().targets(facts, REWARDS)["target"]
        assert value[0] == 0.0
        np.testing.assert_array_equal(value == 1.0, facts.is_right)
        right = np.flatnonzero(facts.is_right)
        shortest = right[np.argmin(facts.depth[right])]
        path = [node.id for node in tree.path(int(shortest))]
        np.testing.assert_allclose(value[path], np.arange(1, len(path) + 1) / len(path), rtol=1e-12)


def test_progress_by_hand() -> None:
    """`a;` leads to a right end 2 steps away, so v = 1/2; its wrong end inherits 2: 1/2 - (1/2) / 2. `b;` is off the
    right paths and inherits 3 from the root: max(0, 0 - 1/3)."""
    tree = tree_of(
        [step(StopReason.STOP, "a;"), step(StopReason.EOS, "right")],
        [step(StopReason.STOP, "a;"), step(StopReason.EOS, "no", 2)],
        [step(StopReason.STOP, "b;", 3), step(StopReason.EOS, "no", 4)],
    )
    found = RestValue().targets(TreeFacts.of(tree), REWARDS)["target"]
    np.testing.assert_allclose(found, [0, 1 / 2, 1, 1 / 4, 0, 0])


def test_merging_weighs_by_draws() -> None:
    """Two draws of one right path and one of a wrong: 2/3 at the root, and weights that tell the draws."""
    tree = tree_of(*[[step(StopReason.EOS, "right")]] * 2, [step(StopReason.EOS, "no", 2)])
    facts = TreeFacts.of(tree)
    np.testing.assert_allclose(PointwisePRM().targets(facts, REWARDS)["target"], [2 / 3, 1, 0])
    assert PointwisePRM().targets(facts, REWARDS)["weight"].tolist() == [1, 1, 1]
    assert PointwisePRM(weigh="draws").targets(facts, REWARDS)["weight"].tolist() == [1, 2, 1]
    assert McValue().targets(facts, REWARDS)["weight"].tolist() == [3, 2, 1]


# --- sub-trajectory balance -------------------------------------------------------------------------------------------


def path_gains(tree: ReasoningTree, output: np.ndarray) -> dict[int, float]:
    slow = Slow(tree)
    gains = {}
    for node in range(1, len(tree.nodes)):
        siblings = slow.children(tree.nodes[node].parent)
        draws = np.array([tree.nodes[one].num_draws for one in siblings])
        gains[node] = output[node, 1] - math.log((draws / draws.sum() * np.exp(output[siblings, 1])).sum())
    return gains


def test_full_weight_is_trajectory_balance_and_none_is_detailed_balance() -> None:
    """TB: (log Z + sum of log p / pi_0 - log R)^2 for each drawn path. DB: the same for each of its steps."""
    tree = toy_sample(TOYS[2])
    output_NK = outputs(SubTB(), len(tree.nodes))
    output, gains = output_NK.numpy(), path_gains(tree, output_NK.numpy())
    balance, detailed, ends, num_draws = 0.0, 0.0, 0.0, 0
    for end in tree.leaves():
        draws = end.num_draws
        path = [node.id for node in tree.path(end.id)]
        log_reward = math.log(REWARDS.right if end.verdict and end.verdict.correct else REWARDS.wrong)
        flows = [*output[[0, *path[:-1]], 0], log_reward]
        steps = [above + gains[node] - below for above, node, below in zip(flows, path, flows[1:], strict=False)]
        balance += draws * (flows[0] + sum(gains[node] for node in path) - log_reward) ** 2
        detailed += draws * float(np.mean(np.square(steps)))
        ends += draws * (output[end.id, 0] - log_reward) ** 2
        num_draws += draws
    for length_weight, expected in ((None, balance), (0.0, detailed)):
        found = float(loss_of(SubTB(length_weight=length_weight), output_NK, tree))
        assert found == pytest.approx((expected + ends) / (2 * num_draws), rel=1e-10)
    nearly = float(loss_of(SubTB(length_weight=100.0), output_NK, tree))
    assert nearly == pytest.approx((balance + ends) / (2 * num_draws), rel=0.05)


@pytest.mark.parametrize("length_weight", [0.0, 0.9, 1.0, 100.0, None])
def test_subtb_of_long_paths_takes_a_number_or_two_a_node(length_weight: float | None) -> None:
    """Not one a pair of its steps. Weights of any size leave losses and slopes finite, in float32, too."""
    objective = SubTB(length_weight=length_weight)
    short, long = letters("ab" * 20, "c" * 33), letters("ab" * 500, "c" * 600)
    exact, output = slow_loss(objective, Slow(short), outputs(objective, 74).tolist()), outputs(objective, 74)
    assert float(loss_of(objective, output, short)) == pytest.approx(exact, rel=1e-12)
    assert float(loss_of(objective, output.float(), short)) == pytest.approx(exact, rel=1e-5)
    output, batch = outputs(objective, 1601), batch_of(objective, long)
    assert {len(values) for values in batch.values()} == {1601}
    slope, rounded = gradient(objective, output, batch), gradient(objective, output.float(), batch)
    assert slope.abs().max() > 0
    assert float((slope - rounded).norm() / slope.norm()) < 1e-4


# --- Reasoning Flow Matching, as in the paper -------------------------------------------------------------------------

RFM_FORMS = [RFM(), RFM(target="bootstrap"), RFM(target="bootstrap", stop_gradient=False)]


def observed_flows(toy: ToyTree, tree: ReasoningTree) -> np.ndarray:
    """The toy tree's own count. It has a leaf's draws in the leaf's flow already, RFM only in the sum of the parent."""
    flows, num_leaves = toy.observed(tree)
    is_leaf = ~np.isin(np.arange(len(tree.nodes)), [node.parent for node in tree.nodes])
    return np.where(is_leaf, flows / num_leaves, flows)


@for_each(RFM_FORMS)
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: f"{len(toy.parents)} nodes")
def test_rfm_is_zero_at_the_observed_flows_and_nowhere_near(toy: ToyTree, merge: bool, objective: RFM) -> None:
    tree = toy_sample(toy, merge=merge)
    batch = batch_of(objective, tree)
    exact = torch.from_numpy(np.log(observed_flows(toy, tree)))[:, None]
    assert float(objective.loss(exact, batch, REWARDS).mean) < 1e-24
    for node in range(len(tree.nodes)):  # one wrong flow, at whichever node, is seen: at least its own square
        wrong = exact.clone()
        wrong[node] += 0.5
        assert float(objective.loss(wrong, batch, REWARDS).mean) > 0.24 / len(tree.nodes)


@for_each([replace(one, count_draws=False) for one in RFM_FORMS])
def test_rfm_of_every_path_once_is_the_full_flow(objective: RFM) -> None:
    for toy in TOYS:
        tree = every_path_once(toy)
        flows = torch.from_numpy(np.log(toy.flows[states(toy, tree)]))[:, None]
        assert float(loss_of(objective, flows, tree)) < 1e-24


def test_rfm_bootstrapped_targets_settle_at_the_monte_carlo_targets() -> None:
    """From any start, each round of bootstrapping gets one more level right; a tree of depth d is done after d + 1."""
    for toy in TOYS:
        tree = toy_sample(toy)
        batch = batch_of(RFM(target="bootstrap"), tree)
        log_flow = outputs(RFM(), len(tree.nodes))[:, 0] * 3
        exact = batch["target"].log()
        for _ in range(max(tree.depths())):
            log_flow = RFM(target="bootstrap").batch_target(log_flow, batch, REWARDS).log()
            assert not torch.allclose(log_flow, exact, rtol=0, atol=1e-6)
        log_flow = RFM(target="bootstrap").batch_target(log_flow, batch, REWARDS).log()
        np.testing.assert_allclose(log_flow, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("leaf_weight", [1.0, 3.0])
@for_each(RFM_FORMS)
def test_rfm_gradient_is_the_hand_formula(objective: RFM, leaf_weight: float) -> None:
    """With r = log F - target, p the parent of i, n_i its draws, W the sum of the weights w:

    target held fixed:   dL/dF_i = 2 w_i r_i / W
    target moves too:    dL/dF_i = 2 (w_i r_i - w_p r_p n_i F_i / sum_{c of p} n_c F_c) / W
    """
    objective = replace(objective, leaf_weight=leaf_weight)
    tree = toy_sample(TOYS[2])
    batch, facts = batch_of(objective, tree), TreeFacts.of(tree)
    output_NK = outputs(objective, len(tree.nodes), seed=1)
    log_flow = output_NK[:, 0]
    weight = np.where(facts.is_terminal, leaf_weight, 1.0)
    weighted = weight * (log_flow - objective.batch_target(log_flow, batch, REWARDS).log()).numpy()
    expected = weighted.copy()
    if not objective.stop_gradient:
        counted = np.exp(log_flow.numpy()) * facts.leaf_draws
        sums = np.zeros(len(counted))
        np.add.at(sums, facts.parent[1:], counted[1:])
        for node in range(1, len(counted)):
            parent = facts.parent[node]
            expected[node] -= weighted[parent] * counted[node] / sums[parent]
    found = gradient(objective, output_NK, batch)[:, 0]
    np.testing.assert_allclose(found, 2 * expected / weight.sum(), rtol=1e-10, atol=1e-14)


def test_rfm_counts_draws_so_that_merged_and_unmerged_trees_have_the_same_root_flow() -> None:
    for toy in TOYS:
        merged, unmerged = toy_sample(toy), toy_sample(toy, merge=False)
        assert len(merged.nodes) < len(unmerged.nodes)
        expected = toy.observed(unmerged).flows[0]
        for tree in (merged, unmerged):
            found = RFM().targets(TreeFacts.of(tree), REWARDS)["target"]
            assert found[0] == pytest.approx(expected, rel=1e-12)
        once = RFM(count_draws=False).targets(TreeFacts.of(merged), REWARDS)["target"]
        np.testing.assert_allclose(once, toy.observed(merged, counted=False).flows, rtol=1e-12)
        assert once[0] < expected * 0.9


def test_rfm_terminal_flows_are_rewards_whatever_the_number_of_draws() -> None:
    tree = tree_of(*[[step(StopReason.EOS, "right")]] * 3, [step(StopReason.EOS, "no", 2)])
    np.testing.assert_allclose(RFM().targets(TreeFacts.of(tree), REWARDS)["target"], [30.1, 10, 0.1])
    other = RFM().targets(TreeFacts.of(tree), RewardSettings(right=1.0, wrong=0.25))["target"]
    np.testing.assert_allclose(other, [3.25, 1.0, 0.25])


def test_unfinished_leaf_is_wrong() -> None:
    """An unfinished path is no answer, even if a file claims that somebody judged it right."""
    tree = tree_of([step(StopReason.EOS, "right")], [step(StopReason.LENGTH, "right", 2)])
    claimed = replace(tree.nodes[2], verdict=Verdict(True, "right"))
    facts = TreeFacts.of(replace(tree, nodes=(*tree.nodes[:2], claimed)))
    assert facts.is_terminal.tolist() == [False, True, True]
    assert facts.is_right.tolist() == [False, True, False]
    np.testing.assert_allclose(RFM().targets(facts, REWARDS)["target"], [10.1, 10, 0.1])


def test_rfm_leaf_weight_weighs_terminals_against_inner_nodes() -> None:
    """One step, then a right end. log F is 1 at the step and 0 elsewhere; the target is log 10 everywhere."""
    tree = tree_of([step(StopReason.STOP, "a;"), step(StopReason.EOS, "right")])
    log_flow = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    square, near = math.log(10) ** 2, (math.log(10) - 1) ** 2
    for leaf_weight in (1.0, 4.0, 0.25):
        expected = (square + near + leaf_weight * square) / (2 + leaf_weight)
        assert float(loss_of(RFM(leaf_weight=leaf_weight), log_flow, tree)) == pytest.approx(expected, rel=1e-12)


# --- no two objectives are the same -----------------------------------------------------------------------------------


def letters(*words: str, forks: Sequence[tuple[int, str]] = ()) -> ReasoningTree:
    """Trunks, and forks (trunk, word) behind the first step; words with a `c` are right. All log-priors are -1, but a
    step `b;` has -2."""
    rollouts = [letter_rollout(index, word) for index, word in enumerate(words)]
    rollouts += [letter_rollout(10 + i, word, trunk=trunk, num_shared=1) for i, (trunk, word) in enumerate(forks)]
    tree = build_tree(Problem("p", "p"), rollouts, judge=holds_c)
    return replace(tree, nodes=tuple(replace(n, log_prior=-2.0) if n.text == "b;" else n for n in tree.nodes))


TREES = {
    "one right path": letters("ac"),
    "a right and a wrong path": letters("ac", "bb"),
    "a forked step": letters("ac", "ba", forks=[(0, "ab")]),
    "cousins": letters("ac", "ab", "bb", "bc", "bc"),
}


def learned(objective: Objective, tree: ReasoningTree) -> dict[str, Any]:
    """What a tree teaches, by aspect: of a regression the targets as shares of the bounds, and the weights."""
    targets = objective.targets(TreeFacts.of(tree), REWARDS)
    scale = objective.scale(REWARDS)
    if not isinstance(objective, NodeRegression):
        form = "paths" if isinstance(objective, SubTB) else "pairs"
        return {"form": form, "values": {key: value.tolist() for key, value in targets.items()}, "scale": scale}
    bounds = objective.bounds(REWARDS)
    trained = targets["weight"] > 0
    shares = np.where(trained, (targets["target"] - bounds.wrong) / bounds.width, 0.0)
    weights = targets["weight"] / targets["weight"].sum()
    return {
        "form": "nodes",
        "values": shares.round(9).tolist(),
        "weights": weights.round(9).tolist(),
        "scale": (scale, objective.loss_name),
    }


# For every two objectives of one form, a tree on which they differ, and in what.
DIFFERENT = {
    ("rfm", "mean_flow"): ("a right and a wrong path", "values"),
    ("rfm", "debiased_flow"): ("a right and a wrong path", "values"),
    ("rfm", "log_mean_exp"): ("a right and a wrong path", "values"),
    ("rfm", "tempered_flow"): ("a right and a wrong path", "values"),
    ("rfm", "pointwise_prm"): ("a right and a wrong path", "values"),
    ("rfm", "outcome"): ("one right path", "values"),
    ("rfm", "mc_value"): ("a right and a wrong path", "values"),
    ("rfm", "rest_value"): ("one right path", "values"),
    ("mean_flow", "debiased_flow"): ("a forked step", "values"),
    ("mean_flow", "log_mean_exp"): ("one right path", "scale"),
    ("mean_flow", "tempered_flow"): ("a right and a wrong path", "values"),
    ("mean_flow", "pointwise_prm"): ("one right path", "scale"),
    ("mean_flow", "outcome"): ("one right path", "values"),
    ("mean_flow", "mc_value"): ("a forked step", "values"),
    ("mean_flow", "rest_value"): ("one right path", "values"),
    ("debiased_flow", "log_mean_exp"): ("a forked step", "values"),
    ("debiased_flow", "tempered_flow"): ("a right and a wrong path", "values"),
    ("debiased_flow", "pointwise_prm"): ("a forked step", "values"),
    ("debiased_flow", "outcome"): ("one right path", "values"),
    ("debiased_flow", "mc_value"): ("a right and a wrong path", "weights"),
    ("debiased_flow", "rest_value"): ("one right path", "values"),
    ("log_mean_exp", "tempered_flow"): ("a right and a wrong path", "values"),
    ("log_mean_exp", "pointwise_prm"): ("one right path", "scale"),
    ("log_mean_exp", "outcome"): ("one right path", "values"),
    ("log_mean_exp", "mc_value"): ("a forked step", "values"),
    ("log_mean_exp", "rest_value"): ("one right path", "values"),
    ("tempered_flow", "pointwise_prm"): ("a right and a wrong path", "values"),
    ("tempered_flow", "outcome"): ("one right path", "values"),
    ("tempered_flow", "mc_value"): ("a right and a wrong path", "values"),
    ("tempered_flow", "rest_value"): ("one right path", "values"),
    ("sibling_rank", "pairwise_rm"): ("a right and a wrong path", "values"),
    ("pointwise_prm", "outcome"): ("one right path", "values"),
    ("pointwise_prm", "mc_value"): ("a forked step", "values"),
    ("pointwise_prm", "rest_value"): ("one right path", "values"),
    ("outcome", "mc_value"): ("one right path", "values"),
    ("outcome", "rest_value"): ("one right path", "values"),
    ("mc_value", "rest_value"): ("one right path", "values"),
}


def forms() -> dict[str, str]:
    return {name: learned(build_objective(name), TREES["cousins"])["form"] for name in OBJECTIVES}


@pytest.mark.parametrize(("one", "other"), list(combinations(OBJECTIVES, 2)))
def test_every_two_objectives_differ(one: str, other: str) -> None:
    """In form (targets of nodes, pairs of nodes, pieces of paths), or on the named tree in what the table says."""
    if forms()[one] != forms()[other]:
        assert (one, other) not in DIFFERENT
        return
    tree, aspect = DIFFERENT[one, other]
    first, second = (learned(build_objective(name), TREES[tree]) for name in (one, other))
    assert first[aspect] != second[aspect]


# --- options ----------------------------------------------------------------------------------------------------------


@for_each(VARIANTS)
def test_description_is_json_that_builds_the_same_objective(objective: Objective) -> None:
    read = json.loads(json.dumps(describe_objective(objective)))
    assert build_objective(read.pop("name"), read) == objective
    assert isinstance(objective.scale(REWARDS), ScoreScale)
    assert objective.paper and objective.num_outputs in (1, 2)


@pytest.mark.parametrize(
    ("name", "aggregation", "kind"),
    [
        ("rfm", "last", "log_flow"),
        ("mean_flow", "last", "log_flow"),
        ("pointwise_prm", "min", "log_value"),
        ("mc_value", "last", "log_value"),
        ("pairwise_rm", "min", "log_strength"),
        ("sibling_rank", "last", "log_strength"),
    ],
)
def test_scores_say_what_they_are(name: str, aggregation: str, kind: str) -> None:
    scale = build_objective(name).scale(RewardSettings(right=3.0, wrong=0.5))
    assert (scale.aggregation, scale.kind) == (aggregation, kind)
    if kind == "log_flow":
        assert (scale.reward_right, scale.reward_wrong) == (3.0, 0.5)
    assert PairwiseRM(steps=False).scale(REWARDS).aggregation == "last"
    assert LogMeanExp(inverse_temperature=1.0).scale(REWARDS).reward_right == pytest.approx(math.e)


@pytest.mark.parametrize(
    ("texts", "objective"),
    [
        (["leaf_weight=2", "target=bootstrap", "stop_gradient=false"],
         RFM(leaf_weight=2.0, target="bootstrap", stop_gradient=False)),
        (["clip=none", "alpha=.5", "prior=token_mean"], TemperedFlow(clip=None, alpha=0.5, prior="token_mean")),
        (["length_weight=none"], SubTB(length_weight=None)),
        (["max_pairs=10", "steps=false"], PairwiseRM(max_pairs=10, steps=False)),
    ],
    ids=["rfm", "tempered_flow", "subtb", "pairwise_rm"],
)  # fmt: skip
def test_options_of_the_command_line_build_the_objective(texts: list[str], objective: Objective) -> None:
    options = parse_options(OBJECTIVES[objective.name], texts, of=objective.name)
    assert build_objective(objective.name, options) == objective


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RewardSettings(wrong=0.0), "wrong=0.0"),
        (lambda: RewardSettings(right=0.1), "right=0.1"),
        (lambda: RewardSettings(right=math.inf), "right=inf"),
        (lambda: RewardSettings(wrong=math.nan), "wrong=nan"),
        (lambda: build_objective("flow"), "objective is 'flow'; allowed are rfm"),
        (lambda: build_objective("rfm", {"alpha": 1}), "no option 'alpha'"),
        (
            lambda: build_objective("rfm", {"target": "mean"}),
            "target is 'mean'; allowed are 'monte_carlo', 'bootstrap'",
        ),
        (lambda: build_objective("rfm", {"regression": "bce"}), "regression is 'bce'; allowed are 'squared_log'"),
        (lambda: build_objective("rfm", {"weigh": "leaves"}), "weigh is 'leaves'"),
        (lambda: RFM(leaf_weight=0.0), "leaf_weight is 0"),
        (lambda: RFM(leaf_weight=math.nan), "leaf_weight is nan"),
        (lambda: RFM(inner_weight=-1.0), "inner_weight is -1"),
        (lambda: RFM(inner_weight=math.inf), "inner_weight is inf"),
        (lambda: LogMeanExp(inverse_temperature=0.0), "inverse_temperature is 0"),
        (lambda: LogMeanExp(inverse_temperature=60.0), "inverse_temperature is 60"),
        (lambda: TemperedFlow(alpha=1.5), "alpha is 1.5; it must be finite, from 0 to 1"),
        (lambda: TemperedFlow(clip=0.5), "clip is 0.5"),
        (lambda: build_objective("tempered_flow", {"prior": "token"}), "prior is 'token'"),
        (lambda: TemperedFlow(self_normalised=False), "choose 'poisson' or 'squared_log'"),
        (lambda: SubTB(length_weight=-0.1), "length_weight is -0.1"),
        (lambda: SubTB(leaf_weight=0.0), "leaf_weight is 0"),
        (lambda: SiblingRank(max_pairs=0), "max_pairs is 0"),
        (lambda: PairwiseRM(max_pairs=0), "max_pairs is 0"),
        (lambda: Outcome(inner_weight=1.0), "inner_weight is 1"),
        (lambda: McValue(prior_right=-1.0), "prior_right is -1"),
        (lambda: McValue(weigh="draws"), "weigh is 'draws'; allowed are 'nodes'"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_many_pairs_are_represented_by_a_fixed_part_of_them() -> None:
    tree = toy_sample(TOYS[2])
    whole = PairwiseRM().targets(TreeFacts.of(tree), REWARDS)
    part = PairwiseRM(max_pairs=20).targets(TreeFacts.of(tree), REWARDS)
    again = PairwiseRM(max_pairs=20).targets(TreeFacts.of(tree), REWARDS)
    every = set(zip(*(whole[key].tolist() for key in ("better_index", "worse_index", "weight")), strict=True))
    kept = set(zip(*(part[key].tolist() for key in ("better_index", "worse_index", "weight")), strict=True))
    assert len(every) > 20 == len(kept) and kept < every
    assert all(np.array_equal(part[key], again[key]) for key in part)
