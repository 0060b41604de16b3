"""Where theory says by what law a strategy draws, it does: exact laws come from toy trees."""

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from strategy_runs import FLOWS, Grown, chi_square_fits, grow, total_variation

from arts.search.strategies.levels import ParticleFilter
from arts.search.strategies.sampling import FlowSampling, Tilted, ValueAugmented
from arts.search.strategies.soft import DTS, SoftValues
from arts.search.tree import SearchTree
from arts.tasks.toy import ToyTree

TOY = ToyTree.random(11, 3, 3)
# Paths end at every depth: b at once, ab and the others later.
UNEVEN = ToyTree.nested(
    {
        "a": (0.6, {"a": (0.5, {"a": (0.3, True), "b": (0.7, False)}), "b": (0.5, False)}),
        "b": (0.1, True),
        "c": (0.3, {"a": (0.2, False), "b": (0.8, {"a": (0.5, True), "b": (0.5, False)})}),
    }
)
TREES = pytest.mark.parametrize("toy", [TOY, UNEVEN], ids=["even", "uneven"])


def exact_flows(toy: ToyTree) -> list[float]:
    """log V: the mean flow, which a verifier that has learned everything would say."""
    return [float(flow) for flow in np.log(toy.values)]


def leaf_law(toy: ToyTree, weights: Counter[int]) -> list[float]:
    total = sum(weights.values())
    return [weights[leaf] / total for leaf in toy.leaves]


# --- dts --------------------------------------------------------------------------------------------------------------

SHARPNESS = 4.0
REWARDS = [random.Random(f"reward {node}").random() for node in range(len(TOY.parents))]
TILTED = np.array([TOY.priors[leaf] * math.exp(SHARPNESS * REWARDS[leaf]) for leaf in TOY.leaves])
FAR = total_variation(TOY.prior_law(), TILTED / TILTED.sum())  # 0.42: of draws that know nothing of the reward


def sampled(n: int, widening: float, strategy: type[DTS] = DTS) -> Grown:
    options = {"n": n, "widening": widening, "sharpness": SHARPNESS}
    return grow(strategy(**options), TOY, [math.log(reward) for reward in REWARDS], seed=3)


def test_soft_values_of_dts_tend_to_their_limit_and_its_descent_to_the_tilted_law() -> None:
    """v(root) = (1 / lambda) log E exp(lambda r), and a descent comes to an end x with pi_0(x) exp(lambda r(x)) / Z."""
    grown = sampled(8000, widening=0.75)
    soft, law = SoftValues(grown.tree, SHARPNESS), Counter[int]()

    def spread(node: int, chance: float) -> None:
        weights = soft.weights(node)
        if not weights:
            law[grown.places[node]] += chance  # type: ignore[assignment]
            return
        for child, weight in zip(grown.tree.children[node], weights, strict=True):
            spread(child, chance * weight / sum(weights))

    spread(0, 1.0)
    assert soft.draws[0] > 1000
    assert soft.value[0] == pytest.approx(math.log(TILTED.sum()) / SHARPNESS, abs=0.015)
    assert total_variation(leaf_law(TOY, law), TILTED / TILTED.sum()) < 0.06 < FAR / 6


def test_ends_that_dts_comes_to_tend_to_the_tilted_law() -> None:
    """Each rollout comes to an end, drawn anew or found again; the share of new ones vanishes, by n^widening / n."""
    found: list[int] = []

    class Seen(DTS):
        def descend(self, soft: SoftValues, node: int, rng: random.Random) -> int:
            child = super().descend(soft, node, rng)
            if soft.tree.is_answer(child):
                found.append(child)
            return child

    def distance(n: int) -> float:
        found.clear()
        grown = sampled(n, 0.5, Seen)
        ends = Counter(grown.places[node] for node in found)
        for node in range(1, len(grown.tree)):
            if not grown.tree.children[node]:
                ends[grown.places[node]] += grown.tree.num_draws[node]
        assert sum(ends.values()) == n
        return total_variation(leaf_law(TOY, ends), TILTED / TILTED.sum())

    assert distance(12000) < FAR / 3 < distance(200) < FAR


# --- flow sampling and value-augmented sampling -----------------------------------------------------------------------


def picked(strategy: Tilted, toy: ToyTree, log_scores: list[float], seed: int = 0) -> Counter[int]:
    """The ends that paths came to. A subclass notes them, as a strategy tells of its draws only."""
    ends: list[int] = []

    class Seen(type(strategy)):  # type: ignore[misc]
        def _pick(self, tree: SearchTree, children: list[int], rng: random.Random) -> int | None:
            node = super()._pick(tree, children, rng)
            if tree.is_answer(node):
                ends.append(node)
            return node  # type: ignore[no-any-return]

    options: Any = vars(strategy)
    grown = grow(Seen(**options), toy, log_scores, scale=FLOWS, seed=seed)
    return Counter(grown.places[end] for end in ends)


@TREES
def test_flow_sampling_with_many_candidates_draws_from_prior_times_reward(toy: ToyTree) -> None:
    """Of k candidates one is kept by F: pi_0 F / sum F up to O(1 / k), and step by step pi_0 R / Z."""
    many = picked(FlowSampling(paths=600, candidates=32), toy, exact_flows(toy))
    assert chi_square_fits([many[leaf] for leaf in toy.leaves], list(toy.path_law()))
    few = picked(FlowSampling(paths=600, candidates=1), toy, exact_flows(toy))
    assert chi_square_fits([few[leaf] for leaf in toy.leaves], list(toy.prior_law()))
    assert not chi_square_fits([many[leaf] for leaf in toy.leaves], list(toy.prior_law()))


@TREES
def test_value_augmented_keeps_steps_by_prior_times_exp_of_the_value(toy: ToyTree) -> None:
    """At each step pi_0(c) exp(beta V(c)) over its sum, the optimum of E V - KL / beta for that step alone."""
    beta, log_scores = 3.0, exact_flows(toy)
    values = (np.exp(log_scores) - 0.1) / 9.9
    tilted = np.array(toy.probabilities) * np.exp(beta * values)
    law = []
    for leaf in toy.leaves:
        steps = [tilted[node] / sum(tilted[one] for one in toy.children[toy.parents[node]]) for node in toy.path(leaf)]
        law.append(math.prod(steps))
    ends = picked(ValueAugmented(paths=600, candidates=32, beta=beta), toy, log_scores)
    assert chi_square_fits([ends[leaf] for leaf in toy.leaves], law)


# --- particles --------------------------------------------------------------------------------------------------------


@TREES
def test_particles_follow_prior_times_flow_at_every_level(toy: ToyTree) -> None:
    """Of n particles, n pi_0(s) V(s) / Z are at an open step s of a level; those that ended keep their share."""
    n = 6000
    posterior = toy.priors * toy.values / toy.values[0]
    grown = grow(ParticleFilter(n=n), toy, exact_flows(toy), scale=FLOWS)
    for level, wave in enumerate(grown.waves):
        counts = {grown.places[expand.node]: expand.count for expand in wave}
        for node in range(len(toy.parents)):
            if len(toy.path(node)) == level and toy.children[node]:
                p = posterior[node]
                assert abs(counts.get(node, 0) - n * p) < 5 * math.sqrt(n * p) + 1


def test_particles_tend_to_their_law_as_they_become_more() -> None:
    posterior = TOY.priors * TOY.values / TOY.values[0]
    steps = [node for node in range(len(TOY.parents)) if len(TOY.path(node)) == 2]

    def distance(n: int, seed: int) -> float:
        grown = grow(ParticleFilter(n=n), TOY, exact_flows(TOY), scale=FLOWS, seed=seed)
        counts = {grown.places[expand.node]: expand.count for expand in grown.waves[2]}
        return total_variation([counts.get(node, 0) / n for node in steps], posterior[steps])

    few, some, many = (sum(distance(n, seed) for seed in range(8)) / 8 for n in (20, 200, 2000))
    assert many < some / 2 < few / 4
