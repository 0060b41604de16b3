"""/v1/score: the verifier's word on partial solutions, for other search programs.

Of every prefix the log-flow of the problem and of each step, the score of the path as the verifier's scale puts steps
together, and the same as a chance. Steps are texts here: their tokens are cut anew, and no proposer is asked.
"""

import re
from typing import Any

from arts.protocols import ScoreRequest, aggregate
from arts.search.tree import SearchTree
from arts.serve.errors import invalid
from arts.serve.plan import parse_problem
from arts.serve.schema import Body, Prefix, ScoreCall
from arts.serve.service import Service
from arts.tasks.conversation import conversation
from arts.tree import Problem, Step, StopReason, text_of


async def score(service: Service, call: ScoreCall, body: Body) -> dict[str, Any]:
    """The answer to a call. Raises ApiError."""
    offer, scorer = service.offer, service.scorer
    if scorer is None:
        raise invalid("this server was started without a verifier")
    if len(call.prefixes) > offer.limits.max_prefixes:
        raise invalid(f"at most {offer.limits.max_prefixes} prefixes at a time here", "prefixes")
    messages = body["messages"]
    if not offer.checks:
        problem = conversation(messages)
    elif len(messages) == 1:
        problem = parse_problem(text_of(messages[0].get("content")), {}, offer.task)
    else:
        raise invalid(f"this server scores problems of {offer.task.name}: send one user message", "messages")
    paths = [_steps(prefix, offer.task.step_separator) for prefix in call.prefixes]
    # A path without steps is the problem itself, which has one score.
    requests = [ScoreRequest(problem, steps, max(1, len(steps))) for steps in paths]
    replies = await service.score(requests)
    rows = [
        _row(problem, service, index, steps, reply.log_scores)
        for index, (steps, reply) in enumerate(zip(paths, replies, strict=True))
    ]
    scale = scorer.scale
    return {
        "object": "list",
        "scale": {"kind": scale.kind, "aggregation": scale.aggregation, "inner_is_value": scale.inner_is_value},
        "data": rows,
        "usage": {"verifier_tokens": sum(reply.computed_tokens for reply in replies)},
    }


def _row(
    problem: Problem, service: Service, index: int, steps: tuple[Step, ...], log_scores: tuple[float, ...]
) -> dict[str, Any]:
    scale = service.scale
    total = aggregate(log_scores, scale.aggregation)
    value = None if scale.kind == "log_strength" else SearchTree(problem, scale=scale).as_value(total)
    return {
        "object": "score",
        "index": index,
        "log_flow": total,
        "value": value,
        "steps": [{"text": step.text, "log_flow": score} for step, score in zip(steps, log_scores, strict=False)],
    }


def _steps(prefix: str | Prefix, separator: str) -> tuple[Step, ...]:
    """Steps as a proposer would have drawn them."""
    given = Prefix(text=prefix) if isinstance(prefix, str) else prefix
    texts = given.steps if given.steps is not None else split_steps(given.text or "", separator)
    stops = [StopReason.STOP] * len(texts)
    if given.finished and texts:
        stops[-1] = StopReason.EOS
    return tuple(Step(text, (), None, stop) for text, stop in zip(texts, stops, strict=True))


def split_steps(text: str, separator: str) -> list[str]:
    """A text cut behind each separator that something other than blanks stands before, as proposers cut."""
    blanks = re.compile(rf"(?:{re.escape(separator)}|\s)*")
    steps, start = [], 0
    while (end := text.find(separator, blanks.match(text, start).end())) >= 0:  # type: ignore[union-attr]
        steps.append(text[start : end + len(separator)])
        start = end + len(separator)
    return [*steps, text[start:]] if start < len(text) else steps
