"""What a search found, and what the answer would have been at every smaller budget. Plain values."""

from dataclasses import dataclass
from typing import NamedTuple

from arts.search.budget import Bill
from arts.tree import ReasoningTree


class CurvePoint(NamedTuple):
    """The answer that stopping here would give, and what it cost."""

    generated_tokens: int
    verifier_tokens: int
    answer: int | None
    correct: bool
    covered: bool
    "a right solution is in the tree"


@dataclass(frozen=True)
class SearchResult:
    """What a search found. `answer` is a node of `tree`; None where nothing was finished."""

    tree: ReasoningTree
    answer: int | None
    bill: Bill
    stopped: str
    "budget, settled, complete, cancelled, failed: ..., or running where it was not stopped"
    counts: dict[str, int]
    "draws that failed, did not finish, were empty or repeated themselves"
    curve: tuple[CurvePoint, ...] = ()
    "one point for every change, the first at no cost, the last what this result says"
    last_failure: str = ""
    "what the proposer said of the last draw that failed"

    @property
    def text(self) -> str | None:
        return None if self.answer is None else self.tree.text(self.answer)

    @property
    def correct(self) -> bool:
        verdict = None if self.answer is None else self.tree.nodes[self.answer].verdict
        return verdict is not None and verdict.correct

    @property
    def covered(self) -> bool:
        """A right solution is in the tree, chosen or not."""
        return any(node.verdict is not None and node.verdict.correct for node in self.tree.nodes)
