"""Who may not come in, asks too much, comes too many or meets a model server that fails, gets an error of OpenAI's."""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import openai
import pytest
from fake_server import FAULTS, Settings
from servers import Running
from serving import HTTP, client, exact_scorer, local_service, served, toy_message, wait_until
from typer.testing import CliRunner

from arts.cli import app as command
from arts.cli.serve import check_host, read_keys
from arts.proposers.table import TableProposer
from arts.serve.errors import ApiError
from arts.serve.events import EventStream
from arts.serve.limits import Limits
from arts.serve.plan import plan
from arts.serve.schema import ChatRequest
from arts.serve.service import Service
from arts.tree import Problem, Verdict

Served = tuple[Running, Service, str]
KEYS = ("first-key-of-the-server", "second-key-of-the-server")
CHAT = "/v1/chat/completions"
BODY = {"model": "arts-best-of-2", "messages": toy_message()}


@pytest.fixture(scope="module")
def toy() -> Iterator[Served]:
    with served() as parts:
        yield parts


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    with served(app={"keys": KEYS, "origins": ["https://page.example"]}, max_body_bytes=5000) as parts:
        yield parts


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error, in OpenAI's form."""
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}, body
    return dict(body["error"])


# --- keys, hosts, sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method"),
    [(CHAT, "POST"), ("/v1/models", "GET"), ("/v1/score", "POST"), ("/metrics", "GET"), ("/x", "GET")],
)
@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Basic " + KEYS[0], "Bearer", KEYS[0], "Bearer " + KEYS[0][:-1]]
)
def test_nobody_comes_in_without_a_key(locked: Served, path: str, method: str, given: str | None) -> None:
    headers = {"Authorization": given} if given else {}
    answer = HTTP.request(method, locked[2] + path, headers=headers, json=BODY if method == "POST" else None)
    assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("key", KEYS)
def test_every_key_opens_and_openais_client_says_what_is_wrong_with_another(locked: Served, key: str) -> None:
    assert client(locked[2], key).chat.completions.create(**BODY).choices  # type: ignore[call-overload]
    with pytest.raises(openai.AuthenticationError):
        client(locked[2], key + "x").models.list()
    assert HTTP.get(f"{locked[2]}/healthz").json() == {"status": "ok"}


def test_keys_come_from_the_environment_and_must_be_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTS_SERVE_KEYS", f"{KEYS[0]}, {KEYS[1]}\n")
    assert read_keys() == list(KEYS)
    monkeypatch.setenv("ARTS_SERVE_KEYS", "short")
    with pytest.raises(ValueError, match="1 of the keys in ARTS_SERVE_KEYS are shorter") as refusal:
        read_keys()
    assert "'short'" not in str(refusal.value)


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True)])
def test_this_machine_needs_no_key(host: str, local: bool) -> None:
    assert check_host(host, []) is local


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "my-machine"])
def test_other_machines_are_let_in_with_keys_only(host: str) -> None:
    with pytest.raises(
        ValueError, match=f"host {host} lets other machines in, so keys are needed: set ARTS_SERVE_KEYS"
    ):
        check_host(host, [])
    assert check_host(host, list(KEYS)) is False


def test_a_web_page_that_was_sent_here_by_another_name_is_refused() -> None:
    with served(app={"local_only": True}) as (_, _, url):
        for host in ("evil.example", "127.0.0.1.evil.example"):
            assert HTTP.get(f"{url}/v1/models", headers={"Host": host}).status_code == 403
        for host in ("localhost:1234", "127.0.0.1", "[::1]:80"):
            assert HTTP.get(f"{url}/v1/models", headers={"Host": host}).status_code == 200


def test_browsers_of_other_sites_are_told_nothing_unless_they_were_named(locked: Served, toy: Served) -> None:
    ask = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    allowed = HTTP.options(locked[2] + CHAT, headers=ask)
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    for url, origin in ((locked[2], "https://other.example"), (toy[2], "https://page.example")):
        answer = HTTP.options(url + CHAT, headers={**ask, "Origin": origin})
        assert "access-control-allow-origin" not in answer.headers


def test_a_body_that_is_too_large_is_refused_before_it_is_read(locked: Served) -> None:
    headers = {"Authorization": f"Bearer {KEYS[0]}", "Content-Type": "application/json"}
    whole = HTTP.post(locked[2] + CHAT, headers=headers, content=b"x" * 5001)
    in_parts = HTTP.post(locked[2] + CHAT, headers=headers, content=iter([b"x" * 3000] * 3))
    assert [(one.status_code, error_of(one)["code"]) for one in (whole, in_parts)] == [(413, "too_large")] * 2


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "application/json", 400),
        (b'{"model": "arts-search", "messages": [], "seed": 1e999}', "application/json", 400),
        (b'{"model": "arts-search", "messages": [{"role": "user", "content": "\\ud800"}]}', "application/json", 400),
        (b'{"model": "arts-search", "messages": [{"role": "user", "content": 5}]}', "application/json", 400),
        (b'{"model": "arts-search", "seed": ' + b"9" * 5000 + b"}", "application/json", 400),
    ],
)
def test_what_is_no_request_is_refused_in_openais_form(toy: Served, content: bytes, kind: str, status: int) -> None:
    answer = HTTP.post(toy[2] + CHAT, headers={"Content-Type": kind}, content=content)
    assert answer.status_code == status
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "status", "param", "message"),
    [
        ({"model": "gpt-5"}, 404, "model", "there is no such model here; try toy, arts-search"),
        ({"model": "arts-best-of-300"}, 400, "model", "n is 300; at most 256 here"),
        ({"model": "arts-best-first-3"}, 400, "model", "strategy best-first has no size"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content",
         "messages[0].content: Input should be a valid string, or a valid list"),
        ({"messages": [*toy_message(), {"role": "user", "content": [{"type": "text"}]}]}, 400, "messages[1].content[0]",
         "messages[1].content[0]: a part of type text has no text"),
        ({"messages": [{"content": "x"}]}, 400, "messages[0].role", "messages[0].role: Field required"),
        ({"arts": 5}, 400, "arts", "arts: Input should be an object"),
        ({"n": 2}, 400, "n", "n does not go with a search; ask model 'toy'"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "ask model 'toy'"),
        ({"stop": [";"]}, 400, "stop", "stop does not go with a search"),
        ({"logprobs": True}, 400, "logprobs", "logprobs does not go"),
        (
            {"model": "arts-beam", "response_format": {"type": "json_object"}},
            400,
            "response_format",
            "such as best-of-n",
        ),
        (
            {"arts": {"strategy": "nonesuch"}},
            400,
            "arts.strategy",
            "strategy is 'nonesuch'; allowed are arts, best-of-n",
        ),
        ({"arts": {"strategy": "best-of-n:n=x"}}, 400, "arts.strategy", "it must be a number"),
        ({"arts": {"strategy": "ets:exact=40"}}, 400, "arts.strategy", "exact is 40; at most 14 here"),
        ({"arts": {"budget_tokens": 10**6}}, 400, "arts.budget_tokens", "at most 100000 here"),
        ({"arts": {"budget_tokens": 0}}, 400, "arts.budget_tokens", "greater than or equal to 1"),
        ({"arts": {"deadline_s": 1e6}}, 400, "arts.deadline_s", "at most 120 here"),
        ({"arts": {"surprise": 1}}, 400, "arts.surprise", "not permitted"),
        ({"messages": [*toy_message(), *toy_message()]}, 400, "messages", "send one user message"),
        ({"messages": [{"role": "user", "content": "hello"}]}, 400, "messages", "not a toy problem: 'hello'"),
        ({"messages": []}, 400, "messages", "at least 1 item"),
        ({"model": "toy", "arts": {"tree": True}}, 400, "arts", "choose a model like arts-search"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_with_advice(
    toy: Served, change: dict[str, Any], status: int, param: str, message: str
) -> None:
    for stream in (False, True):
        answer = HTTP.post(toy[2] + CHAT, json={**BODY, **change, "stream": stream})
        error = error_of(answer)
        assert (answer.status_code, error["param"]) == (status, param), error
        assert message in error["message"]


@pytest.mark.parametrize(
    ("prefixes", "param", "message"),
    [
        ([5], "prefixes[0]", "Input should be a valid string, or an object"),
        (["a", {"text": "a", "steps": []}], "prefixes[1]", "prefixes[1]: a prefix has either text or steps"),
        ([{"steps": ["a", 1]}], "prefixes[0].steps[1]", "Input should be a valid string"),
        ([{"surprise": 1}], "prefixes[0].surprise", "not permitted"),
    ],
)
def test_a_field_of_several_forms_is_told_what_the_form_that_it_has_wants(
    toy: Served, prefixes: list[Any], param: str, message: str
) -> None:
    error = error_of(HTTP.post(f"{toy[2]}/v1/score", json={"messages": toy_message(), "prefixes": prefixes}))
    assert (error["param"], error["code"]) == (param, "invalid_field") and message in error["message"], error
    assert not re.search(r"Prefix|Part|str\b|Value error", error["message"])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (["toy 3x3 seed 1", "toy 3x3 seed 2"], "prompt is a list of 2; a search answers one text"),
        ([1, 2], "prompt is token ids"),
        ([[1], [2]], "prompt is token ids"),
        ([], "prompt is a list of 0"),
        ("hello", "not a toy problem: 'hello'"),
    ],
)
def test_a_prompt_that_is_not_one_problem_is_refused(toy: Served, prompt: Any, message: str) -> None:
    answer = HTTP.post(f"{toy[2]}/v1/completions", json={"model": "arts-best-of-2", "prompt": prompt})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "prompt") and message in error_of(answer)["message"]


@pytest.mark.parametrize("field", ["n", "tools", "response_format"])
@pytest.mark.parametrize("model", ["local", "arts-beam"])
def test_nobody_is_sent_to_a_local_model_that_cannot_do_it_either(model: str, field: str) -> None:
    value = {"n": 2, "tools": [{"type": "function"}], "response_format": {"type": "json_object"}}[field]
    request = ChatRequest.model_validate({"model": model, "messages": toy_message(), "n": value if field == "n" else 1})
    offer = local_service(TableProposer(), scorer=exact_scorer()).offer
    with pytest.raises(ApiError, match="leave it out") as refusal:
        plan(request, {"model": model, "messages": toy_message(), field: value}, offer)
    assert refusal.value.status == 400 and "ask model" not in refusal.value.message


def test_advice_names_only_what_this_server_has() -> None:
    offer = local_service(TableProposer()).offer  # without a verifier
    asked = {"model": "local", "messages": toy_message(), "arts": {"budget_tokens": 9}}
    with pytest.raises(ApiError, match="choose a model like arts-majority"):
        plan(ChatRequest.model_validate(asked), asked, offer)
    with pytest.raises(ApiError, match="arts-majority needs none"):
        plan(ChatRequest.model_validate({**asked, "model": "arts-beam"}), asked, offer)


def test_unknown_routes_and_methods_are_errors_in_openais_form(toy: Served) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("GET", CHAT, 405), ("POST", "/v1/embeddings", 404)):
        answer = HTTP.request(method, toy[2] + path, json={} if method == "POST" else None)
        assert answer.status_code == status
        error_of(answer)


@pytest.mark.parametrize("fields", ["n", "best_of", "tool_choice", "stop", "tools", "logprobs", "response_format"])
def test_fields_that_ask_for_nothing_special_are_no_errors(toy: Served, fields: str) -> None:
    value = {"n": 1, "best_of": 1, "tool_choice": "none", "tools": [], "logprobs": False,
             "response_format": {"type": "text"}}.get(fields)  # fmt: skip
    assert HTTP.post(toy[2] + CHAT, json={**BODY, fields: value, "user": "me"}).status_code == 200


# --- ids, log, metrics ------------------------------------------------------------------------------------------------


def test_request_ids_come_back_and_new_ones_are_made(toy: Served) -> None:
    def given(value: str) -> str:
        return HTTP.get(f"{toy[2]}/v1/models", headers={"X-Request-Id": value}).headers["x-request-id"]

    assert given("mine-1.2:3_4") == "mine-1.2:3_4"
    for bad in ("", "a b", "x" * 129, "<script>"):
        assert re.fullmatch(r"[0-9a-f]{32}", given(bad))
    assert HTTP.post(toy[2] + CHAT, json={}).headers["x-request-id"]
    assert client(toy[2]).chat.completions.create(**BODY)._request_id  # type: ignore[call-overload]


def test_the_log_has_ids_and_statuses_and_nothing_a_user_wrote(
    toy: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "toy 3x3 seed 71"

    def fails(problem: Problem, solution: str) -> Verdict:
        raise RuntimeError(f"cannot judge {problem.prompt} {solution}")

    headers = {"X-Request-Id": "traced", "Authorization": "Bearer secret-of-mine"}
    for change in ({}, {"stream": True}, {"messages": [{"role": "user", "content": "no problem " + secret}]}):
        HTTP.post(toy[2] + CHAT, json={**BODY, "messages": toy_message(71), **change}, headers=headers)
    HTTP.get(f"{toy[2]}/{secret}?q={secret}", headers=headers)
    monkeypatch.setattr(toy[1].offer.task, "judge", fails)
    answer = HTTP.post(toy[2] + CHAT, json={**BODY, "messages": toy_message(71)}, headers=headers)
    assert (answer.status_code, error_of(answer)["message"]) == (500, "the search failed")
    monkeypatch.setattr("arts.serve.app.plan", lambda *_: fails(Problem("x", secret), secret))
    answer = HTTP.post(toy[2] + CHAT, json={**BODY, "messages": toy_message(71)}, headers=headers)
    assert (answer.status_code, error_of(answer)["message"]) == (500, "the server failed")

    def said_so_far() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name.startswith("arts")]

    # A line is written behind its answer, which the client has by then.
    wait_until(lambda: sum("traced POST /v1/chat/completions" in line for line in said_so_far()) == 5, "five lines")
    said = said_so_far()
    assert any("traced RuntimeError at " in line for line in said)
    assert any("traced GET other 404" in line for line in said)
    everything = "\n".join(record.getMessage() + str(record.exc_text or "") for record in caplog.records
                           if not record.name.startswith("http"))  # fmt: skip
    assert "seed 71" not in everything and "secret-of-mine" not in everything


def test_metrics_count_requests_searches_and_both_bills(toy: Served) -> None:
    def read() -> dict[str, float]:
        rows = HTTP.get(f"{toy[2]}/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (row.rpartition(" ") for row in rows if row[0] != "#")}

    before = read()
    answer = client(toy[2]).chat.completions.create(**BODY)  # type: ignore[call-overload]
    after = read()

    def more(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert more('arts_requests_total{route="/v1/chat/completions",status="200"}') == 1
    assert more('arts_searches_total{stopped="complete",strategy="best-of-n"}') == 1
    assert more('arts_tokens_total{kind="generated"}') == answer.usage.completion_tokens
    assert more("arts_draws_total") == 2
    assert after["arts_searches_running"] == after["arts_requests_waiting"] == 0


# --- too many, too slow -----------------------------------------------------------------------------------------------


def test_who_finds_the_line_full_is_told_when_to_come_again() -> None:
    limits = {"max_active": 2, "max_waiting": 3}
    with served(Settings(n=False), then={"latency_s": 0.2}, **limits) as (_, service, url):

        async def ask(http: httpx.AsyncClient) -> httpx.Response:
            return await http.post(url + CHAT, json=BODY, timeout=30)

        async def ask_all() -> list[httpx.Response]:
            async with httpx.AsyncClient() as http:
                return list(await asyncio.gather(*(ask(http) for _ in range(12))))

        answers = asyncio.run(ask_all())
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 12 - 5 and {answer.status_code for answer in answers} == {200, 429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert {error_of(answer)["code"] for answer in refused} == {"queue_full"}
        assert (service.gate.num_inside, service.gate.num_waiting) == (0, 0)
        assert HTTP.post(url + CHAT, json=BODY).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_base_model_has_its_turn_and_its_time_too(stream: bool) -> None:
    body = {"model": "toy", "messages": toy_message(), "max_tokens": 9, "stream": stream}
    with served(then={"latency_s": 0.6}, max_active=1, max_waiting=1, deadline_s=0.3) as (_, service, url):

        async def ask_all() -> list[httpx.Response]:
            async with httpx.AsyncClient() as http:
                return list(await asyncio.gather(*(http.post(url + CHAT, json=body, timeout=30) for _ in range(3))))

        answers = sorted(asyncio.run(ask_all()), key=lambda answer: answer.status_code)
        assert [answer.status_code for answer in answers] in ([429, 503, 504], [429, 504, 504])
        assert error_of(answers[-1])["code"] == "deadline_exceeded"
        assert (service.gate.num_inside, service.gate.num_waiting) == (0, 0)
        wait_until(lambda: service._proposer.client._in_flight == 0, "it did not let go")  # type: ignore[attr-defined]


def test_a_deadline_gives_the_best_answer_so_far_and_marks_it() -> None:
    with served(Settings(n=False, capacity=2), then={"latency_s": 0.05}) as (_, service, url):
        body = {**BODY, "arts": {"strategy": "self-consistency:n=200,window=2,sure=2", "deadline_s": 0.5}}
        started = time.monotonic()
        answer = HTTP.post(url + CHAT, json=body).json()
        assert 0.4 < time.monotonic() - started < 3
        assert answer["choices"][0]["message"]["content"]
        assert (answer["arts"]["stopped"], answer["arts"]["cut_short"]) == ("deadline", True)
        assert 0 < answer["arts"]["draws"] < 200
        late = HTTP.post(url + CHAT, json={**body, "arts": {"strategy": "majority", "deadline_s": 0.01}})
        assert (late.status_code, error_of(late)["code"]) == (504, "deadline_exceeded")
        stream = HTTP.post(url + CHAT, json={**body, "stream": True, "arts": {"deadline_s": 0.01}}).text
        assert json.loads(stream.splitlines()[-2].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert service.gate.num_inside == 0


def test_time_in_line_counts() -> None:
    slow = {"latency_s": 0.6}
    with served(Settings(n=False), then=slow, max_active=1) as (_, service, url):

        async def ask_both() -> list[httpx.Response]:
            async with httpx.AsyncClient() as http:
                first = asyncio.ensure_future(http.post(url + CHAT, json=BODY, timeout=30))
                await asyncio.sleep(0.1)
                second = await http.post(url + CHAT, json={**BODY, "arts": {"deadline_s": 0.2}}, timeout=30)
                return [await first, second]

        first, second = asyncio.run(ask_both())
        assert first.status_code == 200
        assert (second.status_code, error_of(second)["code"]) == (503, "queue_timeout")
        assert service.gate.num_waiting == 0


# --- a model server that fails ----------------------------------------------------------------------------------------

EXPECTED = {
    "429": (504, "deadline_exceeded"),  # asked again until there is no time left
    "500": (502, "upstream_error"),
    "502 html": (502, "upstream_error"),
    "stall": (504, "deadline_exceeded"),
    "truncated": (502, "upstream_malformed"),
    "reset": (502, "upstream_connection"),
    "empty": (502, "upstream_malformed"),
    "not utf-8": (502, "upstream_malformed"),
}


@pytest.fixture(scope="module")
def failing() -> Iterator[Served]:
    with served(then={"slow_s": 0.05}, options="&give_up_s=30&max_attempts=2") as parts:
        yield parts


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_the_model_server_has_its_error_or_does_no_harm(failing: Served, fault: str) -> None:
    upstream, service, url = failing
    http = service._proposer.client  # type: ignore[attr-defined]
    http.use(http.patience)
    upstream.app.settings.faults = {fault: 1.0}
    for stream in (False, True):
        body = {**BODY, "stream": stream, "arts": {"deadline_s": 1.0, "events": "none"}}
        answer = HTTP.post(url + CHAT, json=body, timeout=30)
        if fault not in EXPECTED:
            assert answer.status_code == 200
            continue
        status, code = EXPECTED[fault]
        if stream:
            assert json.loads(answer.text.removeprefix("data: "))["error"]["code"] == code
        else:
            assert (answer.status_code, error_of(answer)["code"]) == (status, code)
        assert http.base_url not in answer.text


def test_a_model_server_that_comes_back_is_used_again() -> None:
    with served(options="&give_up_s=0.2&max_attempts=1") as (upstream, service, url):
        upstream.app.settings.key = "changed"  # from now on it refuses us
        answer = HTTP.post(url + CHAT, json=BODY)
        assert (answer.status_code, error_of(answer)["code"]) == (503, "upstream_unavailable")
        assert answer.headers["retry-after"] == "2"
        assert HTTP.get(f"{url}/healthz").status_code == 200
        upstream.app.settings.key = None
        time.sleep(service._proposer.client.patience.again_after_s)  # type: ignore[attr-defined]
        assert HTTP.post(url + CHAT, json=BODY).status_code == 200


def test_ending_the_server_gives_those_inside_what_there_is() -> None:
    """After the time that they are given; who comes later finds no server."""
    servers: list[Any] = []
    with served(Settings(n=False, capacity=2), then={"latency_s": 0.05}, servers=servers) as (_, _, url):
        body = {**BODY, "arts": {"strategy": "self-consistency:n=200,window=2,sure=2"}}

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient() as http:
                asking = asyncio.ensure_future(http.post(url + CHAT, json=body, timeout=30))
                await asyncio.sleep(0.5)
                servers[0].should_exit = True
                return await asking

        answer = asyncio.run(ask())
        assert (answer.status_code, answer.json()["arts"]["stopped"]) == (200, "closed")
        assert answer.json()["arts"]["cut_short"]
        with pytest.raises(httpx.TransportError):
            HTTP.post(url + CHAT, json=body)


def test_an_engine_that_ended_is_seen_from_outside() -> None:
    with served() as (_, service, url):
        service.engine.close()
        refused = HTTP.post(url + CHAT, json=BODY)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "shutting_down")
        assert HTTP.get(f"{url}/healthz").status_code == 503


def test_a_stream_that_nobody_began_to_read_leaves_nothing_behind() -> None:
    """Its client went before the first event: a generator that never started cleans nothing up by itself."""
    left = []

    async def never() -> AsyncGenerator[bytes, None]:
        yield b"never"

    async def send(_: Any) -> None:
        raise OSError("the client is gone")

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def answer() -> None:
        with pytest.raises(OSError, match="gone"):
            await EventStream(never(), lambda: left.append(True))({"type": "http"}, receive, send)  # type: ignore[arg-type]

    asyncio.run(answer())
    assert left == [True]


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_active": 0}, "max_active is 0; it must be at least 1"),
        ({"max_waiting": -1}, "max_waiting is -1; it must be at least 0"),
        ({"deadline_s": 0}, "deadline_s is 0; it must be a number of seconds above 0"),
        ({"deadline_s": float("nan")}, "deadline_s is nan"),
        ({"max_body_bytes": 0}, "max_body_bytes is 0"),
    ],
)
def test_limits_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Limits(**change)


def test_the_command_refuses_other_machines_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARTS_SERVE_KEYS", raising=False)
    found = CliRunner().invoke(command, ["serve", "--proposer", "countdown", "--host", "0.0.0.0"])
    assert isinstance(found.exception, ValueError) and "keys are needed" in str(found.exception)
