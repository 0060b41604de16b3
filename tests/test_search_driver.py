"""Many searches at once: nothing that one of them does, or that befalls it, changes the result of another."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import SCALE, TASK, ExactScorer, FakeProposer, drive, prompt_tokens, search, toy

from arts.proposers.table import TableProposer
from arts.protocols import Reply, Request, ScoredTrees, ScoreReply, ScoreRequest, ScoreScale, StepScorer
from arts.score_function import FunctionScorer
from arts.search import loops
from arts.search.budget import Budget
from arts.search.driver import Finished, run_batched, run_concurrently
from arts.search.program import Search
from arts.search.result import SearchResult
from arts.search.strategies import STRATEGIES, build_strategy
from arts.search.whole_path import WholePathScorer
from arts.tasks.toy import toy_tree
from arts.tree import Problem, ReasoningTree, StopReason, Verdict

Run = Callable[..., Iterator[Finished]]
DRIVERS: tuple[Run, ...] = (run_batched, run_concurrently)
NUM = 6
CULPRIT = 2


def searches(name: str = "best-of-n", budget: Budget | None = None, **options: object) -> list[Search]:
    """One a problem."""
    limit = budget or Budget(generated_tokens=60)
    return [search(toy(seed), build_strategy(name), limit, **options) for seed in range(NUM)]


def alone(name: str = "best-of-n", budget: Budget | None = None, **options: object) -> list[SearchResult]:
    """The same, one after the other."""
    return [finished(one) for one in searches(name, budget, **options)]


def finished(one: Search) -> SearchResult:
    table = TableProposer()
    drive(one, table)
    return one.result(log_prior_law=table.log_prior_law, tokenizer=table.tokenizer_fingerprint)


def results(run: Run, given: Sequence[Search], *parts: object, **options: int) -> list[SearchResult]:
    """In the order of the searches."""
    proposer, scorer = parts or (TableProposer(), ExactScorer())
    places, found = zip(*sorted(run(given, proposer, scorer, **options)), strict=True)
    assert places == tuple(range(len(given)))
    return list(found)


class Delayed(TableProposer):
    """Replies arrive in any order."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(self.rng.random() / 4000)
        return super().propose(requests)


# --- the same, however it is run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_both_drivers_give_what_each_search_gives_alone(name: str) -> None:
    for budget in (Budget(total_tokens=60), Budget(draws=10)):
        expected = alone(name, budget, keep_curve=True)
        for run in DRIVERS:
            assert results(run, searches(name, budget, keep_curve=True)) == expected


@settings(deadline=None, max_examples=30)
@given(
    names=st.lists(st.sampled_from(list(STRATEGIES)), min_size=1, max_size=4),
    kind=st.sampled_from(["generated_tokens", "verifier_tokens", "total_tokens", "draws", "nodes"]),
    limit=st.integers(1, 80),
    seed=st.integers(0, 10**6),
    max_active=st.sampled_from([1, 2, 8]),
    max_in_flight=st.sampled_from([1, 3, 32]),
)
def test_order_of_arrival_and_company_change_nothing(
    names: list[str], kind: str, limit: int, seed: int, max_active: int, max_in_flight: int
) -> None:
    def build() -> list[Search]:
        budget = Budget(**{kind: limit})  # type: ignore[arg-type]
        return [search(toy(seed % 50), build_strategy(name), budget, seed=seed) for name in names]

    expected = [finished(one) for one in build()]
    assert results(run_batched, build(), max_active=max_active) == expected
    many = {"max_active": max_active, "max_in_flight": max_in_flight}
    assert results(run_concurrently, build(), Delayed(seed), ExactScorer(), **many) == expected
    shuffled = [drive(one, rng=random.Random(seed)).result(tokenizer="toy-letters") for one in build()]
    assert shuffled == expected


@pytest.mark.parametrize("run", DRIVERS)
def test_searches_start_when_there_is_room(run: Run) -> None:
    started: list[int] = []

    def stream() -> Iterator[Search]:
        for place, one in enumerate(searches()):
            started.append(place)
            yield one

    seen = [len(started) for _ in run(stream(), TableProposer(), ExactScorer(), max_active=2)]
    assert seen[0] == 2 and all(count <= place + 3 for place, count in enumerate(seen)) and seen[-1] == NUM
    assert list(run([], TableProposer(), None)) == []


@pytest.mark.parametrize("run", DRIVERS)
def test_at_least_one_search_must_be_allowed_to_run(run: Run) -> None:
    with pytest.raises(ValueError, match="max_active is 0"):
        list(run(searches(), TableProposer(), ExactScorer(), max_active=0))


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    lock, now, most = threading.Lock(), 0, 0

    class Counting(TableProposer):
        def propose(self, requests: Sequence[Request]) -> list[Reply]:
            nonlocal now, most
            with lock:
                now += len(requests)
                most = max(most, now)
            time.sleep(0.001)
            with lock:
                now -= len(requests)
            return super().propose(requests)

    results(run_concurrently, searches("beam"), Counting(), ExactScorer(), max_in_flight=3)
    assert 1 < most <= 3


# --- failures ---------------------------------------------------------------------------------------------------------


def only_culprit_fails(run: Run, found: list[SearchResult], expected: list[SearchResult], why: str) -> None:
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        if place != CULPRIT:
            assert one == other
    assert found[CULPRIT].stopped.startswith("failed") and why in found[CULPRIT].stopped
    assert found[CULPRIT].answer is None or found[CULPRIT].tree.nodes[found[CULPRIT].answer].is_answer


def is_culprit(problem: Problem) -> bool:
    return problem.id == toy(CULPRIT).id


class Broken(TableProposer):
    """Fails for one problem from its second request on, in a way to choose."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        replies = super().propose(requests)
        if not any(is_culprit(request.problem) and request.prefix for request in requests):
            return replies
        match self.how:
            case "raises":
                raise ConnectionError("the server is gone")
            case "too few replies":
                return replies[:-1]
            case "too many replies":
                return [*replies, replies[0]]
            case "too few draws":
                return [
                    Reply(reply.draws[1:], reply.usage) if is_culprit(request.problem) else reply
                    for request, reply in zip(requests, replies, strict=True)
                ]
        raise AssertionError(self.how)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("raises", "ConnectionError: the server is gone"),
        ("too few replies", "replies to"),
        ("too many replies", "replies to"),
        ("too few draws", "seeds of problem 'toy 3x3 seed 2'"),
    ],
)
@pytest.mark.parametrize("run", DRIVERS)
def test_a_proposer_that_fails_for_one_problem_fails_that_search_only(run: Run, how: str, why: str) -> None:
    found = results(run, searches("beam"), Broken(how), ExactScorer())
    only_culprit_fails(run, found, alone("beam"), why)
    assert found[CULPRIT].bill.draws > 0  # what came before is kept


@pytest.mark.parametrize("run", DRIVERS)
def test_a_proposer_that_always_fails_fails_all_searches(run: Run) -> None:
    def refuse(request: Request, seed: int) -> tuple[()]:
        raise OSError("no such host")

    found = results(run, searches(), FakeProposer(refuse), ExactScorer())
    assert [one.stopped for one in found] == ["failed: OSError: no such host"] * NUM
    assert [one.answer for one in found] == [None] * NUM


class BrokenScorer(ExactScorer):
    """Fails for one problem where a path has two steps."""

    caches = False

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forget(self) -> None:
        """Nothing is kept."""

    def score_steps(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        replies = super().score_steps(requests)
        bad = [is_culprit(request.problem) and len(request.steps) >= 2 for request in requests]
        if any(bad) and self.how == "raises":
            raise MemoryError("path too long")
        if any(bad) and self.how == "too few replies":
            return replies[:-1]
        return [
            reply._replace(log_scores=(float("nan"),) * len(reply.log_scores)) if wrong else reply
            for wrong, reply in zip(bad, replies, strict=True)
        ]


@pytest.mark.parametrize(
    ("how", "why"), [("raises", "MemoryError: path too long"), ("too few replies", "replies to"), ("nan", "finite")]
)
@pytest.mark.parametrize("run", DRIVERS)
def test_a_verifier_that_fails_for_one_problem_fails_that_search_only(run: Run, how: str, why: str) -> None:
    found = results(run, searches("beam"), TableProposer(), BrokenScorer(how))
    only_culprit_fails(run, found, alone("beam"), why)


@pytest.mark.parametrize("run", DRIVERS)
def test_a_judge_that_fails_for_one_problem_fails_that_search_only(run: Run) -> None:
    def judge(problem: Problem, text: str) -> Verdict:
        if is_culprit(problem):
            raise ZeroDivisionError("in the checker")
        return TASK.judge(problem, text)

    given = [
        search(toy(seed), build_strategy("beam"), Budget(generated_tokens=60), judge=partial(judge, toy(seed)))
        for seed in range(NUM)
    ]
    only_culprit_fails(run, results(run, given), alone("beam"), "ZeroDivisionError: in the checker")


@pytest.mark.parametrize("run", DRIVERS)
def test_a_strategy_that_fails_fails_its_search_only(run: Run) -> None:
    given = searches("beam")

    def broken() -> Iterator[list[object]]:
        raise LookupError("in the strategy")
        yield []

    given[CULPRIT]._waves = broken()  # type: ignore[assignment]
    only_culprit_fails(run, results(run, given), alone("beam"), "LookupError: in the strategy")


@pytest.mark.parametrize("run", DRIVERS)
def test_without_a_verifier_only_strategies_that_look_at_no_scores_run(run: Run) -> None:
    given = [*searches("majority"), *searches("best-of-n")]
    found = [result for _, result in sorted(run(given, TableProposer(), None))]
    assert found[:NUM] == alone("majority")
    assert all(
        one.stopped == "failed: ValueError: the strategy looks at scores, but no verifier was given"
        for one in found[NUM:]
    )


# --- slow problems, seconds -------------------------------------------------------------------------------------------


class Stuck(TableProposer):
    """Requests of one problem hang until they are let go; `below`: only those that go on below a step."""

    def __init__(self, *, below: bool = False) -> None:
        super().__init__()
        self.below = below
        self.go = threading.Event()
        self.sent = 0

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        if any(is_culprit(request.problem) and bool(request.prefix) >= self.below for request in requests):
            self.sent += 1
            assert self.go.wait(30)
        return super().propose(requests)


@pytest.mark.parametrize("max_active", [2, 64])
@pytest.mark.parametrize("name", ["best-of-n", "beam"])  # one request at a time, several
def test_a_slow_problem_holds_nobody_back(name: str, max_active: int) -> None:
    proposer = Stuck(below=name == "beam")
    expected = alone(name)
    places = []
    given = searches(name)
    for place, result in run_concurrently(given, proposer, ExactScorer(), max_active=max_active, max_in_flight=4):
        assert result == expected[place]
        places.append(place)
        if len(places) == NUM - 1:  # all others are done; until now it hung
            assert CULPRIT not in places
            proposer.go.set()
    assert places[-1] == CULPRIT


def test_a_problem_that_hangs_ends_when_its_seconds_are_over() -> None:
    proposer = Stuck()
    budgets = [Budget(draws=20, seconds=0.1 if seed == CULPRIT else None) for seed in range(NUM)]
    given = [search(toy(seed), build_strategy("majority"), budget) for seed, budget in enumerate(budgets)]
    try:
        found = results(run_concurrently, given, proposer, ExactScorer())
    finally:
        proposer.go.set()
    assert (found[CULPRIT].stopped, found[CULPRIT].answer, found[CULPRIT].bill.draws) == ("budget", None, 0)
    assert [one.bill.draws for place, one in enumerate(found) if place != CULPRIT] == [20] * (NUM - 1)


@pytest.mark.parametrize("run", DRIVERS)
def test_seconds_end_a_search_with_the_best_answer_so_far(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that every request puts forward by one second."""
    now = 0.0

    class Clocked(TableProposer):
        max_in_flight = draws_at_once = 4

        def propose(self, requests: Sequence[Request]) -> list[Reply]:
            nonlocal now
            now += 1.0
            return super().propose(requests)

        def submit(self, request: Request) -> "Future[Reply]":
            """Answered when it is sent: no reply is late, and the clock stands still while the driver looks at it."""
            future: Future[Reply] = Future()
            future.set_result(self.propose([request])[0])
            return future

    monkeypatch.setattr(loops.time, "monotonic", lambda: now)
    for seconds in (1, 2, 5):
        now = 0.0
        one = search(toy(1), build_strategy("self-consistency", ["n=1000", "sure=1"]), Budget(seconds=seconds))
        (result,) = results(run, [one], Clocked(), None)
        assert (result.stopped, result.bill.requests, result.bill.draws) == ("budget", seconds, 4 * seconds)
        assert result.text is not None


def test_seconds_count_from_the_start_of_each_search(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Clocked(TableProposer):
        def propose(self, requests: Sequence[Request]) -> list[Reply]:
            nonlocal now
            now += 1.0
            return super().propose(requests)

    monkeypatch.setattr(loops.time, "monotonic", lambda: now)
    given = [search(toy(seed), build_strategy("majority"), Budget(draws=64, seconds=3)) for seed in range(NUM)]
    found = results(run_batched, given, Clocked(), None, max_active=1)
    assert {(one.stopped, one.bill.draws) for one in found} == {("budget", 48)}


@pytest.mark.parametrize("run", DRIVERS)
def test_a_search_that_was_cancelled_is_given_back_at_once(run: Run) -> None:
    given = searches()
    given[CULPRIT].cancel()
    found = results(run, given)
    assert found[CULPRIT].stopped == "cancelled" and found[CULPRIT].bill.draws == 0
    assert [one for place, one in enumerate(found) if place != CULPRIT] == [
        one for place, one in enumerate(alone()) if place != CULPRIT
    ]


@pytest.mark.parametrize("run", DRIVERS)
def test_a_search_can_be_cancelled_while_its_request_is_out(run: Run) -> None:
    given = searches("beam")

    class Cancelling(TableProposer):
        def propose(self, requests: Sequence[Request]) -> list[Reply]:
            if any(is_culprit(request.problem) and request.prefix for request in requests):
                given[CULPRIT].cancel("the user left")
            return super().propose(requests)

    found = results(run, given, Cancelling(), ExactScorer())
    assert found[CULPRIT].stopped == "the user left" and found[CULPRIT].bill.draws > 0
    assert found[0] == alone("beam")[0]


def test_no_more_requests_are_sent_once_the_caller_stops() -> None:
    proposer = Stuck(below=True)
    given = [search(toy(1), build_strategy("majority"), Budget(draws=1)), *searches("beam")[CULPRIT : CULPRIT + 1]]
    running = run_concurrently(given, proposer, ExactScorer(), max_in_flight=2)
    assert next(running).place == 0
    running.close()  # type: ignore[attr-defined]
    sent = proposer.sent
    proposer.go.set()
    time.sleep(0.02)
    assert sent <= 2 and proposer.sent == sent


@pytest.mark.parametrize("driver", [run_batched, run_concurrently])
def test_those_who_watch_see_every_search_grow(driver: Any) -> None:
    seen: list[tuple[int, int]] = []
    given = searches()
    done = list(
        driver(given, TableProposer(), ExactScorer(), watch=lambda *one: seen.append((one[0], one[1].bill.draws)))
    )
    assert {place for place, _ in seen} == set(range(NUM))
    for place, result in done:
        counts = [draws for where, draws in seen if where == place]
        assert counts == sorted(counts) and counts[-1] == result.bill.draws


@pytest.mark.parametrize("driver", [run_batched, run_concurrently])
def test_a_search_that_would_misread_its_scores_is_refused(driver: Any) -> None:
    scorer = ExactScorer()
    scorer.scale = ScoreScale(kind="log_strength")  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"the search reads scores as .* and the verifier gives .*log_strength"):
        list(driver(searches(), TableProposer(), scorer))


# --- any scorer as one for searches -----------------------------------------------------------------------------------


class WholeTreeScorer:
    """The exact flow of every node; it reads every tree whole, prompt included."""

    scale = SCALE

    def __init__(self) -> None:
        self.calls: list[int] = []

    def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
        self.calls.append(len(trees))
        scored, computed = [], 0
        for tree in trees:
            known = toy_tree(tree.problem)
            flows = [known.find(tree.text(node.id)) for node in tree.nodes]
            scored.append(tree.with_log_flows([float(known.values[place or 0]) for place in flows]))
            computed += prompt_tokens(tree.problem) + tree.num_distinct_tokens()
        return ScoredTrees(scored, computed, computed, SCALE)


def paths(seed: int, shape: str = "3x3") -> list[ScoreRequest]:
    """A request for the root, and one for the end of every path."""
    problem = toy(seed, shape)
    known = toy_tree(problem)
    steps = [tuple(map(known.step, known.path(node))) for node in range(len(known.parents))]
    return [ScoreRequest(problem, one, max(1, len(one) - seed % 2)) for one in steps]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 40))
def test_whole_paths_get_their_scores_and_their_own_bill(seed: int, batch: int) -> None:
    long = Problem("long", "toy 2x2 seed 5", {})
    asked = [*paths(1), *paths(2), *paths(4, "4x3 rare")]
    assert long.prompt != asked[0].problem.prompt
    random.Random(seed).shuffle(asked)
    scorer = WholePathScorer(WholeTreeScorer())
    assert scorer.scale == SCALE
    replies = []
    for start in range(0, len(asked), batch):
        replies += scorer.score_steps(asked[start : start + batch])
    for request, reply in zip(asked, replies, strict=True):
        known = toy_tree(request.problem)
        texts = ["".join(step.text for step in request.steps[:count]) for count in range(len(request.steps) + 1)]
        flows = [float(known.values[known.find(text) or 0]) for text in texts]
        assert reply.log_scores == tuple(flows[-request.num_new :])
        # Whatever is scored beside it, it pays for its own path and prompt.
        path_tokens = sum(len(step.token_ids) for step in request.steps)
        assert reply.computed_tokens == prompt_tokens(request.problem) + path_tokens
    assert scorer.score_steps([]) == []


def test_paths_of_problems_seen_before_are_scored_in_one_call() -> None:
    inner = WholeTreeScorer()
    scorer = WholePathScorer(inner)
    scorer.score_steps([*paths(1)[:2], *paths(2)[:3]])
    scorer.score_steps([*paths(1)[:2], *paths(2)[:3]])
    assert inner.calls == [2, 3, 5]


def test_a_scorer_that_counts_no_tokens_bills_none() -> None:
    scorer = WholePathScorer(FunctionScorer(lambda _, steps: 0.5))
    assert scorer.scale.kind == "log_value"
    assert {reply.computed_tokens for reply in scorer.score_steps(paths(1))} == {0}


def test_a_node_without_a_score_is_an_error() -> None:
    class Silent(WholeTreeScorer):
        def score(self, trees: Sequence[ReasoningTree]) -> ScoredTrees:
            return ScoredTrees(list(trees), 0, 0, SCALE)

    with pytest.raises(ValueError, match="left steps of problem 'toy 3x3 seed 1' without a score"):
        WholePathScorer(Silent()).score_steps(paths(1))


@pytest.mark.parametrize("run", DRIVERS)
@pytest.mark.parametrize("name", ["best-of-n", "beam", "dts"])
def test_searches_by_whole_paths_keep_their_verifier_budget(run: Run, name: str) -> None:
    budget = Budget(verifier_tokens=150)

    def given() -> list[Search]:
        many = [search(toy(seed, shape), build_strategy(name), budget) for seed, shape in ((1, "3x3"), (2, "4x3 rare"))]
        return many

    scorer: StepScorer = WholePathScorer(WholeTreeScorer())
    together = results(run, given(), TableProposer(), scorer)
    for one, other in zip(given(), together, strict=True):
        assert results(run_batched, [one], TableProposer(), WholePathScorer(WholeTreeScorer())) == [other]
        assert 0 < other.bill.verifier_tokens <= 150
        assert all(node.verdict is not None for node in other.tree.nodes if node.stop is StopReason.EOS)
