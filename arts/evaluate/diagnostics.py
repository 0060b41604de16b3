"""What a verifier's scores are worth beside the choice they make: calibration, conservation, order of inner nodes.

Puts the three together for every verifier of an evaluation. Measures nothing itself, and does not know how it is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from arts.evaluate.calibration import Calibration, Where, calibrate, states_inner_chances
from arts.evaluate.conservation import ResidualRow, conservation_residuals
from arts.evaluate.inner import InnerValue
from arts.evaluate.ranks import RankQuality, rank_correlation
from arts.protocols import Aggregation, ScoredTrees


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """By name of the verifier; what was not measured is empty."""

    calibrations: Mapping[str, Sequence[Calibration]] = field(default_factory=dict)
    residuals: Mapping[str, Sequence[ResidualRow]] = field(default_factory=dict)
    ranks: Mapping[str, Mapping[str, RankQuality]] = field(default_factory=dict)


def diagnose(
    verifiers: Mapping[str, ScoredTrees],
    validation: Mapping[str, ScoredTrees] | None = None,
    *,
    values: Sequence[InnerValue] = (),
    aggregation: Aggregation | None = None,
    seed: int = 0,
) -> Diagnostics:
    """Calibration and conservation of every verifier, and the order of its inner scores where values are given.

    Args:
        verifiers: the test trees as each verifier scored them.
        validation: other problems' trees, scored by the same verifiers, to fit calibrators on; None fits none.
        values: of inner nodes of the test trees, by `draw_inner_values`.
        aggregation: how the scores of an answer's path become one, for every verifier; None: as its scale says.
    """
    fitted_on = validation or {}
    missing = sorted(set(verifiers) - set(fitted_on)) if validation is not None else []
    if missing:
        raise ValueError(f"verifier {missing[0]!r} has scored no validation trees; score them with every verifier")
    calibrations = {}
    for name, scored in verifiers.items():
        places: list[Where] = ["answers"]
        if states_inner_chances(scored.scale) and _inner_scores(scored):
            places.append("inner")
        calibrations[name] = [
            calibrate(scored, fitted_on.get(name), where=where, aggregation=aggregation, seed=seed) for where in places
        ]
    return Diagnostics(
        calibrations=calibrations,
        # A sum or mean of Bradley-Terry strengths is no law of theirs: they have no zero and no unit.
        residuals={
            name: conservation_residuals(scored.trees)
            for name, scored in verifiers.items()
            if scored.scale.kind != "log_strength"
        },
        ranks={name: rank_correlation(scored, values, seed=seed) for name, scored in verifiers.items() if values},
    )


def _inner_scores(scored: ScoredTrees) -> bool:
    """False for verifiers that score ends only."""
    return all(node.log_flow is not None for tree in scored.trees for node in tree.nodes[1:])
