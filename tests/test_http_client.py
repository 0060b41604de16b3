"""The HTTP client against servers that fail, lie and hang: what can be tried again is, and no secret comes out."""

import asyncio
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import servers
from fake_server import Settings
from servers import Running, fake_server, free_port

from arts.net import answers
from arts.net import client as client_module
from arts.net.address import checked_url, read_key
from arts.net.client import Client, RequestFailed, ServerUnavailable
from arts.net.flow_control import Patience

KEY = "sk-very-secret-4711"
QUICK = Patience(first_wait_s=0.01, longest_wait_s=0.05, first_contact_s=0.4)
BODY = {
    "model": "toy",
    "messages": [{"role": "user", "content": "toy 3x3 seed 5"}],
    "max_tokens": 6,
    "seed": 1,
    "temperature": 1.0,
}
CHAT = "chat/completions"
Answer = bytes | Callable[[asyncio.StreamWriter], Any] | None
Connect = Callable[..., Client]


def http(status: int, body: bytes | str = b"", **headers: str) -> bytes:
    """An answer as it goes over the wire."""
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


GOOD = http(200, '{"said": "yes"}')


class RawServer:
    """Answers by bytes, on a thread of its own, and keeps what it received.

    Args:
        answer: of the request with this number, the first being 1. None: nothing, until the client hangs up.
        at_once: the first requests wait until so many of them are there.
    """

    def __init__(
        self,
        answer: Callable[[int], Answer],
        *,
        tls: ssl.SSLContext | None = None,
        delay_s: float = 0.0,
        at_once: int = 1,
    ) -> None:
        self.answer, self.tls, self.delay_s, self.at_once = answer, tls, delay_s, at_once
        self.heads: list[str] = []
        self.times: list[float] = []
        self.in_flight: list[int] = []
        "at the start of each request, itself included"
        self.num_connections = self.num_ended = self._now = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(5)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/v1"

    async def _start(self) -> None:
        self.all_here = asyncio.Event()
        self.server = await asyncio.start_server(self._talk, "127.0.0.1", 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self.num_ended += 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length")]
        await reader.readexactly(int(length[0]) if length else 0)
        self.heads.append(head)
        self.times.append(time.monotonic())
        number = len(self.heads)
        self._now += 1
        self.in_flight.append(self._now)
        try:
            if number >= self.at_once:
                self.all_here.set()
            await self.all_here.wait()
            await asyncio.sleep(self.delay_s)
            answer = self.answer(number)
            if answer is None:
                await reader.read()
                return False
            if callable(answer):
                await answer(writer)
                return False
        finally:
            self._now -= 1
        writer.write(answer)
        await writer.drain()
        return b"\r\nConnection: close\r\n" not in answer

    def stop(self) -> None:
        async def end() -> None:
            self.server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@contextmanager
def raw_server(answer: Callable[[int], Answer], **options: Any) -> Iterator[RawServer]:
    server = RawServer(answer, **options)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes clients, and closes them."""
    clients: list[Client] = []

    def make(url: str, **options: Any) -> Client:
        clients.append(Client(url, **{"patience": QUICK, "timeout_s": 8.0, **options}))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, proxy or certificate of whoever runs the tests."""
    for name in ("ARTS_API_KEY", "OPENAI_API_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def said(body: Any) -> str:
    return str(body["choices"][0]["message"]["content"])


def ask(client: Client, **fields: Any) -> tuple[str, int]:
    return client.run(client.post(CHAT, {**BODY, **fields}, said))


def get(client: Client) -> Any:
    """What the server said, from `RawServer`s mostly."""
    return client.run(client.get("models", lambda body: body))[0]


def start_all(client: Client, count: int) -> "list[Future[tuple[Any, int]]]":
    return [client.start(client.get("models", lambda body: body)) for _ in range(count)]


def script(running: Running, *faults: str | None) -> None:
    """The faults that the next requests meet; those after them meet none."""
    left = list(faults)
    running.app._fault = lambda: left.pop(0) if left else None  # type: ignore[method-assign]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.005)


def all_text(error: BaseException) -> str:
    """What a user may see of it: also what a traceback shows of its causes."""
    return f"{error} {error!r} {''.join(traceback.format_exception(error))}"


# --- what is tried again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("429", "overloaded"),
        ("500", "server"),
        ("502 html", "server"),
        ("truncated", "malformed"),
        ("not utf-8", "malformed"),
        ("reset", "connection"),
        ("stall", "timeout"),
    ],
)
def test_a_failure_that_may_pass_is_tried_again(fault: str, kind: str, connect: Connect) -> None:
    with fake_server(Settings(stall_s=0.4)) as running:
        client = connect(running.url, timeout_s=0.2 if fault == "stall" else 8.0)
        expected = ask(client)
        assert expected[1] == 0
        script(running, fault, fault)
        assert ask(client) == (expected[0], 2)
        assert client.sent == {"good": 2, kind: 2}
        script(running, *[fault] * 10)
        # Where it is merely too much, no attempts are counted: time decides.
        patience = Patience(max_attempts=2, first_wait_s=0.01, give_up_s=0.02 if fault == "429" else 300.0)
        few = connect(running.url, timeout_s=client.timeout_s, patience=patience)
        with pytest.raises(RequestFailed) as caught:
            ask(few)
        assert (caught.value.kind, caught.value.num_sent) == (kind, 2)
        assert str(caught.value).startswith(f"{kind}: ")
        assert few.sent == {kind: 2}


@pytest.mark.parametrize("status", [400, 404, 405, 413, 422])
def test_what_the_server_refuses_is_not_tried_again(status: int, connect: Connect) -> None:
    with raw_server(lambda number: http(status, '{"error": {"message": "no such field"}}')) as server:
        with pytest.raises(RequestFailed, match=f"refused: HTTP {status}: no such field") as caught:
            get(connect(server.url))
        assert caught.value.num_sent == len(server.heads) == 1


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504, 529])
def test_statuses_that_may_pass(status: int, connect: Connect) -> None:
    with raw_server(lambda number: http(status, "wait") if number == 1 else GOOD) as server:
        assert get(connect(server.url)) == {"said": "yes"}
        assert len(server.heads) == 2


def test_a_server_that_refuses_everything_is_given_up(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_MOST_REFUSED", 5)
    with raw_server(lambda number: GOOD if number == 3 else http(400, "no")) as server:
        client, errors = connect(server.url), []
        for _ in range(10):
            try:
                get(client)
            except (RequestFailed, ServerUnavailable) as error:
                errors.append(type(error))
        assert errors == [RequestFailed] * 2 + [RequestFailed] * 4 + [ServerUnavailable] * 3
        assert len(server.heads) == 8  # 2, a good one, and 5 more


def test_without_a_budget_nothing_is_tried_again(connect: Connect) -> None:
    with raw_server(lambda number: GOOD if number > 2 else http(500)) as server:
        client = connect(server.url, patience=Patience(spare_retries=0, retry_ratio=1.0, first_wait_s=0.01))
        for _ in range(2):
            with pytest.raises(RequestFailed):
                get(client)
        assert get(client) == {"said": "yes"}
        assert len(server.heads) == 3
        server.answer = lambda number: GOOD if number != 4 else http(500)
        assert get(client) == {"said": "yes"}  # the good answer paid for it
        assert len(server.heads) == 5


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_time_that_a_server_asks_for_is_waited_by_all(form: str, connect: Connect) -> None:
    least_s = 0.4 if form == "seconds" else 0.9

    def answer(number: int) -> bytes:
        later = datetime.now(UTC) + timedelta(seconds=2)  # in whole seconds, so that 1 to 2 are left
        asked = "0.4" if form == "seconds" else format_datetime(later, usegmt=True)
        return GOOD if number > 1 else http(429, "slow down", Retry_After=asked)

    with raw_server(answer) as server:
        client = connect(server.url)
        first = start_all(client, 1)
        wait_for(lambda: client.sent["overloaded"] == 1, "the complaint")
        others = start_all(client, 3)
        assert [future.result(5)[0] for future in first + others] == [{"said": "yes"}] * 4
        assert min(server.times[1:]) - server.times[0] >= least_s
        assert max(server.times[1:]) - server.times[0] < least_s + 2.0


@pytest.mark.parametrize("asked", ["soon", "", "-5", "nan", "Fri, 21 Nov 2014 12:00:00 GMT", "Fri, 99 Nov", "1e400"])
def test_a_time_that_makes_no_sense_is_not_waited(
    asked: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_LONGEST_PAUSE_S", 0.1)  # of infinity
    with raw_server(lambda number: GOOD if number > 1 else http(429, Retry_After=asked)) as server:
        get(connect(server.url))
        assert server.times[1] - server.times[0] < 2.0


# --- what makes all further requests useless --------------------------------------------------------------------------


def test_a_wrong_key_is_said_at_once_and_never_shown(connect: Connect) -> None:
    with fake_server(Settings(key="sk-right")) as running:
        client = connect(running.url, key=KEY)
        for _ in range(2):
            with pytest.raises(ServerUnavailable, match="the key was not accepted") as caught:
                ask(client)
            assert KEY not in all_text(caught.value)
            assert "***" in str(caught.value)  # the server repeated it
        assert running.app.keys == [f"Bearer {KEY}"]  # the second request was not sent
        with pytest.raises(ServerUnavailable, match="no key was given: set ARTS_API_KEY"):
            ask(connect(running.url))
        assert ask(connect(running.url, key="sk-right"))[1] == 0


FLOOD = f"{KEY}\n\r\t" * 30_000
NASTY: dict[str, Answer] = {
    "400 of a page": http(400, FLOOD),
    "400 of a message": http(400, '{"error": {"message": "key ' + KEY + r'\nis\r\nwrong"}}'),
    "400 of a list": http(400, f'{{"error": ["{KEY}"]}}'),
    "400 of a string": http(400, f'{{"error": "{KEY}"}}'),
    "400 of a number": http(400, "4"),
    "400 of nothing": http(400),
    "400 that is no text": http(400, b"\xff\xfe\x00" * 1000 + KEY.encode()),
    "403": http(403, FLOOD),
    "429": http(429, FLOOD),
    "500": http(500, FLOOD),
    "redirect": http(302, FLOOD, Location=f"http://evil.example/{KEY}/" + "x" * 2000),
    "a string": http(200, f'"{KEY}"'),
    "a bad number": http(200, f'{{"number": "{KEY}"}}'),
    "no json": http(200, FLOOD),
    "deep json": http(200, "[" * 100_000),
    "a huge number": http(200, '{"number": %s}' % ("9" * 10_000)),
    "a torn line": f"{KEY} is no HTTP\r\n\r\n".encode(),
    "a long line": b"HTTP/1.1 200 " + KEY.encode() * 5000 + b"\r\n\r\n",
    "a bad header": f"HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n".encode(),
    "a bad chunk": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode(),
    "no gzip": http(200, KEY, Content_Encoding="gzip"),
    "an empty answer": b"\r\n\r\n",
}


@pytest.mark.parametrize("name", NASTY)
def test_errors_are_one_line_of_bounded_length_without_the_key(name: str, connect: Connect) -> None:
    with raw_server(lambda number: NASTY[name]) as server:
        client = connect(server.url, key=KEY, patience=Patience(max_attempts=1, give_up_s=0.1), timeout_s=0.3)
        with pytest.raises((RequestFailed, ServerUnavailable)) as caught:
            client.run(client.get("models", lambda body: float(body["number"])))
        assert KEY not in all_text(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 700
        assert all(f"Bearer {KEY}" in head for head in server.heads)  # it was sent, as a header


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to_itself", [False, True])
def test_redirects_are_not_followed(status: int, to_itself: bool, connect: Connect) -> None:
    with raw_server(lambda number: GOOD) as target, raw_server(lambda number: b"") as server:
        place = server.url if to_itself else target.url
        server.answer = lambda number: http(status, Location=f"{place}/elsewhere")
        client = connect(server.url, key=KEY)
        for work in (client.get("models", lambda body: body), client.post(CHAT, BODY, said)):
            with pytest.raises(ServerUnavailable, match=f"redirects to {place}/elsewhere; redirects are not followed"):
                client.run(work)
        assert len(server.heads) == 1
        assert (target.heads, target.num_connections) == ([], 0)


def test_a_server_that_redirects_to_another_gets_no_request_there(connect: Connect) -> None:
    with fake_server() as target, fake_server(Settings(redirect=target.url)) as running:
        with pytest.raises(ServerUnavailable, match="redirects are not followed"):
            ask(connect(running.url, key=KEY))
        assert running.app.keys == [f"Bearer {KEY}"]
        assert target.app.keys == []


def test_a_server_that_is_down_is_said_within_seconds(connect: Connect) -> None:
    client = connect(f"http://127.0.0.1:{free_port()}/v1", patience=Patience(first_contact_s=0.5, first_wait_s=0.1))
    started = time.monotonic()
    futures = start_all(client, 30)
    for future in futures:
        with pytest.raises(ServerUnavailable, match=r"gave no good answer for .* is there a server, and is this its"):
            future.result(5)
    assert time.monotonic() - started < 3
    with pytest.raises(ServerUnavailable):  # at once from now on
        get(client)


def test_a_failing_server_is_tried_by_one_request_at_a_time(connect: Connect) -> None:
    with raw_server(lambda number: http(500), delay_s=0.01, at_once=20) as server:
        # The first wait is long beside what the server needs for the 22, on a busy machine too.
        patience = Patience(give_up_s=1.0, num_failures=3, first_wait_s=0.3)
        client = connect(server.url, patience=patience, max_in_flight=20)
        for future in start_all(client, 40):
            with pytest.raises(ServerUnavailable, match="HTTP 500"):
                future.result(5)
        assert max(server.in_flight[:20]) == 20
        assert set(server.in_flight[22:]) == {1}  # two took the places of the first two that failed
        assert 22 <= len(server.heads) <= 25  # pauses double


# --- a server that goes and comes back --------------------------------------------------------------------------------


@contextmanager
def fake_server_at(port: int, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with monkeypatch.context() as patched:
        patched.setattr(servers, "free_port", lambda: port)
        with fake_server(settings) as running:
            yield running


def test_nothing_is_lost_over_a_restart(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    port, settings = free_port(), Settings(latency_s=0.01)
    with fake_server_at(port, settings, monkeypatch) as running:
        patience = Patience(first_wait_s=0.05, longest_wait_s=0.2, give_up_s=30.0, num_failures=6)
        client = connect(running.url, max_in_flight=8, patience=patience)
        expected = [ask(client, seed=seed)[0] for seed in range(40)]
        futures = [client.start(client.post(CHAT, {**BODY, "seed": seed % 40}, said)) for seed in range(200)]
        wait_for(lambda: len(running.app.rows) >= 60, "the first requests")
    assert not all(future.done() for future in futures)
    wait_for(lambda: client.sent["connection"] >= 8, "the outage")
    time.sleep(0.3)
    with fake_server_at(port, settings, monkeypatch):
        assert [future.result(8)[0] for future in futures] == expected * 5


def test_an_outage_uses_up_no_attempts(connect: Connect) -> None:
    with raw_server(lambda number: http(500) if 1 < number < 8 else GOOD) as server:
        client = connect(server.url, patience=Patience(max_attempts=2, num_failures=1, first_wait_s=0.01))
        get(client)
        assert client.run(client.get("models", lambda body: body)) == ({"said": "yes"}, 6)


def test_a_server_that_does_not_come_back_is_given_up_after_its_time(connect: Connect) -> None:
    with fake_server() as running:
        patience = Patience(first_wait_s=0.05, longest_wait_s=0.2, give_up_s=0.5, num_failures=4)
        client = connect(running.url, patience=patience)
        ask(client)
    started = time.monotonic()
    futures = start_all(client, 20)
    for future in futures:
        with pytest.raises(ServerUnavailable, match="what was finished is kept: run the same command again"):
            future.result(8)
    assert 0.5 <= time.monotonic() - started < 5.0


# --- how many at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 5])
def test_as_many_requests_fly_as_are_allowed_and_no_more(most: int, connect: Connect) -> None:
    with raw_server(lambda number: GOOD, delay_s=0.005, at_once=most) as server:
        client = connect(server.url, max_in_flight=most)
        for future in start_all(client, 40):
            assert future.result(8)[0] == {"said": "yes"}
        assert max(server.in_flight) == most
        assert server.num_connections == most


def test_the_limit_falls_when_the_server_complains_and_rises_again(connect: Connect) -> None:
    with raw_server(lambda number: GOOD, at_once=1) as server:
        client = connect(server.url, max_in_flight=8)
        get(client)
        server.answer = lambda number: http(429) if number <= 9 else GOOD
        server.all_here.clear()
        server.at_once = 9  # all eight are in the air
        for future in start_all(client, 8):
            future.result(8)
        assert client.sent == {"good": 9, "overloaded": 8}
        assert 5 <= client.limit.now <= 7  # 5, and what eight good answers brought back
        for future in start_all(client, 60):
            future.result(8)
        assert client.limit.now == 8


def test_timeouts_lower_the_limit_too(connect: Connect) -> None:
    with raw_server(lambda number: None if number == 1 else GOOD) as server:
        client = connect(server.url, max_in_flight=10, timeout_s=0.2)
        get(client)
        assert client.sent == {"timeout": 1, "good": 1}
        assert client.limit.now == 7


def test_a_cancelled_request_closes_its_connection_and_leaves_its_place(connect: Connect) -> None:
    with raw_server(lambda number: None if number == 1 else GOOD) as server:
        client = connect(server.url, max_in_flight=1)
        hanging, waiting, last = start_all(client, 3)
        wait_for(lambda: len(server.heads) == 1, "the first request")
        waiting.cancel()
        assert server.num_ended == 0
        hanging.cancel()
        wait_for(lambda: server.num_ended == 1, "the end of its connection", timeout_s=1.0)
        assert last.result(2)[0] == {"said": "yes"}
        assert get(client) == {"said": "yes"}
        assert len(server.heads) == 3  # what was cancelled while it waited was never sent


def test_a_place_that_was_given_to_a_cancelled_request_is_passed_on(connect: Connect) -> None:
    with raw_server(lambda number: GOOD, delay_s=0.05) as server:
        client = connect(server.url, max_in_flight=1)

        async def cancel_at_the_last_moment() -> bool:
            leave = client._leave

            def leave_and_cancel() -> None:
                leave()
                second.cancel()  # which was given the place, and does not know it yet

            client._leave = leave_and_cancel  # type: ignore[method-assign]
            first = asyncio.create_task(client.get("models", lambda body: body))
            second = asyncio.create_task(client.get("models", lambda body: body))
            await asyncio.gather(first, second, return_exceptions=True)
            client._leave = leave  # type: ignore[method-assign]
            return second.cancelled()

        assert client.start(cancel_at_the_last_moment()).result(5)
        assert client.start(client.get("models", lambda body: body)).result(5)[0] == {"said": "yes"}
        assert len(server.heads) == 2


def test_an_interrupted_run_cancels_its_request(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(lambda number: None) as server:
        client = connect(server.url)
        start = client.start

        class Interrupted:
            def __init__(self, future: "Future[Any]") -> None:
                self.cancel = future.cancel

            def result(self) -> None:
                wait_for(lambda: len(server.heads) == 1, "the request")
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(client, "start", lambda work: Interrupted(start(work)))
            with pytest.raises(KeyboardInterrupt):
                get(client)
        wait_for(lambda: server.num_ended == 1, "the end of its connection", timeout_s=1.0)


def test_close_takes_no_time_while_requests_hang() -> None:
    threads = threading.active_count()
    with raw_server(lambda number: None) as server:
        client = Client(server.url, max_in_flight=5)
        futures = start_all(client, 8)
        wait_for(lambda: len(server.heads) == 5, "five requests")
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 1.5
        for future in futures:
            with pytest.raises(CancelledError):
                future.result(1)
        wait_for(lambda: server.num_ended == 5, "the end of all connections")
        client.close()  # again does nothing
    wait_for(lambda: threading.active_count() <= threads, "the end of its threads")


# --- connections ------------------------------------------------------------------------------------------------------


def test_connections_are_kept() -> None:
    with raw_server(lambda number: GOOD) as server:
        client = Client(server.url)
        for _ in range(10):
            get(client)
        assert (len(server.heads), server.num_connections) == (10, 1)
        client.close()
        wait_for(lambda: server.num_ended == 1, "the end of the connection")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_name_is_as_good_as_an_address(host: str, connect: Connect) -> None:
    with raw_server(lambda number: GOOD, at_once=4) as server:
        client = connect(f"http://{host}:{server.port}/v1", max_in_flight=4)
        for future in start_all(client, 40):
            future.result(8)
        assert (len(server.heads), server.num_connections) == (40, 4)


def test_a_server_that_hangs_up_after_every_answer_loses_nothing(connect: Connect) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD)

    with raw_server(lambda number: hang_up) as server:
        client = connect(server.url)
        for _ in range(10):
            assert get(client) == {"said": "yes"}


def test_a_path_that_starts_at_the_top_goes_beside_v1(connect: Connect) -> None:
    with raw_server(lambda number: GOOD) as server:
        for base in (server.url, f"{server.url}/", server.url.removesuffix("/v1")):
            client = connect(base)
            client.run(client.post("/tokenize", {}, lambda body: body))
            client.run(client.post(CHAT, {}, lambda body: body))
        lines = [head.split("\r\n")[0] for head in server.heads]
        assert lines[:2] == lines[2:4] == ["POST /tokenize HTTP/1.1", "POST /v1/chat/completions HTTP/1.1"]
        assert lines[4:] == ["POST /tokenize HTTP/1.1", "POST /chat/completions HTTP/1.1"]


@pytest.mark.parametrize("form", ["known length", "chunks", "zip bomb"])
def test_a_huge_answer_is_not_read_to_its_end(form: str, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_LONGEST_BODY", 100_000)

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"2710\r\n" + b" " * 10_000 + b"\r\n")
            await writer.drain()

    answers: dict[str, Answer] = {
        "known length": http(200, b" " * 5_000_000),
        "chunks": endless,
        "zip bomb": http(200, zlib.compress(b" " * 5_000_000), Content_Encoding="deflate"),
    }
    with raw_server(lambda number: answers[form]) as server:
        client = connect(server.url, patience=Patience(max_attempts=1))
        with pytest.raises(RequestFailed, match="malformed: the answer is longer than 100,000 bytes"):
            get(client)
        wait_for(lambda: server.num_ended == 1, "the end of the connection")


def test_the_proxy_of_the_environment_is_used(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(lambda number: GOOD) as proxy, raw_server(lambda number: GOOD) as server:
        monkeypatch.setenv("http_proxy", f"http://someone:pass@127.0.0.1:{proxy.port}")
        get(connect("http://nowhere.example/v1", key=KEY))
        assert proxy.heads[0].startswith("GET http://nowhere.example/v1/models HTTP/1.1")
        assert "Proxy-Authorization: Basic c29tZW9uZTpwYXNz" in proxy.heads[0]
        assert f"Authorization: Bearer {KEY}" in proxy.heads[0]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        get(connect(server.url))
        assert (len(proxy.heads), len(server.heads)) == (1, 1)


@pytest.mark.parametrize("key", [None, KEY])
def test_passwords_of_other_programs_are_not_sent(
    key: str | None, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\ndefault login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with raw_server(lambda number: GOOD) as server:
        get(connect(server.url, key=key))
        assert "Basic" not in server.heads[0]
        assert ("Authorization" in server.heads[0]) == (key is not None)


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a certificate for a name, signed by nobody but itself; the file holds its key too."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")

    def make(name: str) -> Path:
        file = tmp_path_factory.mktemp("certificate") / "both.pem"
        key = file.with_name("key.pem")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command = [openssl, "req", "-x509", *curve, "-nodes", "-days", "2", "-keyout", key, "-out", file]
        subprocess.run([*command, "-subj", "/CN=test", "-addext", f"subjectAltName={name}"], check=True, timeout=30)
        file.write_text(file.read_text() + key.read_text())
        return file

    return make


def tls(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def test_certificates_are_verified(certificate: Callable[[str], Path], connect: Connect) -> None:
    with raw_server(lambda number: GOOD, tls=tls(certificate("IP:127.0.0.1"))) as server:
        client = connect(server.url, key=KEY)
        for _ in range(2):
            with pytest.raises(ServerUnavailable, match="could not prove who it is") as caught:
                get(client)
            assert "SSL_CERT_FILE" in str(caught.value)
            assert KEY not in all_text(caught.value)
        assert server.heads == []


READ_BOTH = """
import sys
from arts.net.client import Client, ServerUnavailable
for url in sys.argv[1:]:
    client = Client(url, key="secret")
    try:
        print(client.run(client.get("models", lambda body: body["said"]))[0])
    except ServerUnavailable as error:
        print("refused" if "could not prove" in str(error) else error)
    client.close()
"""


def test_a_certificate_of_ones_own_is_accepted_for_its_name_only(certificate: Callable[[str], Path]) -> None:
    right, other = certificate("IP:127.0.0.1,DNS:localhost"), certificate("DNS:elsewhere.example")
    authorities = right.with_name("authorities.pem")
    authorities.write_text(right.read_text() + other.read_text())
    with (
        raw_server(lambda number: GOOD, tls=tls(right)) as server,
        raw_server(lambda number: GOOD, tls=tls(other)) as stranger,
    ):
        urls = [server.url, f"https://localhost:{server.port}/v1", stranger.url]
        done = subprocess.run(
            [sys.executable, "-c", READ_BOTH, *urls],
            env={**os.environ, "SSL_CERT_FILE": str(authorities)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.split() == ["yes", "yes", "refused"], done.stderr
        assert stranger.heads == []


def test_a_server_without_tls_is_not_spoken_to_in_plain_text(connect: Connect) -> None:
    with raw_server(lambda number: GOOD) as server:
        with pytest.raises((ServerUnavailable, RequestFailed)):
            get(connect(server.url.replace("http", "https"), key=KEY, patience=Patience(max_attempts=1), timeout_s=0.5))
        assert server.heads == []


# --- addresses and keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("http://someone:hush-hush@host:8000/v1", "the address of host:8000 holds a user name or password"),
        ("http://hush-hush@host/v1", "the address of host holds a user name"),
        ("https://host/v1?api_key=hush-hush", "https://host/v1: options go behind the model"),
        ("someone:hush-hush@host/v1", "'host/v1' is no server's address"),
        ("ftp://someone:hush-hush@host/v1", "'host/v1' is no server's address"),
        ("host/v1?key=hush-hush", "'host/v1' is no server's address"),
        ("http://:hush-hush@", "'' is no server's address"),
        ("http://someone:hush-hush@ho\N{ACCOUNT OF}st/v1", "is no server's address"),
        ("http://someone:hush-hush@[::1/v1", "is no server's address"),
        ("http://someone:hush-hush@host:99999/v1", "the address of host:99999 holds a user name or password"),
        ("http://host:99999/v1", "Port out of range"),
        ("http://host:port/v1", "'port'"),
        ("127.0.0.1:8000", "is no server's address"),
        ("http:///v1", "is no server's address"),
        ("", "'' is no server's address"),
    ],
)
def test_addresses_that_are_refused_without_showing_secrets(url: str, advice: str) -> None:
    for refuse in (checked_url, Client):
        with pytest.raises(ValueError) as caught:
            refuse(url)
        assert advice in str(caught.value)
        assert "hush-hush" not in all_text(caught.value)


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("https://host.example/api/v1/", "https://host.example/api/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://host", "http://host"),
    ],
)
def test_addresses_that_are_taken(url: str, checked: str) -> None:
    assert checked_url(url) == checked


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "no-such-host.invalid"])
def test_hosts_that_nobody_can_find(host: str, connect: Connect) -> None:
    patience = Patience(max_attempts=1, first_contact_s=0.2, first_wait_s=0.05)
    with pytest.raises((RequestFailed, ServerUnavailable), match="connection: "):
        get(connect(f"http://{host}/v1", patience=patience))


def test_no_key_is_needed() -> None:
    assert read_key() is None
    assert read_key(address="https://api.openai.com/v1") is None


def test_the_key_of_openai_is_for_openai_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert read_key(address="https://api.openai.com/v1") == "sk-openai"
    for host in ("", "127.0.0.1", "openai.com", "api.openai.com.evil.example", "evil-api.openai.com"):
        assert read_key(address=f"https://{host}/v1") is None
    assert read_key(address="http://api.openai.com/v1") is None, "the way there is not secret"
    monkeypatch.setenv("ARTS_API_KEY", "sk-arts")
    assert read_key(address="https://api.openai.com/v1") == read_key(address="http://127.0.0.1/v1") == "sk-arts"


def test_a_key_is_read_from_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("  sk-file \n")
    monkeypatch.setenv("ARTS_API_KEY", "sk-arts")
    monkeypatch.setenv("MINE", "sk-mine\n")
    assert read_key(key_env="MINE") == "sk-mine"
    assert read_key(key_file=str(file)) == "sk-file"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_key(key_file="~/key") == "sk-file"
    monkeypatch.setenv("ARTS_API_KEY", "  ")
    assert read_key() is None


@pytest.mark.parametrize("content", ["sk-hush hush", "sk-hush\nsk-hush", "sk-hush\x00", "sk-hush\u200b", "sk-hush-é"])
def test_what_is_no_key_is_refused_and_not_shown(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text(content, encoding="utf-8")
    sources: list[dict[str, str]] = [{"key_file": str(file)}]
    if "\x00" not in content:
        monkeypatch.setenv("MINE", content)
        monkeypatch.setenv("ARTS_API_KEY", content)
        sources += [{"key_env": "MINE"}, {}]
    for source in sources:
        with pytest.raises(ValueError, match="holds something that is no key") as caught:
            read_key(**source)
        assert "hush" not in all_text(caught.value)


def test_keys_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", " ")
    for name in ("EMPTY", "NOT_THERE"):
        with pytest.raises(ValueError, match=f"the environment variable {name}, which key_env names, is not set"):
            read_key(key_env=name)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_key(key_file=str(tmp_path / "empty"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("missing", "binary", "."):
        with pytest.raises(ValueError, match="cannot be read"):
            read_key(key_file=str(tmp_path / name))
