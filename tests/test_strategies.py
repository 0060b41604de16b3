"""What each strategy does, against its paper's equations: golden searches, how they differ, where they coincide."""

import math
import random
from collections import Counter
from itertools import accumulate, combinations, islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_runs import (
    FLOWS,
    NOTHING,
    VALUES,
    Failing,
    Rotor,
    Run,
    SameStep,
    Scores,
    full_tree,
    grow,
    run,
    value_table,
)

from arts.protocols import ScoreScale
from arts.search.budget import Budget
from arts.search.strategies import STRATEGIES, build_strategy
from arts.search.strategies.adaptive import Adaptive
from arts.search.strategies.frontier import BestFirst, GlobalFrontier, _Gains
from arts.search.strategies.levels import DVTS, ETS, Beam, ParticleFilter, Rebase, shares, systematic
from arts.search.strategies.mcts import MCTS, PRESETS, _State
from arts.search.strategies.pool import BestOfN, SelfConsistency, lead_is_sure
from arts.search.strategies.soft import DTS, SoftValues
from arts.search.strategy import Strategy
from arts.search.tree import SearchTree
from arts.tasks.toy import LETTERS, ToyTask, ToyTree, toy_problem, toy_tree
from arts.tree import Problem, Step, StopReason

# --- golden searches --------------------------------------------------------------------------------------------------

# All eight paths of three steps `a` (pi_0 = 0.8) or `b` (0.2). The rotor hands out a, b, a, b, ... at every node, so
# rollouts from the problem come as aaa, baa, aba, bba, aab, bab, abb, bbb, aaa, ...
BINARY: Any = {"a": (0.8, False), "b": (0.2, False)}
TREE = ToyTree.nested(
    {
        "a": (0.8, {"a": (0.8, BINARY), "b": (0.2, BINARY)}),
        "b": (0.2, {"a": (0.8, BINARY), "b": (0.2, {"a": (0.8, True), "b": (0.2, False)})}),
    }
)
VALUE = {
    "": 0.5,
    "a;": 0.6,
    "b;": 0.4,
    "a;a;": 0.5,
    "a;b;": 0.7,
    "b;a;": 0.3,
    "b;b;": 0.85,
    "a;a;a": 0.2,
    "a;a;b": 0.3,
    "a;b;a": 0.8,
    "a;b;b": 0.1,
    "b;a;a": 0.4,
    "b;a;b": 0.05,
    "b;b;a": 0.95,
    "b;b;b": 0.6,
}
ONLY_BBA = {text: float("b;b;a".startswith(text)) for text in VALUE}
NOT_B = VALUE | {"a;": 0.5, "b;": 0.0, "a;a;": 0.5, "a;b;": 0.5}

# `a` ends at once, the others later.
EARLY = ToyTree.nested(
    {"a": (0.5, True), "b": (0.5, {"a": (0.5, {"a": (1.0, False)}), "b": (0.5, {"a": (1.0, False)})})}
)
EARLY_VALUE = {"": 0.5, "a": 0.8, "b;": 0.6, "b;a;": 0.5, "b;b;": 0.3, "b;a;a": 0.4, "b;b;a": 0.1}

# Strategy, options, values -> waves (`!`: rollouts), answer, why it stopped.
GOLDEN: list[tuple[str, dict[str, Any], dict[str, float], list[str], str, str]] = [
    # After aaa, baa the best value is 0.4; aba and bba bring 0.95 >= settled.
    ("arts", {"first": 2, "growth": 1.0, "give_up": 0.0}, VALUE, ["*2!", "*2!"], "b;b;a", "settled"),
    # Step by step: aaa 0.2 has 6 tokens (a step 2), so a new path promises 0.5 (4 / (4 + 1)) / 6 = 0.067 a token. The
    # next goes on at b, 0.4 / 4 = 0.1, and at ba, 0.3 / 2 = 0.15, to baa 0.4; now 0.056. aba 0.8 and bba 0.95 follow.
    (
        "arts",
        {"growth": 0.0, "give_up": 1.0},
        VALUE,
        ["*1", "a;*1", "a;a;*1", "*1", "b;*1", "b;a;*1", "*1", "a;*1", "a;b;*1", "*1", "b;*1", "b;b;*1"],
        "b;b;a",
        "settled",
    ),
    # Nothing is good but the way to bba, so what goes elsewhere is left at once.
    (
        "arts",
        {"growth": 0.0},
        ONLY_BBA,
        ["*1", "a;*1", "a;a;*1", "*1", "b;*1", "*1", "*1", "b;*1", "b;b;*1"],
        "b;b;a",
        "settled",
    ),
    # aaa 0.2, baa 0.4, aba 0.8, bba 0.95.
    ("best-of-n", {"n": 4}, VALUE, ["*4!"], "b;b;a", "complete"),
    # The ninth rollout is aaa again: two votes.
    ("majority", {"n": 9}, VALUE, ["*9!"], "a;a;a", "complete"),
    # Twice aaa, baa, aba: 2 x 0.8 for aba beats 0.95 for bba. A flow of these scores is the value itself.
    ("weighted-vote", {"n": 11}, VALUE, ["*11!"], "a;b;a", "complete"),
    ("flow-vote", {"n": 11}, VALUE, ["*11!"], "a;b;a", "complete"),
    # Four answers with a vote each: P(lead) = 1/2. Then two more; the first drawn of equals is the answer.
    ("self-consistency", {"n": 6, "window": 4}, VALUE, ["*4!", "*2!"], "a;a;a", "complete"),
    # Both first steps stay; then bb 0.85 and ab 0.7 of four; then bba 0.95 and aba 0.8.
    ("beam", {"width": 2, "expand": 2}, VALUE, ["*4", "a;*2, b;*2", "b;b;*2, a;b;*2"], "b;b;a", "complete"),
    # Both subtrees see a and b, keep a 0.6, then ab 0.7, then aba: b is lost to both.
    ("dvts", {"subtrees": 2, "expand": 2}, VALUE, ["*2, *2", "a;*2, a;*2", "a;b;*2, a;b;*2"], "a;b;a", "complete"),
    # softmax([0.6, 0.4] / 0.2) = [.731, .269], times 4 = [2.92, 1.08]: 3 and 1. Then softmax([.5, .7, .3] / 0.2) of
    # aa, ab, ba, times 4 = [.979, 2.661, .360]: 2 for ab, and the two that are left to aa (.979) and ab (.661).
    ("rebase", {"n": 4}, VALUE, ["*4", "a;*3, b;*1", "a;a;*1, a;b;*3"], "a;b;a", "complete"),
    # REBASE would deal a 3, b 1: {a} is worth 3/4 - 1/2, {b} 1/4 - 1/2, both 1 - 1. Then of aa 1, ab 3 below a:
    # {aa} 1/4 - 2/3, {ab} 3/4 - 2/3, both 1 - 1.
    ("ets", {"n": 4, "lambda_s": 0.0}, VALUE, ["*4", "a;*4", "a;b;*4"], "a;b;a", "complete"),
    # The same with 1.4 (clusters / all): both steps differ, so {a, b} is worth 1 - 1 + 1.4 against 3/4 - 1/2 + 0.7.
    # Then REBASE deals aa 1, ab 3, ba 0; with 5 nodes and 2 clusters (last step a or b) {aa, ab} 1 - 3/5 + 1.4 is best,
    # before all three, 1 - 1 + 1.4, and {ab} 3/4 - 2/5 + 0.7.
    ("ets", {"n": 4}, VALUE, ["*4", "a;*3, b;*1", "a;a;*1, a;b;*3"], "a;b;a", "complete"),
    # By value: a 0.6; ab 0.7, aa 0.5; b 0.4; bb 0.85, whose child bba has 0.95.
    (
        "best-first",
        {"expand": 2, "end_gate": 0.9},
        VALUE,
        ["*2", "a;*2", "a;b;*2", "a;a;*2", "b;*2", "b;b;*2"],
        "b;b;a",
        "settled",
    ),
    # ln 0.8 = -0.223, ln 0.2 = -1.609. By sum / sqrt(steps): a -.22; aa -.32; ab -1.30; b -1.61; ba -1.30; bb -2.28.
    (
        "best-first",
        {"expand": 2, "priority": "log_prob"},
        VALUE,
        ["*2", "a;*2", "a;a;*2", "a;b;*2", "b;*2", "b;a;*2", "b;b;*2"],
        "b;b;a",
        "complete",
    ),
    # Q + sqrt(2 ln N / n): first N = 1, so the value decides: a. Then Q(a) = (.5 + .7) / 2 with n = 2, N = 2:
    # a .6 + .833, b .4 + 1.177. Then Q(b) = (.3 + .85) / 2: a .6, b .575, with equal n; below a, ab.
    ("mcts", {"expand": 2, "n": 4}, VALUE, ["*2", "a;*2", "b;*2", "a;b;*2"], "a;b;a", "complete"),
    # At most two draws from each node; lambda = 1000 follows the best. aaa 0.2, baa 0.4; from b: bba 0.95; from bb.
    (
        "dts",
        {"n": 4, "first": 2, "widening": 0.0, "sharpness": 1000.0},
        VALUE,
        ["*1!", "*1!", "b;*1!", "b;b;*1!"],
        "b;b;a",
        "complete",
    ),
    # v + sqrt(ln N(s) / N(c)), lambda = 10. Rollout 3: a .2 + .833, b .4 + .833. Rollout 4: v(b) = .1 ln((e^4 + e^9.5)
    # / 2) = .881; a .2 + 1.048, b .881 + .741; bb .95 before ba .4. Rollout 5: v(bb) = .1 ln((e^9.5 + e^6) / 2) = .884,
    # v(b) = .815; a .2 + 1.177, b .815 + .680; bb; bba, an end: no draw. Rollout 6: a .2 + 1.269, b .815 + .634: a.
    (
        "dts-star",
        {"n": 6, "first": 2, "widening": 0.0, "explore": 1.0},
        VALUE,
        ["*1!", "*1!", "b;*1!", "b;b;*1!", "a;*1!"],
        "b;b;a",
        "complete",
    ),
    # Flow along bba only: it is followed whatever the chance.
    ("flow-sampling", {"paths": 1, "candidates": 2}, ONLY_BBA, ["*2", "b;*2", "b;b;*2"], "b;b;a", "complete"),
    # exp(10000 V): the higher value, whatever the chance.
    (
        "value-augmented",
        {"paths": 1, "candidates": 2, "beta": 1e4},
        VALUE,
        ["*2", "a;*2", "a;b;*2"],
        "a;b;a",
        "complete",
    ),
    # No flow in b: the two particles at a become four. Then F(child) / F(parent) = 1 everywhere: all stay.
    ("particle-filter", {"n": 4}, NOT_B, ["*4", "a;*4", "a;a;*2, a;b;*2"], "a;b;a", "complete"),
    # Down by value to aba (r = 2 v - 1 = .6) and abb (-.8, which leaves positive q alone): q(a) = .6 / 3 and q(root) =
    # .06, two ends each. Then with lambda_d = -1: b .4 tanh(.03) + .01 (1.609 / 2) - sqrt(1/3) = -.557 before
    # aa .4 tanh(.1) + .01 (.223 / 2) - sqrt(2/3) = -.776. Down to bba (.9), bbb (.2): q(b) = 1.1 / 3, two ends; ba .4
    # tanh(.183) before aa .4 tanh(.1).
    (
        "global-frontier",
        {"expand": 2, "lambda_d": -1.0},
        VALUE,
        ["*2", "a;*2", "a;b;*2", "b;*2", "b;b;*2", "b;a;*2", "a;a;*2"],
        "b;b;a",
        "complete",
    ),
    # The same with lambda_d = 0.3: b .020 + .173 after aa .041 + .245.
    (
        "global-frontier",
        {"expand": 2},
        VALUE,
        ["*2", "a;*2", "a;b;*2", "a;a;*2", "b;*2", "b;b;*2", "b;a;*2"],
        "b;b;a",
        "complete",
    ),
]


@pytest.mark.parametrize(
    ("name", "options", "values", "waves", "answer", "stopped"), GOLDEN, ids=[case[0] for case in GOLDEN]
)
def test_golden_search(
    name: str, options: dict[str, Any], values: dict[str, float], waves: list[str], answer: str, stopped: str
) -> None:
    result = run(STRATEGIES[name](**options), TREE, value_table(values), Rotor(TREE))
    assert (result.waves, result.answer, result.stopped) == (waves, answer, stopped)


@pytest.mark.parametrize(
    ("strategy", "waves"),
    [
        # `a` 0.8 keeps its place of two, so that only the better of ba 0.5, bb 0.3 goes on.
        (Beam(width=2, expand=2), ["*4", "b;*2", "b;a;*2"]),
        # Two draws of four ended at once: two are left. softmax([.5, .3] / 0.2) times 2 = [1.46, 0.54]: 1 and 1.
        (Rebase(n=4), ["*4", "b;*2", "b;a;*1, b;b;*1"]),
        # The subtree of `a`, the better step, is at its end in both.
        (DVTS(subtrees=2, expand=2), ["*2, *2"]),
    ],
    ids=["beam", "rebase", "dvts"],
)
def test_paths_that_end_early(strategy: Strategy, waves: list[str]) -> None:
    result = run(strategy, EARLY, value_table(EARLY_VALUE), Rotor(EARLY))
    assert (result.waves, result.answer, result.stopped) == (waves, "a", "complete")


def test_particles_that_ended_keep_their_weight_of_one() -> None:
    # a, b, a, b with 0.4 each: all stay. Then those at `a` weigh 1, and below b: ba 0, bb 0.8 / 0.4 = 2. So bb has two.
    values = EARLY_VALUE | {"a": 0.4, "b;": 0.4, "b;a;": 0.0, "b;b;": 0.8}
    result = run(ParticleFilter(n=4), EARLY, value_table(values), Rotor(EARLY))
    assert (result.waves, result.answer, result.stopped) == (["*4", "b;*2", "b;b;*2"], "a", "complete")


def test_gains_of_global_frontier_are_those_of_its_equations() -> None:
    """q(s_i) += max(i / l, 0.1) q(end) (eq. 3); what is above 0 never falls, what is below 0 starts anew (eq. 5)."""
    tree, nodes = full_tree(TREE, [math.log(VALUE[TREE.text(node)]) for node in range(len(TREE.parents))])
    gains = _Gains(tree)

    def totals(*texts: str) -> list[float]:
        return [gains.total[nodes[text]] for text in texts]

    gains.back_up(nodes["a;b;a"])  # 2 * 0.8 - 1 = 0.6 over three steps
    assert totals("", "a;", "a;b;", "a;b;a") == pytest.approx([0.06, 0.2, 0.4, 0.6])
    gains.back_up(nodes["a;b;b"])  # -0.8
    assert totals("", "a;", "a;b;", "a;b;b") == pytest.approx([0.06, 0.2, 0.4, -0.8])
    assert gains.mean(nodes["a;"]) == pytest.approx(0.2 / 2)
    gains.back_up(nodes["b;a;b"])  # -0.9
    assert totals("", "b;", "b;a;") == pytest.approx([0.06, -0.3, -0.6])
    gains.back_up(nodes["b;b;a"])  # 0.9: b forgets -0.3
    assert totals("", "b;", "b;b;") == pytest.approx([0.15, 0.3, 0.6])


def test_every_strategy_has_a_golden_search() -> None:
    assert {case[0] for case in GOLDEN} == set(STRATEGIES)


# --- presets of mcts --------------------------------------------------------------------------------------------------


def state_of(mcts: MCTS) -> tuple[_State, dict[str, int]]:
    tree, nodes = full_tree(TREE, [math.log(VALUE[TREE.text(node)]) for node in range(len(TREE.parents))])
    return _State(mcts, tree), nodes


# Q = 0.6 and n = 4 at `a`, N = 9 at the root; ln 9 = 2.197225, pi_0 = 0.8 over 2 tokens.
BOUNDS = {
    "none": 1.648147,  # .6 + sqrt(2 * 2.197225 / 4)
    "rest-mcts": 1.333703,  # .6 + .7 * 1.048147
    "vm-mcts": 0.776614,  # .6 + .2 sqrt(3.197225 / 4.1)
    "x1": 1.307366,  # .6 + sqrt(8) / 5 * (1.25 + ln(19661 / 19652))
    "mcts-dpo": 1.146268,  # .6 + exp(-.223144 / 2^1.25) * sqrt(9) / 5
}


@pytest.mark.parametrize("preset", PRESETS)
def test_bound_of_a_preset_is_that_of_its_paper(preset: Any) -> None:
    state, nodes = state_of(MCTS(preset=preset))
    a = nodes["a;"]
    state.visits, state.quality = {0: 9, a: 4}, {a: 0.6}
    assert state.bound(a) == pytest.approx(BOUNDS[preset], abs=1e-6)


def test_quality_is_the_visit_weighted_mean_of_the_children() -> None:
    state, nodes = state_of(MCTS(preset="x1"))
    state.expand(0)
    state.back_up(0)
    assert state.quality[0] == pytest.approx(0.96 * (0.6 + 0.4) / 2)
    state.expand(nodes["a;"])
    state.back_up(nodes["a;"])
    of_a = 0.96 * (0.5 + 0.7) / 2
    assert state.quality[nodes["a;"]] == pytest.approx(of_a)
    assert state.quality[0] == pytest.approx(0.96 * (2 * of_a + 1 * 0.4) / 3)
    assert state.visits[0] == 2 and state.visits[nodes["a;"]] == 2 and state.visits[nodes["b;"]] == 1


def test_look_ahead_mixes_in_the_best_value_of_a_rollout() -> None:
    # c = 0, three draws: a, b, a. The best, a 0.6, is looked ahead from: aaa (0.5, 0.2) gives (0.6 + 0.5) / 2 > 0.4.
    # Then below a: the rotor goes on with b, a, b; from ab 0.7: aba (0.8) -> 0.75, Q(a) = (0.5 + 0.75) / 2.
    mcts = MCTS(preset="rest-mcts", explore=0.0, n=2)
    result = run(mcts, TREE, value_table(VALUE), Rotor(TREE))
    assert result.waves == ["*3", "a;*1!", "a;*3", "a;b;*1!"]
    state, nodes = state_of(mcts)
    state.expand(0)
    state.look_ahead(nodes["a;"], [nodes["a;a;a"]])
    assert state.quality[nodes["a;"]] == pytest.approx(0.5 * 0.6 + 0.5 * 0.5)
    state.look_ahead(nodes["b;"], [])  # a failed rollout tells nothing
    assert state.quality[nodes["b;"]] == pytest.approx(0.4)


def test_mcts_settles_on_the_end_of_a_look_ahead() -> None:
    high = VALUE | {"a;a;a": 0.99}
    result = run(MCTS(preset="rest-mcts"), TREE, value_table(high), Rotor(TREE))
    assert (result.waves, result.answer, result.stopped) == (["*3", "a;*1!"], "a;a;a", "settled")


def test_options_besides_a_preset_are_kept_even_where_they_equal_a_default() -> None:
    assert MCTS(preset="vm-mcts").explore == 0.2
    assert MCTS(preset="vm-mcts", explore=1.0).explore == 1.0
    assert MCTS(preset="vm-mcts", keep=None).keep is None
    built = build_strategy("mcts", ["preset=x1", "expand=4", "discount=1.0"])
    assert built == MCTS(preset="x1", expand=4, discount=1.0) != MCTS(preset="x1")
    assert isinstance(built, MCTS) and built.select == "x1"


@pytest.mark.parametrize(("one", "other"), list(combinations(PRESETS, 2)))
def test_presets_differ_on_some_tree(one: Any, other: Any) -> None:
    """With the same number of draws and iterations, so that what differs is the rule."""

    def drawn(preset: Any, toy: ToyTree) -> Any:
        result = run(MCTS(preset=preset, expand=3, n=20), toy, random_scores(0), Rotor(toy))
        return result.draws, result.answer

    deeper = (ToyTree.random(seed, 3, 5) for seed in range(4))
    assert any(drawn(one, toy) != drawn(other, toy) for toy in deeper)


# --- every pair of strategies -----------------------------------------------------------------------------------------

TOYS = [toy_tree(problem) for problem in islice(ToyTask(3, 3).problems("test", 0), 6)]


def random_scores(seed: int, highest: float = 10.0) -> Scores:
    """Log flows from that of wrong ends, 0.1, to that of right ones; they know nothing."""
    return Scores(lambda text: random.Random(f"{seed} {text}").uniform(math.log(0.1), math.log(highest)), FLOWS)


STEEP = ToyTree.nested({"a": (0.97, {"a": (0.97, True), "b": (0.03, False)}), "b": (0.03, False)})
PROBLEMS = [
    *((toy, random_scores(seed)) for seed, toy in enumerate(TOYS)),
    *((ToyTree.random(seed, 3, 5), random_scores(seed)) for seed in range(3)),
    *((toy, random_scores(0, highest=0.12)) for toy in TOYS),  # votes that are worth nothing, but flow all the same
    (STEEP, random_scores(0)),  # soon settled
]


@pytest.fixture(scope="module")
def searches() -> dict[str, list[Run]]:
    """Every strategy on every problem with 48 draws, so that what differs is the rule."""
    fitted = {name: strategy() for name, strategy in STRATEGIES.items()} | {"self-consistency": SelfConsistency(n=48)}
    return {
        name: [run(strategy, toy, scores, budget=Budget(draws=48)) for toy, scores in PROBLEMS]
        for name, strategy in fitted.items()
    }


@pytest.mark.parametrize(("one", "other"), list(combinations(STRATEGIES, 2)))
def test_strategies_differ_on_some_tree(searches: dict[str, list[Run]], one: str, other: str) -> None:
    pairs = zip(searches[one], searches[other], strict=True)
    assert any((mine.draws, mine.answer) != (theirs.draws, theirs.answer) for mine, theirs in pairs)


# --- special cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("toy", TOYS, ids=range(len(TOYS)))
def test_beam_of_width_one_is_greedy(toy: ToyTree) -> None:
    scores = random_scores(1)
    result = run(Beam(width=1, expand=3), toy, scores, Rotor(toy))  # three draws of the rotor: all children
    path, node = [""], 0
    while toy.children[node]:
        node = max(toy.children[node], key=lambda child: scores.log_score(toy.text(child)))
        path.append(toy.text(node))
    assert result.waves == [f"{text}*3" for text in path[:-1]]
    assert path[-1] in texts_of_answers(result)


def texts_of_answers(result: Run) -> list[str]:
    return [result.tree.text(node) for node in result.tree.answers]


@pytest.mark.parametrize("toy", TOYS, ids=range(len(TOYS)))
def test_one_subtree_is_a_beam_of_width_one(toy: ToyTree) -> None:
    one, beam = (run(strategy, toy, random_scores(2)) for strategy in (DVTS(subtrees=1), Beam(width=1)))
    assert one.pieces == beam.pieces and one.answer == beam.answer


@pytest.mark.parametrize("toy", TOYS, ids=range(len(TOYS)))
def test_rebase_at_infinite_temperature_splits_evenly(toy: ToyTree) -> None:
    for wave in run(Rebase(n=13, temperature=1e9), toy, random_scores(3)).pieces:
        counts = [piece.count for piece in wave]
        assert sum(counts) == 13 and max(counts) - min(counts) <= 1


flows = st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=12)


def siblings(log_scores: list[float]) -> SearchTree:
    """A problem with one step of each score; they can go on."""
    below: Any = {"a": (1.0, True)}
    toy = ToyTree.nested({letter: (1 / len(log_scores), below) for letter, _ in zip(LETTERS, log_scores, strict=False)})
    tree = SearchTree(toy_problem(toy), scale=FLOWS)
    for child, score in zip(toy.children[0], log_scores, strict=True):
        tree.add(0, [toy.step(child)])
        tree.log_score[-1] = score
    return tree


@given(flows, st.integers(1, 40), st.floats(1e-3, 1e9))
@settings(deadline=None)
def test_shares_sum_to_the_total_and_are_near_the_softmax(
    log_scores: list[float], total: int, temperature: float
) -> None:
    tree = siblings(log_scores)
    nodes = list(range(1, len(tree)))
    counts = {expand.node: expand.count for expand in shares(tree, nodes, total, temperature)}
    assert sum(counts.values()) == total and all(count > 0 for count in counts.values())
    weights = [math.exp((tree.value(node) - 1.0) / temperature) for node in nodes]
    if sum(weights) > 0:
        for node, weight in zip(nodes, weights, strict=True):
            assert abs(counts.get(node, 0) - total * weight / sum(weights)) < 1 + 1e-6


def ets_worth(tree: SearchTree, leaves: list[int], chosen: tuple[int, ...], draws: dict[int, int], ets: ETS) -> float:
    """The objective of ETS, as its paper writes it down."""

    def nodes(some: Any) -> set[int]:
        return {node for leaf in some for node in tree.path(leaf)}

    def clusters(some: Any) -> set[str]:
        return {tree.steps(leaf)[-1].text for leaf in some}

    return (
        sum(draws.get(leaf, 0) for leaf in chosen) / sum(draws.values())
        - ets.lambda_b * len(nodes(chosen)) / len(nodes(leaves))
        + ets.lambda_s * len(clusters(chosen)) / len(clusters(leaves))
    )


def second_steps(seed: int) -> tuple[SearchTree, list[int], dict[int, int]]:
    """Some of the second steps of a random tree, and what REBASE deals to them."""
    toy = ToyTree.random(seed, 3, 3)
    rng = random.Random(seed)
    tree, nodes = full_tree(toy, [rng.uniform(-2.3, 2.3) for _ in toy.parents], FLOWS)
    inner = [node for text, node in nodes.items() if text.count(";") == 2]
    leaves = sorted(rng.sample(inner, rng.randint(1, 8)))
    return tree, leaves, {expand.node: expand.count for expand in shares(tree, leaves, 16, 0.2)}


@pytest.mark.parametrize("seed", range(12))
def test_ets_keeps_the_best_set_and_greedily_no_better_one(seed: int) -> None:
    tree, leaves, draws = second_steps(seed)
    exact, greedy = ETS(), ETS(exact=0)
    sets = [chosen for size in range(1, len(leaves) + 1) for chosen in combinations(leaves, size)]
    best = max(ets_worth(tree, leaves, chosen, draws, exact) for chosen in sets)
    kept = tuple(exact.kept(tree, leaves, draws))
    assert ets_worth(tree, leaves, kept, draws, exact) == pytest.approx(best)
    assert ets_worth(tree, leaves, tuple(greedy.kept(tree, leaves, draws)), draws, greedy) <= best + 1e-12


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("exact", [0, 12])
def test_ets_without_cost_and_cover_keeps_the_leaves_of_rebase(seed: int, exact: int) -> None:
    """Those that REBASE gives a draw; what is dealt to them may move by one, as it is dealt anew among them."""
    tree, leaves, draws = second_steps(seed)
    assert ETS(lambda_b=0.0, lambda_s=0.0, exact=exact).kept(tree, leaves, draws) == sorted(draws)


@pytest.mark.parametrize("toy", [TREE, *TOYS], ids=range(len(TOYS) + 1))
def test_particles_of_equal_weight_go_on_alone_as_best_of_n_does(toy: ToyTree) -> None:
    """The rotor gives the same draws in whatever order they are asked for, so both trees must be the same."""
    equal = Scores(lambda text: 0.0)
    trees = [run(strategy, toy, equal, Rotor(toy)).tree for strategy in (ParticleFilter(n=21), BestOfN(n=21))]
    drawn = [{tree.text(node): tree.num_draws[node] for node in range(1, len(tree))} for tree in trees]
    assert drawn[0] == drawn[1]


@given(st.lists(st.floats(-4.0, 4.0), min_size=1, max_size=9), st.integers(1, 30), st.integers(0, 999))
@settings(deadline=None)
def test_systematic_resampling_takes_floor_or_ceil_of_the_expected_number(
    log_weights: list[float], count: int, seed: int
) -> None:
    drawn = systematic(random.Random(seed), list(enumerate(log_weights)), count)
    assert len(drawn) == count
    total = math.fsum(map(math.exp, log_weights))
    for item, log_weight in enumerate(log_weights):
        expected = count * math.exp(log_weight) / total
        assert math.floor(expected - 1e-9) <= drawn.count(item) <= math.ceil(expected + 1e-9)


def test_systematic_resampling_is_unbiased_and_keeps_equal_weights() -> None:
    rng = random.Random(0)
    law = [0.05, 0.4, 0.0, 0.25, 0.3]
    logs = [math.log(p) if p else -math.inf for p in law]
    drawn = Counter(item for _ in range(4000) for item in systematic(rng, list(enumerate(logs)), 3))
    # A count of one run is floor or ceil, so its variance is at most 1/4.
    assert all(abs(drawn[item] - 12000 * p) < 4 * math.sqrt(4000 / 4) for item, p in enumerate(law))
    assert systematic(rng, [(item, -2.5) for item in range(50)], 50) == list(range(50))
    assert systematic(rng, [(0, -math.inf)], 4) == []


def test_dts_without_sharpness_descends_by_draws() -> None:
    toy = TOYS[0]
    tree = grow(BestOfN(n=200), toy, [-1.0] * len(toy.parents)).tree
    for leaf in tree.answers:
        tree.log_score[leaf] = -0.1 * leaf  # whatever the rewards
    soft = SoftValues(tree, 1e-9)
    assert soft.weights(0) == pytest.approx([tree.num_draws[child] for child in tree.children[0]], rel=1e-6)
    mean = sum(tree.num_draws[leaf] * tree.value(leaf) for leaf in tree.answers) / 200
    assert soft.value[0] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("sharpness", [0.01, 10.0, 1e4])
def test_soft_values_are_log_means_over_draws_kept_up_to_date_or_made_anew(sharpness: float) -> None:
    """A search that starts again gets its values from the tree, whose rollouts began at different depths."""
    kept: list[SoftValues] = []

    class Kept(DTS):
        def descend(self, soft: SoftValues, node: int, rng: random.Random) -> int:
            kept.append(soft)
            return super().descend(soft, node, rng)

    toy = ToyTree.random(3, 3, 3)
    scores = [-0.3 * (node % 7) for node in range(len(toy.parents))]
    tree = grow(Kept(n=60, first=1.0, sharpness=sharpness), toy, scores).tree

    def soft_value(node: int) -> float:
        if not tree.children[node]:
            return tree.value(node)
        below = {child: soft_value(child) for child in tree.children[node]}
        draws, highest = sum(tree.num_draws[child] for child in below), max(below.values())
        total = sum(tree.num_draws[child] * math.exp(sharpness * (value - highest)) for child, value in below.items())
        return highest + math.log(total / draws) / sharpness

    expected = [soft_value(node) for node in range(len(tree))]
    assert kept[-1].value == pytest.approx(expected) == SoftValues(tree, sharpness).value
    num_rollouts = sum(tree.num_draws[node] for node in tree.answers)
    assert SoftValues(tree, sharpness).visits[0] == num_rollouts < kept[-1].visits[0] == 60


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=30),
    st.lists(st.floats(0, 1), min_size=12, max_size=12),
    st.floats(-3, 6).map(lambda power: 10**power),
)
def test_soft_values_hold_after_every_rollout(
    rollouts: list[tuple[int, int]], values: list[float], sharpness: float
) -> None:
    """Whatever came before: values that rise or fall so far that weights overflow or vanish."""
    tree = SearchTree(Problem("p", "p"), scale=ScoreScale(kind="log_value"))
    soft = SoftValues(tree, sharpness)

    def soft_value(node: int) -> float:
        below = [(tree.num_draws[child], soft_value(child)) for child in tree.children[node]]
        if not below:
            return tree.value(node)
        highest = max(value for _, value in below)
        mean = sum(draws * math.exp(sharpness * (value - highest)) for draws, value in below) / soft.draws[node]
        return highest + math.log(mean) / sharpness

    for count, (first, second) in enumerate(rollouts, 1):
        steps = Step(f"{first};", (first,), -1.0, StopReason.STOP), Step(f"{second}", (second,), -1.0, StopReason.EOS)
        end = tree.add(0, steps)[-1]
        tree.set_scores([end], [math.log(max(values[4 * first + second], 1e-300))])
        soft.back_up(end)
        assert soft.draws[0] == soft.visits[0] == count
        assert soft.value == pytest.approx([soft_value(node) for node in range(len(tree))], abs=1e-9)
        assert max(soft.weights(0)) > 0


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (4, 0), (5, 3), (9, 9), (12, 4)])
def test_lead_is_sure_is_the_integral_of_the_beta_law(first: int, second: int) -> None:
    """P(p > 1/2) under Beta(v1 + 1, v2 + 1), by Simpson's rule."""

    def density(p: float) -> float:
        return p**first * (1 - p) ** second

    def integral(low: float, high: float, steps: int = 2000) -> float:
        width = (high - low) / steps
        inner = sum((2 + 2 * (step % 2)) * density(low + step * width) for step in range(1, steps))
        return (density(low) + inner + density(high)) * width / 3

    assert lead_is_sure(first, second) == pytest.approx(integral(0.5, 1.0) / integral(0.0, 1.0), abs=1e-9)


def test_self_consistency_stops_when_all_agree() -> None:
    toy = ToyTree.nested({"a": (1.0, {"a": (1.0, True)})})
    result = run(SelfConsistency(window=1), toy, Scores(lambda text: 0.0))
    # P(lead) = 15/16 after three equal votes, 31/32 >= 0.95 after four.
    assert (result.waves, result.stopped) == (["*1!"] * 4, "settled")


@pytest.mark.parametrize("toy", TOYS, ids=range(len(TOYS)))
@pytest.mark.parametrize("scale", [VALUES, ScoreScale(kind="log_value", inner_is_value=False)], ids=["off", "no value"])
def test_arts_without_inner_values_draws_whole_paths_and_stops_once_settled(toy: ToyTree, scale: ScoreScale) -> None:
    scores = Scores(random_scores(4).log_score, scale)
    give_up = 0.0 if scale.inner_is_value else 0.4
    result = run(Adaptive(first=3, growth=0.5, settled=0.6, give_up=give_up), toy, scores)
    assert all(piece.path == "" and piece.whole for wave in result.pieces for piece in wave)
    # A half of 3, of 4, of 6, of 9, ...
    assert [wave[0].count for wave in result.pieces] == [3, 1, 2, 3, 4, 6, 9][: len(result.pieces)]
    values = [result.tree.value(node) for node in result.tree.answers]
    assert result.stopped == "settled" and max(values) >= 0.6
    assert result.answer == max(texts_of_answers(result), key=scores.log_score)


@pytest.mark.parametrize("give_up", [0.1, 1.0])
def test_arts_gives_nothing_up_where_all_steps_are_the_same_to_the_verifier(give_up: float) -> None:
    """A step less to draw at the same chance is always worth it; also where the problem itself has no score, but 1."""
    scores = Scores(lambda text: math.log(0.3) if text or give_up == 0.1 else 0.0)
    result = run(Adaptive(give_up=give_up, n=20), ToyTree.random(3, 3, 3), scores)
    assert all(result.tree.children[node] for node in range(len(result.tree)) if result.tree.is_open(node))
    assert sum(result.tree.num_draws[node] for node in result.tree.answers) == 20


def test_arts_stops_by_the_score_of_the_whole_path() -> None:
    """An end of .95 behind a step of .1 is no answer to stop at where the lowest step counts."""
    lowest = ScoreScale(kind="log_value", inner_is_value=True, aggregation="min")
    scores = {text: 0.95 if len(text) == 5 else 0.1 if text.startswith("a;") else 0.94 for text in VALUE}
    result = run(Adaptive(give_up=0.0), TREE, Scores(lambda text: math.log(scores[text]), lowest), Rotor(TREE))
    assert (result.waves, result.stopped) == (["*1!", "*1!"], "settled")
    assert result.answer is not None and result.answer.startswith("b;")


@pytest.mark.parametrize("options", [{}, {"explore": 0.0}, {"n": 1}, {"n": 8}, {"preset": "vm-mcts"}], ids=str)
def test_mcts_spends_its_budget_though_a_round_may_come_to_finished_paths_only(options: dict[str, Any]) -> None:
    for seed in range(4):
        result = run(MCTS(**options), ToyTree.random(seed, 4, 4), random_scores(seed), budget=Budget(draws=100))
        assert (result.stopped, sum(result.draws.values())) == ("budget", 100)
    two = run(
        MCTS(**options),
        ToyTree.nested({"a": (0.5, True), "b": (0.5, False)}),
        random_scores(0),
        budget=Budget(draws=30),
    )
    assert (two.stopped, sum(two.draws.values())) == ("budget", 30)


def test_arts_gives_up_by_the_rule_in_its_docstring() -> None:
    assert sum(map(num_given_up, range(20))) > 20, "the rule was at work"


def num_given_up(seed: int) -> int:
    """Compare with a slow loop that follows one path after another, with all sums made anew."""
    toy, chance = ToyTree.random(seed, 3, 3), random.Random(seed)
    log_scores = [math.log(chance.uniform(0.001, 0.5)) for _ in toy.parents]
    log_scores[0] = math.log(0.3)
    adaptive = Adaptive(give_up=0.7, growth=0.0, trust=2.0, n=15)
    grown = grow(adaptive, toy, log_scores, seed=seed)
    tree = grown.tree

    def tokens(node: int) -> int:
        return 0 if node == 0 else tokens(tree.parent[node]) + len(toy.step(grown.places[node]).token_ids)

    wanted, answers, num_left = [], list[int](), 0
    random_draws = random.Random(seed)  # as `grow` draws
    for failed in range(15):
        node = 0
        while tree.is_open(node):
            wanted.append(node)
            place = grown.places[node]
            child = random_draws.choices(
                toy.children[place], cum_weights=list(accumulate(toy.probabilities[one] for one in toy.children[place]))
            )[0]
            node = next(one for one in tree.children[node] if grown.places[one] == child)
            if tree.is_answer(node):
                answers += [node] if node not in answers else []
            elif answers:
                length = sum(map(tokens, answers)) / len(answers)
                fresh = math.exp(log_scores[0]) * 2 / (2 + failed) / length
                if math.exp(log_scores[child]) / max(1.0, length - tokens(node)) < 0.7 * fresh:
                    num_left += 1
                    break
    assert [[(expand.node, expand.count) for expand in wave] for wave in grown.waves] == [[(one, 1)] for one in wanted]
    return num_left


# --- options ----------------------------------------------------------------------------------------------------------


def test_unknown_names_and_keys_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"strategy is 'bfs'; allowed are arts, best-of-n, .*global-frontier"):
        build_strategy("bfs")
    with pytest.raises(ValueError, match=r"strategy beam has no option 'n'; its options are width, expand"):
        build_strategy("beam", ["n=4"])
    with pytest.raises(ValueError, match=r"strategy mcts: preset is 'zero'; allowed are .*'x1'"):
        build_strategy("mcts", ["preset=zero"])
    with pytest.raises(ValueError, match=r"preset is 'zero'; allowed are .*'rest-mcts'"):
        MCTS(preset="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"strategy mcts has no option 'with'; its options are preset, select"):
        MCTS(**{"with": 3})


OUT_OF_BOUNDS = [
    *((name, key, 0) for name in STRATEGIES for key in ("n",) if key in STRATEGIES[name].__dataclass_fields__),
    ("arts", "first", 0),
    ("arts", "growth", -0.1),
    ("arts", "give_up", -0.1),
    ("arts", "trust", 0.0),
    ("self-consistency", "window", 0),
    ("self-consistency", "sure", 0.0),
    ("beam", "width", 0),
    ("beam", "expand", 0),
    ("dvts", "subtrees", 0),
    ("dvts", "expand", 0),
    ("rebase", "temperature", 0.0),
    ("rebase", "temperature", math.nan),
    ("ets", "temperature", -1.0),
    ("ets", "lambda_b", -1.0),
    ("ets", "lambda_s", -1.0),
    ("ets", "exact", -1),
    ("best-first", "expand", 0),
    ("best-first", "length_power", -1.0),
    ("global-frontier", "expand", 0),
    ("mcts", "expand", 0),
    ("mcts", "keep", 0),
    ("mcts", "explore", -1.0),
    ("mcts", "length_power", -1.0),
    ("mcts", "look_ahead", 1.5),
    ("mcts", "discount", 0.0),
    ("mcts", "discount", 1.1),
    ("dts", "sharpness", 0.0),
    ("dts", "first", 0.0),
    ("dts", "widening", -0.5),
    ("dts-star", "explore", -1.0),
    ("dts-star", "sharpness", 0.0),
    ("flow-sampling", "paths", 0),
    ("flow-sampling", "candidates", 0),
    ("value-augmented", "candidates", 0),
    ("value-augmented", "beta", -1.0),
]


@pytest.mark.parametrize(("name", "key", "value"), OUT_OF_BOUNDS)
def test_options_out_of_bounds_are_refused(name: str, key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"strategy {name}: {key} is {value}; it must be (at least|above|at most) "):
        build_strategy(name, [f"{key}={value}"])


@pytest.mark.parametrize("strategy", [BestFirst(priority="log_prob"), MCTS(preset="mcts-dpo")])
def test_ranking_by_log_probabilities_needs_a_proposer_that_reports_them(strategy: Strategy) -> None:
    class Silent(Rotor):
        def draw(self, request: Any, seed: int) -> Any:
            return tuple(step._replace(log_prior=None) for step in super().draw(request, seed))

    with pytest.raises(ValueError, match="log-probabilities here, which the proposer does not report"):
        run(strategy, TREE, value_table(VALUE), Silent(TREE))
    assert run(GlobalFrontier(), TREE, value_table(VALUE), Silent(TREE)).answer == "b;b;a"


# --- whatever is drawn, the search ends -------------------------------------------------------------------------------

ALL = [pytest.param(strategy(), id=name) for name, strategy in STRATEGIES.items()]
ALL += [pytest.param(MCTS(preset=preset), id=preset) for preset in ("rest-mcts", "vm-mcts", "x1", "mcts-dpo")]
ALL += [
    pytest.param(Adaptive(give_up=0), id="arts-whole"),
    pytest.param(Adaptive(give_up=2), id="arts-strict"),
    pytest.param(ETS(exact=0), id="ets-greedy"),
]
FLAT = ToyTree.nested({"a": (0.5, False), "b": (0.5, True)})


@pytest.mark.parametrize(
    "budget", [Budget(), Budget(draws=90), Budget(generated_tokens=150)], ids=["none", "draws", "tokens"]
)
@pytest.mark.parametrize("strategy", ALL)
def test_every_search_ends(strategy: Strategy, budget: Budget) -> None:
    """And gives an answer where one was drawn."""
    nothing, equal = Scores(lambda text: NOTHING), Scores(lambda text: -0.7)
    assert run(strategy, TREE, equal, Failing(), budget=budget).answer is None
    assert run(strategy, TREE, equal, SameStep(), budget=budget).answer is None
    assert run(strategy, FLAT, equal, budget=budget).answer in ("a", "b")
    assert run(strategy, TOYS[0], equal, budget=budget).answer is not None
    run(strategy, TOYS[0], nothing, budget=budget)


@pytest.mark.parametrize("strategy", ALL)
def test_rules_end_where_scores_are_minus_infinity(strategy: Strategy) -> None:
    """A search takes no such score, but a path that cannot go on has it."""
    grow(strategy, TOYS[0], [-math.inf] * len(TOYS[0].parents))
