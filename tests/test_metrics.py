"""Selectors against brute force over all subsets, against values worked out by hand, and against what must hold."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import RIGHT, UNFINISHED, WRONG, Draw, pool_tree

from arts.evaluate import metrics
from arts.evaluate.metrics import (
    Floats,
    argmax_accuracy,
    chosen_aggregation,
    draw_subsets,
    hit_chance,
    oracle_accuracy,
    paired_bootstrap,
    path_score,
    random_accuracy,
    read_draws,
    read_log_flows,
    sample_sizes,
    vote_accuracy,
)
from arts.protocols import ScoreScale
from arts.tree import ReasoningTree

WEIGHTS = (1, 2, 3)  # flows are logs of small whole numbers, so brute force sees exact ties

draw_strategy = st.builds(
    lambda answer, weight, finished: Draw(answer, answer in ("r", "s"), math.log(weight), finished),
    st.sampled_from(["r", "s", "x", "y", None]),
    st.sampled_from(WEIGHTS),
    st.sampled_from([True, True, True, False]),
)
draws_strategy = st.lists(draw_strategy, min_size=1, max_size=6)


def weight(draw: Draw) -> int:
    return round(math.exp(draw.log_flow))


def mean(values: Sequence[Fraction]) -> Fraction:
    return sum(values, Fraction(0)) / len(values) if values else Fraction(0)


def share_right(draws: Sequence[Draw]) -> Fraction:
    return mean([Fraction(draw.correct and draw.finished) for draw in draws])


def slow_argmax(subset: Sequence[Draw]) -> Fraction:
    finished = [draw for draw in subset if draw.finished]
    return share_right([draw for draw in finished if weight(draw) == max(map(weight, finished))])


def slow_vote(subset: Sequence[Draw], votes_of: Callable[[Draw], int]) -> Fraction:
    voters = [draw for draw in subset if draw.finished and draw.answer is not None]
    votes = {draw.answer: sum(votes_of(other) for other in voters if other.answer == draw.answer) for draw in voters}
    return share_right([draw for draw in voters if votes[draw.answer] == max(votes.values())])


SLOW: dict[str, Callable[[Sequence[Draw]], Fraction]] = {
    "random": share_right,
    "oracle": lambda subset: Fraction(any(draw.correct and draw.finished for draw in subset)),
    "arts": slow_argmax,
    "majority": lambda subset: slow_vote(subset, lambda draw: 1),
    "flow_vote": lambda subset: slow_vote(subset, weight),
}


def accuracy(selector: str, pool: Sequence[Sequence[Draw]], k: int, seed: int = 0) -> Floats:
    """Value of a selector on every problem of a pool, through trees, as the library computes it."""
    trees = [pool_tree(draws, problem=str(index)) for index, draws in enumerate(pool)]
    draws = read_draws(trees)
    log_flow_PN = read_log_flows(trees)
    member_SN = draw_subsets(draws.num_samples, k, seed)
    return {
        "random": lambda: random_accuracy(draws),
        "oracle": lambda: oracle_accuracy(draws, k),
        "arts": lambda: argmax_accuracy(draws, log_flow_PN, k),
        "majority": lambda: vote_accuracy(draws, np.zeros(draws.correct_PN.shape), member_SN),
        "flow_vote": lambda: vote_accuracy(draws, log_flow_PN, member_SN),
    }[selector]()


@settings(max_examples=80, deadline=None)
@given(draws_strategy)
def test_every_selector_is_the_mean_over_all_subsets(draws: list[Draw]) -> None:
    for k in range(1, len(draws) + 1):
        subsets = list(combinations(draws, k))
        for selector, slow in SLOW.items():
            expected = float(mean([slow(subset) for subset in subsets]))
            assert accuracy(selector, [draws], k)[0] == pytest.approx(expected, abs=1e-12), (selector, k)


@pytest.mark.parametrize(
    ("selector", "draws", "expected"),
    [
        # One right draw with the largest flow is picked whenever it is seen: k / N.
        ("arts", [RIGHT, WRONG, WRONG, WRONG], {1: 1 / 4, 2: 2 / 4, 4: 1}),
        # With the smallest flow it is picked only when it is alone among answers: here never beyond k = 1.
        ("arts", [RIGHT._replace(log_flow=-9.0), WRONG, WRONG, WRONG], {1: 1 / 4, 2: 0, 4: 0}),
        # An unfinished draw ranks below it, whatever flow it carries: the subsets {right, cut} count as right.
        ("arts", [RIGHT._replace(log_flow=-9.0), WRONG, UNFINISHED, UNFINISHED], {1: 1 / 4, 2: 2 / 6, 4: 0}),
        # Equal flows share the pick.
        ("arts", [RIGHT, WRONG._replace(log_flow=1.0)], {1: 1 / 2, 2: 1 / 2}),
        ("arts", [UNFINISHED, UNFINISHED], {1: 0, 2: 0}),
        # A finished draw without an answer key is seen by the flow, but not by votes.
        ("arts", [Draw(None, False, 5.0), RIGHT], {1: 1 / 2, 2: 0}),
        ("majority", [Draw(None, False, 5.0), RIGHT], {1: 1 / 2, 2: 1}),
        ("majority", [Draw(None, True), Draw(None, True)], {1: 0, 2: 0}),
        ("majority", [UNFINISHED, UNFINISHED, RIGHT], {1: 1 / 3, 2: 2 / 3, 3: 1}),
        # Tied answers win together, and the pick falls on their draws: 2 of 4 here.
        ("majority", [RIGHT, RIGHT, Draw("x"), Draw("x"), Draw("y")], {5: 2 / 4}),
        # Two right answers that are written differently split their votes.
        ("majority", [Draw("r", True), Draw("s", True), WRONG, WRONG, WRONG], {5: 0}),
        # e^2 > 2 e^1: one sure draw outweighs two unsure ones; 3 e^1 > e^2 the other way.
        ("flow_vote", [Draw("r", True, 2.0), Draw("x", False, 1.0), Draw("x", False, 1.0)], {3: 1}),
        ("flow_vote", [Draw("r", True, 2.0), *[Draw("x", False, 1.0)] * 3], {4: 0}),
        # Flows beyond the range of floats, both ways.
        ("flow_vote", [Draw("r", True, 5000.0), *[Draw("x", False, 4999.5)] * 2], {3: 0}),
        ("flow_vote", [Draw("r", True, -5000.0), Draw("x", False, -5000.5)], {1: 1 / 2, 2: 1}),
        ("flow_vote", [Draw("r", True, 800.0), Draw("x", False, -800.0), Draw("y", False, -801.0)], {2: 2 / 3}),
        # A tie although log-sum-exp of log 1 and log 2 need not be log 3 to the last bit.
        ("flow_vote", [*(Draw("x", False, math.log(w)) for w in (1, 2)), Draw("r", True, math.log(3.0))], {3: 1 / 3}),
        # A draw without a vote has no weight either, however large its flow.
        ("flow_vote", [Draw(None, False, 5000.0), Draw("r", True, 0.0), Draw("x", False, -1.0)], {3: 1}),
    ],
)  # fmt: skip
def test_selectors_on_draws_worked_out_by_hand(selector: str, draws: list[Draw], expected: dict[int, float]) -> None:
    assert {k: accuracy(selector, [draws], k)[0] for k in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("num_samples", "num_right", "k", "expected"),
    [
        (4, 1, 2, 1 / 2),
        (5, 2, 3, 1 - 1 / 10),
        (16, 1, 16, 1),
        (16, 0, 16, 0),
        (16, 3, 1, 3 / 16),
        (16, 2, 8, 1 - 28 / 120),
    ],
)
def test_pass_at_k_is_unbiased_estimate(num_samples: int, num_right: int, k: int, expected: float) -> None:
    assert hit_chance(num_samples, k)[num_right] == pytest.approx(expected)


def test_pass_at_k_averages_to_the_true_chance() -> None:
    """E over c ~ Binomial(N, p) of the estimate is 1 - (1 - p)^k: that is what unbiased means."""
    for p, k in ((0.1, 4), (0.5, 2), (0.03, 16)):
        chances = [math.comb(16, c) * p**c * (1 - p) ** (16 - c) for c in range(17)]
        assert np.dot(chances, hit_chance(16, k)) == pytest.approx(1 - (1 - p) ** k)


@settings(max_examples=30, deadline=None)
@given(draws_strategy, st.randoms(use_true_random=False))
def test_order_of_draws_does_not_matter(draws: list[Draw], rng: object) -> None:
    shuffled = sorted(draws, key=lambda _: rng.random())  # type: ignore[attr-defined]
    for selector in SLOW:
        for k in sample_sizes(len(draws)):
            assert accuracy(selector, [draws], k) == pytest.approx(accuracy(selector, [shuffled], k))


@settings(max_examples=30, deadline=None)
@given(draws_strategy, st.sampled_from([-3000.0, 3000.0]))
def test_scale_of_flows_does_not_matter(draws: list[Draw], shift: float) -> None:
    shifted = [draw._replace(log_flow=draw.log_flow + shift) for draw in draws]
    for selector in ("arts", "flow_vote"):
        for k in sample_sizes(len(draws)):
            assert accuracy(selector, [draws], k) == pytest.approx(accuracy(selector, [shifted], k))


@settings(max_examples=30, deadline=None)
@given(draws_strategy)
def test_best_and_most_ignorant_verifier_meet_oracle_and_random(draws: list[Draw]) -> None:
    finished = [draw._replace(finished=True) for draw in draws]
    knowing = [draw._replace(log_flow=float(draw.correct)) for draw in draws]
    constant = [draw._replace(log_flow=2.0) for draw in finished]
    for k in range(1, len(draws) + 1):
        oracle = accuracy("oracle", [draws], k)
        assert accuracy("arts", [knowing], k) == pytest.approx(oracle)
        assert accuracy("arts", [constant], k) == pytest.approx(accuracy("random", [finished], k))
        assert accuracy("flow_vote", [constant], k) == pytest.approx(accuracy("majority", [finished], k))
        assert accuracy("arts", [draws], k)[0] <= oracle[0] + 1e-12


def test_all_right_draws_count_as_one_and_never_more() -> None:
    draws = [Draw("r", True, 0.1 * index) for index in range(16)]
    for k in sample_sizes(16):
        assert accuracy("arts", [draws], k)[0] == pytest.approx(1)
        assert accuracy("arts", [draws], k)[0] <= 1


def test_problems_do_not_influence_each_other() -> None:
    pool = [[RIGHT, WRONG, WRONG], [UNFINISHED, RIGHT, RIGHT], [Draw("x"), Draw("r", True), Draw(None)]]
    for selector in SLOW:
        alone = [accuracy(selector, [draws], 2)[0] for draws in pool]
        assert accuracy(selector, pool, 2) == pytest.approx(alone)


def test_forks_do_not_count() -> None:
    draws = [WRONG, WRONG, RIGHT, UNFINISHED]
    forked = pool_tree(draws, forks=[Draw("right", True, 50.0)] * 3)
    plain = read_draws([pool_tree(draws)])
    assert len(forked.leaves()) > len(set(forked.trunks))
    assert (read_draws([forked]).correct_PN == plain.correct_PN).all()
    assert read_log_flows([forked]).max() == RIGHT.log_flow


def test_merged_draws_count_as_often_as_they_were_drawn() -> None:
    tree = pool_tree([WRONG, RIGHT, WRONG, WRONG])
    assert len(tree.leaves()) == 2
    assert read_draws([tree]).correct_PN.tolist() == [[False, True, False, False]]
    assert read_draws([tree]).answer_PN.tolist() == [[0, 1, 0, 0]]


def test_sample_sizes_are_powers_of_two_and_all_draws() -> None:
    assert [sample_sizes(n) for n in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


def test_few_subsets_are_all_taken_and_many_are_drawn_by_seed() -> None:
    every_SN = draw_subsets(16, 2, seed=0)
    assert len(np.unique(every_SN, axis=0)) == len(every_SN) == 120
    some_SN = draw_subsets(16, 4, seed=0)
    assert len(some_SN) == metrics.MAX_SUBSETS
    assert (some_SN.sum(axis=1) == 4).all()
    assert (some_SN == draw_subsets(16, 4, seed=0)).all()
    assert (some_SN != draw_subsets(16, 4, seed=1)).any()
    # Every draw is in a quarter of the subsets: 50 of 200, with a standard deviation of 6.
    assert np.abs(some_SN.sum(axis=0) - 50).max() < 25


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(draw_strategy, min_size=4, max_size=4), min_size=1, max_size=6), st.integers(1, 4))
def test_a_problem_counts_its_votes_as_if_it_were_alone(pool: list[list[Draw]], k: int) -> None:
    for selector in ("majority", "flow_vote"):
        alone = [accuracy(selector, [draws], k)[0] for draws in pool]
        assert accuracy(selector, pool, k).tolist() == pytest.approx(alone, abs=1e-12)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metrics, "_VOTES_AT_ONCE", 2 * 4 * math.comb(4, k))
            assert accuracy(selector, pool, k).tolist() == pytest.approx(alone, abs=1e-12)


def test_votes_over_drawn_subsets_are_close_to_those_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    pool = [
        [Draw(answer, answer == "r") for answer in rng.choice(["r", "x", "y"], 12, p=[0.4, 0.4, 0.2])]
        for _ in range(30)
    ]
    drawn = accuracy("majority", pool, 6)
    monkeypatch.setattr(metrics, "MAX_SUBSETS", math.comb(12, 6))
    exact = accuracy("majority", pool, 6)
    assert np.abs(drawn - exact).max() < 4 * 0.5 / math.sqrt(200)  # four standard errors of 200 coins
    assert (drawn != exact).any()


# --- scores of a path -------------------------------------------------------------------------------------------------


def chain(log_scores: Sequence[float | None]) -> ReasoningTree:
    """A draw whose steps have these scores; the root has one that no path may use."""
    tree = pool_tree([RIGHT], steps=len(log_scores))
    scores = (99.0, *log_scores)
    return replace(tree, nodes=tuple(replace(n, log_flow=x) for n, x in zip(tree.nodes, scores, strict=True)))


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("last", math.log(6.0)), ("min", math.log(1.0)), ("mean", math.log(3.0)), ("product", math.log(12.0))],
)
def test_path_scores_are_those_of_the_positive_scores_of_its_steps(aggregation: str, expected: float) -> None:
    tree = chain([math.log(2.0), math.log(1.0), math.log(6.0)])
    assert path_score(tree, 3, aggregation) == pytest.approx(expected)  # type: ignore[arg-type]
    assert read_log_flows([tree], aggregation)[0, 0] == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregation", ["last", "min", "mean", "product"])
def test_a_path_of_one_step_has_exactly_its_score(aggregation: str) -> None:
    for score in (0.1, -745.2, 1234.5, -math.inf):
        assert path_score(chain([score]), 1, aggregation) == score  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregation", ["min", "mean", "product"])
def test_scores_far_outside_the_range_of_floats_are_put_together(aggregation: str) -> None:
    low, high = (path_score(chain([shift, shift + 1.0]), 2, aggregation) for shift in (-5000.0, 5000.0))  # type: ignore[arg-type]
    assert math.isfinite(low) and math.isfinite(high)
    if aggregation != "product":
        assert high - low == pytest.approx(10_000)


def test_steps_without_a_score_matter_only_where_they_are_used() -> None:
    tree = chain([None, 1.0])
    assert read_log_flows([tree])[0, 0] == 1.0
    for aggregation in ("min", "mean", "product"):
        with pytest.raises(ValueError, match=f"no finite log_flow at every step, as '{aggregation}' needs it"):
            read_log_flows([tree], aggregation)  # type: ignore[arg-type]
    for bad in (math.nan, math.inf):
        assert math.isnan(path_score(chain([bad, 1.0]), 2, "min"))


def test_unfinished_draws_rank_below_all_under_every_aggregation() -> None:
    tree = pool_tree([RIGHT, UNFINISHED])
    for aggregation in ("last", "min", "mean", "product"):
        assert read_log_flows([tree], aggregation)[0, 1] == -math.inf  # type: ignore[arg-type]


def test_what_is_asked_for_comes_before_what_the_scale_says() -> None:
    scale = ScoreScale(aggregation="min")
    assert (chosen_aggregation(scale), chosen_aggregation(scale, "mean")) == ("min", "mean")
    with pytest.raises(ValueError, match="allowed are last, min, mean, product"):
        chosen_aggregation(scale, "max")  # type: ignore[arg-type]


# --- intervals --------------------------------------------------------------------------------------------------------


def test_interval_of_a_mean_is_the_normal_one_for_many_problems() -> None:
    value_P = (np.arange(400) < 120).astype(float)
    estimate = paired_bootstrap(400, seed=0)(value_P, np.ones(400))
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert estimate.value == pytest.approx(0.3)
    assert estimate.low == pytest.approx(0.3 - half, abs=0.006)
    assert estimate.high == pytest.approx(0.3 + half, abs=0.006)


def test_intervals_cover_the_truth_over_problems_and_draws() -> None:
    """Problems with rates from Beta(1, 2), four draws each: the mean rate 1/3 lies in about 95% of the intervals."""
    rng = np.random.default_rng(0)
    estimate = paired_bootstrap(120, seed=1)
    covered = 0
    for _ in range(300):
        value_P = rng.binomial(4, rng.beta(1, 2, 120)) / 4
        interval = estimate(value_P, np.ones(120))
        assert interval.low is not None and interval.high is not None
        covered += interval.low <= 1 / 3 <= interval.high
    assert 0.91 <= covered / 300 <= 0.985


def test_differences_are_paired() -> None:
    """A selector right on one problem more than another differs from it by far less than the interval of either."""
    base_P = np.tile([0.0, 1.0], 100)
    better_P = np.maximum(base_P, np.arange(200) == 0)
    estimate = paired_bootstrap(200, seed=0)
    difference = estimate(better_P - base_P, np.ones(200))
    assert difference.value == pytest.approx(1 / 200)
    assert difference.low is not None and difference.high is not None
    assert 0 <= difference.low < difference.high <= 4 / 200
    unchanged = estimate(base_P - base_P, np.ones(200))
    assert (unchanged.value, unchanged.low, unchanged.high) == (0, 0, 0)


def test_ratio_is_resampled_as_a_ratio() -> None:
    """Where numerator and denominator move together, their ratio does not move at all."""
    gap_P = np.random.default_rng(0).random(50)
    estimate = paired_bootstrap(50, seed=0)(0.7 * gap_P, gap_P)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.7, 0.7, 0.7))


def test_ratio_without_a_denominator_is_undefined() -> None:
    estimate = paired_bootstrap(3, seed=0)
    assert estimate(np.zeros(3), np.zeros(3)).to_json() == {"value": None, "low": None, "high": None}
    # One problem that counts: resamples without it are left out, those with it agree.
    rare = estimate(np.array([0.5, 0.0, 0.0]), np.array([1.0, 0.0, 0.0]))
    assert (rare.value, rare.low, rare.high) == pytest.approx((0.5, 0.5, 0.5))
