"""Every cure by hand, by autograd or by its own fixed point; then the claims, on toy trees."""

import numpy as np
import pytest
import torch

from arts.squeeze.advantages import (
    arm,
    grpo,
    masked_pairs,
    mean_centred,
    prefix_distance,
    serial_decay_reward,
    trajectory_balance,
    unlikeliness,
    unlikeliness_reward,
    unsolved_greedily,
)
from arts.squeeze.cures import (
    Cure,
    cures,
    divergence_credit,
    dph,
    grpo_rule,
    rapo_optimum,
    reweighted,
    rl_plus,
    rover,
    self_filter,
    uniform_policy_q,
)
from arts.squeeze.sweep import coupled_frontier, coupled_pass, outcome, random_trees, tree_outcomes
from arts.squeeze.tabular import PathSpace
from arts.squeeze.toy import coupled_problems
from arts.squeeze.training import Group, Problems, Situation, Training, train
from arts.squeeze.tree_advantages import (
    deep_search,
    deep_search_values,
    parent,
    root,
    segment,
    sibling,
    treepo,
    truncated_step,
)
from arts.tasks.toy import ToyTree

TOY = ToyTree.random(3, 3, 3)
# Two levels below the root: paths (0, 2), (0, 3), (1, 4), (1, 4); the third step is not branched.
STEPS = np.array([[0, 2, 6], [0, 3, 7], [1, 4, 8], [1, 4, 8]])
REWARD = np.array([1.0, 0.0, 0.0, 0.0])


def situation(level: str = "paths", *, moved: bool = False, group_size: int = 6, seed: int = 0) -> Situation:
    """A group of the toy tree; with `moved`, the policy has moved since it was drawn."""
    rng = np.random.default_rng(seed)
    problems = Problems.of(TOY)
    space = problems.space(level)
    drawn = space.log_prior_S[None, None]
    paths = rng.choice(len(TOY.leaves), size=(1, 1, group_size), p=TOY.prior_law())
    right = problems.right_PL[None]
    log_law = np.log(TOY.prior_law())
    group = Group(
        paths, right[0, 0][paths].astype(float), log_law[paths], log_law[paths], PathSpace.of_steps(TOY).steps_LD[paths]
    )
    now = space.normalised(drawn + rng.normal(scale=0.5, size=drawn.shape)) if moved else drawn
    return Situation(space, group, now, drawn, right)


# --- advantages of paths ----------------------------------------------------------------------------------------------


def test_grpo_by_hand() -> None:
    np.testing.assert_allclose(grpo(np.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])), [
        [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)], [1, 1, -1, -1], [0, 0, 0, 0],
    ])  # fmt: skip
    np.testing.assert_allclose(mean_centred(REWARD), [0.75, -0.25, -0.25, -0.25])


def test_unlikeliness_takes_from_likely_right_draws() -> None:
    reward, log_prob = np.array([1.0, 1.0, 0.0, 1.0]), np.array([-1.0, -3.0, -2.0, -2.0])
    np.testing.assert_allclose(unlikeliness_reward(reward, log_prob), [1 - 0.75 / 4, 1, 0, 1 - 0.375 / 4])
    advantages = unlikeliness(reward, log_prob)
    assert advantages[1] > advantages[3] > advantages[0] > 0 > advantages[2]
    np.testing.assert_array_equal(unlikeliness(np.ones(4), log_prob), np.zeros(4))  # dropped


def test_arm_takes_from_confident_answers_where_some_draw_is_right() -> None:
    confidence = np.array([0.9, 0.5, 0.5, 0.1])
    np.testing.assert_allclose(arm(REWARD, confidence, 0.5) - grpo(REWARD), [-0.2, 0, 0, 0.2])
    np.testing.assert_array_equal(arm(np.zeros(4), confidence, 0.5), np.zeros(4))
    with_prompt = arm(REWARD, confidence, 0.5, prompt_confidence=np.array(0.8))
    assert with_prompt.sum() == pytest.approx(0.5 * (4 * 0.8 - 2.0))  # no longer centred: the squeeze law is off


def test_trajectory_balance_rests_where_policy_is_the_tilted_base() -> None:
    base, right = TOY.prior_law(), Problems.of(TOY).right_PL[0]
    tilted = base * np.exp(2.0 * right)
    tilted /= tilted.sum()
    paths = np.array([0, 3, 7, 11, 25])
    at_rest = trajectory_balance(right[paths].astype(float), np.log(tilted)[paths], np.log(base)[paths], 2.0)
    np.testing.assert_allclose(at_rest, 0, atol=1e-12)


def test_trajectory_balance_is_the_slope_of_its_loss() -> None:
    log_prob = torch.tensor([-1.0, -2.0, -2.5, -4.0], dtype=torch.float64, requires_grad=True)
    log_base, reward = np.array([-1.5, -2.0, -2.0, -3.0]), REWARD
    offset = torch.tensor(2.0 * reward + log_base)
    residual = (offset - log_prob).mean() - (offset - log_prob)  # log Z at its best
    (slope,) = torch.autograd.grad(residual.square().sum(), log_prob)
    expected = trajectory_balance(reward, log_prob.detach().numpy(), log_base, 2.0)
    np.testing.assert_allclose(-slope.numpy() / 2, expected, atol=1e-12)


def test_masked_pairs_is_grpo_without_a_mask() -> None:
    np.testing.assert_allclose(masked_pairs(REWARD, np.ones((4, 4), dtype=bool)), grpo(REWARD))
    distinct = np.ones((4, 4), dtype=bool)
    distinct[0, 1] = distinct[1, 0] = False  # the right draw and one wrong draw are nearly the same
    spread = REWARD.std()
    np.testing.assert_allclose(masked_pairs(REWARD, distinct), np.array([0.5, 0.0, -0.25, -0.25]) / spread)


def test_prefix_distance_is_the_share_behind_the_parting() -> None:
    np.testing.assert_allclose(prefix_distance(STEPS)[0], [0, 2 / 3, 1, 1])


def test_serial_reward_halves_with_every_right_exit() -> None:
    right = np.array([False, True, True, False, True])
    np.testing.assert_array_equal(serial_decay_reward(right), [0, 1, 0.5, 0, 0.25])


def test_serial_reward_ends_earlier_at_the_same_accuracy() -> None:
    """S-GRPO's claim on a chain that knows its answer from the third of six exits on: a policy over exits."""
    right = np.arange(6) >= 2
    found = {}
    for name, reward in (("plain", right.astype(float)), ("serial", serial_decay_reward(right))):
        policy = np.full(6, 1 / 6)
        for _ in range(300):
            policy = policy * np.exp(0.5 / 6 * grpo(reward))  # the group is every exit once
            policy /= policy.sum()
        found[name] = policy
    assert found["serial"][right].sum() > 0.99 and found["plain"][right].sum() > 0.99
    assert found["serial"] @ np.arange(6) < 2.2 < found["plain"] @ np.arange(6)


def test_self_keeps_problems_that_greedy_decoding_does_not_solve() -> None:
    log_policy = np.log([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    right = np.array([[True, False, False], [True, False, False]])
    np.testing.assert_array_equal(unsolved_greedily(log_policy, right), [False, True])
    now = situation()
    solved = bool(now.right[0, 0, TOY.prior_law().argmax()])
    assert np.array_equal(self_filter(now), np.zeros_like(now.log_p)) == solved


# --- advantages of steps ----------------------------------------------------------------------------------------------


def test_tree_advantages_by_hand() -> None:
    """V: root 1/4, node 0 1/2, node 2 1, node 3 0, node 1 0."""
    half, quarter = 0.5, 0.25
    np.testing.assert_allclose(parent(STEPS, REWARD), [
        [quarter, half, 0], [quarter, -half, 0], [-quarter, 0, 0], [-quarter, 0, 0],
    ])  # fmt: skip
    np.testing.assert_allclose(root(STEPS, REWARD)[0], [quarter, 0.75, 0.75])
    # Siblings count once, however often they were drawn: node 0 and 1 have mean 1/4 and deviation 1/4.
    np.testing.assert_allclose(sibling(STEPS, REWARD), [[1, 1, 0], [1, -1, 0], [-1, 0, 0], [-1, 0, 0]])
    # Draws 2 and 3 never part: all their steps are one segment. Steps 2 and 3 of draw 0 are one.
    np.testing.assert_allclose(segment(STEPS, REWARD), [
        [quarter, half, half], [quarter, -half, -half], [-quarter] * 3, [-quarter] * 3,
    ])  # fmt: skip
    # Draw 0: (4 * 3/4 + 2 * 1/2) / 6. Draws 2 and 3: (4 * -1/4 + 0 + 0 + 0) / 10.
    np.testing.assert_allclose(treepo(STEPS, REWARD), [4 / 6, (-1 - 1) / 6, -0.1, -0.1])


def test_parent_advantages_telescope() -> None:
    rng = np.random.default_rng(0)
    steps = PathSpace.of_steps(TOY).steps_LD[rng.choice(27, size=(5, 12))]
    ends = rng.random(27)[steps[..., -1] - steps[..., -1].min()]  # one reward for each end
    reward = (ends > 0.5).astype(float)
    total = parent(steps, reward).sum(axis=-1)
    np.testing.assert_allclose(total, reward - reward.mean(axis=-1, keepdims=True), atol=1e-12)


def test_one_level_trees_give_mean_centred_advantages() -> None:
    steps = np.arange(4)[:, None]
    for rule in (parent, root, segment):
        np.testing.assert_allclose(rule(steps, REWARD)[:, 0], mean_centred(REWARD))
    np.testing.assert_allclose(treepo(steps, REWARD), mean_centred(REWARD))
    np.testing.assert_allclose(sibling(steps, REWARD)[:, 0], grpo(REWARD))


def test_deep_search_backs_up_with_a_sign_guard() -> None:
    """Two steps a path: weights 1/2 and 1. A wrong end never lowers node 0; a right one resets node 1."""
    steps = np.array([[0, 2], [0, 3], [1, 4], [1, 5]])
    np.testing.assert_allclose(deep_search_values(steps, np.array([1.0, -1, -1, 1]), 6), [0.5, 0.5, 1, -1, -1, 1])
    np.testing.assert_allclose(deep_search(steps, np.array([1.0, 0, 0, 1]), 6), [[0, 1], [0, -1], [0, -1], [0, 1]])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_truncated_steps_have_less_variance_than_whole_rollouts(seed: int) -> None:
    """SLATE: with the exact value as score, what remains is the noise of the choice itself. It says 1 / T at most."""
    toy = ToyTree.random(seed, 3, 4)
    rng = np.random.default_rng(seed)
    steps, law = PathSpace.of_steps(toy).steps_LD, toy.prior_law()
    right = Problems.of(toy).right_PL[0].astype(float)
    paths = rng.choice(len(law), size=(4000, 8), p=law)
    first = steps[paths][..., 0]
    value = toy.success_probabilities[first + 1]
    whole, short = mean_centred(right[paths]), truncated_step(value)
    chosen = first[..., None] == np.array(toy.children[0]) - 1
    variances = [(advantages[..., None] * chosen).mean(axis=1).var(axis=0).sum() for advantages in (whole, short)]
    assert variances[1] / variances[0] < 1 / 4


# --- terms over all paths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "js"])
def test_divergence_credits_are_their_gradients(kind: str) -> None:
    rng = np.random.default_rng(4)
    space, base = PathSpace.of_paths(TOY), TOY.prior_law()
    logits = torch.tensor(np.log(base) + rng.normal(size=27), requires_grad=True)
    log_policy, log_base = torch.log_softmax(logits, 0), torch.tensor(np.log(base))
    policy, prior = log_policy.exp(), log_base.exp()
    middle = ((policy + prior) / 2).log()
    value = {
        "forward_kl": (prior * (log_base - log_policy)).sum(),
        "reverse_kl": (policy * (log_policy - log_base)).sum(),
        "js": ((prior * (log_base - middle)).sum() + (policy * (log_policy - middle)).sum()) / 2,
    }[kind]
    (slope,) = torch.autograd.grad(value, logits)
    now = log_policy.detach().numpy()
    credit = space.path_credit(divergence_credit(now, np.log(base), kind))  # type: ignore[arg-type]
    np.testing.assert_allclose(space.gradient(now, credit), -slope.numpy(), atol=1e-12)
    with pytest.raises(ValueError, match="allowed are"):
        divergence_credit(now, np.log(base), "hellinger")  # type: ignore[arg-type]


def test_dph_rehearses_what_the_base_knows_and_trains_the_rest_freely() -> None:
    now = situation()
    np.testing.assert_array_equal(dph(0.1, perfect=1.0)(now), grpo_rule(now))
    rehearsal = dph(0.1, perfect=0.0)(now)
    np.testing.assert_allclose(now.space.gradient(now.log_p, rehearsal), 0, atol=1e-12)  # at the base there is no pull


def test_rapo_optimum_is_where_its_gradient_vanishes() -> None:
    right = Problems.of(TOY).right_PL[0]
    reference = reweighted(np.log(TOY.prior_law()), right, 2.0)
    best = rapo_optimum(reference, right.astype(float), 0.3)
    assert best.sum() == pytest.approx(1)
    slope = best * (right - best[right].sum()) + 0.3 * (reference - best)
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    np.testing.assert_allclose(best[right] / reference[right], (best / reference)[right][0])  # one factor for all right
    np.testing.assert_allclose(reweighted(np.log([0.5, 0.5]), np.array([True, False]), 3.0), [0.75, 0.25])


def test_rl_plus_is_the_gradient_of_its_ratios() -> None:
    now = situation("steps", moved=True)
    outside = int(np.where(now.right[0, 0], TOY.prior_law(), np.inf).argmin())
    steps = now.space.steps_LD[outside]
    logits = torch.tensor(now.log_p[0, 0], requires_grad=True)
    group = torch.tensor(now.space.group_S)
    log_p = torch.stack([logits[i] - torch.logsumexp(logits[group == group[i]], 0) for i in steps])
    drawn = torch.tensor(np.exp(now.log_p_drawn[0, 0, steps]))
    reward = now.group.reward[0, 0]
    gain = (1 - reward.mean()) / reward.std() if reward.std() > 0 else 1.0
    held = (1 - log_p.exp()).detach().sqrt()
    surrogate = (2 * log_p.exp() / (drawn + (drawn + 1) / 2) * gain * held).sum() / len(reward)
    (slope,) = torch.autograd.grad(surrogate, logits)
    own = now.space.gradient(now.log_p, rl_plus(now) - grpo_rule(now))[0, 0]
    np.testing.assert_allclose(own, slope.numpy(), atol=1e-12)


def test_rover_is_half_the_slope_of_its_regression() -> None:
    """With targets held fixed, and the first step on a group is plain mean-centred policy gradient."""
    now, sharpness = situation("steps", moved=True), 0.7
    space, paths = now.space, now.group.paths[0, 0]
    logits = torch.tensor(now.log_p[0, 0], requires_grad=True)
    log_p = torch.stack([logits[i] - torch.logsumexp(logits[torch.tensor(space.group_S == space.group_S[i])], 0)
                         for i in range(len(logits))])  # fmt: skip
    value = sharpness * (log_p - torch.tensor(now.log_p_drawn[0, 0]))
    mean = [value[torch.tensor(space.group_S == group)].mean().item() for group in space.group_S]
    loss = torch.zeros((), dtype=torch.float64)
    for path, reward in zip(paths, mean_centred(now.group.reward)[0, 0], strict=True):
        steps = space.steps_LD[path]
        for place, step in enumerate(steps):
            below = mean[steps[place + 1]] if place + 1 < len(steps) else 0.0
            loss = loss + (value[step] - (float(reward) + below)) ** 2
    (slope,) = torch.autograd.grad(loss / len(paths), logits)
    credit = rover(sharpness)(now)[0, 0]
    np.testing.assert_allclose(space.gradient(now.log_p[0, 0], credit), -slope.numpy() / 2, atol=1e-10)
    first = situation("steps")
    plain = first.space.credit(first.group.paths, mean_centred(first.group.reward))
    np.testing.assert_allclose(rover(sharpness)(first), sharpness * plain)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_values_of_the_uniform_policy_lead_to_a_right_end(depth: int) -> None:
    """ROVER's theorem: greedy is right, and at every state the right branches have value and the hopeless none."""
    for seed in range(100):
        toy = ToyTree.random(seed, 3, depth)
        value, node = uniform_policy_q(toy), 0
        while toy.children[node]:
            node = max(toy.children[node], key=lambda child: value[child])
        assert toy.right[node]
        np.testing.assert_array_equal(value > 0, toy.success_probabilities > 0)


# --- training ---------------------------------------------------------------------------------------------------------


def test_right_mass_of_one_problem_never_falls_under_grpo_on_path_logits() -> None:
    """Right draws only gain and wrong ones only lose, so pass@k of a problem rises at every k: a path-level squeeze
    takes rare right paths, and never the problem."""
    problems = Problems.of(ToyTree.random(1, 4, 3))
    kept = train(problems, grpo_rule, Training(updates=60, group_size=4), num_runs=20, keep_every=1)
    chance = np.stack([(np.exp(log_policy[:, 0]) * problems.right_PL[0]).sum(axis=-1) for log_policy in kept])
    assert (np.diff(chance, axis=0) > -1e-12).all()


def test_training_repeats_itself_and_tells_settings_that_make_no_sense() -> None:
    problems = Problems.drawn(TOY, num_easy=1, num_usual=1, num_rare=1)
    one, other = (train(problems, grpo_rule, Training(updates=5), num_runs=2, seed=7)[-1] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(np.exp(one).sum(axis=-1), 1.0)
    for name, value in (("group_size", 1), ("learning_rate", 0.0), ("updates", -1), ("problem_coupling", 2.0)):
        with pytest.raises(ValueError, match=name):
            Training(**{name: value})  # type: ignore[arg-type]


def test_coupled_problems_without_coupling_are_independent() -> None:
    """Other problems change a problem's update where they are coupled, and only there."""
    problems = Problems.drawn(TOY, num_easy=1, num_usual=1, num_rare=2)
    changed = Problems(TOY, np.concatenate([problems.right_PL[:1], ~problems.right_PL[1:]]))
    for coupling, same in ((0.0, True), (0.5, False)):
        training = Training(updates=1, problem_coupling=coupling)
        one, other = (train(these, grpo_rule, training, num_runs=3)[-1][:, 0] for these in (problems, changed))
        assert np.allclose(one, other) == same


@pytest.mark.parametrize("cure", cures(TOY), ids=lambda cure: cure.name)
def test_every_cure_learns(cure: Cure) -> None:
    problems = Problems.of(TOY)
    kept = train(problems, cure.rule, Training(updates=30), num_runs=4, level=cure.level, inner_steps=cure.inner_steps)
    before, after = ((np.exp(one) * problems.right_PL).sum(axis=-1).mean() for one in kept)
    assert after > before + 0.1 or cure.name == "SELF"  # which stops where greedy decoding is right


# --- claims -----------------------------------------------------------------------------------------------------------

KEEPS_MORE = ("unlikeliness", "reverse KL", "forward KL", "RAPO", "TB / FlowRL", "ARM / ProGRPO")
"""On path-level logits, against GRPO at equal updates; the others of them are level or lose (docs/squeeze.md)."""


@pytest.fixture(scope="module")
def rare_found() -> dict[str, np.ndarray]:
    """Share of the rare right paths that 64 draws find after training, one number a tree."""
    trees, training = random_trees(6), Training(updates=100)
    rows = {}
    for cure in cures(trees[0]):
        if cure.name in ("GRPO", *KEEPS_MORE):
            rows[cure.name] = tree_outcomes(trees, cure, training, 6, 0)[:, 2]
    return rows


@pytest.mark.parametrize("name", KEEPS_MORE)
def test_claim_holds_more_rare_right_paths_are_found_than_after_grpo(
    name: str, rare_found: dict[str, np.ndarray]
) -> None:
    assert (rare_found[name] > rare_found["GRPO"]).sum() >= 5  # of 6 trees


@pytest.mark.parametrize("name", ["JS", "RL-PLUS"])
def test_claim_does_not_hold_about_as_few_are_found_as_after_grpo(name: str) -> None:
    trees, training = random_trees(6), Training(updates=100)
    of = {cure.name: cure for cure in cures(trees[0])}
    level = "GRPO" if of[name].level == "paths" else "GRPO, step logits"
    found, grpo_found = (outcome(trees, of[one], training, num_runs=6).rare_found.value for one in (name, level))
    assert abs(found - grpo_found) < 0.02


def test_trajectory_balance_keeps_most_of_all(rare_found: dict[str, np.ndarray]) -> None:
    assert max(rare_found, key=lambda name: rare_found[name].mean()) == "TB / FlowRL"
    assert rare_found["TB / FlowRL"].mean() > 10 * rare_found["GRPO"].mean()


@pytest.mark.parametrize(
    ("name", "is_more_than_less_training"),
    [("TB / FlowRL", True), ("forward KL", True), ("unlikeliness", True), ("mean-centred", False), ("parent", False)],
)
def test_pass_at_64_of_coupled_problems_at_equal_pass_at_1(name: str, is_more_than_less_training: bool) -> None:
    """All five end with more pass@64 than GRPO at equal updates; two of them because they have learned less."""
    problems = coupled_problems()
    training = Training(learning_rate=0.06, updates=100, problem_coupling=0.5)
    cure = next(one for one in cures(problems.toy) if one.name == name)
    found = coupled_pass(problems, cure, training, num_runs=2)
    frontier = coupled_frontier(
        problems, Training(learning_rate=0.06, updates=20, problem_coupling=0.5), cure.level, num_runs=2
    )
    of_grpo = coupled_pass(problems, Cure("GRPO", grpo_rule, cure.level), training, num_runs=2)
    assert found[64].value > of_grpo[64].value
    assert (frontier.less_at(found[1].value, found[64].value) > 0.02) == is_more_than_less_training
