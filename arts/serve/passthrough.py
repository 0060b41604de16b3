"""Requests for the base model of a server behind us: they go there untouched, and so does what comes back.

The model's name is put as that server knows it, and our own `arts` field is left out; all else is the client's and the
server's affair: tools, images, several choices, its own streaming.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable

from arts.net.client import Client
from arts.serve.errors import ApiError, invalid, of_exception
from arts.serve.events import EventStream, data
from arts.serve.schema import Body

_PARTS_AHEAD = 16  # what may be read from the server before the client has taken it
_SUBJECT = "passed through"  # all as one: what one client gets refused says nothing about the others


class PassThrough:
    """The way to a server's chat/completions and completions."""

    def __init__(self, client: Client, model: str) -> None:
        self._client, self._model = client, model

    def _body(self, body: Body) -> Body:
        if body.get("arts"):
            raise invalid("the base model is asked without a search; choose a model like arts-search", "arts")
        return {**{name: value for name, value in body.items() if name != "arts"}, "model": self._model}

    async def whole(self, path: str, body: Body) -> Body:
        """Raises ApiError."""
        sent = self._client.start(self._client.post(path, self._body(body), _as_object, subject=_SUBJECT))
        try:
            answer, _ = await asyncio.wrap_future(sent)
        except Exception as error:
            raise of_exception(error) from error
        return answer

    async def stream(self, path: str, body: Body, leave: Callable[[], object]) -> EventStream:
        """The server's own events. Raises ApiError where it answers with an error; later ones are events.

        Args:
            leave: called when the stream is over, however that came about.
        """
        parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(_PARTS_AHEAD)
        ours = asyncio.get_running_loop()

        async def put(part: bytes | Exception | None) -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(parts.put(part), ours))

        async def pump(body: Body) -> None:
            try:
                async with self._client.stream(path, body) as content:
                    async for part in content.iter_any():
                        await put(part)
                await put(None)
            except Exception as error:
                await put(error)

        pumping = self._client.start(pump(self._body(body)))
        try:
            return EventStream(_rest(await _next(parts), parts), lambda: (pumping.cancel(), leave()))
        except BaseException:
            pumping.cancel()
            raise


async def _next(parts: "asyncio.Queue[bytes | Exception | None]") -> bytes | None:
    """The next part; None at the end."""
    part = await parts.get()
    if isinstance(part, Exception):
        raise of_exception(part) from part
    return part


async def _rest(part: bytes | None, parts: "asyncio.Queue[bytes | Exception | None]") -> AsyncGenerator[bytes, None]:
    try:
        while part is not None:
            yield part
            part = await _next(parts)
    except ApiError as error:
        yield data(error.body)


def _as_object(answer: Body) -> Body:
    if not isinstance(answer, dict):
        raise TypeError("an answer that is no object")
    return answer
