"""Advantages of steps, from the tree that a group of paths makes: TreePO, sibling, parent, root, segment, DeepSearch.

V(n) is the mean reward of the draws that run through node n. All are pure functions of the steps of a group and its
rewards; a step that several draws share has one value, and each of them carries it.

Shapes: G draws of a group, D steps of a path; "..." any number of groups. Steps are node ids, so that equal ids at one
depth mean an equal beginning.
"""

import numpy as np

from arts.facts import Bools, Floats, Ints
from arts.squeeze.advantages import mean_centred, over_spread


def _shared(steps_GD: Ints) -> Bools:
    """Do draws i and j run through the same node at depth d? Shape ...DGG."""
    steps_DG = np.swapaxes(steps_GD, -1, -2)
    return np.asarray(steps_DG[..., :, None] == steps_DG[..., None, :])


def _values(steps_GD: Ints, reward_G: Floats) -> tuple[Floats, Floats, Floats]:
    """V of each draw's nodes and the number of draws through them, ...GD each, and V of the root, ...1."""
    columns_G2 = np.stack([np.ones(reward_G.shape), reward_G], axis=-1)
    sums_DG2 = _shared(steps_GD).astype(np.float64) @ columns_G2[..., None, :, :]
    count, total = np.swapaxes(sums_DG2[..., 0], -1, -2), np.swapaxes(sums_DG2[..., 1], -1, -2)
    return total / count, count, reward_G.mean(axis=-1, keepdims=True)


def _above(value_GD: Floats, root_1: Floats) -> Floats:
    """V of the parent of each node. Shape ...GD."""
    first = np.broadcast_to(root_1[..., None], (*value_GD.shape[:-1], 1))
    return np.concatenate([first, value_GD[..., :-1]], axis=-1)


def parent(steps_GD: Ints, reward_G: Floats) -> Floats:
    """A(c) = V(c) - V(parent). Along a path they telescope to R - V(root), since V of an end is R. Shape ...GD."""
    value, _, root = _values(steps_GD, reward_G)
    return value - _above(value, root)


def root(steps_GD: Ints, reward_G: Floats) -> Floats:
    """A(c) = V(c) - V(root) (TreePS-RAG's process advantage without its local part). Shape ...GD."""
    value, _, mean = _values(steps_GD, reward_G)
    return np.asarray(value - mean[..., None])


def sibling(steps_GD: Ints, reward_G: Floats) -> Floats:
    """A(c) = (V(c) - mean_sib V) / std_sib V over the distinct siblings drawn; 0 where they are level (V-STAR).

    Shape ...GD.
    """
    value, count, _ = _values(steps_GD, reward_G)
    return _among_siblings(steps_GD, value, count, divide=True)


def _among_siblings(steps_GD: Ints, value_GD: Floats, count_GD: Floats, *, divide: bool) -> Floats:
    """Difference to the mean over distinct siblings: each draw counts one over the number of draws of its own node."""
    together = np.ones((*steps_GD.shape[:-1], steps_GD.shape[-2], 1), dtype=np.bool_)  # one parent: the root
    shared = np.moveaxis(_shared(steps_GD), -3, -1)  # ...GGD
    same_parent = np.concatenate([together, shared[..., :-1]], axis=-1)
    weight = same_parent / count_GD[..., None, :, :]
    total = weight.sum(axis=-2)
    mean = (weight * value_GD[..., None, :, :]).sum(axis=-2) / total
    difference = value_GD - mean
    if not divide:
        return np.asarray(difference)
    variance = (weight * (value_GD[..., None, :, :] - mean[..., :, None, :]) ** 2).sum(axis=-2) / total
    spread = np.sqrt(np.maximum(variance, 0.0))
    return over_spread(difference, spread)


def segment(steps_GD: Ints, reward_G: Floats) -> Floats:
    """A = V(next branching) - V(this branching) on all steps between the two (ROSE, without its length penalty).

    Between branchings V does not change, so only the first step of a segment would have it under `parent`. Shape ...GD.
    """
    value, count, root = _values(steps_GD, reward_G)
    above = _above(value, root)
    advantages = np.empty(value.shape)
    held, before = above[..., 0], np.full(count.shape[:-1], float(count.shape[-2]))
    for depth in range(value.shape[-1]):
        branched = count[..., depth] != before
        held = np.where(branched, above[..., depth], held)
        advantages[..., depth] = value[..., depth] - held
        before = count[..., depth]
    return advantages


def treepo(steps_GD: Ints, reward_G: Floats) -> Floats:
    """A_i = sum_d |G_d| (R_i - mean over G_d of R) / sum_d |G_d|, of whole paths.

    d = 0 is the whole group, G_d(i) the draws with i's first d steps; subgroups of one draw are left out (TreePO,
    before its batch whitening). Does not sum to zero: the denominators differ. Shape ...G.
    """
    value, count, root = _values(steps_GD, reward_G)
    group_size = reward_G.shape[-1]
    weight = np.where(count > 1, count, 0.0)
    total = group_size * (reward_G - root) + (weight * (reward_G[..., None] - value)).sum(axis=-1)
    return np.asarray(total / (group_size + weight.sum(axis=-1)))


def deep_search_values(steps_GD: Ints, end_G: Floats, num_steps: int) -> Floats:
    """q of every node after the draws were backed up one by one: q(s_i) += max(i / l, 0.1) q_end. Shape ...S.

    With a sign guard: a node above 0 is never lowered by a wrong end, and one below 0 starts anew at a right one
    (DeepSearch's backup).

    Args:
        end_G: q of each draw's end, +1 or -1.
        num_steps: number of nodes; steps are 0 .. num_steps - 1.
    """
    rows = int(np.prod(steps_GD.shape[:-2]))
    steps, ends = steps_GD.reshape(rows, *steps_GD.shape[-2:]), end_G.reshape(rows, -1)
    depth = steps.shape[-1]
    values, row = np.zeros((rows, num_steps)), np.arange(rows)
    for draw in range(steps.shape[1]):
        end = ends[:, draw]
        for place in range(depth):
            node = steps[:, draw, place]
            old, gain = values[row, node], max((place + 1) / depth, 0.1) * end
            added = np.where((old > 0) & (end < 0), old, np.where((old < 0) & (end > 0), gain, old + gain))
            values[row, node] = added
    return values.reshape(*steps_GD.shape[:-2], num_steps)


def deep_search(steps_GD: Ints, reward_G: Floats, num_steps: int) -> Floats:
    """A(c) = q(c) - mean of q over the distinct siblings drawn (DeepSearch's Tree-GRPO). Shape ...GD."""
    values = deep_search_values(steps_GD, 2 * reward_G - 1, num_steps)
    flat = steps_GD.reshape(*steps_GD.shape[:-2], -1)
    value = np.take_along_axis(values, flat, axis=-1).reshape(steps_GD.shape)
    _, count, _ = _values(steps_GD, reward_G)
    return _among_siblings(steps_GD, value, count, divide=False)


def truncated_step(score_G: Floats) -> Floats:
    """A = score - mean score of G next steps drawn behind one prefix, each scored as it stands (SLATE). Shape ...G.

    The score takes the place of a whole rollout's reward; where it is the exact value V of the step, the noise of all
    steps behind it is gone.
    """
    return mean_centred(score_G)
