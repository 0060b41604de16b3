"""The page of `arts serve --ui`: who gets it, what is in it, and what it asks the server about itself."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from serving import HTTP, exact_scorer, local_service, running, toy_message
from test_view import Page
from typer.testing import CliRunner

from arts.cli import app as command
from arts.cli import serve, solve
from arts.proposers.table import TableProposer
from arts.search.strategies import STRATEGIES
from arts.serve.app import build_app
from arts.serve.names import strategy_of_model
from arts.serve.ui import IN_WORDS, about, render
from arts.tasks.conversation import ConversationTask
from arts.tasks.countdown import CountdownTask

KEY = "the-key-of-this-server"


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    service = local_service(TableProposer(), scorer=exact_scorer())
    with running(build_app(service, keys=[KEY], local_only=True, with_page=True), service) as url:
        yield url


def test_the_page_is_there_only_where_it_was_asked_for() -> None:
    open_to_all, with_keys = local_service(TableProposer()), local_service(TableProposer())
    with running(build_app(open_to_all), open_to_all) as url:
        listed = [row["id"] for row in HTTP.get(f"{url}/v1/models").json()["data"]]
        assert listed == ["local", "arts-majority", "arts-self-consistency"]  # it has no verifier
        assert HTTP.get(f"{url}/").status_code == HTTP.get(f"{url}/ui/offer").status_code == 404
    with running(build_app(with_keys, keys=[KEY]), with_keys) as url:
        assert HTTP.get(f"{url}/").status_code == 401


def test_the_page_comes_without_a_key_and_holds_nothing_of_the_server(locked: str) -> None:
    answer = HTTP.get(f"{locked}/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text == render() and KEY not in answer.text
    assert HTTP.get(f"{locked}/", headers={"Host": "evil.example"}).status_code == 403


def test_what_the_server_offers_wants_a_key(locked: str) -> None:
    assert HTTP.get(f"{locked}/ui/offer").status_code == 401
    offer = HTTP.get(f"{locked}/ui/offer", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert (offer["base_model"], offer["task"], offer["checks"]) == ("local", "toy:3x3", True)
    asked = {"model": offer["strategy"], "messages": [{"role": "user", "content": offer["examples"][0]}]}
    options = {"budget_tokens": offer["budget_tokens"]}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = HTTP.post(f"{locked}/v1/chat/completions", json={**asked, "arts": options}, headers=headers)
    assert answer.status_code == 200 and answer.json()["arts"]["finished"]


def test_the_page_loads_nothing_and_talks_to_its_own_origin_only() -> None:
    page = Page(render())
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'" and rules["img-src"] == "data:"
    assert len(rules["script-src"].split()) == len(page.scripts) == 3
    assert [link[:10] for link in page.links] == ["data:image"]  # its icon
    ours = page.scripts[-1]
    assert not re.search(
        r"innerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage|sessionStorage|cookie", ours
    )


def test_every_strategy_is_described_and_only_possible_ones_are_offered() -> None:
    assert set(IN_WORDS) == set(STRATEGIES)
    scored = about(local_service(TableProposer(), scorer=exact_scorer()))
    assert {strategy_of_model(row["model"]).id for row in scored["strategies"]} == set(STRATEGIES)  # type: ignore[union-attr]
    unscored = about(local_service(TableProposer()))
    assert [row["model"] for row in unscored["strategies"]] == ["arts-majority", "arts-self-consistency"]
    assert not any(row["scored"] for row in unscored["strategies"])


@pytest.mark.parametrize(
    ("task", "first", "checks"),
    [(CountdownTask(), "3 5 7 11 > 24", True), (ConversationTask(), "What is 17 + 25 - 8?", False)],
)
def test_examples_are_problems_of_the_task(task: Any, first: str, checks: bool) -> None:
    offer = about(local_service(TableProposer(), task))
    assert offer["examples"][0].startswith(first) and offer["checks"] is checks
    assert (offer["task"] is None) is not checks
    for example in offer["examples"]:
        task.parse(example)


def test_the_suggested_budget_is_allowed() -> None:
    assert about(local_service(TableProposer(), max_budget_tokens=3))["budget_tokens"] == 3
    assert about(local_service(TableProposer(), CountdownTask()))["budget_tokens"] == 16 * 56


def test_nodes_tell_what_they_vote_for(locked: str) -> None:
    body = {"model": "arts-best-of-8", "messages": toy_message(), "seed": 2, "arts": {"tree": True}}
    headers = {"Authorization": f"Bearer {KEY}"}
    nodes = HTTP.post(f"{locked}/v1/chat/completions", json=body, headers=headers).json()["arts"]["tree"]["nodes"]
    for node in nodes:
        assert (node["answer"] is not None) is (node["stop"] == "eos")


def test_the_demo_starts_the_page_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, Any] = {}
    monkeypatch.setattr(solve, "serve_command", lambda proposer, **options: started.update(options, proposer=proposer))
    result = CliRunner().invoke(command, ["demo", "--ui", "--port", "8123"])
    assert result.exit_code == 0, result.output
    assert started == {"proposer": "countdown", "port": 8123, "ui": True}


@pytest.mark.parametrize(("host", "page"), [("127.0.0.1", "http://127.0.0.1:8000/"), ("::1", "http://[::1]:8000/")])
def test_serve_says_where_the_page_is(
    host: str, page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "build_service", lambda *_, **__: local_service(TableProposer()))
    monkeypatch.setattr(serve, "use_torch_threads", lambda *_, **__: None)
    monkeypatch.setattr(serve, "start_log", lambda: None)
    monkeypatch.setattr("arts.serve.run.bind", lambda *_: [])
    monkeypatch.setattr("arts.serve.run.GracefulServer.run", lambda *_, **__: None)
    serve.serve_command("countdown", host=host, ui=True)
    assert f"the page: {page}\n" in capsys.readouterr().err
    serve.serve_command("countdown", host=host)
    assert "the page" not in capsys.readouterr().err
