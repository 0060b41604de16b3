"""The rules that a tabular policy is trained by: GRPO and its cures, each as the credit of every logit.

A rule adds up what a group says (`advantages`, `tree_advantages`) and, for some, a term over all paths that the toy
tree makes exact, such as a divergence to the base policy. `cures` lists them as docs/squeeze.md compares them.

Shapes: L paths, S logits, G draws of a group; "..." runs and problems.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from arts.facts import Bools, Floats, Ints
from arts.squeeze.advantages import (
    arm,
    grpo,
    masked_pairs,
    mean_centred,
    prefix_distance,
    trajectory_balance,
    unlikeliness,
    unsolved_greedily,
)
from arts.squeeze.training import Group, Level, Rule, Situation
from arts.squeeze.tree_advantages import deep_search, parent, root, segment, sibling, treepo
from arts.tasks.toy import ToyTree

Divergence = Literal["forward_kl", "reverse_kl", "js"]


def by_advantages(advantages: Callable[[Group], Floats]) -> Rule:
    """A rule that looks at the group alone."""
    return lambda now: now.space.credit(now.group.paths, advantages(now.group))


def by_tree(advantages: Callable[[Ints, Floats], Floats]) -> Rule:
    """A rule that looks at the tree that the group makes."""
    return by_advantages(lambda group: advantages(group.tree_steps, group.reward))


grpo_rule = by_advantages(lambda group: grpo(group.reward))


# --- divergences ------------------------------------------------------------------------------------------------------


def divergence_credit(log_policy_L: Floats, log_base_L: Floats, kind: Divergence) -> Floats:
    """w with - grad D = sum_tau w(tau) grad log pi(tau), D the divergence between base and policy. Shape ...L.

        forward KL   D(pi_0 | pi) = sum pi_0 log(pi_0 / pi)          w = pi_0
        reverse KL   D(pi | pi_0) = sum pi log(pi / pi_0)            w = -pi log(pi / pi_0)
        JS           (KL(pi_0 | m) + KL(pi | m)) / 2, m the mean     w = -(pi / 2) log(pi / m)

    Constants in w beside pi fall out, as sum_tau pi grad log pi = 0. Forward KL covers mass: it pulls at every path
    that the base knew, however rare it is now (DPH-RL).
    """
    policy, base = np.exp(log_policy_L), np.exp(log_base_L)
    if kind == "forward_kl":
        return np.broadcast_to(base, policy.shape)
    if kind == "reverse_kl":
        return np.asarray(-policy * (log_policy_L - log_base_L))
    if kind == "js":
        return np.asarray(-0.5 * policy * (log_policy_L - np.log((policy + base) / 2)))
    raise ValueError(f"divergence is {kind!r}; allowed are 'forward_kl', 'reverse_kl' and 'js'")


def with_divergence(kind: Divergence, strength: float) -> Rule:
    """GRPO, and on every problem a divergence to the base policy, exact."""

    def rule(now: Situation) -> Floats:
        log_base = now.space.path_log_probs(now.space.log_prior_S)
        pull = divergence_credit(now.space.path_log_probs(now.log_p), log_base, kind)
        return grpo_rule(now) + strength * now.space.path_credit(pull)

    return rule


def dph(strength: float, perfect: float = 0.5) -> Rule:
    """DPH-RL: problems that the base solves with chance `perfect` or more only keep what they had, by forward KL; the
    others are trained without any divergence."""

    def rule(now: Situation) -> Floats:
        base = np.exp(now.space.path_log_probs(now.space.log_prior_S))
        rehearsed = ((base * now.right).sum(axis=-1) >= perfect)[..., None]
        return np.where(rehearsed, strength * now.space.path_credit(base), grpo_rule(now))

    return rule


def reweighted(log_base_L: Floats, right_L: Bools, right_weight: float) -> Floats:
    """pi_0 w(r) / Z: the base with right paths weighed `right_weight` times. Shape ...L."""
    weight = np.exp(log_base_L) * np.where(right_L, right_weight, 1.0)
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True))


def rapo(strength: float, right_weight: float = 2.0) -> Rule:
    """RAPO: GRPO and a forward KL to the base reweighted by reward. w(r) is open in what is public; here a free weight.

    With exact gradients of E[r] - beta KL(ref | pi) the maximum is `rapo_optimum`.
    """

    def rule(now: Situation) -> Floats:
        log_base = now.space.path_log_probs(now.space.log_prior_S)
        pull = reweighted(log_base, now.right, right_weight)
        return grpo_rule(now) + strength * now.space.path_credit(pull)

    return rule


def rapo_optimum(reference_L: Floats, reward_L: Floats, strength: float) -> Floats:
    """pi* = beta ref / (lambda - r), lambda > max r such that it sums to 1: all right paths rise by one factor."""
    low, high = float(reward_L.max()), float(reward_L.max()) + strength
    for _ in range(200):
        middle = (low + high) / 2
        if (strength * reference_L / np.maximum(middle - reward_L, 1e-300)).sum() > 1:
            low = middle
        else:
            high = middle
    policy = strength * reference_L / (high - reward_L)
    return np.asarray(policy / policy.sum())


# --- others' data, problems and values --------------------------------------------------------------------------------


def rl_plus(now: Situation) -> Floats:
    """RL-PLUS: the group by GRPO, and one right path from elsewhere, the rarest, with ratios that cannot explode.

    At every step of that path ratio = 2 p / (p_old + w), w = (p_old + 1) / 2, times its advantage (1 - mean R) / std R
    (of the group without it; 1 where the group has no contrast), times (1 - p)^0.5. The gradient of a ratio is ratio
    grad log p. The path counts as one draw, 1 / G.
    """
    log_base = now.space.path_log_probs(now.space.log_prior_S)
    outside = np.where(now.right, log_base, np.inf).argmin(axis=-1)[..., None]
    steps = now.space.steps_LD[outside]
    chance, drawn = (_at_steps(np.exp(log_p), steps) for log_p in (now.log_p, now.log_p_drawn))
    reward = now.group.reward
    spread = reward.std(axis=-1, keepdims=True)
    gain = np.divide(1 - reward.mean(axis=-1, keepdims=True), spread, out=np.ones(spread.shape), where=spread > 1e-9)
    ratio = 2 * chance / (drawn + (drawn + 1) / 2)
    weight = ratio * gain[..., None] * np.sqrt(1 - chance) / reward.shape[-1]
    return np.asarray(grpo_rule(now) + now.space.credit(outside, weight))


def _at_steps(values_S: Floats, steps_GD: Ints) -> Floats:
    """The value of each step of each path; 0 behind the end of a short one. Shape ...GD."""
    padded = np.concatenate([values_S, np.zeros((*values_S.shape[:-1], 1))], axis=-1)
    flat = steps_GD.reshape(*steps_GD.shape[:-2], -1)
    return np.take_along_axis(padded, flat, axis=-1).reshape(steps_GD.shape)


def self_filter(now: Situation) -> Floats:
    """SELF: GRPO on problems that greedy decoding does not solve, nothing on the others."""
    wanted = unsolved_greedily(now.space.path_log_probs(now.log_p), now.right)
    return np.where(wanted[..., None], grpo_rule(now), 0.0)


def rover(sharpness: float) -> Rule:
    """ROVER: regression of Q(s, a) = rho (log p - log p_old) on r + mean over a' of Q(s', a'). Credit: half its slope.

    r is the group's centred reward at every step. In the first step on a group all Q are 0, and the rule is
    `mean_centred` times rho: what is its own needs several steps a group (`inner_steps`).
    """

    def rule(now: Situation) -> Floats:
        value = sharpness * (now.log_p - now.log_p_drawn)
        mean = now.space.beside(value) / now.space.beside(np.ones(value.shape))
        steps = now.space.steps_LD[now.group.paths]
        own, beside = _at_steps(value, steps), _at_steps(mean, steps)
        below = np.concatenate([beside[..., 1:], np.zeros((*beside.shape[:-1], 1))], axis=-1)
        residual = mean_centred(now.group.reward)[..., None] + below - own
        return now.space.credit(now.group.paths, sharpness * residual)

    return rule


def uniform_policy_q(toy: ToyTree) -> Floats:
    """Q(s, a) of the uniformly random policy at every node, the value of going there: ROVER's theorem is about it. [S]

    On a tree with rewards of 0 and 1, the greedy path is right, and softmax(Q / rho) keeps every right path.
    """
    value = np.array(toy.right, dtype=np.float64)
    for node in range(len(toy.parents) - 1, -1, -1):
        if toy.children[node]:
            value[node] = value[list(toy.children[node])].mean()
    return value


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cure:
    name: str
    rule: Rule
    level: Level = "paths"
    inner_steps: int = 1


def _confidence(group: Group) -> Floats:
    """Geometric mean of the steps' probabilities."""
    return np.asarray(np.exp(group.log_prob / group.tree_steps.shape[-1]))


def _distinct(group: Group) -> Bools:
    """Paths that part before their last step."""
    return np.asarray(prefix_distance(group.tree_steps) > 1.5 / group.tree_steps.shape[-1])


def cures(toy: ToyTree) -> list[Cure]:
    """Every cure with the strength that the comparison uses; GRPO of both levels first."""
    nodes = len(toy.parents) - 1
    on_steps = {"parent": parent, "root": root, "sibling": sibling, "segment": segment, "TreePO": treepo}
    return [
        Cure("GRPO", grpo_rule),
        Cure("GRPO, step logits", grpo_rule, "steps"),
        Cure("mean-centred", by_advantages(lambda group: mean_centred(group.reward))),
        Cure("unlikeliness", by_advantages(lambda group: unlikeliness(group.reward, group.log_prob))),
        Cure("ROVER, 8 steps a group", rover(1.0), "steps", inner_steps=8),
        Cure("reverse KL", with_divergence("reverse_kl", 0.1)),
        Cure("forward KL", with_divergence("forward_kl", 0.1)),
        Cure("JS", with_divergence("js", 0.1)),
        Cure("DPH-RL", dph(0.1)),
        Cure("RAPO", rapo(0.1)),
        Cure(
            "TB / FlowRL",
            by_advantages(lambda group: trajectory_balance(group.reward, group.log_prob, group.log_base, 5.0)),
        ),
        *(Cure(name, by_tree(rule), "steps") for name, rule in on_steps.items()),
        Cure("DeepSearch", by_tree(lambda steps, reward: deep_search(steps, reward, nodes)), "steps"),
        Cure("ARM / ProGRPO", by_advantages(lambda group: arm(group.reward, _confidence(group)))),
        Cure("RL-PLUS", rl_plus, "steps"),
        Cure("SELF", self_filter),
        Cure("DaGRPO's mask", by_advantages(lambda group: masked_pairs(group.reward, _distinct(group))), "steps"),
    ]
