"""What is run: each tool's methods, a small grid of settings on validation problems, the chosen ones on test problems.

Plain values. `n` is what the tool itself calls its budget: samples, particles, paths of a level, calls of a model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Options = dict[str, Any]
OURS = "arts"
PEERS = ("its_hub", "thinkbooster", "treequest")

VALIDATION: Mapping[str, list[tuple[str, Options]]] = {
    "its_hub": [
        ("best-of-n", {"n": 8}),
        ("beam", {"n": 8, "width": 1}),
        ("beam", {"n": 8, "width": 2}),
        ("beam", {"n": 8, "width": 4}),
        ("particle-filter", {"n": 8, "score": "value"}),
        ("particle-filter", {"n": 8, "score": "flow"}),
    ],
    "thinkbooster": [
        ("best-of-n", {"n": 8}),
        ("beam", {"width": 2, "expand": 4, "aggregation": "mean"}),
        ("beam", {"width": 2, "expand": 4, "aggregation": "last"}),
        ("beam", {"width": 3, "expand": 3, "aggregation": "last"}),
        ("beam", {"width": 4, "expand": 2, "aggregation": "last"}),
    ],
    "treequest": [
        ("ab-mcts-a", {"n": 24, "dist_type": "gaussian"}),
        ("ab-mcts-a", {"n": 24, "dist_type": "beta"}),
        ("mcts", {"n": 24, "samples": 2, "exploration": 1.414}),
        ("mcts", {"n": 24, "samples": 4, "exploration": 1.414}),
        ("mcts", {"n": 24, "samples": 2, "exploration": 0.5}),
    ],
}
"""At about the same number of generated tokens. Ours has no grid: its options are the defaults."""

TEST: Mapping[str, list[tuple[str, Options]]] = {
    "its_hub": [
        ("self-consistency", {"n": 16}),
        *(("best-of-n", {"n": n}) for n in (8, 16)),
        *(("beam", {"n": n, "width": 1}) for n in (8, 16)),
        *(("particle-filter", {"n": n, "score": "value"}) for n in (8, 16)),
    ],
    "thinkbooster": [
        ("best-of-n", {"n": 16}),
        *(("beam", {"width": width, "expand": expand, "aggregation": "last"}) for width, expand in ((2, 4), (4, 4))),
    ],
    "treequest": [
        ("ab-mcts-a", {"n": 48, "dist_type": "beta"}),
        ("mcts", {"n": 24, "samples": 4, "exploration": 1.414}),
    ],
}
"""The settings that validation chose, at several budgets."""

TEST_WEAK: Mapping[str, list[tuple[str, Options]]] = {
    "its_hub": [
        ("best-of-n", {"n": 16}),
        ("beam", {"n": 16, "width": 1}),
        ("particle-filter", {"n": 16, "score": "value"}),
    ],
    "thinkbooster": [
        ("best-of-n", {"n": 16}),
        ("beam", {"width": 4, "expand": 4, "aggregation": "last"}),
    ],
    "treequest": [
        ("ab-mcts-a", {"n": 48, "dist_type": "beta"}),
        ("mcts", {"n": 24, "samples": 4, "exploration": 1.414}),
    ],
}
"""Of these, what is run again with a verifier that errs at ends too, on the same test problems."""

GRIDS = {"validation": VALIDATION, "test": TEST, "test-weak": TEST_WEAK}

GENERATED, READ = (96, 192, 216, 432), (112, 224, 432, 608)
"""Budgets of ours, in generated and in verifier tokens a problem."""

BESIDE = ("best-of-n", "beam:width=4,expand=4", "arts:give_up=0")
"""Strategies of ours besides `arts`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method on one block of problems: what a row is known by."""

    problems: str
    "`validation`, `test`, or `test-weak`: test problems with the weak verifier"
    block: int
    tool: str
    method: str
    options: Options = field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.problems, self.block, self.tool, self.method, tuple(sorted(self.options.items())))


def run_of(row: Mapping[str, Any]) -> Run:
    return Run(**{name: row[name] for name in ("problems", "block", "tool", "method", "options")})


def planned(tools: tuple[str, ...], problems: str, block: int) -> Iterator[Run]:
    for tool in tools:
        for method, options in GRIDS[problems].get(tool, []):
            yield Run(problems=problems, block=block, tool=tool, method=method, options=options)


def at_equal_cost(row: Mapping[str, Any]) -> Iterator[Run]:
    """Our searches that may spend no more than a peer's run did, a problem, as the servers counted it.

    At its generated tokens everything goes through the same two servers. At its verifier tokens the verifier runs in
    our process, where it reads each step once; the peers' one reads whole texts. Our budget is the next lower rung of
    a ladder, so that peers that cost nearly the same share a run of ours.
    """
    if _generated(row):
        yield _ours(row, "arts")
    if read := rung(READ, row["verifier"]["prompt_tokens"] / len(row["correct"])):
        yield _run(row, "arts", {"verifier_tokens": read, "verifier": "here"})


def beside(row: Mapping[str, Any]) -> Iterator[Run]:
    """Other strategies of ours at what its_hub's particle filter generated, through the same servers."""
    if (row["tool"], row["method"], row["options"].get("n")) == ("its_hub", "particle-filter", 16):
        for method in BESIDE:
            yield _ours(row, method)


def rung(ladder: tuple[int, ...], tokens: float) -> int:
    """The highest that is not above a number of tokens, counted in whole ones; 0 below the lowest."""
    return max((one for one in ladder if one <= round(tokens)), default=0)


def _generated(row: Mapping[str, Any]) -> int:
    return rung(GENERATED, row["proposer"]["generated_tokens"] / len(row["correct"]))


def _ours(row: Mapping[str, Any], method: str) -> Run:
    return _run(row, method, {"generated_tokens": _generated(row), "verifier": "served"})


def _run(row: Mapping[str, Any], method: str, options: Options) -> Run:
    return Run(problems=row["problems"], block=row["block"], tool=OURS, method=method, options=options)
