"""The published curves of base and RL-tuned model, and pass@k recomputed from the counts that are given."""

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("published_pass_at_k", ROOT / "recipes" / "published_pass_at_k.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_curves_cross_between_8_and_16_and_end_as_published(recipe: ModuleType, arts_data: Path) -> None:
    points = recipe.read_curve(arts_data / "calibration" / "math500_qwen2.5-7b_base_vs_simplerl_passk.csv")
    assert recipe.crossing(points) == (8, 16)
    last = points[-1]
    assert (last.k, last.num_base_higher, last.num_tuned_higher) == (128, 19, 3)
    assert round(500 * (last.base - last.tuned)) == 19 - 3
    for point in points:
        assert point.low <= point.tuned - point.base <= point.high
    for before, after in itertools.pairwise(points):
        assert before.base < after.base
        assert before.tuned < after.tuned


def test_pass_at_k_from_counts_is_the_mean_over_all_subsets(recipe: ModuleType) -> None:
    right = np.array([0, 1, 3, 5])
    for k in (1, 2, 5):
        exact = [
            np.mean([any(draw < count for draw in subset) for subset in itertools.combinations(range(5), k)])
            for count in right
        ]
        np.testing.assert_allclose(recipe.pass_at(5, right, k), exact)


def test_recomputed_curves_of_the_problems_given_rise_and_cross_too(recipe: ModuleType, arts_data: Path) -> None:
    counts = arts_data / "calibration" / "math500_qwen2.5-7b_base_vs_simplerl_counts88.csv"
    num_samples, base_P, tuned_P = recipe.read_counts(counts)
    assert (num_samples, len(base_P)) == (128, 88)
    curves = [
        [recipe.pass_at(num_samples, counts_P, 1 << e).mean() for e in range(8)] for counts_P in (base_P, tuned_P)
    ]
    assert curves[0][0] == pytest.approx(base_P.mean() / 128)
    assert curves[0][-1] == pytest.approx((base_P > 0).mean())
    assert curves[0][0] < curves[1][0]
    for curve in curves:
        assert np.all(np.diff(curve) >= 0)
