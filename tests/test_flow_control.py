"""Rules that are told the time: how many requests fly at once, what is tried again and when, and when to give up."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arts.net.flow_control import AdaptiveLimit, Breaker, Patience, RetryBudget

# Something happened so many seconds after what happened before: True a good answer, False a failure.
events = st.lists(st.tuples(st.booleans(), st.floats(0.0, 3.0)), max_size=60)


# --- Patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("num_failures", 0),
        ("first_wait_s", -0.1),
        ("longest_wait_s", -1.0),
        ("give_up_s", -1.0),
        ("give_up_s", math.nan),
        ("first_contact_s", -1.0),
        ("retry_ratio", -0.5),
        ("retry_ratio", math.nan),
        ("spare_retries", -1),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be at least"):
        Patience(**{name: value})


def test_no_waiting_and_no_retries_are_allowed() -> None:
    Patience(
        max_attempts=1,
        num_failures=1,
        first_wait_s=0,
        longest_wait_s=0,
        give_up_s=0,
        first_contact_s=0,
        retry_ratio=0,
        spare_retries=0,
    )


@given(st.integers(1, 10_000), st.floats(0.0, 100.0), st.floats(0.0, 100.0), st.integers(0, 100))
def test_a_wait_is_at_most_the_first_one_doubled_with_each_attempt(
    attempt: int, first_wait_s: float, longest_wait_s: float, seed: int
) -> None:
    patience = Patience(first_wait_s=first_wait_s, longest_wait_s=longest_wait_s)
    wait_s = patience.wait_s(attempt, random.Random(seed))
    assert 0.0 <= wait_s <= longest_wait_s
    if attempt <= 20:
        assert wait_s <= first_wait_s * 2 ** (attempt - 1)


def test_waits_are_spread_over_all_of_their_range() -> None:
    """Full jitter: clients that failed together do not come back together."""
    rng, patience = random.Random(0), Patience(first_wait_s=0.5, longest_wait_s=30.0)
    for attempt, bound_s in [(1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (50, 30.0)]:
        waits = [patience.wait_s(attempt, rng) for _ in range(1000)]
        assert min(waits) < 0.05 * bound_s
        assert 0.95 * bound_s < max(waits) <= bound_s
        assert sum(waits) / len(waits) == pytest.approx(bound_s / 2, rel=0.1)


# --- AdaptiveLimit ----------------------------------------------------------------------------------------------------


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 0 requests at once; at least 1 must be allowed"):
        AdaptiveLimit(0)


@given(st.integers(1, 300), events)
def test_the_limit_stays_between_one_and_the_most_that_is_allowed(
    most: int, happened: list[tuple[bool, float]]
) -> None:
    limit, now_s = AdaptiveLimit(most), 0.0
    assert limit.now == most
    for good, later_s in happened:
        before, now_s = limit.now, now_s + later_s
        if good:
            limit.good()
            assert before <= limit.now <= min(most, before + 1)
        else:
            limit.overloaded(now_s)
            assert 1 <= limit.now <= before


@given(st.integers(1, 300), st.floats(0.1, 5.0), events)
def test_the_limit_is_cut_at_most_once_in_its_time_of_calm(
    most: int, calm_s: float, happened: list[tuple[bool, float]]
) -> None:
    """In any window of that length; the first complaint after it does cut."""
    limit, now_s, cut_at_s = AdaptiveLimit(most, calm_s=calm_s), 0.0, -math.inf
    for _, later_s in happened:
        before, now_s = limit.now, now_s + later_s
        limit.overloaded(now_s)
        if now_s - cut_at_s >= calm_s:
            assert 0.7 * before - 1 <= limit.now <= max(1.0, 0.7 * (before + 1))
            cut_at_s = now_s
        else:
            assert limit.now == before


def test_complaints_cut_by_a_factor_down_to_one() -> None:
    limit = AdaptiveLimit(100, calm_s=1.0)
    seen = []
    for now_s in range(15):
        limit.overloaded(float(now_s))
        seen.append(limit.now)
    assert seen[:5] == [70, 49, 34, 24, 16]
    assert seen[-1] == 1


@pytest.mark.parametrize("cut_to", [1, 5, 17])
def test_the_limit_recovers_by_one_for_every_full_load_of_good_answers(cut_to: int) -> None:
    limit, now_s = AdaptiveLimit(64), 0.0
    while limit.now > cut_to:
        limit.overloaded(now_s)
        now_s += 1.0
    for _ in range(20):
        before = limit.now
        for _ in range(before + 1):  # the load grows a little on the way
            limit.good()
        assert limit.now in (before + 1, before + 2) if before < 3 else limit.now == before + 1
    for _ in range(64 * 64):
        limit.good()
    assert limit.now == 64


# --- RetryBudget ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.floats(0.0, 3.0), events)
def test_retries_are_at_most_the_spare_ones_and_those_that_good_answers_paid(
    spare: int, ratio: float, happened: list[tuple[bool, float]]
) -> None:
    budget = RetryBudget(Patience(spare_retries=spare, retry_ratio=ratio))
    taken = good = refused = 0
    for is_good, _ in happened:
        if is_good:
            budget.good()
            good += 1
        elif budget.take():
            taken += 1
        else:
            refused += 1
        assert taken <= spare + ratio * good + 1e-9
    if spare >= len(happened):
        assert refused == 0


def test_spare_retries_are_not_hoarded() -> None:
    budget = RetryBudget(Patience(spare_retries=3, retry_ratio=0.5))
    for _ in range(1000):
        budget.good()
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]
    budget.good()
    assert not budget.take()
    budget.good()
    assert [budget.take(), budget.take()] == [True, False]


def test_without_spare_retries_good_answers_still_pay_for_some() -> None:
    budget = RetryBudget(Patience(spare_retries=0, retry_ratio=0.5))
    assert not budget.take()
    budget.good()
    budget.good()
    assert [budget.take(), budget.take()] == [True, False]


# --- Breaker ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_failures", "was_good", "opens_at"),
    [(10, False, 3), (10, True, 10), (2, False, 2), (2, True, 2), (1, True, 1)],
)
def test_it_opens_after_so_many_failures_in_a_row(num_failures: int, was_good: bool, opens_at: int) -> None:
    breaker = Breaker(Patience(num_failures=num_failures), 0.0)
    if was_good:
        breaker.good()
    seen = []
    for _ in range(opens_at + 2):
        breaker.failed(0.0)
        seen.append(breaker.is_open)
    assert seen == [False] * (opens_at - 1) + [True] * 3


def test_a_good_answer_closes_it_and_counting_starts_anew() -> None:
    breaker = Breaker(Patience(num_failures=4), 0.0)
    for _ in range(5):
        breaker.failed(1.0)
    assert breaker.is_open
    assert breaker.pause_s > 0
    breaker.good()
    assert not breaker.is_open
    assert breaker.pause_s == 0.0
    assert breaker.failing_s(100.0) == 0.0
    for _ in range(3):
        breaker.failed(2.0)
        breaker.good()
    for _ in range(3):
        breaker.failed(3.0)
    assert not breaker.is_open


def test_pauses_double_with_every_failure_up_to_ten_seconds() -> None:
    breaker, now_s = Breaker(Patience(first_wait_s=0.5), 0.0), 0.0
    pauses = []
    for _ in range(200):
        breaker.failed(now_s)
        pauses.append(breaker.pause_s)
        now_s += breaker.pause_s
    assert pauses[:8] == [0.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    assert set(pauses[8:]) == {10.0}


def test_a_full_load_of_failures_at_once_makes_no_longer_pause() -> None:
    """What was sent before it opened says nothing new."""
    breaker = Breaker(Patience(first_wait_s=0.5), 0.0)
    for number in range(64):
        breaker.failed(0.001 * number)
    assert breaker.pause_s == 0.5
    breaker.failed(1.0)
    assert breaker.pause_s == 1.0


@pytest.mark.parametrize(
    ("was_good", "give_up_s", "first_contact_s", "down_after_s"),
    [(True, 300.0, 3.0, 300.0), (False, 300.0, 3.0, 3.0), (False, 2.0, 3.0, 2.0), (True, 2.0, 3.0, 2.0)],
)
def test_it_is_down_only_after_its_time_without_a_good_answer(
    was_good: bool, give_up_s: float, first_contact_s: float, down_after_s: float
) -> None:
    breaker = Breaker(Patience(give_up_s=give_up_s, first_contact_s=first_contact_s), 0.0)
    if was_good:
        breaker.good()
    for _ in range(20):
        breaker.failed(1000.0)  # time counts from the first failure, not from the start
        assert not breaker.is_down(1000.0 + 0.99 * down_after_s)
    assert breaker.is_down(1000.0 + down_after_s)
    assert breaker.failing_s(1000.0 + down_after_s) == pytest.approx(down_after_s)


def test_long_silence_with_few_failures_is_no_outage() -> None:
    """As when one request an hour is sent."""
    breaker = Breaker(Patience(give_up_s=300.0, num_failures=10), 0.0)
    breaker.good()
    for hour in range(9):
        breaker.failed(3600.0 * hour)
        assert not breaker.is_down(3600.0 * hour)
    breaker.failed(3600.0 * 9)
    assert breaker.is_down(3600.0 * 9)


@given(st.integers(1, 12), events)
def test_a_breaker_follows_the_run_of_failures_that_is_going_on(
    num_failures: int, happened: list[tuple[bool, float]]
) -> None:
    """A slow reading of the rule: the failures since the last good answer, and when the first of them was."""
    patience = Patience(num_failures=num_failures, give_up_s=4.0, first_contact_s=2.0)
    breaker, now_s, was_good = Breaker(patience, 0.0), 0.0, False
    failures: list[float] = []
    for is_good, later_s in happened:
        now_s += later_s
        if is_good:
            breaker.good()
            failures, was_good = [], True
        else:
            breaker.failed(now_s)
            failures.append(now_s)
        is_open = len(failures) >= (num_failures if was_good else min(3, num_failures))
        assert breaker.is_open == is_open
        assert (breaker.pause_s > 0) == is_open
        assert breaker.was_reached == was_good
        assert breaker.is_down(now_s) == (is_open and now_s - failures[0] >= (4.0 if was_good else 2.0))
