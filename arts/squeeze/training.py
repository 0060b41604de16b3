"""Many updates of a tabular policy on sampled groups: runs side by side, problems with or without a shared part.

One rule says what a group teaches: it turns a `Situation` into the credit of every logit (`arts/squeeze/cures.py` has
the rules). Everything else, drawing, groups, coupling, steps, is written once. What is measured on the policies that
come out is here too: exact chances, no samples.

Shapes: R runs, P problems, L paths, S logits, G draws of a group, D steps of a path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from arts.facts import Bools, Floats, Ints
from arts.squeeze.tabular import PathSpace
from arts.tasks.toy import ToyTree

Level = Literal["paths", "steps"]
"""The logits of a policy: one for every path, or one for every step of the tree."""
EASY = 0.6  # chance of the base on an easy problem, at least
RARE = 1 / 64  # a path is rare when the base is less likely than this to draw it


@dataclass(frozen=True, eq=False)
class Problems:
    """P problems over the paths of one toy tree: all start from its probabilities, and differ in what is right."""

    toy: ToyTree
    right_PL: Bools

    @classmethod
    def of(cls, toy: ToyTree) -> "Problems":
        """One problem: the tree with its own right leaves."""
        return cls(toy, np.array([[toy.right[leaf] for leaf in toy.leaves]]))

    @classmethod
    def drawn(
        cls, toy: ToyTree, *, num_easy: int, num_usual: int, num_rare: int, num_right: int = 2, seed: int = 0
    ) -> "Problems":
        """Problems of three kinds, in this order.

        Easy: right paths drawn by pi_0 until the base is right with a chance of `EASY`. Usual: `num_right` paths drawn
        by pi_0, so that what the policy does anyway solves them. Rare: as many drawn uniformly, so that rare paths do.
        """
        rng = np.random.default_rng(seed)
        law = toy.prior_law()
        right = np.zeros((num_easy + num_usual + num_rare, len(law)), dtype=np.bool_)
        for row in right[:num_easy]:
            while law[row].sum() < EASY:
                row[rng.choice(len(law), p=law)] = True
        for number, row in enumerate(right[num_easy:]):
            by = law if number < num_usual else None
            row[rng.choice(len(law), size=num_right, replace=False, p=by)] = True
        return cls(toy, right)

    def space(self, level: Level) -> PathSpace:
        return PathSpace.of_paths(self.toy) if level == "paths" else PathSpace.of_steps(self.toy)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a tabular policy is trained."""

    group_size: int = 16
    "draws of a problem in one update, G"
    learning_rate: float = 1.0
    "eta, in units of logits: a path drawn once with advantage 1 moves by eta / G"
    temperature: float = 1.0
    "of the law that groups are drawn from; the gradient is that of log pi at temperature 1"
    updates: int = 200
    problem_coupling: float = 0.0
    """kappa: the share of a logit's gradient that goes to all problems at once, as theta = w + v(problem) has it with
    shared w: delta = eta ((1 - kappa) g + kappa sum over problems of g). 0: every problem has logits of its own."""

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(f"group_size is {self.group_size}; a group needs at least 2 draws to compare")
        if self.updates < 0:
            raise ValueError(f"updates is {self.updates}; it must be at least 0")
        if not (self.learning_rate > 0 and self.temperature > 0):
            raise ValueError(
                f"learning_rate {self.learning_rate} and temperature {self.temperature} must both be above 0"
            )
        if not 0 <= self.problem_coupling <= 1:
            raise ValueError(f"problem_coupling is {self.problem_coupling}; it must be from 0 to 1")


class Group(NamedTuple):
    """One group of each problem of each run."""

    paths: Ints
    "...G"
    reward: Floats
    "1 right, 0 wrong; ...G"
    log_prob: Floats
    "log pi of the policy that drew it, at temperature 1; ...G"
    log_base: Floats
    "log pi_0; ...G"
    tree_steps: Ints
    "steps of the tree along each path, whatever the logits are; ...GD"


class Situation(NamedTuple):
    """All that a rule may look at."""

    space: PathSpace
    group: Group
    log_p: Floats
    "of every logit's step, now; ...S"
    log_p_drawn: Floats
    "when the group was drawn: equal to `log_p` in the first of several steps on one group"
    right: Bools
    "...L"


Rule = Callable[[Situation], Floats]
"""The credit of every logit, ...S, whose gradient is then gone up."""


def train(
    problems: Problems,
    rule: Rule,
    training: Training,
    *,
    num_runs: int,
    seed: int = 0,
    level: Level = "paths",
    kernel: Floats | None = None,
    inner_steps: int = 1,
    keep_every: int | None = None,
) -> list[Floats]:
    """log pi of every path, [R, P, L]: at the start, every `keep_every` updates, and at the end.

    Args:
        kernel: Phi Phi^T of shared features (`prefix_kernel`); None: independent logits.
        inner_steps: updates on each group, of eta / inner_steps each.
    """
    rng = np.random.default_rng(seed)
    space, tree_steps = problems.space(level), PathSpace.of_steps(problems.toy).steps_LD
    shape = (num_runs, len(problems.right_PL))
    log_p = np.broadcast_to(space.log_prior_S, (*shape, len(space.log_prior_S)))
    log_base_L = space.path_log_probs(space.log_prior_S)
    right = np.broadcast_to(problems.right_PL, (*shape, problems.right_PL.shape[1]))
    kept = [space.path_log_probs(log_p)]
    for update in range(1, training.updates + 1):
        log_policy = space.path_log_probs(log_p)
        paths = draw(space, log_p, training, rng)
        group = Group(
            paths,
            np.take_along_axis(right, paths, axis=-1).astype(np.float64),
            np.take_along_axis(log_policy, paths, axis=-1),
            log_base_L[paths],
            tree_steps[paths],
        )
        drawn = log_p
        for _ in range(inner_steps):
            credit = rule(Situation(space, group, log_p, drawn, right))
            delta = training.learning_rate / inner_steps * space.gradient(log_p, credit)
            if kernel is not None:
                delta = delta @ kernel
            if training.problem_coupling:
                shared = delta.sum(axis=-2, keepdims=True)
                delta = (1 - training.problem_coupling) * delta + training.problem_coupling * shared
            log_p = space.normalised(log_p + delta)
        if update == training.updates or (keep_every and update % keep_every == 0):
            kept.append(space.path_log_probs(log_p))
    return kept


def draw(space: PathSpace, log_p: Floats, training: Training, rng: np.random.Generator) -> Ints:
    """Paths of one group each, from the policy at the temperature of training. Shape ...G."""
    law = np.exp(space.path_log_probs(space.normalised(log_p / training.temperature)))
    num_paths = law.shape[-1]
    cumulated = np.cumsum(law.reshape(-1, num_paths), axis=-1)
    row = np.arange(len(cumulated))[:, None]
    coins = rng.random((len(cumulated), training.group_size))
    # One search for all rows: row r holds the numbers from r to r + 1.
    places = np.searchsorted((cumulated / cumulated[:, -1:] + row).ravel(), (coins + row).ravel())
    paths = np.minimum(places.reshape(coins.shape) - row * num_paths, num_paths - 1)
    return np.asarray(paths.reshape(*law.shape[:-1], training.group_size), dtype=np.int64)


# --- what is measured -------------------------------------------------------------------------------------------------


def pass_at_k(log_policy: Floats, right: Bools, k: int) -> Floats:
    """1 - (1 - p)^k with p the exact chance to be right, mean over problems. Shape R."""
    chance = np.minimum((np.exp(log_policy) * right).sum(axis=-1), 1.0)
    return np.asarray((1 - (1 - chance) ** k).mean(axis=-1))


def right_mass(log_policy: Floats, chosen: Bools) -> Floats:
    """Probability of the chosen paths, mean over problems. Shape R."""
    return np.asarray((np.exp(log_policy) * chosen).sum(axis=-1).mean(axis=-1))


def found_in(log_policy: Floats, chosen: Bools, k: int) -> Floats:
    """Expected share of the chosen paths that are among k draws, over all problems together. Shape R."""
    seen = 1 - (1 - np.exp(log_policy)) ** k
    return np.asarray((seen * chosen).sum(axis=(-1, -2)) / np.broadcast_to(chosen, log_policy.shape[-2:]).sum())


def rare_paths(problems: Problems) -> Bools:
    """Right paths with pi_0 < 1 / 64: 16 draws of the base hold one with a chance under a quarter. Shape PL."""
    return np.asarray(problems.right_PL & (problems.toy.prior_law() < RARE))


def mean_interval(values_R: Floats) -> tuple[float, float, float]:
    """Mean over runs with its 95% interval, by the normal law of means."""
    mean, error = float(values_R.mean()), float(values_R.std(ddof=1) / np.sqrt(len(values_R)))
    return mean, mean - 1.96 * error, mean + 1.96 * error
