"""Errors in OpenAI's form, and what the failure of a search or of the model server means to a client.

What a client reads says what to do; where a server stands behind us, its address is not told.
"""

import asyncio
from typing import Any

from arts.net.client import RequestFailed, ServerUnavailable
from arts.protocols import PathTooLong

_OF_KIND = {
    "overloaded": (503, "upstream_overloaded", "the model server has too much to do"),
    "timeout": (504, "upstream_timeout", "the model server did not answer in time"),
    "connection": (502, "upstream_connection", "the connection to the model server failed"),
    "server": (502, "upstream_error", "the model server failed"),
    "malformed": (502, "upstream_malformed", "the model server's answers make no sense"),
}
"""By the kinds of `arts.net.client.FailureKind`; `refused` is apart, as its text is about the request."""
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, retry_after_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s or (1 if status in (429, 503) else 0)

    @property
    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)} if self.retry_after_s else {}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def late(seconds: float) -> ApiError:
    return ApiError(504, f"no finished answer within {seconds:g} s", code="deadline_exceeded")


def unavailable() -> ApiError:
    return ApiError(503, "the model server cannot be used at the moment", code="upstream_unavailable", retry_after_s=2)


def closing() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down")


def of_failure(said: str) -> ApiError:
    """Of `kind: message`, as a proposer says why a draw failed."""
    kind, _, message = said.partition(": ")
    if kind == "refused":
        return invalid(f"the model server refused the request: {message}", code="upstream_refused")
    status, code, text = _OF_KIND.get(kind, (502, "upstream_error", "the model server failed"))
    return ApiError(status, text, code=code)


def of_stop(stopped: str) -> ApiError:
    """Of a program that stopped with `failed: Type: message`."""
    _, kind, message = (*stopped.split(": ", 2), "", "")[:3]
    if kind == ServerUnavailable.__name__:
        return unavailable()
    if kind == RequestFailed.__name__:  # of a verifier behind a server; failures of a proposer are draws that failed
        return of_failure(message)
    if kind == PathTooLong.__name__:
        return invalid(message, code="context_length_exceeded")
    if kind == ValueError.__name__:  # by convention a user's mistake, such as a strategy that does not fit
        return invalid(message, code="search_failed")
    return ApiError(500, "the search failed", code="search_failed")


def of_exception(error: BaseException) -> ApiError:
    """Of what a request to the model server raised."""
    if isinstance(error, RequestFailed):
        return of_failure(str(error))
    if isinstance(error, ServerUnavailable):
        return unavailable()
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return ApiError(504, "the model server did not answer in time", code="upstream_timeout")
    raise error
