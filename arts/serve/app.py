"""The routes: OpenAI's, /v1/score, /healthz, /metrics. What they do is in `service`, `plan`, `forms` and `scores`.

With a page for people, that is at / (`ui`).
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from arts import __version__
from arts.serve.complaints import complaint
from arts.serve.errors import ApiError
from arts.serve.events import ClientGone, EventStream, with_client
from arts.serve.forms import Form, Kind
from arts.serve.guard import Door, Guard
from arts.serve.plan import check_model, is_passed_through, plan
from arts.serve.schema import Body, ChatRequest, CompletionRequest, ScoreCall
from arts.serve.scores import score
from arts.serve.service import Service
from arts.serve.ui import PAGE, add_page

_PATHS = {"chat": "chat/completions", "text": "completions"}
_HEALTH = "/healthz"
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {
        400: "the request asks for what cannot be had",
        401: "no valid key",
        404: "no such model",
        429: "the line is full",
        502: "the model server failed",
        503: "not now",
        504: "not in time",
    }.items()
}


def build_app(
    service: Service,
    *,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    local_only: bool = False,
    with_page: bool = False,
) -> ASGIApp:
    """The whole application; it closes the service when it ends.

    Args:
        keys: any of them opens; none: everybody may come in.
        origins: web pages that may ask from a browser (CORS).
        local_only: requests must name this machine as their host.
        with_page: / is a page where people search. It is given without a key, and asks for one.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(service.close)

    app = FastAPI(title="ARTS", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(ClientGone, _gone)
    app.add_exception_handler(Exception, _failed)
    _add_generation(app, service)
    _add_others(app, service)
    if with_page:
        add_page(app, service)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    routes = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    door = Door(
        keys=tuple(keys),
        routes=routes,
        open_routes=frozenset({_HEALTH, PAGE} if with_page else {_HEALTH}),
        max_body_bytes=service.offer.limits.max_body_bytes,
        local_only=local_only,
    )
    return Guard(app, door, service.metrics)


def _add_generation(app: FastAPI, service: Service) -> None:
    async def respond(request: Request, call: ChatRequest | CompletionRequest, kind: Kind) -> Response:
        body: Body = await request.json()
        if is_passed_through(call, service.offer) and service.pass_through is not None:
            if call.stream:
                return await with_client(request, service.pass_stream(_PATHS[kind], body))
            return JSONResponse(await with_client(request, service.pass_whole(_PATHS[kind], body)))
        wanted = plan(call, body, service.offer)
        with_usage = bool(call.stream_options and call.stream_options.include_usage)
        form = Form(kind, call.model, with_usage=with_usage)
        if call.stream:
            place = service.gate.join()
            return EventStream(form.pieces(service.stream(wanted, place)), place.leave)
        return JSONResponse(form.whole(await with_client(request, service.answer(wanted))))

    @app.post("/v1/chat/completions", responses=_ERRORS)
    async def chat(request: Request, call: ChatRequest) -> Response:
        """A chat completion, searched for as the model's name or the field `arts` says."""
        return await respond(request, call, "chat")

    @app.post("/v1/completions", responses=_ERRORS)
    async def completions(request: Request, call: CompletionRequest) -> Response:
        """The same for one text, which a search takes as the user's message."""
        return await respond(request, call, "text")


def _add_others(app: FastAPI, service: Service) -> None:
    started = int(time.time())

    def row(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "arts"}

    @app.post("/v1/score", responses=_ERRORS)
    async def score_prefixes(request: Request, call: ScoreCall) -> Response:
        """The verifier's log-flow of partial solutions, step by step."""
        body: Body = await request.json()
        return JSONResponse(await with_client(request, score(service, call, body)))

    @app.get("/v1/models", responses={401: _ERRORS[401]})
    async def models() -> Response:
        """The base model, and names that choose a search."""
        return JSONResponse({"object": "list", "data": [row(name) for name in service.offer.models]})

    @app.get("/v1/models/{name:path}", responses={status: _ERRORS[status] for status in (401, 404)})
    async def model(name: str) -> Response:
        """One of them, or one with another size."""
        check_model(name, service.offer)
        return JSONResponse(row(name))

    @app.get(_HEALTH, responses={503: _ERRORS[503]})
    async def health() -> Response:
        """200 while searches can be started."""
        alive = service.engine.is_alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.get("/metrics", responses={401: _ERRORS[401]})
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(service.metrics.text(), headers={"Content-Type": service.metrics.content_type})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _refused(request, complaint(error.errors(), error.body))


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(ApiError(error.status_code, str(error.detail)).body, error.status_code, error.headers)


async def _failed(request: Request, _: Exception) -> Response:
    """Of an error of our own; the guard logs where it was."""
    return await _refused(request, ApiError(500, "the server failed", code="internal_error"))


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the log does
