"""Advantages of one group of whole paths: GRPO, and the cures that change the reward or the advantage.

Pure functions of arrays whose last axis is the group, so that any number of groups go at once. Each says where its
equation comes from and whether its advantages sum to zero, which the squeeze law needs. docs/squeeze.md has the table.

Shapes: G draws of a group; "..." any number of groups.
"""

import numpy as np

from arts.facts import Bools, Floats, Ints

_NO_CONTRAST = 1e-9


def grpo(reward_G: Floats) -> Floats:
    """A_i = (R_i - mean R) / std R; 0 in a group without contrast. Sums to zero. Shape ...G.

    Shao et al. 2024 (GRPO), with the population's standard deviation.
    """
    spread = reward_G.std(axis=-1, keepdims=True)
    return over_spread(mean_centred(reward_G), spread)


def over_spread(values: Floats, spread: Floats) -> Floats:
    """Values over a deviation; 0 where there is none."""
    return np.asarray(np.divide(values, spread, out=np.zeros(values.shape), where=spread > _NO_CONTRAST))


def mean_centred(reward_G: Floats) -> Floats:
    """A_i = R_i - mean R (GRPO without the division by std, "Dr. GRPO"). Sums to zero. Shape ...G."""
    return np.asarray(reward_G - reward_G.mean(axis=-1, keepdims=True))


def unlikeliness_reward(reward_G: Floats, log_prob_G: Floats, strength: float = 0.25) -> Floats:
    """R_i (1 - strength rank_i / G), rank 0 the least likely draw of the group: right draws that were likely earn less.

    "Rewarding the Unlikely". Wrong draws stay at 0. Equal draws share their mean rank. Shape ...G.
    """
    below = (log_prob_G[..., None, :] < log_prob_G[..., :, None]).sum(axis=-1)
    equal = (log_prob_G[..., None, :] == log_prob_G[..., :, None]).sum(axis=-1)
    rank = below + (equal - 1) / 2
    return np.asarray(reward_G * (1 - strength * rank / reward_G.shape[-1]))


def unlikeliness(reward_G: Floats, log_prob_G: Floats, strength: float = 0.25) -> Floats:
    """GRPO on the unlikeliness reward; groups of one outcome are dropped, as its authors do. Sums to zero. ...G."""
    mixed = reward_G.std(axis=-1, keepdims=True) > _NO_CONTRAST
    return np.where(mixed, grpo(unlikeliness_reward(reward_G, log_prob_G, strength)), 0.0)


def arm(
    reward_G: Floats, confidence_G: Floats, strength: float = 0.3, prompt_confidence: Floats | None = None
) -> Floats:
    """A_i + strength (c(q) - c(o_i | q)) where some draw of the group is right, else A_i (ARM, ProGRPO 2602.05281).

    Args:
        confidence_G: c(o | q), the mean confidence of a draw's tokens, from 0 to 1.
        prompt_confidence: c(q). A toy problem has no prompt: None takes the group's mean confidence, which keeps the
            sum at zero. With a model's own c(q) the sum is not zero, and the squeeze law does not hold.
    """
    prompt = confidence_G.mean(axis=-1, keepdims=True) if prompt_confidence is None else prompt_confidence[..., None]
    some_right = reward_G.sum(axis=-1, keepdims=True) > 0
    return np.asarray(grpo(reward_G) + np.where(some_right, strength * (prompt - confidence_G), 0.0))


def trajectory_balance(reward_G: Floats, log_prob_G: Floats, log_base_G: Floats, inverse_temperature: float) -> Floats:
    """A_i = x_i - mean x, x_i = beta R_i + log pi_0 - log pi: the slope of trajectory balance, log Z the group's mean.

    The loss (log Z + log pi - beta R - log pi_0)^2 has the slope -2 x_i in log pi(tau_i) with log Z = mean of
    beta R + log pi_0 - log pi, where it is least. FlowRL is the same with all three logs divided by the length (here
    equal for all paths), Kimi's mirror descent the same with the last policy in place of pi_0. The minimum is
    pi = pi_0 e^(beta R) / Z: right paths keep their proportions. Sums to zero. Shape ...G.
    """
    return mean_centred(inverse_temperature * reward_G + log_base_G - log_prob_G)


def masked_pairs(reward_G: Floats, distinct_GG: Bools) -> Floats:
    """A_i = (1/G) sum_j m_ij (R_i - R_j) / std R, m_ij whether the two draws are distinct enough.

    GRPO's A_i is this sum with m = 1; DaGRPO (2512.06337) masks pairs of a right and a wrong draw that are nearly the
    same, whose gradients cancel. The sum over pairs is our form of it; their distance is the score of a language model,
    here it is up to the caller. The mask is symmetric, so the sum stays zero. Shape ...G.
    """
    difference = reward_G[..., :, None] - reward_G[..., None, :]
    spread = reward_G.std(axis=-1, keepdims=True)
    total = (difference * distinct_GG).mean(axis=-1)
    return over_spread(total, spread)


def serial_decay_reward(right_G: Bools) -> Floats:
    """2^-(n - 1) for the n-th right exit of a chain, first exit first, and 0 for wrong ones (S-GRPO, 2505.07686).

    The group is one chain of thought that was made to answer at G places. Shape ...G.
    """
    return np.asarray(np.where(right_G, 0.5 ** (np.cumsum(right_G, axis=-1) - 1.0), 0.0))


def unsolved_greedily(log_policy_L: Floats, right_L: Bools) -> Bools:
    """Whether the most likely path is wrong: the problems that SELF trains on; the others are left out. Shape "..."."""
    best = log_policy_L.argmax(axis=-1)[..., None]
    return np.asarray(~np.take_along_axis(right_L, best, axis=-1)[..., 0])


def prefix_distance(steps_GD: Ints) -> Floats:
    """Share of steps behind the point where two paths part. Shape ...GG."""
    same = steps_GD[..., :, None, :] == steps_GD[..., None, :, :]
    return np.asarray(1.0 - same.mean(axis=-1))
