"""Maps from a stated chance to a truer one, fitted on validation data: temperature, Platt scaling, isotonic regression.

    temperature  p' = sigmoid(logit(p) / T)          Guo et al. 2017, arXiv 1706.04599
    platt        p' = sigmoid(a logit(p) + b)        Platt 1999, on the logit of p
    isotonic     p' = the non-decreasing step function of p with the least squared error (pool adjacent violators)

All three keep the order of chances (isotonic may make some equal; a negative a of a verifier that is worse than chance
turns it around), so they change what a score says and not which draw is chosen. Knows arrays; no trees and no files.

Shape suffixes: U units (an outcome and what was said of it), F features, K corners of a function.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from arts.evaluate.metrics import Floats

LEAST_CHANCE = 1e-4
"""Chances are kept this far from 0 and 1 where their logarithm is needed: one wrong word of a verifier that is sure
costs at most 9.2. It matters for flows, where everything below the reward of a wrong path means 0."""
_RIDGE = 1e-6  # pull towards the identity, per unit of weight: keeps the fit finite where validation data are separable
_MAX_STEPS = 100


def logit(chance_U: Floats) -> Floats:
    inside_U = np.clip(chance_U, LEAST_CHANCE, 1 - LEAST_CHANCE)
    return np.asarray(np.log(inside_U) - np.log1p(-inside_U))


def sigmoid(logit_U: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit_U)))  # no overflow on either side


@dataclass(frozen=True)
class Logistic:
    """p' = sigmoid(slope logit(p) + bias)."""

    slope: float
    bias: float = 0.0

    @property
    def temperature(self) -> float:
        """T = 1 / slope: above 1 for a verifier that is too sure. Infinite where the score says nothing."""
        return 1.0 / self.slope if self.slope else float("inf")

    def apply(self, chance_U: Floats) -> Floats:
        return sigmoid(self.slope * logit(chance_U) + self.bias)

    def to_json(self) -> dict[str, Any]:
        return {"slope": self.slope, "bias": self.bias}


@dataclass(frozen=True)
class Isotonic:
    """A non-decreasing function through the corners, straight between them, level outside."""

    inputs: tuple[float, ...]
    outputs: tuple[float, ...]

    def apply(self, chance_U: Floats) -> Floats:
        return np.interp(chance_U, self.inputs, self.outputs)

    def to_json(self) -> dict[str, Any]:
        return {"inputs": list(self.inputs), "outputs": list(self.outputs)}


Calibrator: TypeAlias = Logistic | Isotonic


def calibrator_from_json(row: Mapping[str, Any]) -> Calibrator:
    if "slope" in row:
        return Logistic(row["slope"], row["bias"])
    return Isotonic(tuple(row["inputs"]), tuple(row["outputs"]))


def fit_temperature(chance_U: Floats, right_U: Floats, weight_U: Floats) -> Logistic:
    """The T with the least log loss."""
    (slope,) = _fit_logistic(logit(chance_U)[:, None], np.array([1.0]), right_U, weight_U)
    return Logistic(float(slope))


def fit_platt(chance_U: Floats, right_U: Floats, weight_U: Floats) -> Logistic:
    """The slope and bias with the least log loss."""
    logit_U = logit(chance_U)
    features_UF = np.stack([logit_U, np.ones_like(logit_U)], axis=1)
    slope, bias = _fit_logistic(features_UF, np.array([1.0, 0.0]), right_U, weight_U)
    return Logistic(float(slope), float(bias))


def _fit_logistic(features_UF: Floats, start_F: Floats, right_U: Floats, weight_U: Floats) -> Floats:
    """Newton's method on the mean log loss, which is convex; a step that does not lower it is halved."""
    share_U = _shares(weight_U)

    def objective(theta_F: Floats) -> float:
        score_U = features_UF @ theta_F
        loss_U = np.logaddexp(0.0, score_U) - right_U * score_U
        return float(share_U @ loss_U + 0.5 * _RIDGE * ((theta_F - start_F) ** 2).sum())

    theta_F = start_F.copy()
    for _ in range(_MAX_STEPS):
        chance_U = sigmoid(features_UF @ theta_F)
        gradient_F = features_UF.T @ (share_U * (chance_U - right_U)) + _RIDGE * (theta_F - start_F)
        curvature_FF = (features_UF.T * (share_U * chance_U * (1 - chance_U))) @ features_UF
        step_F = np.linalg.solve(curvature_FF + _RIDGE * np.eye(len(theta_F)), gradient_F)
        size, before = 1.0, objective(theta_F)
        while size > 1e-10 and objective(theta_F - size * step_F) > before:
            size /= 2
        theta_F = theta_F - size * step_F
        if np.abs(size * step_F).max() < 1e-9:
            break
    return theta_F


def fit_isotonic(chance_U: Floats, right_U: Floats, weight_U: Floats) -> Isotonic:
    """Pool adjacent violators: neighbours in the wrong order become one block at their mean, until none are left."""
    _shares(weight_U)
    inputs_K, unit_K = np.unique(chance_U, return_inverse=True)  # equal chances cannot be told apart
    weights = np.bincount(unit_K, weight_U, len(inputs_K))
    totals = np.bincount(unit_K, weight_U * right_U, len(inputs_K))
    blocks: list[tuple[float, float, int, int]] = []  # (weight, weight right, first corner, last corner)
    for corner in np.flatnonzero(weights > 0):
        block = (float(weights[corner]), float(totals[corner]), int(corner), int(corner))
        while blocks and blocks[-1][1] * block[0] >= block[1] * blocks[-1][0]:
            weight, total, first, _ = blocks.pop()
            block = (weight + block[0], total + block[1], first, block[3])
        blocks.append(block)
    corners = [
        (float(inputs_K[corner]), total / weight)
        for weight, total, first, last in blocks
        for corner in sorted({first, last})
    ]
    return Isotonic(tuple(x for x, _ in corners), tuple(y for _, y in corners))


def _shares(weight_U: Floats) -> Floats:
    total = float(weight_U.sum())
    if total <= 0:
        raise ValueError("there is no outcome to fit a calibration on; validation needs finished draws with verdicts")
    return np.asarray(weight_U / total)


FITS: Mapping[str, Callable[[Floats, Floats, Floats], Calibrator]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}
