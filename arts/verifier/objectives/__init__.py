"""The objectives a verifier can be trained on, by name: `OBJECTIVES`; their options are the fields of their classes."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from arts.verifier.objectives.base import Batch, Loss, Objective, join_targets
from arts.verifier.objectives.facts import RewardSettings, Targets, TreeFacts
from arts.verifier.objectives.flows import RFM, DebiasedFlow, LogMeanExp, MeanFlow, TemperedFlow
from arts.verifier.objectives.ranking import PairwiseRM, SiblingRank
from arts.verifier.objectives.subtb import SubTB
from arts.verifier.objectives.values import McValue, Outcome, PointwisePRM, RestValue

__all__ = [
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
    "parse_options",
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


def parse_options(name: str, texts: Iterable[str]) -> dict[str, Any]:
    """Options of an objective from `KEY=VALUE` texts, by the types of its fields. `none` is no value.

    Raises:
        ValueError: no `=`, an unknown key, or a value of another type.
    """
    build_objective(name)  # an unknown name is the first thing to say
    types = get_type_hints(OBJECTIVES[name])
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"objective option {text!r} is not of the form KEY=VALUE, like leaf_weight=2")
        allowed = [field.name for field in fields(OBJECTIVES[name])]
        if key not in allowed:
            raise ValueError(f"objective {name} has no option {key!r}; its options are {', '.join(allowed)}")
        options[key] = _parse(f"{name}: {key}", value, types[key])
    return options


def _parse(what: str, text: str, kind: Any) -> Any:
    kinds = get_args(kind) or (kind,)
    if text == "none" and NoneType in kinds:
        return None
    if bool in kinds:
        if text not in ("true", "false"):
            raise ValueError(f"{what} is {text!r}; allowed are true and false")
        return text == "true"
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError as error:
                raise ValueError(f"{what} is {text!r}; it must be a number") from error
    return text
