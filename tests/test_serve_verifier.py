"""A verifier behind a server of its own: while it is slow all others go on, and its failures are a server's."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fake_server import Settings
from servers import fake_server, free_port
from serving import HTTP, exact_scorer, local_service, running, toy_message, upstream_service, wait_until

from arts.net.client import Client, RequestFailed, ServerUnavailable
from arts.proposers.table import TableProposer
from arts.protocols import PathTooLong, ScoredTrees
from arts.search.whole_path import RemotePathScorer, WholePathScorer
from arts.serve.app import build_app
from arts.serve.service import Service
from arts.tree import ReasoningTree

SLOW, QUICK = toy_message(1), toy_message(2)
SLOW_S = 1.5
CHAT = "/v1/chat/completions"


class Elsewhere:
    """Exact chances; those of the slow problem come late, or not at all."""

    def __init__(self, *, slow_s: float = SLOW_S, failure: Exception | None = None) -> None:
        self.client = Client(f"http://127.0.0.1:{free_port()}/v1")
        exact = exact_scorer()
        assert isinstance(exact, WholePathScorer)
        self.scale, self._scorer = exact.scale, exact.scorer
        self.slow_s, self.failure = slow_s, failure
        self.running = 0

    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        return self.client.run(self.ascore(trees))

    async def ascore(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        self.running += 1
        try:
            if trees[0].problem.prompt == SLOW[0]["content"]:
                await asyncio.sleep(self.slow_s)
                if self.failure is not None:
                    raise self.failure
            return self._scorer.score(trees)
        finally:
            self.running -= 1


@contextmanager
def local(scorer: RemotePathScorer) -> Iterator[Service]:
    yield local_service(TableProposer(), scorer=scorer)


@contextmanager
def upstream(scorer: RemotePathScorer) -> Iterator[Service]:
    with fake_server(Settings()) as server:
        yield upstream_service(server, scorer=scorer)


PLACES = pytest.mark.parametrize("place", [local, upstream])
Place = Callable[[RemotePathScorer], Any]


def body(messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    return {"model": "arts-best-of-4", "messages": messages, "seed": 1, **more}


@PLACES
def test_others_go_on_while_the_verifier_is_slow(place: Place) -> None:
    elsewhere = Elsewhere()
    with place(RemotePathScorer(elsewhere)) as service, running(build_app(service), service) as url:
        told: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: told.append(HTTP.post(url + CHAT, json=body(SLOW))))
        started = time.monotonic()
        asking.start()
        wait_until(lambda: elsewhere.running == 1, "the verifier was not asked")
        assert HTTP.get(f"{url}/healthz").status_code == 200
        for model in ("arts-best-of-4", "arts-beam", "arts-majority"):
            assert HTTP.post(url + CHAT, json={**body(QUICK), "model": model}).json()["arts"]["finished"]
        scores = HTTP.post(f"{url}/v1/score", json={"messages": QUICK, "prefixes": ["a;"]})
        assert scores.status_code == 200
        assert time.monotonic() - started < SLOW_S and not told, "they waited for another's scores"
        asking.join(10)
        assert told[0].json()["arts"]["confidence_is"] == "value"


@PLACES
def test_scores_from_elsewhere_change_no_answer(place: Place) -> None:
    elsewhere = Elsewhere(slow_s=0.0)

    def said(scorer: Any) -> list[Any]:
        with place(scorer) as service, running(build_app(service), service) as url:
            answers = [HTTP.post(url + CHAT, json=body(toy_message(one), model=name)).json() for one, name in asked]
        for answer in answers:
            del answer["arts"]["elapsed_s"]
        return [(answer["choices"], answer["usage"], answer["arts"]) for answer in answers]

    asked = [(seed, name) for seed in range(3) for name in ("arts-best-of-4", "arts-beam", "arts-mcts")]
    assert said(RemotePathScorer(elsewhere)) == said(exact_scorer())


@PLACES
def test_a_deadline_and_a_client_that_leaves_end_the_wait_for_scores(place: Place) -> None:
    elsewhere = Elsewhere(slow_s=20.0)
    with place(RemotePathScorer(elsewhere)) as service, running(build_app(service), service) as url:
        late = HTTP.post(url + CHAT, json=body(SLOW, arts={"deadline_s": 0.3}))
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        wait_until(lambda: elsewhere.running == 0, "the verifier still works for a search that is over")
        with HTTP.stream("POST", url + CHAT, json=body(SLOW, stream=True)) as stream:
            told = stream.iter_lines()  # without a name, it would be closed at once, and the connection with it
            next(told)
            wait_until(lambda: elsewhere.running == 1, "the verifier was not asked")
        wait_until(lambda: elsewhere.running == 0, "the verifier still works for a client that left")
        wait_until(lambda: service.gate.num_inside == 0, "its place is still taken")


@PLACES
@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (RequestFailed("timeout", "no whole answer within 5 s"), 504, "upstream_timeout"),
        (RequestFailed("refused", "HTTP 400: 5000 tokens are too many"), 400, "upstream_refused"),
        (ServerUnavailable("http://secret:1/v1 is down"), 503, "upstream_unavailable"),
        (PathTooLong("a path takes 5000 tokens"), 400, "context_length_exceeded"),
        (RuntimeError("secret"), 500, "search_failed"),
    ],
)
def test_failures_of_the_verifier_are_errors_of_one_request(
    place: Place, failure: Exception, status: int, code: str
) -> None:
    elsewhere = Elsewhere(slow_s=0.0, failure=failure)
    with place(RemotePathScorer(elsewhere)) as service, running(build_app(service), service) as url:
        for path, given in ((CHAT, body(SLOW)), ("/v1/score", {"messages": SLOW, "prefixes": ["a;"]})):
            answer = HTTP.post(url + path, json=given)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
            assert "secret" not in answer.text
        assert HTTP.post(url + CHAT, json=body(QUICK)).status_code == 200


def test_a_verifier_that_comes_back_is_asked_again() -> None:
    """A run gives a server up for good; `arts serve` does not end, and so it must not."""
    elsewhere = Elsewhere(slow_s=0.0)
    service = local_service(TableProposer(), scorer=RemotePathScorer(elsewhere))
    assert elsewhere.client.patience.again_after_s < 10
    service.close()
    assert not elsewhere.client._thread.is_alive()


def test_what_is_known_of_prompts_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arts.search.whole_path._PROMPTS_KEPT", 3)
    elsewhere = Elsewhere(slow_s=0.0)
    scorer = RemotePathScorer(elsewhere)
    service = local_service(TableProposer(), scorer=scorer)
    with running(build_app(service), service) as url:
        for seed in range(3, 9):
            assert HTTP.post(url + CHAT, json=body(toy_message(seed))).status_code == 200
    assert len(scorer._paths._prompt_tokens) == 3
