"""A search over one tree: what it asks, what it makes of replies, what it spends, and what it answers at any moment."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import MAX_NEW_TOKENS, TASK, ExactScorer, FakeProposer, answer, drive, prompt_tokens, search, step, toy

from arts.proposers.table import TableProposer
from arts.protocols import Aggregation, Reply, Request, ScoreReply, ScoreScale, aggregate
from arts.search.answer import first_drawn, highest, vote, votes
from arts.search.budget import Bill, Budget, longest_draw, reserve
from arts.search.program import DrawAsk, ScoreAsk, Search
from arts.search.result import CurvePoint
from arts.search.strategies import STRATEGIES, build_strategy
from arts.search.strategy import Expand, Scores, Strategy, Waves
from arts.search.tree import SearchTree
from arts.tasks.toy import toy_tree
from arts.tree import Problem, Rollout, Step, StopReason, Usage, Verdict, build_tree

EOS, STOP, LENGTH, ERROR = StopReason.EOS, StopReason.STOP, StopReason.LENGTH, StopReason.ERROR
PROBLEM = Problem("p", "2 words")
KINDS = ("generated_tokens", "verifier_tokens", "total_tokens", "draws", "nodes")
POOLS = ("best-of-n", "majority", "weighted-vote", "flow-vote")


@dataclass(frozen=True, kw_only=True)
class Scripted(Strategy):
    """Yields the waves it is given, once."""

    id: ClassVar[str] = "scripted"
    paper: ClassVar[str] = "none"
    scores: ClassVar[Scores] = "none"
    waves: tuple[tuple[Expand, ...], ...]

    def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
        for wave in self.waves:
            yield list(wave)
        return "complete"

    def answer(self, tree: SearchTree) -> int | None:
        return first_drawn(tree)


class ScriptedByScores(Scripted):
    scores: ClassVar[Scores] = "ends"

    def answer(self, tree: SearchTree) -> int | None:
        return highest(tree)


def scripted(*waves: Sequence[Expand]) -> Scripted:
    return Scripted(waves=tuple(map(tuple, waves)))


def fake_judge(text: str) -> Verdict:
    """The answer is what stands behind the last `=`; 24 is right."""
    result = text.rpartition("=")[2]
    return Verdict(correct=result == "24", answer=result or None)


def grown(*draws: Sequence[Step], scale: ScoreScale | None = None, scored: bool = False) -> SearchTree:
    tree = SearchTree(PROBLEM, scale=scale, judge=fake_judge, max_new_tokens=100, scored=scored)
    for steps in draws:
        tree.add(0, steps)
    return tree


# --- the budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "scored", "extra", "longest"),
    [
        ({}, True, 5, 10),
        ({"generated_tokens": 4}, False, 0, 4),
        ({"verifier_tokens": 4}, False, 0, 10),
        ({"verifier_tokens": 9}, True, 5, 4),
        ({"verifier_tokens": 5}, True, 5, 0),
        ({"total_tokens": 8}, False, 0, 8),
        ({"total_tokens": 8}, True, 0, 4),
        ({"total_tokens": 8}, True, 5, 1),
        ({"total_tokens": 100, "verifier_tokens": 12, "generated_tokens": 9}, True, 5, 7),
        ({"draws": 0}, False, 0, 0),
        ({"nodes": 0}, False, 0, 0),
        ({"nodes": 1, "draws": 1}, False, 0, 10),  # nodes do not shorten a draw: how many it has is not known
    ],
)
def test_longest_draw_stays_within_every_limit(left: dict[str, int], scored: bool, extra: int, longest: int) -> None:
    assert longest_draw(left, 10, scored=scored, extra_scored=extra) == longest


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("scored", [True, False])
def test_a_draw_reserves_the_most_it_may_cost(whole: bool, scored: bool) -> None:
    left = dict.fromkeys(KINDS, 30)
    rest = reserve(left, 10, whole=whole, scored=scored, extra_scored=3)
    read = 13 if scored else 0
    assert rest == {
        "generated_tokens": 20,
        "verifier_tokens": 30 - read,
        "total_tokens": 20 - read,
        "draws": 29,
        "nodes": 20 if whole else 29,
    }
    for name in KINDS:
        used = 30 - rest[name]
        exact = reserve({name: used}, 10, whole=whole, scored=scored, extra_scored=3)
        assert exact == {name: 0}
        if used:
            assert reserve({name: used - 1}, 10, whole=whole, scored=scored, extra_scored=3) is None


@pytest.mark.parametrize("limit", [0, -1, math.nan])
@pytest.mark.parametrize("name", [*KINDS, "seconds"])
def test_a_budget_of_nothing_is_refused(name: str, limit: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*above 0"):
        Budget(**{name: limit})  # type: ignore[arg-type]


def test_bills_add_up() -> None:
    bill = Bill(1, 2, 3, 4, 5, 6).plus(Bill(10, 20, 30, 40, 50, 60))
    assert bill == (11, 22, 33, 44, 55, 66)
    assert bill.total_tokens == 33
    budget = Budget(generated_tokens=12, total_tokens=30, seconds=9)
    assert budget.left(bill) == {"generated_tokens": 1, "total_tokens": -3}


# --- the tree ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), draws=st.integers(1, 20))
def test_whole_draws_give_the_tree_that_collecting_gives(seed: int, draws: int) -> None:
    problem = toy(seed)
    reply = TableProposer().propose([Request(problem, (), tuple(range(draws)), MAX_NEW_TOKENS)])[0]
    judge = partial(TASK.judge, problem)
    tree = SearchTree(problem, judge=judge)
    ends = [tree.add(0, steps)[-1] for steps in reply.draws]
    rollouts = [Rollout(index, index, 0, steps) for index, steps in enumerate(reply.draws)]
    collected = build_tree(problem, rollouts, judge=judge)
    assert tree.frozen().nodes == collected.nodes
    assert tuple(ends) == collected.trunks
    assert tree.answers == list(dict.fromkeys(ends))
    assert tree.depth == collected.depths()
    assert tree.children == [list(children) for children in collected.children()]
    assert [tree.text(node) for node in range(len(tree))] == [collected.text(node) for node in range(len(tree))]
    assert tree.num_tokens == [sum(len(step.token_ids) for step in collected.path(node)) for node in range(len(tree))]
    assert tree.num_correct == sum(node.verdict is not None and node.verdict.correct for node in collected.nodes)


@pytest.mark.parametrize(
    ("stop", "is_open", "is_answer"), [(STOP, True, False), (EOS, False, True), (LENGTH, False, False)]
)
def test_only_a_finished_path_is_an_answer(stop: StopReason, is_open: bool, is_answer: bool) -> None:
    tree = grown([step("1+23=24", stop)])
    assert (tree.is_open(1), tree.is_answer(1), tree.answers) == (is_open, is_answer, [1] if is_answer else [])
    assert tree.is_open(0) and not tree.is_answer(0)
    assert tree.answer_key(1) == ("24" if is_answer else None)


BLANK, SAME = step(" ;\n"), step("again;")
LOOP = [SAME, SAME, SAME]


@pytest.mark.parametrize(
    ("draw", "counts"),
    [
        ([step("a"), step("b=1", EOS)], {}),
        ([step("a")], {}),
        ([Step("", (), None, ERROR)], {"failed": 1}),
        ([step("a"), Step("", (), None, ERROR)], {"failed": 1}),
        ([], {"empty": 1}),
        ([BLANK], {"empty": 1}),
        ([step("", num_tokens=0)], {"empty": 1}),
        ([step("", EOS)], {"empty": 1}),
        ([BLANK, step(".", EOS)], {"empty": 1}),
        ([BLANK, BLANK, step("a", LENGTH)], {"empty": 1, "unfinished": 1}),
        ([step("a", LENGTH)], {"unfinished": 1}),
        ([step("a", num_tokens=100)], {"unfinished": 1}),
        (LOOP, {"repeated": 1}),
        ([*LOOP, SAME, SAME, step("again", LENGTH)], {"repeated": 1, "unfinished": 1}),
        ([SAME, SAME, step("other;"), SAME, SAME], {}),
        ([BLANK, *LOOP, step("=24", EOS)], {}),  # it came to an end all the same
    ],
)
def test_what_goes_wrong_is_counted_once_a_draw(draw: list[Step], counts: dict[str, int]) -> None:
    tree = grown(draw)
    assert tree.counts == counts
    tree.add(0, draw)
    assert tree.counts == {name: 2 * count for name, count in counts.items()}
    finished = bool(draw) and draw[-1].stop is EOS and not counts
    assert bool(tree.answers) == finished
    if counts and len(tree) > 1:
        assert not tree.is_open(len(tree) - 1)


def test_nothing_is_drawn_below_a_dead_end() -> None:
    tree = grown([step("a"), BLANK, step("b"), step("c=24", EOS)])
    assert [tree.is_open(node) for node in range(5)] == [True, True, False, False, False]
    assert tree.is_answer(4)


def test_a_path_that_uses_up_its_tokens_cannot_go_on() -> None:
    tree = grown([step("a", num_tokens=60), step("b", num_tokens=39)])
    assert [tree.tokens_left(node) for node in range(3)] == [100, 40, 1]
    assert tree.is_open(2)
    tree.add(2, [step("c", num_tokens=1)])
    assert tree.tokens_left(3) == 0 and not tree.is_open(3)


def test_tokens_are_estimated_where_the_proposer_reports_none() -> None:
    assert [Step("x" * size, (), None, STOP).num_tokens for size in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert Step("xxxxxxxx", (1, 2, 3), None, STOP).num_tokens == 3


def test_a_draw_is_cut_where_the_nodes_end() -> None:
    tree = grown([step("a"), step("b")])
    assert tree.add(0, [step("a"), step("c"), step("d=24", EOS)], room=1) == [1, 3]
    assert tree.counts == {"unfinished": 1}
    assert tree.add(0, [step("a"), step("b")], room=0) == [1, 2]  # equal steps need no room
    assert tree.add(0, [step("e")], room=0) == []
    assert tree.counts == {"unfinished": 2}
    assert tree.num_draws == [1, 3, 2, 1]
    assert len(tree) == 4 and tree.answers == []


def test_each_solution_is_judged_once() -> None:
    judged: list[str] = []

    def judge(text: str) -> Verdict:
        judged.append(text)
        return fake_judge(text)

    tree = SearchTree(PROBLEM, judge=judge)
    for _ in range(3):
        tree.add(0, [step("a;"), step("b=24", EOS)])
        tree.add(0, [step("a;"), step("c", LENGTH)])
    assert judged == ["a;b=24"]
    assert tree.num_correct == 1 and tree.is_correct(2) and not tree.is_correct(1)


def test_a_judge_that_fails_leaves_the_tree_whole() -> None:
    def judge(text: str) -> Verdict:
        raise RuntimeError("no such number")

    tree = SearchTree(PROBLEM, judge=judge)
    with pytest.raises(RuntimeError, match="no such number"):
        tree.add(0, [step("a;"), step("b", EOS)])
    assert len(tree) == 2 and tree.children == [[1], []] and tree.answers == []
    assert len(tree.frozen().nodes) == 2


@pytest.mark.parametrize(
    ("scale", "score", "value"),
    [
        (ScoreScale(kind="log_value"), math.log(0.25), 0.25),
        (ScoreScale(kind="log_value"), 0.1, 1.0),
        (ScoreScale(kind="log_flow"), math.log(10), 1.0),
        (ScoreScale(kind="log_flow"), math.log(0.1), 0.0),
        (ScoreScale(kind="log_flow"), math.log(5.05), 0.5),
        (ScoreScale(kind="log_flow"), 900.0, 1.0),
        (ScoreScale(kind="log_flow"), -900.0, 0.0),
        (ScoreScale(kind="log_flow", reward_right=3.0, reward_wrong=1.0), math.log(2), 0.5),
        (ScoreScale(kind="log_strength"), 0.0, 0.5),
        (ScoreScale(kind="log_strength"), math.log(3), 0.75),
        (ScoreScale(kind="log_strength"), 900.0, 1.0),
        (ScoreScale(kind="log_strength"), -900.0, 0.0),
    ],
)
def test_value_is_the_score_as_a_number_from_0_to_1(scale: ScoreScale, score: float, value: float) -> None:
    tree = grown([step("a")], scale=scale)
    tree.set_scores([1], [score])
    assert tree.value(1) == pytest.approx(value)
    assert tree.log_flow(1) == score


def test_a_missing_score_is_an_error_and_a_dead_end_is_worth_nothing() -> None:
    tree = grown([step("a")], [step("b", LENGTH)], [BLANK])
    with pytest.raises(ValueError, match=r"node 1 has no score.*`scores`"):
        tree.log_flow(1)
    assert (tree.log_flow(2), tree.flow(2), tree.value(2)) == (-math.inf, 0.0, 0.0)
    assert tree.path_log_score(3) == -math.inf


@pytest.mark.parametrize("how", ["last", "min", "mean", "product"])
def test_a_path_is_scored_as_the_scorer_says(how: Aggregation) -> None:
    logs = [-1.0, -3.0, 0.5, -2.0]
    steps = [step("a"), BLANK, step("b"), step("c", EOS)]  # the blank step ended no search: the path went on
    tree = grown(steps, scale=ScoreScale(aggregation=how))
    tree.set_scores(range(1, 5), logs)
    assert tree.path_log_score(4) == pytest.approx(aggregate(logs, how))
    expected = {"last": -2.0, "min": -3.0, "mean": math.log(sum(map(math.exp, logs)) / 4), "product": -5.5}
    assert tree.path_log_score(4) == pytest.approx(expected[how])
    tree.set_scores([0], [-7.0])
    assert tree.path_log_score(0) == -7.0


def test_log_priors_of_steps() -> None:
    tree = grown([step("a"), Step("b", (1,), None, STOP)])
    assert tree.log_prior(0) == 0.0 and tree.log_prior(1) == -1.0 and math.isnan(tree.log_prior(2))


def test_a_solution_that_is_to_be_scored_is_no_answer_before_it_is() -> None:
    tree = grown([step("a", EOS)], [step("b", EOS)], [step("c")], scored=True)
    assert tree.answers == []
    tree.set_scores([3, 2], [0.0, 0.0])
    tree.set_scores([2, 1], [0.0, 0.0])
    assert tree.answers == [2, 1]


# --- answers ----------------------------------------------------------------------------------------------------------


def ends(*texts: str) -> SearchTree:
    return grown(*([step(text, EOS)] for text in texts))


@pytest.mark.parametrize(
    ("texts", "weights", "chosen"),
    [
        ([], None, None),
        (["a=24"], None, "a=24"),
        (["a=1", "b=24", "c=24"], None, "b=24"),
        (["a=1", "b=24"], None, "a=1"),  # a tie goes to the first
        (["b=24", "a=1", "a=1"], None, "a=1"),  # a solution drawn twice votes twice
        (["nothing=", "a=1"], None, "a=1"),  # no readable answer, no vote
        (["nothing=", "none="], None, "nothing="),
        (["a=1", "b=24", "c=24"], {"a=1": 0.9, "b=24": 0.3, "c=24": 0.4}, "a=1"),
        (["a=1", "b=24", "c=24"], {"a=1": 0.6, "b=24": 0.3, "c=24": 0.4}, "c=24"),  # its best solution is shown
        (["a=1", "b=24"], {"a=1": 0.0, "b=24": 0.0}, "a=1"),
    ],
)
def test_votes(texts: list[str], weights: dict[str, float] | None, chosen: str | None) -> None:
    tree = ends(*texts)
    weight = None if weights is None else lambda node: weights[tree.text(node)]
    node = vote(tree, weight)
    assert (None if node is None else tree.text(node)) == chosen
    assert first_drawn(tree) == (1 if texts else None)


def test_votes_are_counted_by_answer() -> None:
    tree = ends("a=1", "b=24", "b=24", "c=24", "d=")
    assert votes(tree) == ({"1": 1, "24": 3}, {"1": 1, "24": 2})


def test_the_highest_score_wins_and_the_first_of_equals() -> None:
    tree = ends("a=1", "b=2", "c=3")
    assert highest(grown([step("a")])) is None
    tree.set_scores([1, 2, 3], [-2.0, 1.0, 1.0])
    assert highest(tree) == 2


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_best_of_n_finds_the_best_of_its_draws_and_bills_them() -> None:
    problem, proposer, scorer = toy(11), TableProposer(), ExactScorer(caches=True)
    one = search(problem, build_strategy("best-of-n", ["n=6"]), seed=3)
    asked = one.ask()
    assert isinstance(asked, DrawAsk) and one.ask() is asked
    (request,) = asked.requests
    assert (request.prefix, request.whole, request.max_new_tokens) == ((), True, MAX_NEW_TOKENS)
    assert len(set(request.seeds)) == 6
    replies = proposer.propose(asked.requests)
    assert one.result().stopped == "running" and one.result().answer is None
    one.tell(replies)
    assert one.result().answer is None  # nothing is scored
    scores = one.ask()
    assert isinstance(scores, ScoreAsk)
    one.tell(scorer.score_steps(scores.requests))
    assert one.ask() is None
    result = one.result(log_prior_law="raw", tokenizer="letters")
    known = toy_tree(problem)
    texts = ["".join(step.text for step in steps) for steps in replies[0].draws]
    assert result.text == max(texts, key=lambda text: known.rewards[known.find(text)])
    assert result.stopped == "complete" and result.counts == {}
    distinct = {text[:end] for text in texts for end in (2, 4, 5)}
    assert result.bill == Bill(36, 4 + 2 * len(distinct), 6, len(distinct), 4, 1)
    assert result.tree.usage == Usage(4, 36, 1)
    assert (result.tree.log_prior_law, result.tree.tokenizer) == ("raw", "letters")
    assert result.correct == known.right[known.find(result.text)]
    assert result.covered == any(known.right[known.find(text)] for text in texts)


def test_what_a_server_did_not_count_is_marked_in_the_result() -> None:
    one = search(toy(1), build_strategy("majority"), Budget(draws=4))
    asked = one.ask()
    assert isinstance(asked, DrawAsk)
    replies = TableProposer().propose(asked.requests)
    one.tell([reply._replace(usage=Usage(3, 8, 1, 1, 2)) for reply in replies])
    assert one.result().tree.usage == Usage(3, 8, 1, 1, 2)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_result_is_a_tree_of_what_was_drawn(name: str) -> None:
    problem, scorer = toy(5), ExactScorer()
    drawn: Counter[str] = Counter()

    class Recording(TableProposer):
        def propose(self, requests: Sequence[Request]) -> list[Reply]:
            replies = super().propose(requests)
            for request, reply in zip(requests, replies, strict=True):
                above = "".join(step.text for step in request.prefix)
                for steps in reply.draws:
                    drawn.update(above + "".join(s.text for s in steps[: count + 1]) for count in range(len(steps)))
            return replies

    one = drive(search(problem, build_strategy(name), Budget(generated_tokens=90)), Recording(), scorer)
    result = one.result()
    tree, known = result.tree, toy_tree(problem)
    assert {tree.text(node.id): node.num_draws for node in tree.nodes[1:]} == drawn
    assert result.bill.nodes == len(drawn) == len(tree.nodes) - 1
    for node in tree.nodes:
        place = known.find(tree.text(node.id))
        verdict = TASK.judge(problem, tree.text(node.id)) if node.is_answer else None
        assert node.verdict == verdict
        if node.log_flow is not None:
            assert node.log_flow == pytest.approx(math.log(known.values[place]))
        needs_score = one.strategy.scores == "all" and node.stop is not LENGTH
        needs_score |= one.strategy.scores == "ends" and node.is_answer
        assert not needs_score or node.log_flow is not None
    # Nothing is scored twice, and what hangs above a request is scored before.
    assert sum(request.num_new for request in scorer.asked) == sum(node.log_flow is not None for node in tree.nodes)
    assert (scorer.asked == []) == (one.strategy.scores == "none")


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_a_budget_a_strategy_comes_to_its_end(name: str) -> None:
    one = drive(search(toy(3), build_strategy(name)))
    assert one.stopped in ("complete", "settled")
    assert one.result().text is not None


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(list(STRATEGIES)),
    kinds=st.sets(st.sampled_from(KINDS), min_size=1, max_size=2),
    limit=st.integers(1, 150),
    caches=st.booleans(),
    knows_prompt=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_no_budget_is_ever_exceeded(
    name: str, kinds: set[str], limit: int, caches: bool, knows_prompt: bool, seed: int
) -> None:
    problem = toy(seed % 97, ["2x2", "3x3", "2x4"][seed % 3])
    budget = Budget(**dict.fromkeys(kinds, limit))  # type: ignore[arg-type]
    one = search(
        problem,
        build_strategy(name),
        budget,
        seed=seed,
        verifier_caches=caches,
        prompt=None if knows_prompt else 0,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    unknown = 0 if knows_prompt else prompt_tokens(problem)  # only the first bill may go above, by the prompt

    def within(one: Search) -> None:
        for kind in kinds:
            above = unknown if kind in ("verifier_tokens", "total_tokens") else 0
            assert getattr(one.bill, kind) <= limit + above

    drive(one, scorer=ExactScorer(caches=caches), watch=within)
    assert one.stopped in ("budget", "complete", "settled")
    if one.stopped == "budget" and not unknown and kinds <= {"draws", "nodes"}:
        assert max(getattr(one.bill, kind) for kind in kinds) == limit  # and they are used up
    result = one.result()
    assert result.answer is None or result.tree.nodes[result.answer].is_answer


@pytest.mark.parametrize("name", ["majority", "self-consistency"])
@pytest.mark.parametrize("limit", [1, 7, 50])
def test_a_token_budget_is_used_up_to_the_last_token(name: str, limit: int) -> None:
    one = drive(search(toy(3), build_strategy(name, ["n=1000"]), Budget(generated_tokens=limit)))
    assert one.stopped in ("budget", "settled")
    if one.stopped == "budget":
        assert one.bill.generated_tokens == limit


def test_requests_reserve_all_that_is_left_and_no_more() -> None:
    """5 draws of 12 tokens are sure to fit into 65; a sixth has to wait for what they cost."""
    one = search(toy(3), build_strategy("majority", ["n=50"]), Budget(generated_tokens=65))
    sizes = []
    while (ask := one.ask()) is not None:
        (request,) = ask.requests
        sizes.append((len(request.seeds), request.max_new_tokens))
        one.tell(TableProposer().propose(ask.requests))
    # A draw costs 6: 65 - 30 = 35 is room for 2 of 12, and so on; the last ones are cut to what is left.
    assert sizes == [(5, 12), (2, 12), (1, 12), (1, 12), (1, 11), (1, 5)]
    assert one.result().counts == {"unfinished": 1}


def test_a_draw_that_is_cut_and_ends_in_time_is_an_answer() -> None:
    one = search(toy(3), build_strategy("majority", ["n=1"]), Budget(generated_tokens=6))
    (request,) = one.ask().requests  # type: ignore[union-attr]
    assert request.max_new_tokens == 6 < MAX_NEW_TOKENS
    one.tell(TableProposer().propose([request]))
    assert one.ask() is None and one.stopped == "budget"
    assert one.result().text is not None and one.result().counts == {}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_budget_of_one_token_gives_no_answer(name: str) -> None:
    one = drive(search(toy(3), build_strategy(name), Budget(generated_tokens=1)))
    result = one.result()
    assert (result.answer, result.text, result.correct, result.stopped) == (None, None, False, "budget")
    assert result.bill.generated_tokens == 1 and result.counts == {"unfinished": 1}
    assert [node.stop for node in result.tree.nodes[1:]] == [LENGTH]


@pytest.mark.parametrize("caches", [True, False])
@pytest.mark.parametrize("name", ["best-of-n", "beam"])
@pytest.mark.parametrize("kind", ["verifier_tokens", "total_tokens"])
def test_a_budget_that_the_prompt_does_not_fit_in_spends_nothing(name: str, kind: str, caches: bool) -> None:
    problem = toy(3)
    limit = prompt_tokens(problem) - 1
    one = search(problem, build_strategy(name), Budget(**{kind: limit}), verifier_caches=caches)  # type: ignore[arg-type]
    assert one.ask() is None
    assert one.stopped == "budget" and one.bill == Bill() and one.result().answer is None


def test_a_prompt_of_unknown_length_is_learnt_from_the_first_bill() -> None:
    problem, scorer = toy(3), ExactScorer()
    one = search(problem, build_strategy("best-of-n", ["n=8"]), Budget(verifier_tokens=65), prompt=0)
    one.tell(TableProposer().propose(one.ask().requests))  # type: ignore[union-attr]
    sizes = []
    while isinstance(ask := one.ask(), ScoreAsk):
        sizes.append(len(ask.requests))
        one.tell(scorer.score_steps(ask.requests))
    assert sizes[0] == 1  # 4 + 6 tokens, not 6
    assert one.bill.verifier_tokens == 10 * sum(sizes) <= 65


def test_a_verifier_that_caches_reserves_the_prompt_once() -> None:
    problem = toy(3)
    for caches, count in ((True, 4), (False, 3)):  # 4 + 4 x 12 and 3 x (4 + 12) tokens
        one = search(problem, build_strategy("best-of-n"), Budget(verifier_tokens=52), verifier_caches=caches)
        assert len(one.ask().requests[0].seeds) == count  # type: ignore[union-attr]


def test_a_budget_of_nodes_does_not_shorten_solutions() -> None:
    proposer = FakeProposer(lambda _, seed: (step(f"{seed};"), step("b;"), step("c=24", EOS)))
    one = search(toy(3), build_strategy("majority"), Budget(nodes=4), judge=fake_judge)
    result = drive(one, proposer).result()
    assert [request.max_new_tokens for request in proposer.given] == [MAX_NEW_TOKENS] * 2
    assert result.correct and result.stopped == "budget"
    assert [node.parent for node in result.tree.nodes] == [-1, 0, 1, 2, 0]  # the second draw had one node left
    assert result.counts == {"unfinished": 1} and result.bill == Bill(12, 0, 2, 4, 8, 2)


# --- ends that never come ---------------------------------------------------------------------------------------------


def unfinished(request: Request, seed: int) -> tuple[Step, ...]:
    """Words without end: as many steps as fit."""
    if not request.whole:
        return (step(f"{len(request.prefix)} {seed};", STOP if request.max_new_tokens > 2 else LENGTH, 2),)
    count = max(1, request.max_new_tokens // 2)
    steps = [step(f"{index} {seed};") for index in range(count)]
    return (*steps[:-1], steps[-1]._replace(stop=LENGTH))


def failed(request: Request, seed: int) -> tuple[Step, ...]:
    return (Step("", (), None, ERROR),)


def empty(request: Request, seed: int) -> tuple[Step, ...]:
    return (step("", EOS, num_tokens=1),)


def no_steps(request: Request, seed: int) -> tuple[Step, ...]:
    return ()


def blank(request: Request, seed: int) -> tuple[Step, ...]:
    """Empty lines, one after the other."""
    count = request.max_new_tokens if request.whole else 1
    return tuple(step("\n", STOP, 1) for _ in range(count))


def circular(request: Request, seed: int) -> tuple[Step, ...]:
    count = request.max_new_tokens if request.whole else 1
    return tuple(step("again;", STOP, 1) for _ in range(count))


def same(request: Request, seed: int) -> tuple[Step, ...]:
    """One unfinished solution, whatever the seed."""
    return unfinished(request, 0)


@pytest.mark.parametrize(
    ("draw", "counted"),
    [
        (unfinished, "unfinished"),
        (same, "unfinished"),
        (failed, "failed"),
        (empty, "empty"),
        (no_steps, "empty"),
        (blank, "empty"),
        (circular, "repeated"),
    ],
)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_proposer_that_never_finishes_ends_without_an_answer(name: str, draw: Any, counted: str) -> None:
    for budget in (Budget(), Budget(generated_tokens=90), Budget(total_tokens=90), Budget(nodes=20)):
        one = search(toy(3), build_strategy(name), budget, max_new_tokens=6)
        result = drive(one, FakeProposer(draw), ConstantScorer(), most=1000).result()
        assert result.stopped in ("complete", "budget")
        assert (result.answer, result.text, result.covered) == (None, None, False)
        if counted == "failed":
            assert result.counts == {"failed": result.bill.draws} and result.bill.nodes == 0
        elif counted != "unfinished":
            assert result.counts[counted] > 0
        elif result.tree.nodes[-1].stop is LENGTH:  # paths of single steps may just have stayed open
            assert result.counts["unfinished"] > 0


class ConstantScorer:
    """Every path has the same flow; what it costs is what is new."""

    scale = ScoreScale()

    caches = False

    def forget(self) -> None:
        """Nothing is kept."""

    def score_steps(self, requests: Sequence[Any]) -> list[ScoreReply]:
        return [ScoreReply((0.0,) * request.num_new, request.num_new) for request in requests]


@pytest.mark.parametrize("name", STRATEGIES)
def test_draws_that_fail_are_counted_and_are_no_nodes(name: str) -> None:
    problem = toy(3)
    seeds: list[int] = []
    recording = FakeProposer(lambda request, seed: failed(request, seed))
    drive(search(problem, build_strategy(name), seed=1), recording)
    seeds = [seed for request in recording.given for seed in request.seeds]
    one = drive(search(problem, build_strategy(name), seed=1), TableProposer(failing_seeds=seeds[::2]))
    result = one.result()
    assert result.counts["failed"] == sum(seed in set(seeds[::2]) for seed in drawn_seeds(name, problem, seeds[::2]))
    assert result.bill.draws > result.counts["failed"] > 0
    assert all(node.stop is not ERROR for node in result.tree.nodes)
    assert result.bill.nodes == len(result.tree.nodes) - 1


def drawn_seeds(name: str, problem: Problem, failing: Sequence[int]) -> Iterator[int]:
    inner = TableProposer(failing_seeds=failing)

    class Recording(FakeProposer):
        def propose(self, requests: Sequence[Request]) -> list[Reply]:
            self.given += requests
            return inner.propose(requests)

    proposer = Recording(failed)
    drive(search(problem, build_strategy(name), seed=1), proposer)
    return (seed for request in proposer.given for seed in request.seeds)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_starts_again_only_while_it_spends_the_budget(name: str) -> None:
    """The tree has 6 nodes, so a budget of 50 nodes can never be used up."""
    one = drive(search(toy(3, "2x2"), build_strategy(name), Budget(nodes=50)), most=3000)
    assert one.stopped in ("complete", "settled") and one.bill.nodes <= 6


def test_a_pool_goes_on_while_there_is_budget() -> None:
    one = drive(search(toy(3), build_strategy("majority", ["n=4"]), Budget(draws=10)))
    assert one.bill.draws == 10 and one.stopped == "budget"
    assert drive(search(toy(3), build_strategy("majority", ["n=4"]))).bill.draws == 4


# --- stopping at any time ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(name=st.sampled_from(list(STRATEGIES)), seed=st.integers(0, 10**6), moment=st.integers(0, 40))
def test_cancelled_at_any_moment_it_gives_the_best_finished_answer(name: str, seed: int, moment: int) -> None:
    problem, proposer, scorer = toy(seed % 89), TableProposer(), ExactScorer()
    strategy = build_strategy(name)
    one = search(problem, strategy, Budget(generated_tokens=150), seed=seed, keep_curve=True)
    finished: dict[str, None] = {}  # told, and scored where the strategy looks at scores
    for _ in range(moment):
        ask = one.ask()
        if ask is None:
            break
        replies = answer(ask, proposer, scorer)
        one.tell(replies)
        if isinstance(ask, ScoreAsk):
            texts = [
                "".join(step.text for step in r.steps) for r in ask.requests if r.steps and r.steps[-1].stop is EOS
            ]
        else:
            above = ["".join(step.text for step in request.prefix) for request in ask.requests]
            texts = [
                prefix + "".join(step.text for step in steps)
                for prefix, reply in zip(above, replies, strict=True)
                for steps in reply.draws  # type: ignore[union-attr]
                if steps[-1].stop is EOS and strategy.scores == "none"
            ]
        finished.update(dict.fromkeys(texts))
    one.ask()  # what is asked and never told must not matter
    one.cancel()
    assert one.ask() is None
    result = one.result()
    assert result.stopped in ("cancelled", "complete", "settled", "budget")
    assert (result.answer is None) == (not finished)
    if result.answer is not None:
        assert result.tree.nodes[result.answer].is_answer and result.text in finished
        known = toy_tree(problem)
        if type(strategy).answer is Strategy.answer:
            best = max(finished, key=lambda text: known.rewards[known.find(text)])
            assert result.text == best
    assert_curve_fits(one)
    one.cancel("too late")
    assert one.result() == result


def assert_curve_fits(one: Search) -> None:
    result = one.result()
    curve = result.curve
    assert curve[0] == CurvePoint(0, 0, None, False, False)
    for before, after in pairwise(curve):
        assert before.generated_tokens <= after.generated_tokens
        assert before.verifier_tokens <= after.verifier_tokens
        assert before.covered <= after.covered
        assert before[2:] != after[2:]
        assert after.answer is not None or after.covered
    assert curve[-1][2:] == (result.answer, result.correct, result.covered)
    assert curve[-1].generated_tokens <= result.bill.generated_tokens
    assert curve[-1].verifier_tokens <= result.bill.verifier_tokens


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_curve_says_what_stopping_earlier_would_have_given(name: str) -> None:
    def build(keep_curve: bool) -> Search:
        return search(toy(8), build_strategy(name), Budget(generated_tokens=120), keep_curve=keep_curve)

    one = drive(build(True))
    assert_curve_fits(one)
    for point in one.result().curve[1:]:
        other, proposer, scorer = build(False), TableProposer(), ExactScorer()
        while (other.bill.generated_tokens, other.bill.verifier_tokens) != point[:2]:
            other.tell(answer(other.ask(), proposer, scorer))
        other.cancel()
        result = other.result()
        assert (result.answer, result.correct, result.covered) == point[2:]
        assert result.curve == ()


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_budget_has_the_draws_of_a_smaller_one_first(name: str, kind: str) -> None:
    def draws(limit: int) -> list[tuple[int, str]]:
        table, seen = TableProposer(), []

        class Recording(FakeProposer):
            def propose(self, requests: Sequence[Request]) -> list[Reply]:
                replies = table.propose(requests)
                for request, reply in zip(requests, replies, strict=True):
                    texts = ("".join(step.text for step in steps) for steps in reply.draws)
                    seen.extend(zip(request.seeds, texts, strict=True))
                return replies

        drive(search(toy(3), build_strategy(name), Budget(**{kind: limit})), Recording(failed))  # type: ignore[arg-type]
        return seen

    limits = (5, 12, 40, 90)
    for small, large in zip(map(draws, limits), map(draws, limits[1:]), strict=False):
        assert [seed for seed, _ in small] == [seed for seed, _ in large[: len(small)]]
        for (_, less), (_, more) in zip(small, large, strict=False):
            assert more.startswith(less)  # the last ones may have been cut
        assert len(small) < len(large) or kind == "verifier_tokens" or small == large


@pytest.mark.parametrize("pair", [("best-of-n", "majority"), ("majority", "self-consistency"), ("dts", "flow-vote")])
def test_strategies_share_the_draws_from_the_problem(pair: tuple[str, str]) -> None:
    first = [search(toy(3), build_strategy(name), seed=2).ask().requests[0].seeds for name in pair]  # type: ignore[union-attr]
    shared = min(map(len, first))
    assert shared > 0 and first[0][:shared] == first[1][:shared]
    other = search(toy(3), build_strategy(pair[0]), seed=3).ask()
    assert other is not None and not set(other.requests[0].seeds) & set(first[0])  # type: ignore[union-attr]


def test_every_draw_has_a_seed_of_its_own() -> None:
    expands = [Expand(0, 300), Expand(0, 5, whole=True), Expand(0, 7)]
    one = search(toy(3), scripted(expands, expands))
    proposer = TableProposer()
    requests: list[Request] = []
    while (ask := one.ask()) is not None:
        assert sum(len(request.seeds) for request in ask.requests) <= 256  # type: ignore[union-attr]
        requests += ask.requests  # type: ignore[arg-type]
        one.tell(proposer.propose(ask.requests))  # type: ignore[arg-type]
    seeds = [seed for request in requests for seed in request.seeds]
    assert len(seeds) == len(set(seeds)) == one.bill.draws == 624


# --- scores -----------------------------------------------------------------------------------------------------------


def test_the_score_of_a_finished_path_includes_steps_of_an_unfinished_one_above() -> None:
    """A path is drawn that does not end, and later one from its first step that does: all its steps need scores."""

    def draw(request: Request, seed: int) -> tuple[Step, ...]:
        return (step("b=24", EOS),) if request.prefix else (step("a;"), step("too long", LENGTH))

    waves = ((Expand(0, whole=True),), (Expand(1, whole=True),))
    one = search(
        toy(3), ScriptedByScores(waves=waves), scale=ScoreScale(aggregation="min"), judge=fake_judge, prompt=None
    )
    drive(one, FakeProposer(draw), ConstantScorer())
    assert one.result().text == "a;b=24" and one.result().correct
    assert [node.log_flow is not None for node in one.result().tree.nodes] == [False, True, False, True]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_score_must_be_a_finite_number(score: float) -> None:
    one = search(toy(3), build_strategy("best-of-n", ["n=2"]))
    one.tell(TableProposer().propose(one.ask().requests))  # type: ignore[union-attr]
    ask = one.ask()
    assert isinstance(ask, ScoreAsk)
    bad = [ScoreReply((*[0.0] * (request.num_new - 1), score), 1) for request in ask.requests]
    with pytest.raises(ValueError, match=r"log score of .* finite"):
        one.tell(bad)
    one.tell([ScoreReply((np.float32(0.5),) * request.num_new, 1) for request in ask.requests])  # type: ignore[arg-type]
    assert one.ask() is None
    assert all(type(score) is float for score in one.tree.log_score if score is not None)


# --- wrong use --------------------------------------------------------------------------------------------------------

STEPS = (step("a"), step("b", EOS))
GOOD = Reply((STEPS, STEPS), Usage(1, 8, 1))


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([], "0 replies to 1 requests"),
        ([GOOD, GOOD], "2 replies to 1 requests"),
        ([Reply((STEPS,), Usage())], "1 draws for 2 seeds"),
        ([Reply((STEPS,) * 3, Usage())], "3 draws for 2 seeds"),
        ([Reply((), Usage())], "0 draws for 2 seeds"),
        ([ScoreReply((0.0,), 1)], "ScoreReply in reply to a Request"),
        ([None], "NoneType in reply to a Request"),
    ],
)
def test_replies_that_do_not_fit_are_refused_and_nothing_is_taken(replies: list[Any], message: str) -> None:
    one = search(toy(3), build_strategy("majority", ["n=2"]), judge=fake_judge)
    with pytest.raises(ValueError, match="0 requests"):
        one.tell([GOOD])
    ask = one.ask()
    with pytest.raises(ValueError, match=message):
        one.tell(replies)
    assert one.ask() is ask and one.bill == Bill() and len(one.tree) == 1
    one.tell([GOOD])
    assert one.ask() is None and one.result().bill == Bill(8, 0, 2, 2, 1, 1)


def test_one_step_is_one_step() -> None:
    one = search(toy(3), scripted([Expand(0, 2)]), judge=fake_judge)
    one.ask()
    with pytest.raises(ValueError, match="a draw of 2 steps where one was asked for"):
        one.tell([GOOD])


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (ScoreReply((0.0,), 1), "1 scores for 2 steps"),
        (ScoreReply((0.0,) * 3, 1), "3 scores for 2 steps"),
        (GOOD, "Reply in reply to a ScoreRequest"),
    ],
)
def test_scores_that_do_not_fit_are_refused(reply: Any, message: str) -> None:
    one = search(toy(3), build_strategy("best-of-n", ["n=2"]), judge=fake_judge)
    one.ask()
    one.tell([GOOD])
    ask = one.ask()
    with pytest.raises(ValueError, match=message):
        one.tell([reply])
    assert one.ask() is ask
    one.tell([ScoreReply((0.0, 0.0), 1)])
    assert one.ask() is None


@pytest.mark.parametrize(
    "wave",
    [[Expand(2)], [Expand(3)], [Expand(99)], [Expand(-1)], [Expand(0, 0)], [Expand(0), Expand(2)]],
    ids=["finished", "unfinished", "unknown", "negative", "no draws", "second"],
)
def test_a_strategy_may_only_draw_from_open_paths(wave: list[Expand]) -> None:
    one = search(toy(3), scripted([Expand(0, 2, whole=True)], wave), judge=fake_judge)
    one.ask()
    one.tell([Reply((STEPS, (step("c", LENGTH),)), Usage(1, 6, 1))])
    with pytest.raises(ValueError, match="strategy scripted yielded"):
        one.ask()
    assert one.stopped is not None and one.stopped.startswith("failed: ValueError: strategy scripted")
    assert one.ask() is None and one.result().text == "ab"


def test_a_rule_that_yields_an_empty_wave_goes_on_with_what_it_knows_while_there_is_budget() -> None:
    class Rounds(Scripted):
        def grow(self, tree: SearchTree, rng: random.Random) -> Waves:
            for count in range(1, 100):
                yield [Expand(0, count, whole=True)]
                sent = yield []
                assert sent == []
            return "should not get here"

    def draws(budget: Budget) -> tuple[int, str]:
        one = search(toy(3), Rounds(waves=()), budget, judge=fake_judge)
        while (ask := one.ask()) is not None:
            one.tell(TableProposer().propose(ask.requests))  # type: ignore[union-attr]
        return one.bill.draws, one.result().stopped

    assert draws(Budget()) == (1, "complete")
    assert draws(Budget(draws=7)) == (1 + 2 + 3 + 1, "budget")
    one = search(toy(3), Rounds(waves=()), Budget(generated_tokens=100), judge=fake_judge)
    one.ask()
    one.tell([Reply(((Step("", (), None, ERROR),),), Usage(3, 0, 1))])
    assert one.ask() is None and one.stopped == "complete", "a round that costs nothing is the last"


@pytest.mark.parametrize("keep_curve", [True, False])
def test_an_unfinished_path_is_no_answer_whatever_the_strategy_says(keep_curve: bool) -> None:
    class Eager(Scripted):
        def answer(self, tree: SearchTree) -> int | None:
            return len(tree) - 1

    one = search(toy(3), Eager(waves=((Expand(0),),)), keep_curve=keep_curve)
    ask = one.ask()
    with pytest.raises(ValueError, match="not finished") if keep_curve else nullcontext():
        one.tell(TableProposer().propose(ask.requests))  # type: ignore[union-attr]
    assert one.ask() is None
    result = one.result()
    assert result.answer is None and len(result.tree.nodes) == 2
    assert result.stopped == "failed: ValueError: strategy scripted answered with node 1, which is not finished"


def test_a_judge_that_fails_ends_the_search_and_keeps_what_it_had() -> None:
    def judge(text: str) -> Verdict:
        if text == "bad":
            raise RuntimeError("cannot read this")
        return fake_judge(text)

    one = search(toy(3), build_strategy("majority", ["n=2"]), judge=judge, keep_curve=True)
    one.ask()
    with pytest.raises(RuntimeError, match="cannot read this"):
        one.tell([Reply(((step("=24", EOS),), (step("bad", EOS),)), Usage(1, 4, 1))])
    assert one.ask() is None
    result = one.result()
    assert (result.text, result.correct) == ("=24", True)
    assert result.stopped == "failed: RuntimeError: cannot read this"


def test_a_solution_needs_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        search(toy(3), build_strategy("majority"), max_new_tokens=0)
