"""How far stated chances are from outcomes: calibration error, Brier score, log loss, and a reliability diagram.

Over weighted units, a chance and what came of it each; intervals resample the problems that the units belong to. Knows
arrays only.

Shape suffixes: U units, P problems, K bins, B resamples.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from arts.evaluate.calibrators import LEAST_CHANCE, Calibrator
from arts.evaluate.metrics import (
    Estimate,
    Floats,
    Ints,
    paired_bootstrap,
    percentile_interval,
    resample,
    resampled_sums,
)

Binning = Literal["mass", "width"]
NUM_BINS = 15


@dataclass(frozen=True)
class Pairs:
    """What was said and what came: a unit each. A unit of weight 2.5 counts as two and a half draws."""

    num_problems: int
    problem_U: Ints
    "position of the unit's problem among the trees"
    chance_U: Floats
    right_U: Floats
    "1 right, 0 wrong"
    weight_U: Floats

    @property
    def num_outcomes(self) -> float:
        return float(self.weight_U.sum())

    def calibrated(self, calibrator: Calibrator) -> "Pairs":
        return Pairs(self.num_problems, self.problem_U, calibrator.apply(self.chance_U), self.right_U, self.weight_U)


def bin_numbers(chance_U: Floats, weight_U: Floats, num_bins: int, bins: Binning) -> Ints:
    """Bin of each unit, shape (U,): equal widths of 0..1, or equal weights; equal chances are in one bin."""
    if num_bins < 1 or bins not in get_args(Binning):
        raise ValueError(f"{num_bins} bins of {bins!r}; give at least 1, of equal 'mass' or 'width'")
    if bins == "width":
        return np.minimum((chance_U * num_bins).astype(np.int64), num_bins - 1)
    _, unit_U = np.unique(chance_U, return_inverse=True)
    weight_of_value = np.bincount(unit_U, weight_U)
    middle = np.cumsum(weight_of_value) - weight_of_value / 2
    bin_of_value: Ints = np.minimum((middle / weight_U.sum() * num_bins).astype(np.int64), num_bins - 1)
    return np.asarray(bin_of_value[unit_U])


def expected_calibration_error(
    pairs: Pairs, *, num_bins: int = NUM_BINS, bins: Binning = "mass", seed: int = 0
) -> Estimate:
    """ECE = sum over bins of (weight of the bin) |mean chance stated - share right|, with a 95% interval.

    Chance alone makes ECE larger than 0, and resampling adds as much again; so the interval is reflected about the
    estimate, [2 ECE - high, 2 ECE - low], where the two cancel. Bins are those of the pairs, also in resamples.
    """
    if pairs.num_outcomes <= 0:
        return Estimate(None, None, None)
    number_U = bin_numbers(pairs.chance_U, pairs.weight_U, num_bins, bins)
    gap_PK = _per_problem(pairs, number_U, num_bins, pairs.chance_U - pairs.right_U)
    weight_P = _per_problem(pairs, number_U, num_bins, np.ones_like(pairs.chance_U)).sum(axis=1)
    value = float(np.abs(gap_PK.sum(axis=0)).sum() / weight_P.sum())
    gap_BK, weight_B = resampled_sums(resample(pairs.num_problems, seed), gap_PK, weight_P)
    drawn_B = weight_B > 0
    low, high = percentile_interval(np.abs(gap_BK[drawn_B]).sum(axis=1) / weight_B[drawn_B])
    return Estimate(value, max(0.0, 2 * value - high), max(0.0, 2 * value - low))


def _per_problem(pairs: Pairs, number_U: Ints, num_bins: int, value_U: Floats) -> Floats:
    """Weighted sums of the values of every problem in every bin, shape (P, K)."""
    cell_U = pairs.problem_U * num_bins + number_U
    total = np.bincount(cell_U, pairs.weight_U * value_U, pairs.num_problems * num_bins)
    return np.asarray(total, dtype=np.float64).reshape(pairs.num_problems, num_bins)


def brier_score(pairs: Pairs, *, seed: int = 0) -> Estimate:
    """Mean of (chance - outcome)^2."""
    return _mean(pairs, (pairs.chance_U - pairs.right_U) ** 2, seed)


def log_loss(pairs: Pairs, *, seed: int = 0) -> Estimate:
    """Mean of -log of the chance stated of what came, in nats; chances are kept `LEAST_CHANCE` from 0 and 1."""
    stated_U = np.where(pairs.right_U > 0.5, pairs.chance_U, 1 - pairs.chance_U)
    return _mean(pairs, -np.log(np.clip(stated_U, LEAST_CHANCE, 1 - LEAST_CHANCE)), seed)


def _mean(pairs: Pairs, value_U: Floats, seed: int) -> Estimate:
    one_bin_U = np.zeros(len(value_U), dtype=np.int64)
    total_P = _per_problem(pairs, one_bin_U, 1, value_U)[:, 0]
    weight_P = _per_problem(pairs, one_bin_U, 1, np.ones_like(value_U))[:, 0]
    return paired_bootstrap(pairs.num_problems, seed)(total_P, weight_P)


class Point(NamedTuple):
    """One bin of a reliability plot."""

    chance: float
    "mean of what was stated"
    right: Estimate
    weight: float


def reliability_points(
    pairs: Pairs, *, num_bins: int = NUM_BINS, bins: Binning = "mass", seed: int = 0
) -> tuple[Point, ...]:
    """Stated chance against share right in every bin that is not empty, from low to high."""
    if pairs.num_outcomes <= 0:
        return ()
    number_U = bin_numbers(pairs.chance_U, pairs.weight_U, num_bins, bins)
    weight_PK, chance_PK, right_PK = (
        _per_problem(pairs, number_U, num_bins, value_U)
        for value_U in (np.ones_like(pairs.chance_U), pairs.chance_U, pairs.right_U)
    )
    estimate = paired_bootstrap(pairs.num_problems, seed)
    weight_K = weight_PK.sum(axis=0)
    return tuple(
        Point(float(chance_PK[:, k].sum() / weight_K[k]), estimate(right_PK[:, k], weight_PK[:, k]), float(weight_K[k]))
        for k in np.flatnonzero(weight_K > 0)
    )


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How far stated chances are from outcomes."""

    ece_mass: Estimate
    "over bins of equal weight"
    ece_width: Estimate
    "over bins of equal width"
    brier: Estimate
    log_loss: Estimate
    points: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        errors = {name: getattr(self, name).to_json() for name in ("ece_mass", "ece_width", "brier", "log_loss")}
        points = [{"chance": chance, "right": right.to_json(), "weight": w} for chance, right, w in self.points]
        return errors | {"points": points}


def measure_quality(pairs: Pairs, *, num_bins: int = NUM_BINS, seed: int = 0) -> Quality:
    return Quality(
        ece_mass=expected_calibration_error(pairs, num_bins=num_bins, bins="mass", seed=seed),
        ece_width=expected_calibration_error(pairs, num_bins=num_bins, bins="width", seed=seed),
        brier=brier_score(pairs, seed=seed),
        log_loss=log_loss(pairs, seed=seed),
        points=reliability_points(pairs, num_bins=num_bins, seed=seed),
    )
