"""What a search may spend, and what it has spent. A draw reserves the most it could cost before it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple


class Bill(NamedTuple):
    """What was spent. Both models are billed: the proposer by what a server would count, the verifier by its tokens."""

    generated_tokens: int = 0
    "drawn by the proposer"
    verifier_tokens: int = 0
    "that went through the verifier"
    draws: int = 0
    nodes: int = 0
    prompt_tokens: int = 0
    "sent to the proposer, once a request; no budget counts them"
    requests: int = 0

    def plus(self, other: "Bill") -> "Bill":
        return Bill(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def total_tokens(self) -> int:
        return self.generated_tokens + self.verifier_tokens


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most a search may spend on one problem; None sets no limit.

    `seconds` are watched by the driver, which has the clock: a search ends between two replies, on a server while it
    waits for one.
    """

    generated_tokens: int | None = None
    verifier_tokens: int | None = None
    total_tokens: int | None = None
    "of both models"
    draws: int | None = None
    nodes: int | None = None
    "of the tree, without its root; a draw that needs more of them is cut where they end"
    seconds: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            limit = getattr(self, field.name)
            if limit is not None and not limit > 0:
                raise ValueError(f"budget: {field.name} is {limit}; it must be above 0, or left out for no limit")

    @property
    def bounds(self) -> dict[str, int]:
        """The limits that are counted."""
        names = ("generated_tokens", "verifier_tokens", "total_tokens", "draws", "nodes")
        return {name: limit for name in names if (limit := getattr(self, name)) is not None}

    def left(self, bill: Bill) -> dict[str, int]:
        return {name: limit - getattr(bill, name) for name, limit in self.bounds.items()}


def longest_draw(left: Mapping[str, int], wanted: int, *, scored: bool, extra_scored: int = 0) -> int:
    """How many tokens one draw may have, so that it stays within what is left whatever it turns out to be.

    Args:
        wanted: tokens it would like to have.
        scored: its tokens go through the verifier too.
        extra_scored: tokens the verifier may read besides: the prompt, the steps above.

    Returns:
        Tokens, at most `wanted`; below 1 where nothing is left.
    """
    if left.get("draws", 1) < 1 or left.get("nodes", 1) < 1:
        return 0
    limit = min(wanted, left.get("generated_tokens", wanted))
    if not scored:
        return min(limit, left.get("total_tokens", limit))
    limit = min(limit, left.get("verifier_tokens", limit + extra_scored) - extra_scored)
    return min(limit, (left.get("total_tokens", 2 * limit + extra_scored) - extra_scored) // 2)


def reserve(
    left: Mapping[str, int], tokens: int, *, whole: bool, scored: bool, extra_scored: int = 0
) -> dict[str, int] | None:
    """What is left once a draw of that many tokens is counted at its most expensive; None where that is too much.

    Args:
        whole: a rollout: every token might be a step of its own. Otherwise it is one node.
    """
    verifier = tokens + extra_scored if scored else 0
    most = {
        "generated_tokens": tokens,
        "verifier_tokens": verifier,
        "total_tokens": tokens + verifier,
        "draws": 1,
        "nodes": tokens if whole else 1,
    }
    rest = {name: amount - most[name] for name, amount in left.items()}
    return rest if all(amount >= 0 for amount in rest.values()) else None
