"""What a stream tells of a search while it runs: counts, and on request the tree as it grows.

The field `event` says which it is: `progress`, or `tree` with the nodes that are new (`nodes`) and, of those told
before, what changed (`changes`: id, draws, log_flow). Node 0 is the problem; rows are those of the tree in the answer.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

from arts.search.program import Search
from arts.search.running import Running
from arts.serve.answer import Row, node_row

Kind = Literal["progress", "tree", "none"]


class Progress:
    """Watches one search, in the engine's thread.

    Args:
        tell: called with an event; the first at once, the others at most every `every_s` seconds.
        checks: verdicts may be shown.
    """

    def __init__(
        self, kind: Kind, tell: Callable[[Row], None], *, checks: bool, most_nodes: int, every_s: float = 0.1
    ) -> None:
        self.kind, self._tell, self._checks, self._most_nodes, self._every_s = kind, tell, checks, most_nodes, every_s
        self._started = time.monotonic()
        self._told_at = float("-inf")
        self._known: list[tuple[int, float | None]] = []

    def __call__(self, running: Running) -> None:
        search: Search = running.program
        if len(search.tree) > self._most_nodes:
            search.cancel("budget")
        now = time.monotonic()
        if self.kind == "none" or now < self._told_at + self._every_s:
            return
        self._told_at = now
        self._tell(self.event(search, running))

    def event(self, search: Search, running: Running | None = None) -> Row:
        """What there is to tell now."""
        bill, landed = search.bill, [reply for reply in (running.replies if running else ()) if reply is not None]
        row: dict[str, Any] = {
            "event": self.kind,
            "elapsed_s": round(time.monotonic() - self._started, 3),
            "draws": bill.draws + sum(len(reply.draws) for reply in landed),
            "generated_tokens": bill.generated_tokens + sum(reply.usage.generated_tokens for reply in landed),
            "verifier_tokens": bill.verifier_tokens,
            "answers": len(search.tree.answers),
        }
        return row | self._growth(search) if self.kind == "tree" else row

    def _growth(self, search: Search) -> Row:
        tree, old = search.tree, len(self._known)
        state = list(zip(tree.num_draws, tree.log_score, strict=True))
        changed = [node for node in range(old) if state[node] != self._known[node]]
        self._known = state
        return {
            "nodes": [node_row(search, node, checks=self._checks) for node in range(old, len(state))],
            "changes": [{"id": node, "draws": state[node][0], "log_flow": state[node][1]} for node in changed],
        }
