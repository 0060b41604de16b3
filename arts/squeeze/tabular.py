"""Exact dynamics of a softmax policy over the paths of a toy tree, under policy gradients of sampled groups.

A policy is a table of logits in groups of siblings. *Step-level* logits are those of the tree's steps; *path-level*
logits are one group of all paths, as in the paper (section on the normalization squeeze). For a group of G sampled
paths with advantages A_i the update is that of (1/G) sum_i A_i log pi(tau_i), in closed form, with a logit's credit

    c_a = (1/G) sum_{i uses a} A_i        delta_a = eta (c_a - pi_a sum_{b beside a} c_b)

Path-level, with advantages that sum to zero, the second term vanishes. Then a path that was not sampled keeps its
logit, and pi_{k+1}(tau) = pi_k(tau) / (1 + alpha_k) with alpha_k = sum_{sampled} pi_k (e^delta - 1): the squeeze law.
Knows no reward but right and wrong, no cure and no model; autograd is in the tests, as the identity's other side.

Shapes: L paths, S logits, D steps of the longest path, G draws of a group; "..." any number of runs or problems.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from arts.facts import Bools, Floats, Ints
from arts.tasks.toy import ToyTree


@dataclass(frozen=True, eq=False)
class PathSpace:
    """The logits of a policy over paths, and which of them each path uses."""

    steps_LD: Ints
    "logits along each path, first step first; S, a place that does not exist, behind the end of a short path"
    group_S: Ints
    "number of the group of siblings that a logit belongs to"
    log_prior_S: Floats
    "log-probability of each logit's step under the base policy"

    @classmethod
    def of_steps(cls, toy: ToyTree) -> "PathSpace":
        """One logit for every step of the tree: a softmax at every inner node."""
        paths = [[node - 1 for node in toy.path(leaf)] for leaf in toy.leaves]
        num_logits, depth = len(toy.parents) - 1, max(map(len, paths))
        steps = [path + [num_logits] * (depth - len(path)) for path in paths]
        _, group = np.unique(toy.parents[1:], return_inverse=True)
        return cls(np.array(steps), group, np.log(toy.probabilities[1:]))

    @classmethod
    def of_paths(cls, toy: ToyTree) -> "PathSpace":
        """One logit for every path: a single softmax. The paper's setting."""
        num_paths = len(toy.leaves)
        return cls(np.arange(num_paths)[:, None], np.zeros(num_paths, dtype=np.int64), np.log(toy.prior_law()))

    @cached_property
    def _member_SC(self) -> Floats:
        return np.asarray(self.group_S[:, None] == np.arange(self.group_S.max() + 1), dtype=np.float64)

    @cached_property
    def member_LS(self) -> Floats:
        """1 where a path uses a logit."""
        member = np.zeros((len(self.steps_LD), len(self.group_S) + 1))
        np.put_along_axis(member, self.steps_LD, 1.0, axis=1)
        return member[:, :-1]

    def beside(self, values_S: Floats) -> Floats:
        """Sum over the siblings of each logit, itself included. Shape ...S."""
        totals: Floats = (values_S @ self._member_SC)[..., self.group_S]
        return totals

    def normalised(self, logits_S: Floats) -> Floats:
        """Log-probability of every step, from logits that are log-probabilities up to moderate changes. Shape ...S."""
        return logits_S - np.log(self.beside(np.exp(logits_S)))

    def path_log_probs(self, log_p_S: Floats) -> Floats:
        """log pi of every path. Shape ...L."""
        return log_p_S @ self.member_LS.T

    def credit(self, paths_G: Ints, advantages: Floats) -> Floats:
        """c_a of every logit. Shape ...S.

        Args:
            paths_G: the sampled paths, ...G.
            advantages: of whole paths, ...G, or of every step of each, ...GD.
        """
        whole = advantages.ndim == paths_G.ndim
        steps_GD = self.steps_LD[paths_G]
        advantages_GD = np.broadcast_to(advantages[..., None] if whole else advantages, steps_GD.shape)
        num_rows, num_places = int(np.prod(paths_G.shape[:-1])), len(self.group_S) + 1
        place = steps_GD.reshape(num_rows, -1) + num_places * np.arange(num_rows)[:, None]
        sums = np.bincount(place.ravel(), advantages_GD.ravel(), num_rows * num_places)
        return np.asarray(sums.reshape(*paths_G.shape[:-1], num_places)[..., :-1] / paths_G.shape[-1])

    def gradient(self, log_p_S: Floats, credit_S: Floats) -> Floats:
        """Gradient of sum_a c_a log pi_a in the logits: c_a - pi_a sum_{b beside a} c_b. Shape ...S."""
        return credit_S - np.exp(log_p_S) * self.beside(credit_S)

    def path_credit(self, weight_L: Floats) -> Floats:
        """Credit of a term sum_tau w(tau) log pi(tau) over all paths, as divergences have. Shape ...S."""
        return weight_L @ self.member_LS


# --- the law ----------------------------------------------------------------------------------------------------------


def alpha(policy_L: Floats, paths_G: Ints, advantages_G: Floats, learning_rate: float) -> float:
    """alpha_k = sum_{tau sampled} pi_k(tau) (e^delta(tau) - 1), from the old policy and one group alone.

    With delta(tau) = eta (1/G) sum over the draws i of tau of A_i: what the update of a path-level logit is where the
    advantages sum to zero. Above 0 where the sampled paths gain mass together, and all others pay.
    """
    total = np.zeros(len(policy_L))
    np.add.at(total, paths_G, advantages_G)
    delta_L = learning_rate * total / len(paths_G)
    return float(np.sum(policy_L * np.expm1(delta_L)))


def ratio(space: PathSpace, log_p_S: Floats, delta_S: Floats) -> Floats:
    """pi_{k+1}(tau) / pi_k(tau) of every path: prod_s e^delta(s, a) / (1 + alpha_s). Shape ...L.

    alpha_s = sum_a pi(a | s) (e^delta(s, a) - 1) at each state s of the path. Path-level there is one state; where
    delta(tau) = 0 besides, this is the squeeze law.
    """
    growth_S = delta_S - np.log1p(space.beside(np.exp(log_p_S) * np.expm1(delta_S)))
    return np.exp(growth_S @ space.member_LS.T)


# --- expected updates -------------------------------------------------------------------------------------------------


def expected_advantages(chance_right: float, group_size: int) -> tuple[float, float]:
    """(a+, a-): the expected advantage of a right and of a wrong draw under GRPO's group normalisation.

    With k of the other G - 1 draws right, k ~ Bin(G - 1, p), and m the mean of the whole group:

        a+ = E[(1 - m) / sqrt(m (1 - m))], m = (k + 1) / G        a- = -E[m / sqrt(m (1 - m))], m = k / G

    A group without contrast counts 0. They are centred: p a+ + (1 - p) a- = 0.
    """
    others = np.arange(group_size)
    chances = np.exp(_log_binomial(others, group_size - 1, chance_right))
    with_right, with_wrong = (others + 1) / group_size, others / group_size
    right = np.where(with_right < 1, np.sqrt((1 - with_right) / with_right), 0.0)
    odds = np.divide(with_wrong, 1 - with_wrong, out=np.zeros(group_size), where=with_wrong < 1)
    return float(chances @ right), -float(chances @ np.sqrt(odds))


def _log_binomial(count: NDArray[np.int64], total: int, chance: float) -> Floats:
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(count > 0, count * np.log(chance), 0.0)
        misses = np.where(count < total, (total - count) * np.log1p(-chance), 0.0)
    return np.asarray(log_factorial[total] - log_factorial[count] - log_factorial[total - count] + hits + misses)


def expected_delta(
    policy_L: Floats, right_L: Bools, *, group_size: int, learning_rate: float = 1.0, temperature: float = 1.0
) -> Floats:
    """The expected change of every path-level logit in one GRPO update: eta q(tau) a±, q the law that is drawn from."""
    law_L = tempered(policy_L, temperature)
    above, below = expected_advantages(float(law_L[right_L].sum()), group_size)
    return learning_rate * law_L * np.where(right_L, above, below)


def cutoff(policy_L: Floats, right_L: Bools, *, temperature: float = 1.0) -> float:
    """The high-pass filter's cut-off: to first order in eta, a right path gains in expectation where q(tau) > cut-off.

        cut-off = p (E[pi | right] - E[pi | wrong]),   p = q(right), expectations of pi(tau) under q

    It follows from d log pi(tau) = eta (q(tau) a+ - sum_sigma pi q a±) with p a+ + (1 - p) a- = 0, and depends neither
    on the group's size nor on the learning rate. Below 0 where wrong answers are the more concentrated: no right path
    falls then.
    """
    law_L = tempered(policy_L, temperature)
    chance = float(law_L[right_L].sum())
    if not 0 < chance < 1:
        raise ValueError(f"the chance to be right is {chance:g}; a cut-off needs right and wrong paths")
    overlap_L = law_L * policy_L
    return float(overlap_L[right_L].sum() - chance / (1 - chance) * overlap_L[~right_L].sum())


def tempered(policy_L: Floats, temperature: float) -> Floats:
    """q = pi^(1/T) / Z, the law of draws at temperature T. Shape ...L."""
    with np.errstate(divide="ignore"):
        logits = np.log(policy_L) / temperature
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


# --- coupling ---------------------------------------------------------------------------------------------------------


def prefix_kernel(toy: ToyTree, coupling: float) -> Floats:
    """(1 - kappa) 1 + kappa K with K(tau, sigma) the share of steps that two paths begin with alike. Shape LL.

    Path-level logits that are a linear function of shared features, theta = Phi w, change by eta Phi Phi^T g where free
    ones change by eta g: Phi Phi^T is this kernel. kappa = 0 is the paper's assumption that paths are independent.
    """
    _check_coupling(coupling)
    member = PathSpace.of_steps(toy).member_LS
    depth = member.sum(axis=1)
    shared = member @ member.T / np.sqrt(depth[:, None] * depth)
    return np.asarray((1 - coupling) * np.eye(len(member)) + coupling * shared)


def random_kernel(num_paths: int, num_features: int, coupling: float, seed: int) -> Floats:
    """The same with features that mean nothing: K = Phi Phi^T, rows of Phi random of length 1. Shape LL."""
    _check_coupling(coupling)
    features = np.random.default_rng(seed).normal(size=(num_paths, num_features))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return (1 - coupling) * np.eye(num_paths) + coupling * features @ features.T


def _check_coupling(coupling: float) -> None:
    if not 0 <= coupling <= 1:
        raise ValueError(f"coupling is {coupling}; it is the share of a gradient that features share, from 0 to 1")
