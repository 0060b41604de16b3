"""Accuracy of choosing one of k draws, as exact expectations over the draws, and paired bootstrap intervals.

Works on arrays read from the trunks of trees; forks do not count. Knows no verifier, file or page. A *selector* is a
way to choose; its value at k is the chance that its choice is right when it sees k of the N draws of a problem, every
k-subset being as likely. So best-of-1, 2, 4, ... all come from the same N draws, and none of them is one lucky coin.

Shape suffixes: P problems, N draws of a problem, S subsets of the draws, A distinct answers of a problem, B resamples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from arts.protocols import Aggregation, ScoreScale, aggregate
from arts.tree import Node, ReasoningTree, path_log_prior

MAX_SUBSETS = 200  # votes are averaged over all k-subsets up to this many, over this many seeded ones beyond
NUM_RESAMPLES = 2000
_VOTES_AT_ONCE = 1 << 18  # of all subsets and problems: as many as stay near the processor
# Divides them, and is whole rows of a processor's kernel, so that sums are bit for bit those of one product.
_RESAMPLES_AT_ONCE = 40
CONFIDENCE = 0.95
MAX_RARE = 2  # a problem is rare when 1 or 2 of its 16 draws are right (the paper's subset)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Rule = Literal["has_answer", "shortest", "longest", "log_prior"]


@dataclass(frozen=True)
class Draws:
    """What the checker says of every draw. An unfinished draw is no answer: wrong, and without a vote."""

    finished_PN: Bools
    correct_PN: Bools
    answer_PN: Ints
    "number of the draw's answer inside its problem, by first appearance; -1 takes no part in votes"

    @property
    def num_samples(self) -> int:
        return len(self.correct_PN[0])

    @cached_property
    def num_correct_P(self) -> Ints:
        return np.asarray(self.correct_PN.sum(axis=1), dtype=np.int64)

    @cached_property
    def rare_P(self) -> Bools:
        """1 or 2 draws are right, and less than half of them: of few draws, one may be no rarity."""
        return (self.num_correct_P >= 1) & (self.num_correct_P <= min(MAX_RARE, (self.num_samples - 1) // 2))


@dataclass(frozen=True)
class Estimate:
    """A rate or a difference of rates with its interval; all None where it is undefined (nothing to divide by)."""

    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


def trunk_leaves(tree: ReasoningTree) -> list[Node]:
    """The last node of each draw, in the order of drawing; repeated where equal draws were merged."""
    return [tree.nodes[leaf] for leaf in tree.trunks]


def read_draws(trees: Sequence[ReasoningTree]) -> Draws:
    """Read the trunks of trees.

    Raises:
        ValueError: no trees, trees with different numbers of trunks, or an answer that nobody checked.
    """
    if not trees:
        raise ValueError("there are no trees to evaluate; collect some first")
    counts = {len(tree.trunks) for tree in trees}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(
            f"trees have {sorted(counts)} main trajectories; every problem needs the same number, at least one. "
            "Finish the collection, or evaluate the trees of each number on their own"
        )
    leaves = [trunk_leaves(tree) for tree in trees]
    for tree, row in zip(trees, leaves, strict=True):
        if any(leaf.is_answer and leaf.verdict is None for leaf in row):
            raise ValueError(f"an answer to problem {tree.problem.id!r} has no verdict; let the task judge it first")
    return Draws(
        finished_PN=np.array([[leaf.is_answer for leaf in row] for row in leaves]),
        correct_PN=np.array([[_is_correct(leaf) for leaf in row] for row in leaves]),
        answer_PN=np.array([_number_answers(row) for row in leaves], dtype=np.int64),
    )


def chosen_aggregation(scale: ScoreScale, aggregation: Aggregation | None = None) -> Aggregation:
    """How a path's score is made: as asked for, otherwise as the scale says."""
    chosen = scale.aggregation if aggregation is None else aggregation
    if chosen not in get_args(Aggregation):
        raise ValueError(f"aggregation is {chosen!r}; allowed are {', '.join(get_args(Aggregation))}")
    return chosen


def path_score(tree: ReasoningTree, node_id: int, aggregation: Aggregation) -> float:
    """log of the score of the path to a node; NaN where a step that is needed has no score.

    With F_1..F_T the positive scores of the steps down to the node (the root is no step):

        last  log F_T      min  log min F_t      mean  log (F_1 + ... + F_T) / T      product  log F_1 ... F_T
    """
    if aggregation == "last":
        return _log_score(tree.nodes[node_id])
    log_scores = [_log_score(node) for node in tree.path(node_id)]
    if any(math.isnan(score) for score in log_scores) or max(log_scores) == math.inf:
        return math.nan
    return aggregate(log_scores, aggregation)


def _log_score(node: Node) -> float:
    return math.nan if node.log_flow is None else node.log_flow


def read_log_flows(trees: Sequence[ReasoningTree], aggregation: Aggregation = "last") -> Floats:
    """log score of each draw's path, shape (P, N); -inf, below every other, where the draw is unfinished."""
    log_flow_PN = np.array(
        [
            [path_score(tree, leaf, aggregation) if tree.nodes[leaf].is_answer else -math.inf for leaf in tree.trunks]
            for tree in trees
        ]
    )
    broken_P = (np.isnan(log_flow_PN) | (log_flow_PN == math.inf)).any(axis=1)
    if broken_P.any():
        problem = trees[int(broken_P.argmax())].problem.id
        needed = "" if aggregation == "last" else f" at every step, as {aggregation!r} needs it"
        raise ValueError(
            f"an answer to problem {problem!r} has no finite log_flow{needed}; let the verifier score the trees first"
        )
    return log_flow_PN


def _is_correct(leaf: Node) -> bool:
    return leaf.is_answer and leaf.verdict is not None and leaf.verdict.correct


def _number_answers(leaves: Sequence[Node]) -> list[int]:
    numbers: dict[str, int] = {}
    answers = [leaf.verdict.answer if leaf.is_answer and leaf.verdict else None for leaf in leaves]
    return [-1 if answer is None else numbers.setdefault(answer, len(numbers)) for answer in answers]


def sample_sizes(num_samples: int) -> list[int]:
    """The k of best-of-k: powers of two up to N, and N itself."""
    powers = [1 << exponent for exponent in range(num_samples.bit_length())]
    return powers if powers[-1] == num_samples else [*powers, num_samples]


def rule_scores(trees: Sequence[ReasoningTree], rule: Rule) -> Floats | None:
    """Score of each draw by a rule that needs no verifier, shape (P, N); None where the trees do not tell it.

    `has_answer`: it ends with an answer that can take part in votes; `shortest`, `longest`: by tokens; `log_prior`: the
    most probable path.
    """
    score_PN = np.array([[_rule_score(tree, leaf, rule) for leaf in tree.trunks] for tree in trees])
    return None if np.isnan(score_PN).any() else score_PN


def _rule_score(tree: ReasoningTree, leaf: int, rule: Rule) -> float:
    path = tree.path(leaf)
    if not path[-1].is_answer:
        return -math.inf
    if rule == "has_answer":
        return float(path[-1].verdict is not None and path[-1].verdict.answer is not None)
    if rule == "log_prior":
        return path_log_prior(path)
    num_tokens = sum(node.num_tokens for node in path)
    return float(num_tokens if rule == "longest" else -num_tokens)


def hit_chance(num_samples: int, k: int) -> Floats:
    """Chance that a uniform k-subset of N draws holds at least one of m given draws, for m = 0..N.

    hit(m) = 1 - C(N - m, k) / C(N, k). At m = c, the number of right draws, this is the unbiased pass@k (Chen et al.
    2021, arXiv 2107.03374, eq. 1).
    """
    total = without = math.comb(num_samples, k)
    chances = []
    for left in range(num_samples, -1, -1):  # draws that are not given
        chances.append(1.0 - without / total)
        without = without * (left - k) // left if left > k else 0  # C(left - 1, k) from C(left, k)
    return np.array(chances)


def random_accuracy(draws: Draws) -> Floats:
    """Uniform pick: c / N at every k. This is pass@1."""
    return draws.num_correct_P / draws.num_samples


def oracle_accuracy(draws: Draws, k: int) -> Floats:
    """Chance that one of k draws is right, which is all that choosing can reach: pass@k = 1 - C(N - c, k) / C(N, k)."""
    return hit_chance(draws.num_samples, k)[draws.num_correct_P]


def argmax_accuracy(draws: Draws, log_flow_PN: Floats, k: int) -> Floats:
    """Pick the largest terminal flow among k draws: the exact expectation over all k-subsets.

    Let m draws have a larger flow than draw i, and g draws the same flow (i among them). The pick falls on one of these
    g exactly when the subset holds one of the m + g, but none of the m; they share that chance equally:

        P(pick = i) = (hit(m + g) - hit(m)) / g,    arts@k = sum over right i of P(pick = i)

    Unfinished draws have flow -inf: they rank below all and are never right, so a subset without an answer counts 0.
    """
    hit = hit_chance(draws.num_samples, k)
    larger_PN, equal_PN = _ranks(log_flow_PN)
    pick_PN: Floats = (hit[larger_PN + equal_PN] - hit[larger_PN]) / equal_PN
    accuracy_P: Floats = (pick_PN * draws.correct_PN).sum(axis=1)
    return np.minimum(accuracy_P, 1.0)  # the sum of the chances may exceed 1 by rounding


def _ranks(value_PN: Floats) -> tuple[Ints, Ints]:
    """How many draws of the same problem have a larger value, and how many the same one (itself included)."""
    order_PN = value_PN.argsort(axis=1)
    sorted_PN = np.take_along_axis(value_PN, order_PN, axis=1)
    place_N, most = np.arange(value_PN.shape[1]), value_PN.shape[1] - 1
    starts_PN = np.ones(value_PN.shape, dtype=np.bool_)
    starts_PN[:, 1:] = sorted_PN[:, 1:] != sorted_PN[:, :-1]
    ends_PN = np.ones(value_PN.shape, dtype=np.bool_)
    ends_PN[:, :-1] = starts_PN[:, 1:]
    first_PN = np.maximum.accumulate(np.where(starts_PN, place_N, 0), axis=1)
    last_PN = np.minimum.accumulate(np.where(ends_PN, place_N, most)[:, ::-1], axis=1)[:, ::-1]
    larger_PN, equal_PN = np.empty_like(order_PN), np.empty_like(order_PN)
    np.put_along_axis(larger_PN, order_PN, most - last_PN, axis=1)
    np.put_along_axis(equal_PN, order_PN, last_PN - first_PN + 1, axis=1)
    return larger_PN, equal_PN


def draw_subsets(num_samples: int, k: int, seed: int) -> Bools:
    """Membership, shape (S, N), in all k-subsets if there are at most `MAX_SUBSETS`, else in that many seeded ones."""
    if math.comb(num_samples, k) <= MAX_SUBSETS:
        chosen_SK = np.array(list(combinations(range(num_samples), k)))
    else:
        noise_SN = np.random.default_rng([seed, k]).random((MAX_SUBSETS, num_samples))
        chosen_SK = noise_SN.argsort(axis=1)[:, :k]
    member_SN = np.zeros((len(chosen_SK), num_samples), dtype=np.bool_)
    np.put_along_axis(member_SN, chosen_SK, True, axis=1)
    return member_SN


def vote_accuracy(draws: Draws, log_weight_PN: Floats, member_SN: Bools) -> Floats:
    """Weighted vote over the answers of a subset, then a uniform pick among the draws that gave a winning answer.

    votes(a) = sum of F over the draws in the subset with answer a: F = 1 for the majority vote, F = exp(log_flow) for
    the flow-weighted vote. Tied answers win together. A subset without a vote counts 0. Mean over the subsets.
    """
    at_once = max(1, _VOTES_AT_ONCE // member_SN.size)
    parts = [slice(start, start + at_once) for start in range(0, len(draws.answer_PN), at_once)]
    return np.concatenate(
        [_votes(draws.answer_PN[one], draws.correct_PN[one], log_weight_PN[one], member_SN) for one in parts]
    )


def _votes(answer_PN: Ints, correct_PN: Bools, log_weight_PN: Floats, member_SN: Bools) -> Floats:
    """The votes of all these problems side by side, V in all, sorted by problem and answer.

    Here A are the answers of all of them, and Q those problems that have one.
    """
    accuracy_P = np.zeros(len(answer_PN))
    order_PN = answer_PN.argsort(axis=1, kind="stable")
    problem_V, place_V = np.nonzero(np.take_along_axis(answer_PN, order_PN, axis=1) >= 0)
    if not len(problem_V):
        return accuracy_P
    draw_V = order_PN[problem_V, place_V]
    is_next_problem_V = np.diff(problem_V, prepend=-1) > 0
    vote_Q = np.flatnonzero(is_next_problem_V)  # the first one, as below
    vote_A = np.flatnonzero(is_next_problem_V | (np.diff(answer_PN[problem_V, draw_V], prepend=-1) > 0))
    answer_Q = np.searchsorted(vote_A, vote_Q)
    place_in_Q_V = np.cumsum(is_next_problem_V) - 1

    member_SV = member_SN[:, draw_V]
    log_weight_SV = np.where(member_SV, log_weight_PN[problem_V, draw_V], -np.inf)
    # Log-sum-exp up to a factor that all answers of a subset share: its largest vote is worth 1, whatever the scale.
    largest_SQ = np.maximum(np.maximum.reduceat(log_weight_SV, vote_Q, axis=1), -np.finfo(np.float64).max)
    total_SA = np.add.reduceat(np.exp(log_weight_SV - largest_SQ[:, place_in_Q_V]), vote_A, axis=1)
    # The tolerance makes a tie of equal flows a tie in whatever order they were added up.
    least_SQ = np.maximum.reduceat(total_SA, answer_Q, axis=1) * (1 - 1e-9)
    wins_SA = total_SA >= least_SQ[:, place_in_Q_V[vote_A]]

    def of_winners(counts_SV: Bools) -> Ints:
        by_answer_SA = np.add.reduceat(counts_SV, vote_A, axis=1, dtype=np.int64)
        return np.asarray(np.add.reduceat(wins_SA * by_answer_SA, answer_Q, axis=1))

    num_right_SQ = of_winners(member_SV & correct_PN[problem_V, draw_V])
    accuracy_P[problem_V[vote_Q]] = (num_right_SQ / np.maximum(of_winners(member_SV), 1)).mean(axis=0)
    return accuracy_P


@lru_cache(maxsize=1)  # a second or so for thousands of problems, and a page needs it for dozens of figures
def resample(num_problems: int, seed: int) -> NDArray[np.uint8]:
    """How often each problem occurs in each resample, shape (B, P): equal for equal arguments, so paired.

    A byte each, and 2 kB a problem: for 100,000 problems 200 MB, where floats would take 1.6 GB. No count is larger:
    the chance of 256 is below 1e-500.
    """
    rng = np.random.default_rng(seed)
    law = np.full(num_problems, 1 / num_problems)
    count_BP = np.empty((NUM_RESAMPLES, num_problems), dtype=np.uint8)
    for start in range(0, NUM_RESAMPLES, _RESAMPLES_AT_ONCE):
        count_BP[start : start + _RESAMPLES_AT_ONCE] = rng.multinomial(num_problems, law, size=_RESAMPLES_AT_ONCE)
    count_BP.setflags(write=False)
    return count_BP


def resampled_sums(count_BP: NDArray[np.uint8], *values: Floats) -> list[Floats]:
    """Sums over the problems of each resample, shape (B,) or (B, K), of values of shape (P,) or (P, K)."""
    parts: list[list[Floats]] = [[] for _ in values]
    for start in range(0, len(count_BP), _RESAMPLES_AT_ONCE):
        weight_BP = count_BP[start : start + _RESAMPLES_AT_ONCE].astype(np.float64)
        for own, value_P in zip(parts, values, strict=True):
            own.append(weight_BP @ value_P)
    return [np.concatenate(own) for own in parts]


def paired_bootstrap(num_problems: int, seed: int) -> Callable[[Floats, Floats], Estimate]:
    """An estimator of ratios of sums over problems, with 95% percentile intervals.

    Everything reported is such a ratio: a mean (denominator 1), a mean over a subset (both times its indicator), Gap
    Closed (acc - pass@1 over oracle@N - pass@1). One set of resampled problems serves all of them, so differences
    are paired. The draws of a problem are independent of those of the others, so resampling whole problems covers the
    noise of the draws as well as that of the choice of problems. Resamples in which the denominator vanishes are left
    out; where it vanishes on the problems themselves, the estimate is undefined.
    """
    count_BP = resample(num_problems, seed)

    def estimate(numerator_P: Floats, denominator_P: Floats) -> Estimate:
        total = float(denominator_P.sum())
        if total <= 0:
            return Estimate(None, None, None)
        sum_B, total_B = resampled_sums(count_BP, numerator_P, denominator_P)
        defined_B = total_B > 0
        ratio_B = sum_B[defined_B] / total_B[defined_B]
        return Estimate(float(numerator_P.sum()) / total, *percentile_interval(ratio_B))

    return estimate


def percentile_interval(value_B: Floats) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(value_B, [tail, 100 - tail])
    return float(low), float(high)
