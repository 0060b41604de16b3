"""Errors of stated chances against sums worked out by hand, and against data whose true error is known."""

import numpy as np
import pytest

from arts.evaluate.metrics import Estimate
from arts.evaluate.reliability import (
    Pairs,
    bin_numbers,
    brier_score,
    expected_calibration_error,
    log_loss,
    measure_quality,
    reliability_points,
)


def pairs(rows: list[tuple[int, float, float, float]], num_problems: int = 4) -> Pairs:
    """(problem, chance, right, weight) a row."""
    table = np.array(rows, dtype=float).reshape(-1, 4)
    return Pairs(num_problems, table[:, 0].astype(np.int64), table[:, 1], table[:, 2], table[:, 3])


def drawn(num_problems: int, *, shift: float = 0.0, per_problem: int = 8, seed: int = 0) -> Pairs:
    """Outcomes with chances p, of which p - shift was said."""
    rng = np.random.default_rng(seed)
    chance = rng.uniform(shift, 1, (num_problems, per_problem))
    right = (rng.random(chance.shape) < chance).astype(float)
    problem = np.repeat(np.arange(num_problems), per_problem)
    return Pairs(num_problems, problem, (chance - shift).ravel(), right.ravel(), np.ones(chance.size))


HAND = pairs([(0, 0.1, 0, 1), (1, 0.3, 1, 1), (2, 0.8, 1, 2), (3, 1.0, 0, 1)])


def test_errors_are_those_worked_out_by_hand() -> None:
    # Two bins of equal width: {0.1, 0.3} says 0.2 and 1/2 are right, weight 2; {0.8 twice, 1} says 2.6/3, 2/3 right.
    width = (2 * abs(0.2 - 0.5) + 3 * abs(2.6 / 3 - 2 / 3)) / 5
    assert expected_calibration_error(HAND, num_bins=2, bins="width").value == pytest.approx(width)
    # Equal weights, cut at 2.5 of 5: 0.8 lies on both sides with its middle at 3, so it stays whole above.
    assert expected_calibration_error(HAND, num_bins=2, bins="mass").value == pytest.approx(width)
    assert expected_calibration_error(HAND, num_bins=1).value == pytest.approx(abs(3.0 / 5 - 3 / 5))
    five = (abs(0.1 - 0) + abs(0.3 - 1) + 2 * abs(0.8 - 1) + abs(1.0 - 0)) / 5
    assert expected_calibration_error(HAND, num_bins=5, bins="mass").value == pytest.approx(five)
    assert brier_score(HAND).value == pytest.approx((0.01 + 0.49 + 2 * 0.04 + 1) / 5)
    expected = -(np.log(0.9) + np.log(0.3) + 2 * np.log(0.8) + np.log(1e-4)) / 5
    assert log_loss(HAND).value == pytest.approx(expected)


def test_bins_hold_equal_chances_together_and_every_unit_once() -> None:
    chance = np.array([0.0, 0.5, 0.5, 0.5, 0.5, 0.99, 1.0])
    assert bin_numbers(chance, np.ones(7), 2, "width").tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert bin_numbers(chance, np.ones(7), 7, "mass").tolist() == [0, 3, 3, 3, 3, 5, 6]
    assert bin_numbers(np.full(3, 0.4), np.ones(3), 10, "mass").tolist() == [5, 5, 5]
    uniform = bin_numbers(np.random.default_rng(0).random(1000), np.ones(1000), 10, "mass")
    assert np.bincount(uniform).tolist() == [100] * 10


@pytest.mark.parametrize(("num_bins", "bins"), [(0, "mass"), (5, "volume")])
def test_impossible_bins_are_refused(num_bins: int, bins: str) -> None:
    with pytest.raises(ValueError, match="equal 'mass' or 'width'"):
        expected_calibration_error(HAND, num_bins=num_bins, bins=bins)  # type: ignore[arg-type]


def test_error_of_true_chances_is_noise_that_shrinks_with_n() -> None:
    for num_problems in (100, 400, 1600):
        errors = [expected_calibration_error(drawn(num_problems, seed=seed), num_bins=10).value for seed in range(30)]
        # E|mean of m centred outcomes| is about 0.8 sqrt(p (1 - p) / m), and p (1 - p) averages 1/6.
        expected = 0.8 * np.sqrt(10 / (6 * 8 * num_problems))
        assert np.mean(np.array(errors, dtype=float)) == pytest.approx(expected, rel=0.15)


def test_error_of_shifted_chances_is_the_shift() -> None:
    for bins in ("mass", "width"):
        error = expected_calibration_error(drawn(1500, shift=0.2), bins=bins)
        assert error.value == pytest.approx(0.2, abs=0.01)
        assert error.low is not None and error.high is not None
        assert 0.18 < error.low < 0.2 + 0.01 and 0.2 - 0.01 < error.high < 0.22


def test_interval_is_as_wide_as_problems_are_few_and_holds_no_error_below_zero() -> None:
    def ends(estimate: Estimate) -> tuple[float, float]:
        assert estimate.low is not None and estimate.high is not None
        return estimate.low, estimate.high

    few, many = (ends(expected_calibration_error(drawn(n, shift=0.2))) for n in (100, 1500))
    assert 2.5 < (few[1] - few[0]) / (many[1] - many[0]) < 6
    assert ends(expected_calibration_error(drawn(400)))[0] == pytest.approx(0, abs=0.02)


def test_draws_of_one_problem_are_resampled_together() -> None:
    """Eight equal outcomes a problem are one piece of evidence, not eight."""
    rng = np.random.default_rng(0)
    right = (rng.random(200) < 0.5).astype(float)
    alone = Pairs(200, np.arange(200), np.full(200, 0.3), right, np.ones(200))
    copies = Pairs(200, np.repeat(np.arange(200), 8), np.full(1600, 0.3), np.repeat(right, 8), np.ones(1600))
    for error in (brier_score, expected_calibration_error):
        first, second = error(copies), error(alone)
        assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high))


def test_points_lie_on_the_diagonal_where_chances_are_true() -> None:
    points = reliability_points(drawn(1500), num_bins=10)
    assert len(points) == 10
    assert sum(point.weight for point in points) == 12_000
    for point in points:
        assert point.right.value == pytest.approx(point.chance, abs=0.04)
        assert point.right.low is not None and point.right.high is not None
        assert point.right.low < point.right.high
    gap = sum(point.weight * abs(point.chance - (point.right.value or 0)) for point in points) / 12_000
    assert gap == pytest.approx(expected_calibration_error(drawn(1500), num_bins=10).value)


def test_without_outcomes_everything_is_undefined() -> None:
    quality = measure_quality(pairs([]))
    nothing = Estimate(None, None, None)
    assert (quality.ece_mass, quality.ece_width, quality.brier, quality.log_loss) == (nothing,) * 4
    assert quality.points == ()
