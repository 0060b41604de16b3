"""Every strategy by its id. To add one: a frozen dataclass derived from `Strategy`, and its name here."""

from collections.abc import Mapping, Sequence

from arts.options import parse_options
from arts.search.strategies.adaptive import Adaptive
from arts.search.strategies.frontier import BestFirst, GlobalFrontier
from arts.search.strategies.levels import DVTS, ETS, Beam, ParticleFilter, Rebase
from arts.search.strategies.mcts import MCTS
from arts.search.strategies.pool import BestOfN, FlowVote, Majority, SelfConsistency, WeightedVote
from arts.search.strategies.sampling import FlowSampling, ValueAugmented
from arts.search.strategies.soft import DTS, DTSStar
from arts.search.strategy import Strategy

STRATEGIES: Mapping[str, type[Strategy]] = {
    strategy.id: strategy
    for strategy in (
        Adaptive,
        BestOfN,
        Majority,
        WeightedVote,
        FlowVote,
        SelfConsistency,
        Beam,
        DVTS,
        Rebase,
        BestFirst,
        MCTS,
        DTS,
        DTSStar,
        FlowSampling,
        ParticleFilter,
        ValueAugmented,
        ETS,
        GlobalFrontier,
    )
}


def parse_strategy(text: str) -> Strategy:
    """A strategy as users write it: `ID` or `ID:KEY=VALUE,KEY=VALUE`."""
    name, _, options = text.partition(":")
    return build_strategy(name, options.split(",") if options else [])


def build_strategy(name: str, options: Sequence[str] = ()) -> Strategy:
    """A strategy by its id, with KEY=VALUE options. Raises ValueError that says what is allowed."""
    strategy = STRATEGIES.get(name)
    if strategy is None:
        raise ValueError(f"strategy is {name!r}; allowed are {', '.join(STRATEGIES)}")
    return strategy(**parse_options(strategy, options, of=f"strategy {name}"))
