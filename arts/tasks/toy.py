"""A tree small enough to enumerate: given step probabilities and rewards, everything is known exactly.

Values V, flows, tempered flows, sampling laws and visibility come from plain recursion over all paths, in the symbols
of the paper. Objectives, strategies and estimators are first shown right here; the `table` proposer draws from it. This
module knows no model. Two weak points of the sum flow have names below: W1, it grows with the number of leaves whatever
their quality; W5, where draws are counted it holds pi_0 already, and sampling by pi_0 F squares pi_0.

Shapes: S, all nodes (node 0 is the root); L, all leaves, in the order of `leaves`.
"""

import hashlib
import json
import random
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arts.protocols import Split
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, Verdict

Array: TypeAlias = NDArray[np.float64]
Branches: TypeAlias = "Mapping[str, tuple[float, bool | Branches]]"
"""Letter -> (probability, right or wrong at a leaf, otherwise the branches below)."""

STEP_SEPARATOR = ";"
LETTERS = string.ascii_lowercase  # token ids 0..25
SEPARATOR_ID, EOS_ID = 26, 27
TOKENIZER = "toy-letters"  # names these ids, as the fingerprint of a tokenizer would
MAX_LEAVES = 4096
RARE_STEP = 0.2  # probability of each step on the rare right path
RIGHT_SHARE = 0.3  # chance that a leaf of a random tree is right

_TEXT = re.compile(r"\s*toy ([1-9]\d?)x([1-9]\d?)( rare)? seed (0|[1-9]\d{0,9})\s*", re.ASCII)


class Observed(NamedTuple):
    """What a sampled tree shows of each of its nodes; both have the length of the sampled tree."""

    flows: Array
    num_leaves: Array


@dataclass(frozen=True)
class ToyTree:
    """Step nodes as flat arrays, parents before children. Equal trees compare equal and have the same hash."""

    parents: tuple[int, ...]
    "-1 at the root"
    letters: tuple[str, ...]
    "the step; '' at the root, different among siblings"
    probabilities: tuple[float, ...]
    "pi_0(step | parent); 1 at the root"
    right: tuple[bool, ...]
    "right or wrong; only leaves can be right"
    reward_right: float = 10.0
    reward_wrong: float = 0.1

    def __post_init__(self) -> None:
        sizes = {len(self.parents), len(self.letters), len(self.probabilities), len(self.right)}
        if len(sizes) > 1 or len(self.parents) < 2 or self.parents[0] != -1:
            raise ValueError("a toy tree needs arrays of one length, at least one step, and the root (parent -1) first")
        if not all(0 <= parent < node for node, parent in enumerate(self.parents[1:], start=1)):
            raise ValueError(f"parents of a toy tree must come before their children, got {self.parents}")
        for node, children in enumerate(self.children):
            letters = [self.letters[child] for child in children]
            if len(set(letters)) < len(letters) or not all(len(a) == 1 and a in LETTERS for a in letters):
                raise ValueError(f"steps below node {node} must be different letters of a..z, got {letters}")
            law = [self.probabilities[child] for child in children]
            if children and (min(law) <= 0 or abs(sum(law) - 1) > 1e-9):
                raise ValueError(f"probabilities below node {node} must be positive and sum to 1, got {law}")
            if children and self.right[node]:
                raise ValueError(f"node {node} has steps below it; only leaves can be right")
        if not 0 < self.reward_wrong < self.reward_right:
            raise ValueError(f"rewards must satisfy 0 < wrong < right, got {self.reward_wrong} and {self.reward_right}")

    # -- Building ------------------------------------------------------------------------------------------------------

    @classmethod
    def nested(cls, branches: Branches, *, reward_right: float = 10.0, reward_wrong: float = 0.1) -> "ToyTree":
        """An explicit tree, like `{"a": (0.5, True), "b": (0.5, {"a": (0.1, False), "b": (0.9, True)})}`."""
        parents, letters, probabilities, right = [-1], [""], [1.0], [False]

        def add(parent: int, branches: Branches) -> None:
            for letter, (probability, below) in branches.items():
                node = len(parents)
                parents.append(parent)
                letters.append(letter)
                probabilities.append(probability)
                right.append(below is True)
                if not isinstance(below, bool):
                    add(node, below)

        add(0, branches)
        return cls(tuple(parents), tuple(letters), tuple(probabilities), tuple(right), reward_right, reward_wrong)

    @classmethod
    def random(cls, seed: int, arity: int, depth: int, *, rare: bool = False) -> "ToyTree":
        """A complete `arity`-ary tree of random probabilities, with at least one right and one wrong leaf.

        Args:
            rare: one leaf only is right, and every step towards it has probability 0.2, so that pi_0 = 0.2^depth. With
                arity 4 and depth 3 this is the worked example of visibility (section on proposals).
        """
        _check_shape(arity, depth)
        rng = random.Random(f"toy-{arity}x{depth}-{rare}-{seed}")
        num_inner = (arity**depth - 1) // (arity - 1)
        leaves = range(num_inner, num_inner + arity**depth)  # ids count level by level
        rare_leaf = rng.choice(leaves)
        rare_path = {rare_leaf}
        for _ in range(depth):
            rare_path.add((min(rare_path) - 1) // arity)
        probabilities = [1.0]
        for node in range(num_inner):
            law = _random_law(rng, arity)
            rare_child = [node * arity + 1 + index in rare_path for index in range(arity)]
            if rare and any(rare_child):
                others = sum(p for p, is_rare in zip(law, rare_child, strict=True) if not is_rare)
                scale = (1 - RARE_STEP) / others
                law = [RARE_STEP if is_rare else p * scale for p, is_rare in zip(law, rare_child, strict=True)]
            probabilities += law
        right = {leaf for leaf in leaves if rng.random() < RIGHT_SHARE} | {rare_leaf}
        if rare:
            right = {rare_leaf}
        elif len(right) == len(leaves):
            right.remove(min(right - {rare_leaf}))
        num_nodes = len(probabilities)
        return cls(
            parents=(-1, *((node - 1) // arity for node in range(1, num_nodes))),
            letters=("", *(LETTERS[(node - 1) % arity] for node in range(1, num_nodes))),
            probabilities=tuple(probabilities),
            right=tuple(node in right for node in range(num_nodes)),
        )

    def with_split_step(self, node: int) -> "ToyTree":
        """The same reasoning with one step said in two ways: `node` and a twin of it share its probability.

        V and the chance to be right stay; the sum flow of `node` is there twice, which is W1 in its purest form.
        """
        below = [below for below in range(len(self.parents)) if node in self.path(below)]
        twin_of = {old: len(self.parents) + index for index, old in enumerate(below)}
        taken = {self.letters[child] for child in self.children[self.parents[node]]}
        twin_letter = next(letter for letter in LETTERS if letter not in taken)
        halved = [p / 2 if index == node else p for index, p in enumerate(self.probabilities)]
        return replace(
            self,
            parents=self.parents + tuple(twin_of.get(self.parents[old], self.parents[old]) for old in below),
            letters=self.letters + tuple(twin_letter if old == node else self.letters[old] for old in below),
            probabilities=tuple(halved + [halved[old] for old in below]),
            right=self.right + tuple(self.right[old] for old in below),
        )

    # -- Walking -------------------------------------------------------------------------------------------------------

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        children: list[list[int]] = [[] for _ in self.parents]
        for node, parent in enumerate(self.parents[1:], start=1):
            children[parent].append(node)
        return tuple(map(tuple, children))

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        return tuple(node for node, children in enumerate(self.children) if not children)

    def path(self, node: int) -> tuple[int, ...]:
        """Node ids from the first step down to `node`, without the root."""
        return () if node == 0 else (*self.path(self.parents[node]), node)

    def step(self, node: int) -> Step:
        """The step into `node`: a letter, then the separator token, or end of sequence at a leaf."""
        is_leaf = not self.children[node]
        letter = self.letters[node]
        return Step(
            text=letter if is_leaf else letter + STEP_SEPARATOR,
            token_ids=(LETTERS.index(letter), EOS_ID if is_leaf else SEPARATOR_ID),
            log_prior=float(np.log(self.probabilities[node])),
            stop=StopReason.EOS if is_leaf else StopReason.STOP,
        )

    def text(self, node: int) -> str:
        return "".join(self.step(step).text for step in self.path(node))

    @cached_property
    def _node_of_text(self) -> dict[str, int]:
        return {self.text(node): node for node in range(len(self.parents))}

    def find(self, text: str) -> int | None:
        """The node that a text like `a;b;` leads to; None where there is none."""
        return self._node_of_text.get(text)

    def rollouts(self) -> list[Rollout]:
        """Every path once, as main trajectories in order of `leaves`."""
        return [
            Rollout(index=index, trunk=index, num_shared=0, steps=tuple(map(self.step, self.path(leaf))))
            for index, leaf in enumerate(self.leaves)
        ]

    # -- Exact values --------------------------------------------------------------------------------------------------

    @cached_property
    def rewards(self) -> Array:
        """R of every leaf (10 right, 0.1 wrong: section on log-flow smoothing), 0 at inner nodes. Shape S."""
        rewards = np.where(self.right, self.reward_right, self.reward_wrong)
        return np.where([not children for children in self.children], rewards, 0.0)

    @cached_property
    def priors(self) -> Array:
        """pi_0(s) = prod of pi_0(step | parent) from the root down to s. Shape S."""
        priors = np.ones(len(self.parents))
        for node, parent in enumerate(self.parents[1:], start=1):
            priors[node] = priors[parent] * self.probabilities[node]
        return priors

    @cached_property
    def values(self) -> Array:
        """V(s) = E[R | s] under pi_0, the mean flow. Shape S."""
        return self.tempered_flows(0.0)

    @cached_property
    def flows(self) -> Array:
        """F(s) = sum of R over the leaves below s: the flow that RFM's conservation law holds. Shape S."""
        return self.tempered_flows(1.0)

    @cached_property
    def success_probabilities(self) -> Array:
        """Chance under pi_0 that a path through s ends right. Shape S."""
        return self._sum_up(np.array(self.right, dtype=float), np.array(self.probabilities))

    def tempered_flows(self, power: float) -> Array:
        """F_a(s) = E[R(tau) pi_0(tau|s)^-a] = sum_c pi_0(c|s)^(1-a) F_a(c), a = `power`. Shape S.

        a = 0 is V, a = 1 the full flow F (W5's way out: the flow without pi_0 in it).
        """
        return self._sum_up(self.rewards, np.array(self.probabilities) ** (1.0 - power))

    def log_mean_exp(self, scale: float) -> Array:
        """v(s) = (1/lambda) log E[exp(lambda r) | s], r = 1 right and 0 wrong, lambda = `scale` > 0 (DTS). Shape S.

        lambda -> 0 gives the chance to be right, lambda -> infinity gives 1 where a right leaf lies below.
        """
        tilted = np.exp(scale * np.array(self.right, dtype=float))
        return np.log(self._sum_up(tilted, np.array(self.probabilities))) / scale

    def _sum_up(self, leaf_values: Array, weights: Array) -> Array:
        """x(s) = sum over children of w(c) x(c), from the leaves up."""
        totals = np.zeros(len(self.parents))
        totals[list(self.leaves)] = leaf_values[list(self.leaves)]
        for node in range(len(self.parents) - 1, 0, -1):
            totals[self.parents[node]] += weights[node] * totals[node]
        return totals

    # -- Laws ----------------------------------------------------------------------------------------------------------

    def prior_law(self) -> Array:
        """pi_0(tau) of every leaf. Shape L."""
        return self.priors[list(self.leaves)]

    def path_law(self, power: float = 0.0) -> Array:
        """pi_0(tau)^(1-a) R(tau) / Z_a, Z_a = F_a(root), a = `power`. Shape L.

        a = 0 is the posterior pi_0 R / Z, a = 1 is R / Z, a = -1 is pi_0^2 R / Z: pi_0 counted twice (W5).
        """
        leaves = list(self.leaves)
        law: Array = self.priors[leaves] ** (1.0 - power) * self.rewards[leaves] / self.tempered_flows(power)[0]
        return law

    def step_law(self, power: float = 0.0) -> Array:
        """pi_0(c|s)^(1-a) F_a(c) / F_a(s) at c; step after step it draws paths from `path_law(a)`. Shape S."""
        flows = self.tempered_flows(power)
        weighted = np.array(self.probabilities) ** (1.0 - power) * flows
        return np.concatenate([[1.0], weighted[1:] / flows[list(self.parents[1:])]])

    # -- Sampled trees -------------------------------------------------------------------------------------------------

    def observed(self, tree: ReasoningTree, *, counted: bool = True) -> Observed:
        """F_obs(s) = sum of R over the drawn leaves below s, and L(s), their number (W1: F_obs = L times mean R).

        Unfinished and failed leaves add nothing.

        Args:
            counted: a leaf drawn n times counts n times, so that merged and unmerged trees agree; F_obs then holds pi_0
                already. False: every leaf node once, a lower bound of `flows` in a merged tree.
        """
        flows, num_leaves = np.zeros(len(tree.nodes)), np.zeros(len(tree.nodes))
        for leaf in tree.leaves():
            if leaf.is_answer:
                node = self._node_of_text[tree.text(leaf.id)]
                num_leaves[leaf.id] = leaf.num_draws if counted else 1
                flows[leaf.id] = num_leaves[leaf.id] * self.rewards[node]
        for tree_node in reversed(tree.nodes[1:]):
            flows[tree_node.parent] += flows[tree_node.id]
            num_leaves[tree_node.parent] += num_leaves[tree_node.id]
        return Observed(flows, num_leaves)


def sample_visibility(prior: float, num_samples: int) -> float:
    """Chance that a path of probability `prior` is among N independent samples: 1 - (1 - pi_0(tau))^N."""
    return 1.0 - (1.0 - prior) ** num_samples


def tree_visibility(step_probabilities: Sequence[float], num_proposals: int) -> float:
    """Chance that a path is seen with K proposals at each of its steps: q(s) = 1 - (1 - p q(child))^K, q(leaf) = 1.

    The paper counts K^H pi_0(tau), an expected number of discoveries; the chance is lower than with K^H samples.
    """
    seen = 1.0
    for probability in reversed(step_probabilities):
        seen = 1.0 - (1.0 - probability * seen) ** num_proposals
    return seen


def _random_law(rng: random.Random, arity: int) -> list[float]:
    """Uniform on the simplex, with a tenth of it spread evenly so that no step is invisible by accident."""
    weights = [rng.expovariate(1.0) for _ in range(arity)]
    return [0.9 * weight / sum(weights) + 0.1 / arity for weight in weights]


def _check_shape(arity: int, depth: int) -> None:
    if not 2 <= arity <= len(LETTERS) or depth < 1 or arity**depth > MAX_LEAVES:
        raise ValueError(
            f"a toy tree of {arity}x{depth}; the first number (steps to choose from) must be 2 to {len(LETTERS)}, the "
            f"second (depth) at least 1, with at most {MAX_LEAVES} leaves"
        )


def toy_problem(tree: ToyTree) -> Problem:
    """An explicit tree as a problem; the tree travels in the metadata."""
    plain = json.loads(json.dumps(asdict(tree)))  # lists, as after a reload
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
    return Problem(id=f"toy explicit {digest}", prompt=f"toy explicit {digest}", metadata={"toy": plain})


def toy_tree(problem: Problem) -> ToyTree:
    """The tree behind a problem: from its metadata, otherwise built anew from a prompt like `toy 3x3 seed 7`."""
    if "toy" not in problem.metadata:
        return _tree_of_text(problem.prompt)
    fields: dict[str, Any] = dict(problem.metadata["toy"])
    for name in ("parents", "letters", "probabilities", "right"):
        fields[name] = tuple(fields[name])
    return ToyTree(**fields)


@lru_cache(maxsize=1024)
def _tree_of_text(text: str) -> ToyTree:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a toy problem: {text[:80]!r}; write 'toy 3x3 seed 7' or 'toy 4x3 rare seed 7'")
    return ToyTree.random(int(match[4]), int(match[1]), int(match[2]), rare=match[3] is not None)


DIFFICULTIES = ("rare: at most 1/8 right", "hard: at most 1/2 right", "easy: over 1/2 right")


class ToyTask:
    """Random toy trees as a `Task`: problem `toy 3x3 seed 7` is the tree of arity 3 and depth 3 that seed 7 gives."""

    step_separator = STEP_SEPARATOR

    def __init__(self, arity: int = 3, depth: int = 3, *, rare: bool = False) -> None:
        _check_shape(arity, depth)
        self.shape = f"{arity}x{depth}{' rare' if rare else ''}"
        self.name = f"toy:{self.shape.replace(' ', ':')}"
        self.max_new_tokens = 2 * depth  # a letter and what closes it, each step

    def problems(self, split: Split, seed: int) -> Iterator[Problem]:
        """Tree seeds that end in 0 are test, in 1 validation, all others train."""
        rng = random.Random(f"toy-{split}-{self.shape}-{seed}")
        seen: set[int] = set()
        while True:
            tree_seed = rng.randrange(10**9)
            belongs_to = {0: "test", 1: "validation"}.get(tree_seed % 10, "train")
            if belongs_to == split and tree_seed not in seen:
                seen.add(tree_seed)
                text = f"toy {self.shape} seed {tree_seed}"
                yield Problem(id=text, prompt=text)

    def parse(self, text: str) -> Problem:
        _tree_of_text(text)
        return Problem(id=text.strip(), prompt=text.strip())

    def judge(self, problem: Problem, solution: str) -> Verdict:
        """Right where the letters lead to a right leaf. Votes are counted by the path itself."""
        toy = toy_tree(problem)
        node = toy.find(solution)
        if node is None:
            return Verdict(correct=False, answer=None, reason="no such path")
        if toy.children[node]:
            return Verdict(correct=False, answer=None, reason="ends above a leaf")
        return Verdict(correct=toy.right[node], answer=solution, reason="" if toy.right[node] else "wrong leaf")

    def difficulty(self, problem: Problem) -> str:
        """A class of `DIFFICULTIES`, by the exact chance of one sample to be right."""
        chance = toy_tree(problem).success_probabilities[0]
        return DIFFICULTIES[int(chance > 1 / 8) + int(chance > 1 / 2)]
