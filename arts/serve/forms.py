"""Answers in the forms of OpenAI's protocol: chat and plain completions, whole and in pieces."""

import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Literal

from arts.serve.answer import Answer
from arts.serve.errors import ApiError
from arts.serve.events import DONE, data

Kind = Literal["chat", "text"]
_OBJECTS = {("chat", False): "chat.completion", ("chat", True): "chat.completion.chunk"}


class Form:
    """One answer's identity."""

    def __init__(self, kind: Kind, model: str, *, with_usage: bool = False) -> None:
        self.kind, self.model, self._with_usage = kind, model, with_usage
        self._id = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        said = {"message": message} if self.kind == "chat" else {"text": answer.text}
        choice = {"index": 0, **said, "finish_reason": answer.finish_reason, "logprobs": None}
        return {**self._head(piece=False), "choices": [choice], "usage": answer.usage, "arts": answer.arts}

    async def pieces(self, source: AsyncGenerator[bytes | Answer | ApiError, None]) -> AsyncGenerator[bytes, None]:
        """A search as a stream: what it tells goes on as it is, its answer step by step."""
        try:
            async for part in source:
                if isinstance(part, bytes):
                    yield part
                elif isinstance(part, ApiError):
                    yield data(part.body)
                else:
                    for piece in self._of(part):
                        yield data(piece)
                    yield DONE
        finally:
            await source.aclose()

    def _of(self, answer: Answer) -> Iterator[dict[str, Any]]:
        head = self._head(piece=True) | ({"usage": None} if self._with_usage else {})
        if self.kind == "chat":
            yield head | {"choices": [self._choice({"role": "assistant", "content": ""})]}
        for step in answer.steps:
            if step.text:
                yield head | {"choices": [self._choice({"content": step.text}, step.text)]}
        yield head | {"choices": [self._choice({}, "", answer.finish_reason)], "arts": answer.arts}
        if self._with_usage:
            yield head | {"choices": [], "usage": answer.usage}

    def _choice(self, delta: dict[str, Any], text: str = "", finish: str | None = None) -> dict[str, Any]:
        said = {"delta": delta} if self.kind == "chat" else {"text": text}
        return {"index": 0, **said, "finish_reason": finish, "logprobs": None}

    def _head(self, *, piece: bool) -> dict[str, Any]:
        name = _OBJECTS.get((self.kind, piece), "text_completion")
        return {"id": self._id, "object": name, "created": self._created, "model": self.model}
