"""Server-sent events, and clients that go away: who stops listening stops the work.

What a search tells of itself goes as comments, lines that begin with `:`, which clients of OpenAI's protocol skip.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class ClientGone(Exception):
    """Nobody listens any more."""


def data(value: Any) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def comment(value: Any) -> bytes:
    """`: arts {...}`: one line, whatever is in it."""
    return b": arts " + _json(value) + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


class EventStream(Response):
    """Sends what a generator gives, until it ends or the client is gone; then the generator is closed.

    Starlette's own notices a client that has gone when the next piece is sent, which may be late.

    Args:
        close: lets go of what the generator would have let go of. One that never started runs no `finally`.
    """

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[bytes, None], close: Callable[[], object]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source, self._close = source, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with suppress(ClientGone):
                await unless_gone(receive, self._write(send))
        finally:
            self._close()

    async def _write(self, send: Send) -> None:
        try:
            async for part in self._source:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._source.aclose()


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled where the client goes away. Raises ClientGone then."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def with_client(request: Request, work: Coroutine[Any, Any, T]) -> T:
    return await unless_gone(request.receive, work)
