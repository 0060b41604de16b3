"""What strategies may ask for: options within bounds, and log-probabilities that the proposer reports."""

import math

from arts.search.strategy import Strategy
from arts.search.tree import SearchTree


def require(
    strategy: Strategy, *names: str, least: float | None = None, above: float | None = None, most: float | None = None
) -> None:
    """Raise ValueError where one of these options is out of bounds, or no number; None has no bounds."""
    bounds = [
        f"{word} {bound}"
        for word, bound in (("at least", least), ("above", above), ("at most", most))
        if bound is not None
    ]
    for name in names:
        value = getattr(strategy, name)
        if value is None or (
            (least is None or value >= least) and (above is None or value > above) and (most is None or value <= most)
        ):
            continue
        raise ValueError(f"strategy {strategy.id}: {name} is {value}; it must be {' and '.join(bounds)}")


def known_log_prior(strategy: Strategy, tree: SearchTree, node: int) -> float:
    """log pi_0 of the last step of a path. Raises ValueError where the proposer does not report it."""
    log_prior = tree.log_prior(node)
    if math.isnan(log_prior):
        raise ValueError(
            f"strategy {strategy.id} ranks steps by their log-probabilities here, which the proposer does not report; "
            "use one that does, or rank by the verifier's value"
        )
    return log_prior
