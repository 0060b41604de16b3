"""Model names that choose a strategy: `arts-search`, `arts-best-of-16`, `arts-beam`, `arts-majority-32`.

    arts-search          our default, the strategy `arts`
    arts-best-of-N       N solutions, the best one
    arts-ID              any strategy of `arts search --list-strategies`, with its defaults
    arts-ID-N            the same with its size: n, or width, subtrees, paths, whichever it has

Any other option is given in `extra_body={"arts": {"strategy": "ID:KEY=VALUE,..."}}`.
"""

import re
from dataclasses import fields

from arts.search.strategies import STRATEGIES, build_strategy, parse_strategy
from arts.search.strategies.adaptive import Adaptive
from arts.search.strategy import Strategy

_PREFIX = "arts-"
_SIZES = ("n", "width", "subtrees", "paths")
_COUNTS = (*_SIZES, "expand", "candidates", "first", "window")
_COSTLY = {"ets": {"n": 64, "exact": 14}}
"""What would keep a processor busy for long, as other searches wait meanwhile."""
_SIZED = re.compile(r"(.+)-(\d{1,6})", re.ASCII)


def strategy_of_model(name: str) -> Strategy | None:
    """The strategy that a model's name chooses; None where it is no such name.

    Raises ValueError for a size that the strategy lacks, or that it cannot have.
    """
    if not name.startswith(_PREFIX):
        return None
    rest = name.removeprefix(_PREFIX)
    if rest == "search":
        return Adaptive()
    if rest in STRATEGIES:
        return build_strategy(rest)
    sized = _SIZED.fullmatch(rest)
    if sized is None:
        return None
    which = "best-of-n" if sized[1] == "best-of" else sized[1]
    if which not in STRATEGIES:
        return None
    size = size_field(STRATEGIES[which])
    if size is None:
        raise ValueError(f"model {name!r}: strategy {which} has no size; leave the number out")
    return build_strategy(which, [f"{size}={sized[2]}"])


def size_field(strategy: type[Strategy]) -> str | None:
    """The option that says how many solutions or paths a strategy works with."""
    names = {field.name for field in fields(strategy)}
    return next((name for name in _SIZES if name in names), None)


def check_size(strategy: Strategy, most: int) -> Strategy:
    """Raises ValueError where a strategy asks for more than the server allows."""
    for name, limit in {**dict.fromkeys(_COUNTS, most), **_COSTLY.get(strategy.id, {})}.items():
        if getattr(strategy, name, 0) > limit:
            raise ValueError(f"strategy {strategy.id}: {name} is {getattr(strategy, name)}; at most {limit} here")
    return strategy


def named_strategy(text: str, most: int) -> Strategy:
    """`ID` or `ID:KEY=VALUE,...` within the server's limits, as requests write it."""
    return check_size(parse_strategy(text), most)


def listed_models(*, scored: bool = True) -> list[str]:
    """Names that /v1/models shows besides the base model; sizes may be added to most of them.

    Args:
        scored: there is a verifier; without one only strategies that look at no scores can be had.
    """
    plain = sorted(name for name in STRATEGIES if name not in ("arts", "best-of-n"))
    names = [f"{_PREFIX}search", f"{_PREFIX}best-of-16", *(f"{_PREFIX}{name}" for name in plain)]
    return [name for name in names if scored or strategy_of_model(name).scores == "none"]  # type: ignore[union-attr]
