"""From a search that is over to what a client reads: the answer, how sure the verifier is, both bills, the tree.

`confidence` is the chosen path's own score as a chance: what the verifier's scale says of it (`ScoreScale`), or, where
a strategy looks at no scores, the answer's share of the votes. It is as good as the verifier is calibrated.
"""

from dataclasses import dataclass
from typing import Any, Literal

from arts.search.answer import votes
from arts.search.program import Search
from arts.search.tree import SearchTree
from arts.serve.errors import ApiError, closing, invalid, late, of_failure, of_stop
from arts.serve.plan import Plan
from arts.tree import Step, StopReason

Row = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A text to give, and all that is said about it."""

    node: int
    steps: tuple[Step, ...]
    finish_reason: Literal["stop", "length"]
    usage: Row
    arts: Row

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps)


def answer_of(search: Search, plan: Plan, *, checks: bool, elapsed_s: float) -> Answer:
    """Raises ApiError where there is nothing to give: it says whose failure that is."""
    result = search.result()
    stopped = result.stopped
    if stopped == "budget" and elapsed_s >= (plan.budget.seconds or 0.0):
        stopped = "deadline"
    node = result.answer
    if node is None:
        if stopped in ("deadline", "closed", "cancelled") or stopped.startswith("failed"):
            raise _nothing(stopped, plan)
        node = _unfinished(search.tree)
        if node is None and stopped == "budget" and not search.last_failure:
            raise invalid(
                f"budget_tokens {plan.budget.generated_tokens} is too small for strategy {plan.strategy.id}: there is "
                "not one path to show",
                "arts.budget_tokens",
            )
        if node is None:
            raise of_failure(search.last_failure or "malformed: no text")
    tree, finished = search.tree, result.answer is not None
    confidence, kind = _confidence(search, node) if finished and not plan.plain else (None, None)
    about: Row = {
        "strategy": "sample" if plan.plain else plan.strategy.id,
        "confidence": confidence,
        "confidence_is": kind,
        "log_flow": tree.path_log_score(node) if finished and tree.log_score[node] is not None else None,
        "finished": finished,
        "stopped": _in_words(stopped),
        "cut_short": stopped in ("deadline", "closed") or stopped.startswith("failed"),
        "verdict": _verdict(search, node) if checks else None,
        "draws": result.bill.draws,
        "answers": len(tree.answers),
        "left_out": result.counts,
        "requests": result.bill.requests,
        "seed": plan.seed,
        "elapsed_s": round(elapsed_s, 3),
    }
    if plan.tree:
        about["tree"] = {"answer": node, "nodes": [node_row(search, one, checks=checks) for one in range(len(tree))]}
    stop: Literal["stop", "length"] = "stop" if tree.stop(node) is StopReason.EOS else "length"
    return Answer(node, tree.steps(node), stop, usage_of(search), about)


def usage_of(search: Search) -> Row:
    """OpenAI's fields are the proposer's bill, over all draws; `verifier_tokens` is the other one."""
    bill = search.bill
    return {
        "prompt_tokens": bill.prompt_tokens,
        "completion_tokens": bill.generated_tokens,
        "total_tokens": bill.prompt_tokens + bill.generated_tokens,
        "verifier_tokens": bill.verifier_tokens,
    }


def node_row(search: Search, node: int, *, checks: bool) -> Row:
    """A node of a search as clients see it; `checks`: what the checker says is known and may be shown."""
    tree = search.tree
    step = tree.steps(node)[-1] if node else None
    return {
        "id": node,
        "parent": tree.parent[node],
        "text": step.text if step else "",
        "log_flow": tree.log_score[node],
        "log_prior": step.log_prior if step else None,
        "draws": tree.num_draws[node],
        "stop": str(step.stop) if step else None,
        "answer": tree.answer_key(node) if tree.is_answer(node) else None,
        "verdict": _verdict(search, node) if checks and tree.stop(node) is StopReason.EOS else None,
    }


def _nothing(stopped: str, plan: Plan) -> ApiError:
    if stopped == "deadline":
        return late(plan.budget.seconds or 0.0)
    return of_stop(stopped) if stopped.startswith("failed") else closing()


def _unfinished(tree: SearchTree) -> int | None:
    """The first path that was cut at the token limit; its finish reason tells it from an answer, as in OpenAI's."""
    ends = (node for node in range(1, len(tree)) if tree.stop(node) is StopReason.LENGTH)
    return next(ends, None)


def _confidence(search: Search, node: int) -> tuple[float | None, str | None]:
    tree = search.tree
    if search.strategy.scores == "none":
        totals, _ = votes(tree)
        key = tree.answer_key(node)
        return (None, None) if key is None else (totals[key] / sum(totals.values()), "share of votes")
    if tree.scale.kind == "log_strength":
        return None, None  # a strength compares solutions of one problem, and is no chance
    return tree.path_value(node), "value"


def _verdict(search: Search, node: int) -> Row | None:
    verdict = search.tree.verdict(node)
    return None if verdict is None else {"correct": verdict.correct, "reason": verdict.reason}


def _in_words(stopped: str) -> str:
    """`failed` without what it says, which may be another's text."""
    return stopped.partition(":")[0]
