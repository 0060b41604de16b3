"""The objectives a verifier can be trained on, by name: `OBJECTIVES`; their options are the fields of their classes."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from arts.facts import TreeFacts
from arts.verifier.objectives.base import Batch, Loss, Objective, RewardSettings, Targets, join_targets
from arts.verifier.objectives.flows import RFM, DebiasedFlow, LogMeanExp, MeanFlow, TemperedFlow
from arts.verifier.objectives.ranking import PairwiseRM, SiblingRank
from arts.verifier.objectives.subtb import SubTB
from arts.verifier.objectives.values import McValue, Outcome, PointwisePRM, RestValue

__all__ = [
    "DEFAULT_OBJECTIVE",
    "OBJECTIVES",
    "RFM",
    "Batch",
    "DebiasedFlow",
    "LogMeanExp",
    "Loss",
    "McValue",
    "MeanFlow",
    "Objective",
    "Outcome",
    "PairwiseRM",
    "PointwisePRM",
    "RestValue",
    "RewardSettings",
    "SiblingRank",
    "SubTB",
    "Targets",
    "TemperedFlow",
    "TreeFacts",
    "build_objective",
    "describe_objective",
    "join_targets",
]

OBJECTIVES: Mapping[str, type[Any]] = {
    objective.name: objective
    for objective in (
        RFM,
        MeanFlow,
        DebiasedFlow,
        LogMeanExp,
        TemperedFlow,
        SubTB,
        SiblingRank,
        PointwisePRM,
        PairwiseRM,
        Outcome,
        McValue,
        RestValue,
    )
}

DEFAULT_OBJECTIVE = MeanFlow(leaf_weight=4.0)
"""Level with `outcome` for choosing where data is plenty, and its inner scores are chances (docs/experiments.md)."""


def build_objective(name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """The objective of that name.

    Raises:
        ValueError: an unknown name or option, or a value that is not allowed; says which are.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective is {name!r}; allowed are {', '.join(OBJECTIVES)}")
    allowed = [field.name for field in fields(OBJECTIVES[name])]
    for option in options or {}:
        if option not in allowed:
            raise ValueError(f"objective {name} has no option {option!r}; its options are {', '.join(allowed)}")
    objective: Objective = OBJECTIVES[name](**options or {})
    return objective


def describe_objective(objective: Objective) -> dict[str, Any]:
    """Name and options as JSON, as a verifier's card keeps them; `build_objective` reads them back."""
    return {"name": objective.name, **asdict(objective)}  # type: ignore[call-overload]
