"""Fits recover what data were made with, isotonic regression is the least-squares one, and all come back from JSON."""

import json
import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arts.evaluate.calibrators import (
    FITS,
    Floats,
    Isotonic,
    Logistic,
    calibrator_from_json,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    logit,
    sigmoid,
)


def logistic_data(slope: float, bias: float, num_units: int = 40_000, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Chances that are stated, and outcomes whose chance is sigmoid(slope logit + bias)."""
    rng = np.random.default_rng(seed)
    stated_logit = rng.normal(0, 2, num_units)
    right = (rng.random(num_units) < sigmoid(slope * stated_logit + bias)).astype(float)
    return sigmoid(stated_logit), right, np.ones(num_units)


def log_loss(chance: Floats, right: Floats) -> float:
    return float(-np.log(np.where(right > 0, chance, 1 - chance)).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_that_data_were_made_with_is_found(temperature: float) -> None:
    fit = fit_temperature(*logistic_data(1 / temperature, 0.0))
    assert fit.temperature == pytest.approx(temperature, rel=0.04)
    assert fit.bias == 0


def test_slope_and_bias_that_data_were_made_with_are_found() -> None:
    fit = fit_platt(*logistic_data(0.6, -0.8))
    assert fit.slope == pytest.approx(0.6, abs=0.02)
    assert fit.bias == pytest.approx(-0.8, abs=0.04)


@pytest.mark.parametrize("name", ["temperature", "platt"])
def test_fit_has_the_least_log_loss_nearby(name: str) -> None:
    chance, right, weight = logistic_data(0.7, 0.3, num_units=500)
    fit = FITS[name](chance, right, weight)
    assert isinstance(fit, Logistic)
    best = log_loss(fit.apply(chance), right)
    for slope in (-0.02, 0.0, 0.02):
        for bias in (-0.02, 0.0, 0.02) if name == "platt" else (0.0,):
            assert log_loss(Logistic(fit.slope + slope, fit.bias + bias).apply(chance), right) >= best - 1e-9


def test_weights_are_repetitions() -> None:
    chance, right, _ = logistic_data(0.7, 0.3, num_units=60)
    times = np.random.default_rng(1).integers(1, 4, 60)
    for fit in FITS.values():
        weighted = fit(chance, right, times.astype(float))
        repeated = fit(np.repeat(chance, times), np.repeat(right, times), np.ones(times.sum()))
        assert weighted.apply(chance) == pytest.approx(repeated.apply(chance), abs=1e-6)


@pytest.mark.parametrize("right", [[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
def test_fits_stay_finite_where_data_are_separable(right: list[float]) -> None:
    chance = np.array([0.0, 0.2, 0.8, 1.0])
    for name, fit in FITS.items():
        fitted = fit(chance, np.array(right), np.ones(4)).apply(chance)
        assert np.isfinite(fitted).all(), name
        assert (np.abs(fitted - right) < 0.1).all() or name == "temperature"


def test_score_that_says_nothing_gets_the_base_rate() -> None:
    rng = np.random.default_rng(0)
    chance, right = rng.random(20_000), (rng.random(20_000) < 0.3).astype(float)
    for name in ("platt", "isotonic"):
        fitted = FITS[name](chance, right, np.ones(20_000)).apply(np.array([0.2, 0.5, 0.8]))
        assert fitted == pytest.approx([0.3] * 3, abs=0.03)


def test_nothing_to_fit_on_is_refused() -> None:
    for fit in FITS.values():
        with pytest.raises(ValueError, match="no outcome"):
            fit(np.zeros(0), np.zeros(0), np.zeros(0))


# --- isotonic ---------------------------------------------------------------------------------------------------------

units_strategy = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]), st.sampled_from([0.0, 1.0]), st.integers(1, 3)),
    min_size=1,
    max_size=10,
)


def slow_isotonic(chance: Floats, right: Floats, weight: Floats) -> float:
    """Least squared error over all ways to cut the distinct chances into blocks whose means do not fall."""
    inputs = sorted(set(chance.tolist()))
    best = math.inf
    for num_cuts in range(len(inputs)):
        for cuts in combinations(range(1, len(inputs)), num_cuts):
            edges = [0, *cuts, len(inputs)]
            blocks = [np.isin(chance, inputs[low:high]) for low, high in pairwise(edges)]
            means = [float(np.average(right[block], weights=weight[block])) for block in blocks]
            if means == sorted(means):
                best = min(
                    best,
                    sum(
                        float((weight[block] * (right[block] - mean) ** 2).sum())
                        for block, mean in zip(blocks, means, strict=True)
                    ),
                )
    return best


@settings(max_examples=80, deadline=None)
@given(units_strategy)
def test_isotonic_is_the_least_squares_fit(units: list[tuple[float, float, int]]) -> None:
    chance, right, weight = (np.array(column, dtype=float) for column in zip(*units, strict=True))
    fit = fit_isotonic(chance, right, weight)
    fitted = fit.apply(chance)
    assert (weight * (right - fitted) ** 2).sum() == pytest.approx(slow_isotonic(chance, right, weight), abs=1e-9)
    assert (np.diff(fit.apply(np.linspace(0, 1, 101))) >= -1e-15).all()
    assert weight @ fitted == pytest.approx(weight @ right)
    again = fit_isotonic(fitted, right, weight)
    assert again.apply(fitted) == pytest.approx(fitted, abs=1e-12)


def test_isotonic_pools_by_hand() -> None:
    fit = fit_isotonic(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 0.0, 1.0]), np.ones(4))
    assert fit == Isotonic((0.1, 0.2, 0.3, 0.4), (0.0, 0.5, 0.5, 1.0))
    assert fit.apply(np.array([0.0, 0.25, 0.35, 0.9])).tolist() == pytest.approx([0.0, 0.5, 0.75, 1.0])


# --- as functions -----------------------------------------------------------------------------------------------------


def test_order_is_kept_and_the_identity_changes_nothing() -> None:
    chance = np.linspace(0.001, 0.999, 200)
    assert Logistic(1.0).apply(chance) == pytest.approx(chance)
    assert (np.diff(Logistic(0.3, -2.0).apply(chance)) > 0).all()


def test_extreme_chances_have_finite_logits() -> None:
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()
    assert sigmoid(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]
    assert Logistic(0.0).temperature == math.inf


@pytest.mark.parametrize("calibrator", [Logistic(0.4), Logistic(1.2, -0.3), Isotonic((0.1, 0.7), (0.2, 0.9))])
def test_calibrators_come_back_from_json(calibrator: Logistic | Isotonic) -> None:
    assert calibrator_from_json(json.loads(json.dumps(calibrator.to_json()))) == calibrator
