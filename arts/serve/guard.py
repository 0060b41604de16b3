"""The door of the server: request ids, keys, sizes, the log; and no exception gets past it.

It is the outermost layer, below it is the application. Nothing a user wrote is logged: a line has the request's id, its
route, status and time. Who may come in is decided before the body is read.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arts.serve.errors import ApiError
from arts.serve.metrics import Metrics

logger = logging.getLogger("arts.serve")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_BODY_TIMEOUT_S = 60.0
_LOCAL_HOSTS = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Door:
    """Args:
    keys: any of them opens; none: everybody may come in.
    routes: known paths; all others count as one in metrics and log.
    open_routes: those that need no key.
    local_only: bound to this machine without a key, so that a request must name it as its host: a web page that was
        sent to this address by a name of its own (DNS rebinding) is refused.
    """

    keys: Sequence[str]
    routes: frozenset[str]
    open_routes: frozenset[str]
    max_body_bytes: int
    local_only: bool

    def admit(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self.local_only and not _LOCAL_HOSTS.fullmatch(headers.get("host", "localhost").lower()):
            raise ApiError(403, "this server answers to localhost only", code="wrong_host")
        if scope["path"] not in self.open_routes and scope["method"] != "OPTIONS" and not self._has_key(headers):
            raise ApiError(401, "no valid API key: send Authorization: Bearer KEY", code="invalid_api_key")
        if scope["method"] == "POST":
            # Also keeps web pages out: a browser asks before it sends JSON to another site.
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise ApiError(415, "the body must be JSON: Content-Type: application/json", code="not_json")
            length = headers.get("content-length", "0")
            if length.isdecimal() and int(length[:20]) > self.max_body_bytes:
                raise self.too_large()

    def _has_key(self, headers: dict[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("latin-1")).digest()
        # Every key is compared, in constant time, so that the time tells neither a key nor how many there are alike.
        fits = [hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest()) for key in self.keys]
        return not self.keys or (any(fits) and scheme.lower() == "bearer")

    def too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.max_body_bytes} bytes", code="too_large")


class Guard:
    """The ASGI application around the application."""

    def __init__(self, app: ASGIApp, door: Door, metrics: Metrics) -> None:
        self._app, self._door, self._metrics = app, door, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self._door.admit(scope)
            await self._app(scope, await self._read(receive), answer)
        except ApiError as error:
            await _refuse(error, answer)
        except Exception as error:
            # Its text may hold what a user wrote, so the log has its type and place only.
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
            logger.error("%s %s at %s", request_id, type(error).__name__, where)
            if not status:
                await _refuse(ApiError(500, "the server failed", code="internal_error"), answer)
        finally:
            route = _template(scope) if _template(scope) in self._door.routes else "other"
            seconds = time.monotonic() - started
            self._metrics.requests.labels(route, str(status or 499)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            logger.info("%s %s %s %s %.3fs", request_id, scope["method"], route, status or 499, seconds)

    async def _read(self, receive: Receive) -> Receive:
        """The whole body, within its limit; then what the server says further, a client that goes away."""
        body, size, more = [], 0, True
        incomplete = ApiError(408, "the request ended before its body did", code="incomplete")
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise incomplete
                    body.append(message.get("body", b""))
                    size += len(body[-1])
                    more = message.get("more_body", False)
                    if size > self._door.max_body_bytes:
                        raise self._door.too_large()
        except TimeoutError:
            raise incomplete from None
        first: list[Message] = [{"type": "http.request", "body": b"".join(body), "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        return replay


def _template(scope: Scope) -> str:
    """The route's own path, which a user does not choose: that of one model is the same for all of them."""
    return str(getattr(scope.get("route"), "path", scope["path"]))


async def _refuse(error: ApiError, send: Any) -> None:
    content = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), **error.headers}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})
