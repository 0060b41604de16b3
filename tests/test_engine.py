"""Searches that come and go: joining changes no result, cancelling frees all, closing answers everybody."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait

import pytest
from test_search_driver import alone, finished, search, searches
from toy_search import ExactScorer, toy

from arts.proposers.table import TableProposer
from arts.protocols import Reply, Request, ScoreReply, ScoreRequest, ScoreScale
from arts.search.budget import Budget
from arts.search.engine import CLOSED, Engine
from arts.search.path_scores import PathScores
from arts.search.program import Search
from arts.search.result import SearchResult
from arts.search.running import Running
from arts.search.strategies import build_strategy
from arts.tasks.toy import toy_tree


class Slow(TableProposer):
    """Like a server: each request is answered by a thread of its own, when it may go."""

    max_in_flight = 8
    draws_at_once = 4

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.first: set[int] = set()
        "places of requests that are answered at once"
        self.asked: list[Request] = []
        self.futures: list[Future[Reply]] = []

    def submit(self, request: Request) -> Future[Reply]:
        future: Future[Reply] = Future()
        waits = len(self.asked) not in self.first
        self.asked.append(request)
        self.futures.append(future)

        def answer() -> None:
            if waits:
                self.go.wait(10)
            if future.set_running_or_notify_cancel():
                future.set_result(self.propose([request])[0])

        threading.Thread(target=answer, daemon=True).start()
        return future


def result(one: Search) -> SearchResult:
    table = TableProposer()
    return one.result(log_prior_law=table.log_prior_law, tokenizer=table.tokenizer_fingerprint)


def fast() -> Slow:
    """Answers at once, each request as one: in parts, each would be billed for its prompt."""
    proposer = Slow()
    proposer.draws_at_once = 256
    proposer.go.set()
    return proposer


@pytest.mark.parametrize("name", ["best-of-n", "beam", "arts", "mcts"])
@pytest.mark.parametrize("make", [TableProposer, fast])
def test_whoever_joins_when_gets_what_it_gets_alone(name: str, make: type[TableProposer]) -> None:
    engine = Engine(make(), ExactScorer())
    given = searches(name)
    tickets = []
    for one in given:
        tickets.append(engine.submit(one))
        time.sleep(0.002)
    assert [result(ticket.done.result(10)) for ticket in tickets] == alone(name)
    assert result(engine.submit(searches(name)[0]).done.result(10)) == alone(name)[0]  # also after a pause
    engine.close()


def test_searches_that_run_together_share_batches() -> None:
    """On a local model: draws of all in one call, scores of all in one call."""

    class Counting(TableProposer):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[int] = []
            self.go = threading.Event()

        def propose(self, requests: Sequence[Request]) -> list[Reply]:
            self.go.wait(10)
            self.calls.append(len({request.problem.id for request in requests}))
            return super().propose(requests)

    proposer = Counting()
    engine = Engine(proposer, ExactScorer())
    tickets = [engine.submit(one) for one in searches()]
    time.sleep(0.05)
    proposer.go.set()
    for ticket in tickets:
        ticket.done.result(10)
    engine.close()
    assert max(proposer.calls) >= len(tickets) - 1  # the first may have gone ahead


def test_scores_of_searches_on_a_server_share_batches() -> None:
    """Two waves that land at the same time are scored in one call."""
    batches: list[set[str]] = []

    class Watching(ExactScorer):
        def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
            batches.append({request.problem.id for request in requests})
            time.sleep(0.02)  # others land meanwhile
            return super().score_steps(requests)

    proposer = Slow()
    engine = Engine(proposer, Watching())
    tickets = [engine.submit(one) for one in searches("best-of-n", Budget(draws=4))]
    time.sleep(0.05)
    proposer.go.set()
    for ticket in tickets:
        ticket.done.result(10)
    engine.close()
    assert max(map(len, batches)) > 1


def test_many_draws_are_asked_for_as_many_at_once_as_the_proposer_makes() -> None:
    proposer = Slow()
    proposer.go.set()
    engine = Engine(proposer, ExactScorer())
    one = search(toy(1), build_strategy("best-of-n", ["n=10"]), Budget(draws=10))
    done = engine.submit(one).done.result(10)
    engine.close()
    assert sorted(len(request.seeds) for request in proposer.asked) == [2, 4, 4]
    expected = finished(search(toy(1), build_strategy("best-of-n", ["n=10"]), Budget(draws=10)))
    assert result(done).tree.nodes == expected.tree.nodes


def test_a_watcher_hears_of_draws_before_their_wave_is_complete() -> None:
    heard: list[int] = []
    proposer = Slow()
    proposer.first = {1}
    engine = Engine(proposer, None)

    def watch(running: Running) -> None:
        heard.append(running.num_landed)

    one = search(toy(1), build_strategy("majority", ["n=8"]), Budget(draws=8))
    ticket = engine.submit(one, watch=watch)
    while not heard:
        time.sleep(0.001)
    assert heard == [4] and not ticket.done.done() and len(one.tree) == 1
    proposer.go.set()
    assert ticket.done.result(10).bill.draws == 8
    engine.close()


@pytest.mark.parametrize("strategy", ["majority", "beam"])
def test_cancelling_frees_what_was_asked_for_and_disturbs_nobody(strategy: str) -> None:
    proposer = fast()
    proposer.go.clear()
    engine = Engine(proposer, ExactScorer())
    gone = engine.submit(search(toy(1), build_strategy(strategy), Budget()))
    stays = engine.submit(search(toy(2), build_strategy("majority", ["n=4"]), Budget()))
    while len(proposer.futures) < 2:
        time.sleep(0.001)
    engine.cancel(gone, "left")
    assert gone.done.result(5).stopped == "left"
    assert {future.cancelled() for future, request in zip(proposer.futures, proposer.asked, strict=True)
            if request.problem.id == toy(1).id} == {True}  # fmt: skip
    sent = len(proposer.asked)
    proposer.go.set()
    assert stays.done.result(5).stopped == "complete" and len(proposer.asked) == sent
    engine.cancel(gone)  # a second time, and late: nothing happens
    assert result(engine.submit(searches()[0]).done.result(5)) == alone()[0]
    engine.close()


@pytest.mark.parametrize("make", [TableProposer, fast])
def test_an_engine_that_closes_answers_everybody(make: type[TableProposer]) -> None:
    proposer = make()
    if isinstance(proposer, Slow):
        proposer.go.clear()
    engine = Engine(proposer, ExactScorer())
    tickets = [engine.submit(one) for one in searches("majority", Budget(draws=100_000))]
    time.sleep(0.02)
    engine.close()
    assert not wait([ticket.done for ticket in tickets], timeout=5).not_done
    assert {ticket.done.result().stopped for ticket in tickets} == {CLOSED}
    assert not engine.is_alive
    with pytest.raises(ValueError, match="the engine is closed"):
        engine.submit(searches()[0])


def test_seconds_count_from_the_submission() -> None:
    proposer = Slow()
    engine = Engine(proposer, None)
    started = time.monotonic()
    done = engine.submit(search(toy(1), build_strategy("majority"), Budget(seconds=0.05))).done.result(5)
    assert done.stopped == "budget" and time.monotonic() - started < 2
    engine.close()


def test_a_proposer_that_takes_no_request_fails_that_search_only() -> None:
    class Refusing(Slow):
        def submit(self, request: Request) -> Future[Reply]:
            if request.prefix:
                raise ValueError("it cannot go on from the middle")
            return super().submit(request)

    proposer = Refusing()
    proposer.go.set()
    engine = Engine(proposer, ExactScorer())
    step_by_step = engine.submit(search(toy(1), build_strategy("beam"), Budget()))
    whole = engine.submit(search(toy(1), build_strategy("best-of-n"), Budget()))
    assert step_by_step.done.result(5).stopped == "failed: ValueError: it cannot go on from the middle"
    assert whole.done.result(5).stopped == "complete"
    engine.close()


def test_a_search_that_would_misread_its_scores_is_not_taken() -> None:
    scorer = ExactScorer(scale=ScoreScale(kind="log_strength"))
    engine = Engine(TableProposer(), scorer)
    with pytest.raises(ValueError, match="log_strength"):
        engine.submit(searches()[0])
    engine.close()


def test_paths_are_scored_beside_searches() -> None:
    known = toy_tree(toy(3))
    steps = [tuple(map(known.step, known.path(node))) for node in range(1, len(known.parents))]
    requests = [ScoreRequest(toy(3), one, len(one)) for one in steps]
    engine = Engine(TableProposer(), ExactScorer())
    beside = engine.submit(searches()[0])
    done = engine.submit(PathScores(requests)).done.result(5)
    assert done.stopped == "complete"
    assert list(done.replies) == ExactScorer().score_steps(requests)
    assert result(beside.done.result(5)) == alone()[0]
    broken = engine.submit(PathScores([ScoreRequest(toy(3), steps[0], 5)])).done.result(5)
    assert broken.stopped is not None and broken.stopped.startswith("failed: ValueError")
    engine.close()
