"""The squeeze law is an identity between a real update, taken by autograd, and the old policy alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arts.squeeze.tabular import (
    PathSpace,
    alpha,
    cutoff,
    expected_advantages,
    expected_delta,
    prefix_kernel,
    random_kernel,
    ratio,
    tempered,
)
from arts.tasks.toy import ToyTree

TOY = ToyTree.random(3, 3, 3)
RAGGED = ToyTree.nested({"a": (0.5, True), "b": (0.3, {"a": (0.2, True), "b": (0.8, False)}), "c": (0.2, False)})


def right_of(toy: ToyTree) -> np.ndarray:
    return np.array(toy.right)[list(toy.leaves)]


def centred(reward: np.ndarray) -> np.ndarray:
    return reward - reward.mean()


def path_update(policy: np.ndarray, paths: np.ndarray, advantages: np.ndarray, rate: float) -> np.ndarray:
    """The policy after one real update of path-level logits, by autograd."""
    logits = torch.tensor(np.log(policy), requires_grad=True)
    surrogate = (torch.tensor(advantages) * torch.log_softmax(logits, 0)[torch.tensor(paths)]).mean()
    (slope,) = torch.autograd.grad(surrogate, logits)
    return torch.softmax(logits.detach() + rate * slope, 0).numpy()


def step_update(toy: ToyTree, paths: np.ndarray, advantages: np.ndarray, rate: float) -> np.ndarray:
    """Path probabilities after one real update of step-level logits, by autograd."""
    logits = torch.tensor(np.log(toy.probabilities), requires_grad=True)

    def path_log_probs(values: torch.Tensor) -> torch.Tensor:
        total = {0: torch.zeros((), dtype=torch.float64)}
        for node, children in enumerate(toy.children):
            if children:
                log_p = torch.log_softmax(values[list(children)], 0)
                total |= {child: total[node] + log_p[place] for place, child in enumerate(children)}
        return torch.stack([total[leaf] for leaf in toy.leaves])

    surrogate = (torch.tensor(advantages) * path_log_probs(logits)[torch.tensor(paths)]).mean()
    (slope,) = torch.autograd.grad(surrogate, logits)
    return path_log_probs(logits.detach() + rate * slope).exp().numpy()


@given(seed=st.integers(0, 10_000), group_size=st.integers(2, 12), rate=st.floats(0.01, 5.0))
@settings(max_examples=60, deadline=None)
def test_law_of_unsampled_paths_is_an_identity(seed: int, group_size: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    policy = TOY.prior_law()
    paths = rng.choice(len(policy), size=group_size, p=policy)
    advantages = centred(rng.normal(size=group_size))  # any real rewards, so both signs of alpha occur
    after = path_update(policy, paths, advantages, rate)
    unsampled = np.setdiff1d(np.arange(len(policy)), paths)
    predicted = policy[unsampled] / (1 + alpha(policy, paths, advantages, rate))
    np.testing.assert_allclose(after[unsampled], predicted, rtol=1e-12)


@pytest.mark.parametrize(("likely_is_right", "sign"), [(True, 1), (False, -1)])
def test_unsampled_paths_pay_or_gain_by_the_sign_of_alpha(likely_is_right: bool, sign: int) -> None:
    policy = np.array([0.6, 0.1, 0.1, 0.2])
    paths = np.array([0, 1, 0, 1])
    advantages = centred(np.array([1.0, 0.0, 1.0, 0.0]) if likely_is_right else np.array([0.0, 1.0, 0.0, 1.0]))
    found = alpha(policy, paths, advantages, 2.0)
    after = path_update(policy, paths, advantages, 2.0)
    assert np.sign(found) == sign
    np.testing.assert_allclose(after[2:] / policy[2:], 1 / (1 + found), rtol=1e-12)


def test_law_by_hand() -> None:
    """Half the mass on one right path, drawn once of two: delta = eta / 4 and - eta / 4."""
    policy = np.array([0.5, 0.25, 0.25])
    rate = 4 * np.log(2)  # e^delta = 2 and 1/2
    found = alpha(policy, np.array([0, 1]), np.array([0.5, -0.5]), rate)
    assert found == pytest.approx(0.5 * 1 + 0.25 * -0.5)
    np.testing.assert_allclose(path_update(policy, np.array([0, 1]), np.array([0.5, -0.5]), rate)[2], 0.25 / 1.375)


def test_law_breaks_where_advantages_do_not_sum_to_zero() -> None:
    policy, paths, reward = TOY.prior_law(), np.array([0, 5, 9]), np.array([1.0, 1.0, 0.0])
    after = path_update(policy, paths, reward, 1.0)
    unsampled = np.setdiff1d(np.arange(len(policy)), paths)
    ratios = after[unsampled] / policy[unsampled]
    assert np.ptp(ratios) > 1e-3  # no single factor: each pays by its own likelihood
    predicted = 1 / (1 + alpha(policy, paths, reward, 1.0))
    assert np.abs(ratios - predicted).max() > 1e-2
    space = PathSpace.of_paths(TOY)  # the general ratio still holds
    delta = space.gradient(space.log_prior_S, space.credit(paths, reward))
    np.testing.assert_allclose(after / policy, ratio(space, space.log_prior_S, delta), rtol=1e-12)


@pytest.mark.parametrize("toy", [TOY, RAGGED], ids=["complete", "ragged"])
@pytest.mark.parametrize("level", ["paths", "steps"])
def test_closed_form_update_is_that_of_autograd(toy: ToyTree, level: str) -> None:
    rng = np.random.default_rng(1)
    space = PathSpace.of_paths(toy) if level == "paths" else PathSpace.of_steps(toy)
    policy = toy.prior_law()
    for rate in (0.1, 3.0):
        paths = rng.choice(len(policy), size=8, p=policy)
        advantages = rng.normal(size=8)
        delta = rate * space.gradient(space.log_prior_S, space.credit(paths, advantages))
        update = (
            path_update(policy, paths, advantages, rate)
            if level == "paths"
            else step_update(toy, paths, advantages, rate)
        )
        after = np.exp(space.path_log_probs(space.normalised(space.log_prior_S + delta)))
        np.testing.assert_allclose(after, update, rtol=1e-12)
        np.testing.assert_allclose(policy * ratio(space, space.log_prior_S, delta), update, rtol=1e-12)


def test_step_logits_of_an_unsampled_path_move_where_it_shares_a_state() -> None:
    """prod_s e^delta / (1 + alpha_s); only a path whose first step was never drawn keeps to the law at the root."""
    space, policy = PathSpace.of_steps(TOY), TOY.prior_law()
    inside = [leaf for leaf in range(len(policy)) if TOY.path(TOY.leaves[leaf])[0] == TOY.children[0][0]]
    paths = np.array([inside[0], inside[0], inside[4], TOY.leaves.index(TOY.leaves[-1])])
    advantages = centred(np.array([1.0, 1.0, 0.0, 0.0]))
    delta = 2.0 * space.gradient(space.log_prior_S, space.credit(paths, advantages))
    after = step_update(TOY, paths, advantages, 2.0)
    growth = np.exp(space.log_prior_S) * np.expm1(delta)
    alpha_root = growth[space.group_S == space.group_S[0]].sum()
    middle = [leaf for leaf in range(len(policy)) if TOY.path(TOY.leaves[leaf])[0] == TOY.children[0][1]]
    np.testing.assert_allclose(after[middle] / policy[middle], 1 / (1 + alpha_root), rtol=1e-12)
    sharing = [leaf for leaf in inside if leaf not in paths]
    assert np.ptp(after[sharing] / policy[sharing]) > 0.01


def test_per_step_advantages_that_are_equal_are_advantages_of_the_path() -> None:
    space = PathSpace.of_steps(RAGGED)
    paths, advantages = np.array([[0, 1, 3], [2, 2, 1]]), np.array([[1.0, 0.5, -1.5], [0.2, 0.0, -0.2]])
    per_step = np.repeat(advantages[..., None], space.steps_LD.shape[1], axis=-1)
    np.testing.assert_allclose(space.credit(paths, per_step), space.credit(paths, advantages))


@pytest.mark.parametrize("group_size", [2, 5, 16])
@pytest.mark.parametrize("chance", [0.0, 0.03, 0.5, 0.9])
def test_expected_advantages_are_centred_and_match_enumeration(chance: float, group_size: int) -> None:
    above, below = expected_advantages(chance, group_size)
    assert chance * above + (1 - chance) * below == pytest.approx(0, abs=1e-12)
    rng = np.random.default_rng(0)
    reward = (rng.random((20_000, group_size)) < chance).astype(float)
    reward[:, 0] = 1.0
    spread = reward.std(axis=1)
    sampled = np.divide(1 - reward.mean(axis=1), spread, out=np.zeros(len(reward)), where=spread > 0)
    assert sampled.mean() == pytest.approx(above, abs=5 * sampled.std() / 141 + 1e-9)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_expected_update_is_the_mean_of_sampled_ones(temperature: float) -> None:
    rng = np.random.default_rng(2)
    space, right, policy = PathSpace.of_paths(TOY), right_of(TOY), TOY.prior_law()
    paths = rng.choice(len(policy), size=(40_000, 4), p=tempered(policy, temperature))
    reward = right[paths].astype(float)
    spread = reward.std(axis=1, keepdims=True)
    advantages = np.divide(
        reward - reward.mean(axis=1, keepdims=True), spread, out=np.zeros(reward.shape), where=spread > 0
    )
    deltas = space.gradient(space.log_prior_S, space.credit(paths, advantages))
    expected = expected_delta(policy, right, group_size=4, temperature=temperature)
    error = deltas.std(axis=0) / 200
    seen = tempered(policy, temperature) > 1e-3  # of the others too few draws to tell
    assert seen.sum() > 10 and (np.abs(deltas.mean(axis=0) - expected) < 5 * error)[seen].all()


@given(seed=st.integers(0, 500), group_size=st.sampled_from([2, 8, 64]), temperature=st.sampled_from([0.6, 1.0, 1.5]))
@settings(max_examples=60, deadline=None)
def test_right_paths_gain_in_expectation_exactly_above_the_cutoff(
    seed: int, group_size: int, temperature: float
) -> None:
    toy = ToyTree.random(seed, 3, 3)
    policy, right = toy.prior_law(), right_of(toy)
    rate = 1e-7
    delta = expected_delta(policy, right, group_size=group_size, learning_rate=rate, temperature=temperature)
    growth = (delta - np.log1p(policy @ np.expm1(delta))) / rate
    fall = float(policy @ delta) / rate  # E[alpha] to first order
    margin = tempered(policy, temperature) - cutoff(policy, right, temperature=temperature)
    above, _ = expected_advantages(float(tempered(policy, temperature)[right].sum()), group_size)
    np.testing.assert_allclose(growth[right], above * margin[right], atol=1e-6)
    assert fall == pytest.approx(above * cutoff(policy, right, temperature=temperature))


def test_there_is_no_squeeze_where_wrong_answers_are_the_more_concentrated() -> None:
    policy = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    one_big_mistake = np.array([False, True, True, True, True, True])
    assert cutoff(policy, one_big_mistake) < 0 < cutoff(policy, ~one_big_mistake)


def test_coupling_moves_paths_that_were_not_sampled() -> None:
    """With shared features the paper's independence fails: a path beside a rewarded one gains with it."""
    policy = TOY.prior_law()
    space = PathSpace.of_paths(TOY)
    paths, advantages = np.array([0, 26]), np.array([1.0, -1.0])
    gradient = space.gradient(space.log_prior_S, space.credit(paths, advantages))
    free = ratio(space, space.log_prior_S, gradient @ prefix_kernel(TOY, 0.0))
    unsampled = np.arange(1, 26)
    np.testing.assert_allclose(free[unsampled], 1 / (1 + alpha(policy, paths, advantages, 1.0)), rtol=1e-12)
    coupled = ratio(space, space.log_prior_S, gradient @ prefix_kernel(TOY, 0.5))
    assert coupled[1] > coupled[9] > coupled[25]  # beside the rewarded path, beside neither, beside the punished one
    for kernel in (prefix_kernel(TOY, 0.5), random_kernel(27, 8, 0.5, 0)):
        np.testing.assert_allclose(np.diag(kernel), 1.0)
        assert np.linalg.eigvalsh(kernel).min() > 0
    with pytest.raises(ValueError, match="from 0 to 1"):
        prefix_kernel(TOY, 1.5)
