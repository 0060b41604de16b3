"""An HTTP client that gets the most out of one server and never lets its troubles through as anything but words.

It runs in a thread of its own with one pool of connections, so that callers need no `async`. What can be tried again is
tried again (`arts.net.flow_control`), what cannot is a `RequestFailed` for this request, and what makes all further
requests useless is a `ServerUnavailable`. The key goes to this server only, and is in no text that comes out of here.
"""

import asyncio
import atexit
import json
import math
import random
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, TypeVar

import aiohttp

from arts.net.address import checked_url, proxy_for, userinfo
from arts.net.answers import error_text, retry_after_s
from arts.net.flow_control import AdaptiveLimit, Breaker, Patience, RetryBudget

T = TypeVar("T")
FailureKind = Literal["overloaded", "timeout", "connection", "server", "malformed", "refused"]

_LONGEST_BODY = 256 * 2**20
_LET_OTHERS_SEND_S = 0.1
_LONGEST_GAP_S = 10.0  # between requests, where the server says too much and not how much
_MOST_REFUSED = 50  # about different things, without one good answer: what is wrong is wrong with all of them


class RequestFailed(ValueError):
    """One request came to nothing. `kind` says how; only `refused` is not worth another try."""

    def __init__(self, kind: FailureKind, message: str, *, retry_after_s: float = 0.0, was_sent: bool = True) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.retry_after_s = kind, retry_after_s
        self.was_sent = was_sent
        "the server was there; otherwise nothing was asked of it"
        self.num_sent = 0
        "requests that were sent for it"


class ServerUnavailable(ValueError):
    """The server is down, or it refuses us: no further request makes sense."""


class Client:
    """Requests to one server.

    Args:
        base_url: such as `http://127.0.0.1:8000/v1`.
        key: sent as a bearer token.
        timeout_s: for one request from its start to the last byte of its answer.
        max_in_flight: requests at once; fewer when the server complains.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        timeout_s: float = 600.0,
        max_in_flight: int = 64,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base_url = checked_url(base_url)
        self.timeout_s = timeout_s
        self._clock = clock
        self.use(patience or Patience())
        self.limit = AdaptiveLimit(max_in_flight)
        self.sent: Counter[str] = Counter()
        "requests by what became of them: `good`, or a `FailureKind`"
        self._key = key
        # Not by aiohttp's `trust_env`: it sends passwords of ~/.netrc too, and fails over them where there is a key.
        self._proxy = proxy_for(self.base_url)
        self._secrets = [secret for secret in (key, *userinfo(self._proxy)) if secret]
        self._rng = random.Random()  # jitter must differ between processes, so it has no fixed seed
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._refused: set[str] = set()
        self.in_a_hurry = False
        "failures use up attempts whatever they are: for questions that somebody waits for"
        self._unavailable: ServerUnavailable | None = None
        self._given_up_at = 0.0
        self._over = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="arts-http", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def use(self, patience: Patience) -> None:
        """Begin anew with another patience; failures so far are forgotten."""
        self.patience, self.breaker = patience, Breaker(patience, self._clock())
        self._budget = RetryBudget(patience)
        self._pause_until = self._gap_s = 0.0

    # --- from any thread ----------------------------------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine that awaits this client's requests. Cancelling the future closes its connections."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Drop what is in flight and close all connections; takes no more than a second."""
        atexit.unregister(self.close)
        if self._loop.is_closed():
            return
        with suppress(Exception):
            self.start(self._end()).result(1.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    # --- requests -----------------------------------------------------------------------------------------------------

    async def post(
        self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], *, subject: str = ""
    ) -> tuple[T, int]:
        """Send JSON, and again where that may help.

        Args:
            path: below the base URL; beside its `/v1` where it starts with `/`.
            read: takes the answer's JSON and makes something of it. Raises ValueError, KeyError, TypeError,
                AttributeError or IndexError for an answer that makes no sense, which counts as a failure.
            subject: what it is about. Where requests about one thing only are refused, the others go on.

        Returns:
            What `read` gave, and the number of requests that were sent and came to nothing before.

        Raises:
            RequestFailed: this request came to nothing.
            ServerUnavailable: no request will do.
        """
        return await self._with_retries("POST", path, json.dumps(body).encode(), read, subject)

    async def get(self, path: str, read: Callable[[Any], T]) -> tuple[T, int]:
        return await self._with_retries("GET", path, None, read)

    async def _with_retries(
        self, method: str, path: str, body: bytes | None, read: Callable[[Any], T], subject: str = ""
    ) -> tuple[T, int]:
        attempt = num_sent = 0
        started = self._clock()
        while True:
            await self._enter()
            num_sent += 1
            is_in_air = True
            try:
                content = await self._send(method, path, body)
                self._leave()
                is_in_air = False
                # Whoever waits for a place sends first: the server works on while we read what it said. Answers come
                # in waves, so that this is worth a twentieth of its capacity with 256 in flight.
                await asyncio.sleep(_LET_OTHERS_SEND_S if self._waiting else 0.0)
                result = self._read_json(content, read)
            except RequestFailed as failure:
                failure.num_sent = num_sent
                was_open = self.breaker.is_open
                self._note_failure(failure, subject)
                self._check()
                if failure.kind == "refused":
                    raise
                # While nothing works at all, and where it is merely too much, time decides and no attempt is used up.
                waits = (was_open and failure.kind != "malformed") or failure.kind == "overloaded"
                attempt += failure.was_sent and (self.in_a_hurry or not waits)
                late = self._clock() - started >= self.patience.give_up_s
                if late or attempt >= self.patience.max_attempts or not (waits or self._budget.take()):
                    raise
                wait_s = max(failure.retry_after_s, self.patience.wait_s(max(attempt, 1), self._rng))
            else:
                self._note_good()
                return result, num_sent - 1
            finally:
                if is_in_air:
                    self._leave()
            with suppress(TimeoutError):  # the rule: nothing happens but that time goes by
                await asyncio.wait_for(self._over.wait(), wait_s)

    def _note_good(self) -> None:
        self.sent["good"] += 1
        self._refused.clear()
        self._gap_s = 0.7 * self._gap_s
        self.limit.good()
        self._budget.good()
        self.breaker.good()

    def _note_failure(self, failure: RequestFailed, subject: str) -> None:
        now = self._clock()
        self.sent[failure.kind] += 1
        if failure.kind == "refused":
            self._refused.add(subject or str(self.sent["refused"]))
            if len(self._refused) >= _MOST_REFUSED:
                self._give_up(f"refused {_MOST_REFUSED} different requests in a row, the last one with {failure}")
            return
        self.breaker.failed(now, was_reached=failure.was_sent)
        if failure.kind in ("overloaded", "timeout"):
            self.limit.overloaded(now)
        if failure.kind == "overloaded" and now >= self._pause_until:  # one request at a time may still be too much
            self._gap_s = min(_LONGEST_GAP_S, max(0.05, 2.0 * self._gap_s))
            self._pause_until = now + self._gap_s
        self._pause_until = max(self._pause_until, now + failure.retry_after_s, now + self.breaker.pause_s)
        if self.breaker.is_down(now):
            advice = "is there a server, and is this its address?"
            if self.breaker.was_reached:
                advice = "what was finished is kept: run the same command again when it is back"
            seconds = self.breaker.failing_s(now)
            self._give_up(f"gave no good answer for {seconds:.0f} s; the last failure was {failure}; {advice}")

    def _give_up(self, why: str) -> ServerUnavailable:
        """No further request makes sense; those that wait are told now."""
        self._unavailable = ServerUnavailable(f"{self.base_url} {why}")
        self._given_up_at = self._clock()
        self._over.set()
        return self._unavailable

    @asynccontextmanager
    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[aiohttp.StreamReader]:
        """The bytes of a good answer while they come; sent once only. Raises as `post` does."""
        await self._enter()
        try:
            async with self._sent("POST", path, json.dumps(body).encode()) as answer:
                yield answer.content
        finally:
            self._leave()

    # --- how many at once ---------------------------------------------------------------------------------------------

    def _allowed(self) -> int:
        if self._clock() < self._pause_until:
            return 0
        return 1 if self.breaker.is_open else self.limit.now

    async def _enter(self) -> None:
        """Wait for a place in the air, first come first served."""
        self._check()
        if self._waiting or self._in_flight >= self._allowed():
            place = self._loop.create_future()
            self._waiting.append(place)
            self._wake()
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._leave()
                raise
            try:
                self._check()
            except ServerUnavailable:
                self._leave()
                raise
        else:
            self._in_flight += 1

    def _check(self) -> None:
        if self._unavailable is None:
            return
        if self._clock() < self._given_up_at + self.patience.again_after_s:
            raise self._unavailable
        self._unavailable, self._over = None, asyncio.Event()
        self._refused.clear()
        self.use(self.patience)

    def _leave(self) -> None:
        self._in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        pause_s = self._pause_until - self._clock()
        if pause_s > 0 and self._unavailable is None:
            if self._alarm is None:
                self._alarm = self._loop.call_later(pause_s + 0.001, self._ring)
            return
        allowed = math.inf if self._unavailable is not None else self._allowed()
        while self._waiting and self._in_flight < allowed:
            place = self._waiting.popleft()
            if not place.done():
                self._in_flight += 1
                place.set_result(None)

    def _ring(self) -> None:
        self._alarm = None
        self._wake()

    # --- one request --------------------------------------------------------------------------------------------------

    async def _send(self, method: str, path: str, body: bytes | None) -> bytes:
        """The body of a good answer."""
        async with self._sent(method, path, body) as answer:
            return await _read(answer)

    @asynccontextmanager
    async def _sent(self, method: str, path: str, body: bytes | None) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer, still to be read; what goes wrong inside is told as what it means for us."""
        url = f"{self.base_url.removesuffix('/v1')}{path}" if path.startswith("/") else f"{self.base_url}/{path}"
        try:
            async with self._opened().request(
                method, url, data=body, allow_redirects=False, proxy=self._proxy
            ) as answer:
                if answer.status != 200:
                    raise self._judge(answer, await _read(answer))
                yield answer
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise self._give_up(
                f"could not prove who it is ({self._clean(str(error))}); for a certificate of your own, name its "
                "authority's file in the environment variable SSL_CERT_FILE"
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise RequestFailed("connection", self._clean(str(error)), was_sent=False) from None
        except TimeoutError as error:
            raise RequestFailed("timeout", f"no whole answer within {self.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            reason = self._clean(str(error)) or type(error).__name__
            raise RequestFailed("connection", reason) from None  # a traceback would show what was not cleaned

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Content-Type": "application/json", "User-Agent": "arts"}
            if self._key is not None:
                headers["Authorization"] = f"Bearer {self._key}"
            # The number in flight is bounded by `_enter`; the pool itself sets no limit and keeps connections.
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=30)
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=min(10.0, self.timeout_s)),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _judge(self, answer: aiohttp.ClientResponse, content: bytes) -> Exception:
        """What a status other than 200 means for us."""
        status = answer.status
        said = self._clean(error_text(content))
        text = f"HTTP {status}{': ' if said else ''}{said}"
        if 300 <= status < 400:
            place = self._clean(answer.headers.get("Location", "nowhere"))
            return self._give_up(
                f"redirects to {place}; redirects are not followed, as the key would go with them. "
                "Give the address it names, if you trust it"
            )
        if status in (401, 402, 403):
            given = "the key was not accepted" if self._key else "no key was given: set ARTS_API_KEY"
            return self._give_up(f"wants a key: {given} ({text})")
        if status in (429, 503, 529):
            return RequestFailed("overloaded", text, retry_after_s=retry_after_s(answer.headers.get("Retry-After")))
        if status >= 500 or status in (408, 409, 425):
            return RequestFailed("server", text)
        return RequestFailed("refused", text)

    def _read_json(self, content: bytes, read: Callable[[Any], T]) -> T:
        """Raises RequestFailed where this is no JSON, or none that `read` understands."""
        try:
            return read(json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            reason = self._clean(f"{type(error).__name__}: {error}")
            raise RequestFailed("malformed", f"the answer makes no sense ({reason})") from None

    def _clean(self, text: str) -> str:
        """One line of bounded length without the key, which some servers repeat in their errors."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())[:300]


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _LONGEST_BODY:
            raise RequestFailed("malformed", f"the answer is longer than {_LONGEST_BODY:,} bytes")
    return b"".join(parts)
