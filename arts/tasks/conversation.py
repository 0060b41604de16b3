"""Conversations of any kind, as a chat endpoint receives them: there is no gold answer, so nothing is checked.

A problem holds the messages as they came, system prompt and turns before included, and what else the request wants of
the model; both go to a server untouched. Its `prompt` is the same as text, for verifiers that read no messages. Knows
no model and no server.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arts.protocols import Split
from arts.tasks.answers import find_answer, plain_text
from arts.tree import Problem, Verdict, text_of

_EXAMPLE = "What is 17 + 25 - 8?\n\nReason step by step, and put your final answer within \\boxed{}."


class ConversationTask:
    """A `Task` whose problems come from outside. `judge` reads the answer for votes; its word on right and wrong means
    nothing.

    Args:
        step_separator: text that ends a step; a blank line.
        max_new_tokens: limit of one answer.
    """

    name = "conversation"

    def __init__(self, *, step_separator: str = "\n\n", max_new_tokens: int = 1024) -> None:
        if not step_separator:
            raise ValueError("the step separator is empty; give the text that ends a step, like a blank line")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        self.step_separator, self.max_new_tokens = step_separator, max_new_tokens

    def problems(self, split: Split, seed: int) -> Iterator[Problem]:
        """One question, which shows a server what it is to be used for."""
        yield self.parse(_EXAMPLE)

    def parse(self, text: str) -> Problem:
        return conversation([{"role": "user", "content": text}])

    def judge(self, problem: Problem, solution: str) -> Verdict:
        answer = find_answer(solution) or solution.strip().rpartition("\n")[2]
        return Verdict(False, plain_text(answer) or None, "nothing is known to check it by")

    def difficulty(self, problem: Problem) -> None:
        return None


def conversation(messages: Sequence[Mapping[str, Any]], fields: Mapping[str, Any] | None = None) -> Problem:
    """A problem out of a conversation; equal ones have equal names.

    Args:
        messages: in OpenAI's form, at least one.
        fields: what else is wanted of the model, such as `temperature` or `response_format`; only a server obeys.
    """
    metadata = {"messages": [dict(message) for message in messages], "fields": dict(fields or {})}
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
    return Problem(f"conversation-{digest[:16]}", _transcript(messages), metadata)


def _transcript(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a single message, or each with the name of who said it."""
    if len(messages) == 1:
        return text_of(messages[0].get("content"))
    return "\n\n".join(f"{message.get('role')}: {text_of(message.get('content'))}" for message in messages)
