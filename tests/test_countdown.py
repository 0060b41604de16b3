"""Countdown: the checker as a table of cases, the solver against brute force, law, splits and answer key."""

import gc
import random
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import islice, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arts.protocols import Split, Task
from arts.tasks import countdown
from arts.tasks.countdown import (
    DIFFICULTIES,
    CountdownProblem,
    CountdownTask,
    answer_key,
    check,
    difficulty,
    legal_moves,
    parse_problem,
    reachable,
    sample_problems,
    sample_trace,
    solutions,
)
from arts.tree import Problem

P = "2 3 5 7 > 24"
P_RIGHT = "5*3=15|2 7 15;15+7=22|2 22;22+2=24|24"
D = "2 4 6 12 > 16"
TWINS = "4 4 4 4 > 16"
PAIR = "3 8 > 24"
GRAMMAR = "not in the grammar"
GOLDEN_PROBLEMS = ["9 11 12 14 > 24", "1 5 8 13 > 26", "3 6 10 13 > 14"]

# (problem, solution, what the reason must hold ("" = right), why the case is here)
CASES = [
    (P, P_RIGHT, "", "three right steps"),
    (P, "3*5=15|2 7 15;7+15=22|2 22;2+22=24|24", "", "operands in the other order"),
    (P, "5*3=15|15 7 2;15+7=22|22 2;22+2=24|24", "", "states in another order are the same numbers"),
    (P, "7+2=9|3 5 9;5*3=15|9 15;15+9=24|24", "", "another right way"),
    (D, "12/4=3|2 3 6;6*3=18|2 18;18-2=16|16", "", "exact division and subtraction"),
    (TWINS, "4*4=16|4 4 16;4/4=1|1 16;16*1=16|16", "", "equal numbers are told apart by their count"),
    (TWINS, "4*4=16|4 4 16;4-4=0|0 16;16+0=16|16", "leaves 1..99", "a result of 0 is outside the law"),
    (PAIR, "8*3=24|24", "", "two numbers, one step"),
    (PAIR, "3*8=24|24", "", "two numbers, the smaller first"),
    ("1 99 > 99", "99*1=99|99", "", "the greatest result allowed"),
    ("2 50 > 99", "50*2=100|100", "leaves 1..99", "one above the greatest result"),
    (
        "2 50 50 > 1",
        "50*50=2500|2 2500;2500/2=1250|1250",
        "leaves 1..99",
        "results stay in four digits and are still read",
    ),
    (PAIR, "3-8=-5|-5", GRAMMAR, "negative numbers are not in the grammar"),
    (PAIR, "8-3=5|5", "reaches 5, not 24", "right arithmetic, wrong target"),
    (PAIR, "8*3=24|25", "states the wrong numbers", "the state must follow"),
    (PAIR, "8*3=25|24", "step 1 is wrong", "the state is right and the arithmetic is not"),
    (PAIR, "8+3=24|24", "step 1 is wrong: 8+3=24", "wrong arithmetic that 'reaches' the target"),
    (P, "5*3=15|2 7 15;15+7=24|2 24;24-2=22|22", "step 2 is wrong", "an error in the middle is named"),
    (P, "5*3=15|2 7 15;15+7=22|2 22", "2 numbers are left", "stops early"),
    (P, "5*3=15|2 7 15;15+7=22|22", "step 2 states the wrong numbers", "drops a number without using it"),
    (P, "5*3=15|2 7 15 15;15+7=22|2 15 22", "step 1 states the wrong numbers", "invents a number in the state"),
    (P, "5*3=15|2 7;7+2=9|9", "step 1 states the wrong numbers", "forgets the result in the state"),
    (P, "8*3=24|24", "step 1 uses 8, which is not there", "a number of another problem"),
    (P, "5*5=25|2 3 7 25", "step 1 uses 5, which is not there", "one 5 used twice in a step"),
    (P, "5*3=15|2 7 15;5+7=12|2 15 12", "step 2 uses 5, which is not there", "a number used up by an earlier step"),
    (P, f"{P_RIGHT};24*1=24|24", "step 4 uses 1, which is not there", "a step after the end"),
    (P, f"{P_RIGHT};24|24", GRAMMAR, "trailing text after the end"),
    (D, "12/2=6|4 6 6;6/4=1|1 6;6+1=7|7", "step 2 is wrong: 6/4=1", "division must be exact"),
    (D, "2/4=0|0 6 12", "step 1 is wrong", "a fraction rounded down to 0"),
    (D, "12/0=1|1 2 4 6", "uses 0, which is not there", "division by zero is no crash"),
    (PAIR, "", GRAMMAR, "nothing at all"),
    (PAIR, ";", GRAMMAR, "two empty steps"),
    (PAIR, "8*3=24|24;", GRAMMAR, "a separator and no step behind it"),
    (PAIR, ";8*3=24|24", GRAMMAR, "an empty first step"),
    (PAIR, "8*3=24", GRAMMAR, "no state"),
    (PAIR, "8*3=24|", GRAMMAR, "empty state"),
    (PAIR, "8*3=24| 24", GRAMMAR, "blank before the state"),
    (PAIR, "8*3=24|24 ", GRAMMAR, "blank behind the state"),
    (PAIR, " 8*3=24|24", GRAMMAR, "blank before the step"),
    (PAIR, "8 * 3 = 24|24", GRAMMAR, "blanks inside"),
    (PAIR, "8*3=24|24\n", GRAMMAR, "newline at the end, which `$` would let pass"),
    (P, P_RIGHT.replace(";", ";\n"), GRAMMAR, "newline between steps"),
    (P, P_RIGHT.replace("2 7", "2  7"), GRAMMAR, "two blanks in a state"),
    (P, P_RIGHT.replace("2 7", "2\t7"), GRAMMAR, "tab in a state"),
    (P, P_RIGHT.replace("2 7", "2\u00a07"), GRAMMAR, "no-break space in a state"),
    (PAIR, "08*3=24|24", GRAMMAR, "leading zero: one way to write a number"),
    (PAIR, "8*3=024|024", GRAMMAR, "leading zero in result and state"),
    (PAIR, "+8*3=24|24", GRAMMAR, "sign"),
    (PAIR, "8*3=24.0|24", GRAMMAR, "decimals"),
    (PAIR, "8*3=2_4|24", GRAMMAR, "an underscore, which int() would take"),
    (PAIR, "８*３=２４|２４", GRAMMAR, "full-width digits, which int() would take"),
    (PAIR, "٨*٣=٢٤|٢٤", GRAMMAR, "Arabic-Indic digits, which int() would take"),
    (PAIR, "8*3=2４|2４", GRAMMAR, "a full-width digit inside a number"),
    (PAIR, "8*3=24|²4", GRAMMAR, "superscript digit"),
    (PAIR, "8×3=24|24", GRAMMAR, "typographic sign"),
    (PAIR, "8−3=5|5", GRAMMAR, "typographic minus"),
    (PAIR, "8**3=512|512", GRAMMAR, "power"),
    (PAIR, "8//3=2|2", GRAMMAR, "floor division"),
    (PAIR, "8%3=2|2", GRAMMAR, "another operator"),
    (PAIR, "(8*3)=24|24", GRAMMAR, "brackets"),
    (PAIR, "24", GRAMMAR, "the target alone"),
    (PAIR, "8*3=24|24\x00", GRAMMAR, "null byte"),
    (PAIR, "__import__('os').system('true')", GRAMMAR, "code"),
    (PAIR, "8*3=24|24;__import__('os')", GRAMMAR, "code behind a right solution"),
    (PAIR, "8*3=24|24 or 1", GRAMMAR, "code in a state"),
]


def test_the_table_of_cases_is_long_enough() -> None:
    assert len(CASES) >= 40
    assert len({(problem, solution) for problem, solution, _, _ in CASES}) == len(CASES)


@pytest.mark.parametrize(("problem", "solution", "reason", "why"), CASES, ids=[case[3] for case in CASES])
def test_checker(problem: str, solution: str, reason: str, why: str) -> None:
    verdict = CountdownTask().judge(Problem(id="p", prompt=problem), solution)
    assert verdict.correct == (reason == ""), why
    assert reason in verdict.reason
    assert (verdict.reason == "") == verdict.correct
    assert (verdict.answer is None) == (verdict.reason == GRAMMAR)


HOSTILE = [
    "9" * 10_000,
    "8*3=24|" + "24 " * 10_000,
    "8*3=24|24" + " 24" * 10_000,
    ";" * 10_000,
    "8*3=24|24;" * 10_000,
    "1+" * 10_000 + "1=1|1",
    "8*3=24|24" + "\n" * 10_000,
    "\u0663" * 10_000,
    "(" * 10_000 + ")" * 10_000,
    "8" * 10_000 + "*3=24|24",
    "".join(map(chr, range(10_000))),
    "\ud800" * 100,  # half a character, as a byte-level tokenizer may leave behind
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_solutions_are_wrong_and_quick(text: str) -> None:
    gc.disable()  # walking through what other tests have left is not this one's affair
    try:
        start = time.thread_time()
        verdict = CountdownTask().judge(Problem(id="p", prompt=PAIR), text)
        assert time.thread_time() - start < 0.5
    finally:
        gc.enable()
    assert not verdict.correct
    assert len(verdict.reason) < 100


@given(st.text(alphabet="0123456789+-*/=| ;\n٣", max_size=60))
@settings(max_examples=200, deadline=None)
def test_random_text_is_judged_without_error(text: str) -> None:
    verdict = CountdownTask().judge(Problem(id="p", prompt=PAIR), text)
    assert verdict.correct == (text in ("8*3=24|24", "3*8=24|24"))


# -- Solver ----------------------------------------------------------------------------------------------------------


@cache
def brute_force(numbers: tuple[int, ...]) -> frozenset[tuple[int, str]]:
    """(value, expression) of every expression over all the numbers, by splitting them in two parts in every way.

    Written apart from the solver: over parts and exact fractions, not over moves. Results stay in 1..99.
    """
    if len(numbers) == 1:
        return frozenset({(numbers[0], str(numbers[0]))})
    found = set()
    for chosen in product([False, True], repeat=len(numbers)):
        if not any(chosen) or all(chosen):
            continue
        one = tuple(number for number, inside in zip(numbers, chosen, strict=True) if inside)
        two = tuple(number for number, inside in zip(numbers, chosen, strict=True) if not inside)
        for (a, left), (b, right) in product(brute_force(one), brute_force(two)):
            first, second = sorted((left, right))
            values = {
                f"({first}+{second})": Fraction(a + b),
                f"({first}*{second})": Fraction(a * b),
                f"({left}-{right})": Fraction(a - b),
                # of two equal values either may be divided by the other: one of the two is enough
                f"({second}/{first})" if a == b else f"({left}/{right})": Fraction(a, b),
            }
            found |= {(int(v), text) for text, v in values.items() if v.denominator == 1 and 1 <= v <= 99}
    return frozenset(found)


@pytest.mark.parametrize("num_numbers", [2, 3, 4])
def test_solver_finds_exactly_what_brute_force_finds(num_numbers: int) -> None:
    rng = random.Random(num_numbers)
    solvable = 0
    for _ in range(60 if num_numbers < 4 else 5):
        numbers = tuple(sorted(rng.randint(1, 15) for _ in range(num_numbers)))
        expressions = brute_force(numbers)
        for target in range(1, 100):
            wanted = {text for value, text in expressions if value == target}
            assert solutions(CountdownProblem(numbers, target)) == wanted, (numbers, target)
            assert reachable(numbers, target) == bool(wanted)
            solvable += bool(wanted)
    assert solvable > 100


def test_solver_on_problems_counted_by_hand() -> None:
    assert solutions(parse_problem("3 8 > 24")) == {"(3*8)"}
    assert solutions(parse_problem("1 2 3 > 6")) == {"((1*2)*3)", "((1*3)*2)", "((2*3)*1)", "((1+2)+3)", "((1+3)+2)",
                                                     "((2+3)+1)", "((2*3)/1)", "((2/1)*3)", "((3/1)*2)"}  # fmt: skip
    assert solutions(parse_problem("1 1 > 50")) == frozenset()


def test_legal_moves_are_all_pairs_and_operators_within_the_law() -> None:
    moves = {(f"{m.left}{m.operator}{m.right}={m.result}", state) for m, state in legal_moves((3, 6, 50))}
    assert moves == {
        ("6+3=9", (9, 50)), ("6*3=18", (18, 50)), ("6-3=3", (3, 50)), ("6/3=2", (2, 50)),
        ("50+3=53", (6, 53)), ("50-3=47", (6, 47)), ("50+6=56", (3, 56)), ("50-6=44", (3, 44)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"), [("3 8 > 24", 0), ("1 2 3 > 6", 1), (P, 1), ("2 2 4 8 > 16", 2), ("1 2 3 4 > 24", 3)]
)
def test_difficulty_counts_solutions(text: str, name: int) -> None:
    bounds = [(1, 2), (3, 9), (10, 29), (30, 10**9)]
    low, high = bounds[name]
    assert low <= len(solutions(parse_problem(text))) <= high
    assert difficulty(parse_problem(text)) == DIFFICULTIES[name]


# -- Law, splits -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**9), st.integers(3, 6))
@settings(max_examples=150, deadline=None)
def test_every_drawn_trace_is_within_the_law_and_passes_the_checker(seed: int, num_numbers: int) -> None:
    problem, trace = sample_trace(random.Random(seed), num_numbers)
    assert len(problem.numbers) == num_numbers
    assert all(1 <= number <= 15 for number in problem.numbers)
    assert list(problem.numbers) == sorted(problem.numbers)
    assert 10 <= problem.target <= 60
    results = [int(step.split("=")[1].split("|")[0]) for step in trace.split(";")]
    assert len(results) == num_numbers - 1
    assert all(1 <= result <= 99 for result in results)
    assert check(problem, trace) == ""
    assert parse_problem(problem.text) == problem
    if num_numbers <= 4:
        assert answer_key(problem, trace) in solutions(problem)


@given(st.integers(0, 10**9), st.data())
@settings(max_examples=150, deadline=None)
def test_a_trace_with_one_character_changed_is_right_only_where_it_says_the_same(
    seed: int, data: st.DataObject
) -> None:
    problem, trace = sample_trace(random.Random(seed), 4)
    position = data.draw(st.integers(0, len(trace) - 1))
    character = data.draw(st.sampled_from("0123456789+-*/=| ;").filter(lambda c: c != trace[position]))
    changed = trace[:position] + character + trace[position + 1 :]
    if check(problem, changed) == "":  # like 2*2=4 for 2+2=4
        assert answer_key(problem, changed) in solutions(problem)
        assert set(changed) - set(trace) <= set("+-*/")


def test_a_stream_ends_where_there_is_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(countdown, "_MOST_IN_VAIN", 300)
    texts = [problem.text for problem in sample_problems(0, "test", 3)]
    assert 100 < len(texts) < 460  # of the 453 there are
    assert len(set(texts)) == len(texts)


def test_splits_never_overlap_for_any_seed_and_number_of_numbers() -> None:
    splits: tuple[Split, ...] = ("train", "validation", "test")
    texts: dict[Split, set[str]] = {}
    for split in splits:
        streams = [list(islice(sample_problems(seed, split, n), 60)) for seed in (0, 1, 2) for n in (3, 4)]
        assert all(len({problem.text for problem in stream}) == 60 for stream in streams)  # distinct
        assert all(problem.split == split for stream in streams for problem in stream)
        texts[split] = {problem.text for stream in streams for problem in stream}
    assert not texts["train"] & texts["validation"]
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]


def test_split_shares_are_80_10_10_of_distinct_problems() -> None:
    rng = random.Random(0)
    problems = {sample_trace(rng, 4)[0] for _ in range(4000)}
    counts = Counter(problem.split for problem in problems)
    shares: dict[Split, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}
    for split, share in shares.items():
        standard_error = (share * (1 - share) / len(problems)) ** 0.5
        assert counts[split] / len(problems) == pytest.approx(share, abs=4 * standard_error)


def test_the_split_of_a_problem_does_not_depend_on_how_it_was_typed() -> None:
    assert parse_problem("7 5,3  2>24").split == parse_problem(P).split
    assert parse_problem(P).split == "train"  # fixed for ever: another answer would mix the splits of old and new data


def test_the_stream_of_problems_is_reproducible_and_its_start_does_not_depend_on_its_length() -> None:
    task: Task = CountdownTask()
    first = [problem.id for problem in islice(task.problems("test", 3), 10)]
    assert [problem.id for problem in islice(task.problems("test", 3), 25)][:10] == first
    assert [problem.id for problem in islice(task.problems("test", 4), 10)] != first
    # Fixed for ever: published figures are on these problems.
    assert [problem.id for problem in islice(task.problems("test", 0), 3)] == GOLDEN_PROBLEMS


# -- Answer key ------------------------------------------------------------------------------------------------------


def replay(numbers: tuple[int, ...], moves: list[tuple[int, str, int, int]]) -> str | None:
    """The text of the moves with right states; None where a move uses what is not there."""
    state, steps = list(numbers), []
    for left, operator, right, result in moves:
        for operand in (left, right):
            if operand not in state:
                return None
            state.remove(operand)
        state.append(result)
        steps.append(f"{left}{operator}{right}={result}|{' '.join(map(str, sorted(state)))}")
    return ";".join(steps)


def moves_of(trace: str) -> list[tuple[int, str, int, int]]:
    moves = []
    for step in trace.split(";"):
        expression, result = step.split("|")[0].split("=")
        operator = next(character for character in expression if character in "+-*/")
        left, right = expression.split(operator)
        moves.append((int(left), operator, int(right), int(result)))
    return moves


@given(st.integers(0, 10**9), st.integers(3, 6))
@settings(max_examples=100, deadline=None)
def test_key_does_not_depend_on_the_order_of_operands(seed: int, num_numbers: int) -> None:
    problem, trace = sample_trace(random.Random(seed), num_numbers)
    swapped = [(b, op, a, r) if op in "+*" else (a, op, b, r) for a, op, b, r in moves_of(trace)]
    text = replay(problem.numbers, swapped)
    assert text is not None
    assert check(problem, text) == ""
    assert answer_key(problem, text) == answer_key(problem, trace)


def swaps_of_independent_steps(trace: str, numbers: tuple[int, ...]) -> Iterator[str]:
    """The trace with two neighbouring steps exchanged, where neither touches a value that the other makes or takes."""
    moves = moves_of(trace)
    for index in range(len(moves) - 1):
        one, two = moves[index], moves[index + 1]
        if not {one[0], one[2], one[3]} & {two[0], two[2], two[3]}:
            text = replay(numbers, [*moves[:index], two, one, *moves[index + 2 :]])
            assert text is not None
            yield text


def test_key_does_not_depend_on_the_order_of_independent_steps() -> None:
    num_swaps = 0
    for seed in range(300):
        problem, trace = sample_trace(random.Random(seed), 5)
        for swapped in swaps_of_independent_steps(trace, problem.numbers):
            num_swaps += 1
            assert check(problem, swapped) == ""
            assert answer_key(problem, swapped) == answer_key(problem, trace)
    assert num_swaps > 30


@pytest.mark.parametrize(
    ("problem", "one", "two"),
    [
        ("1 2 3 3 > 12", "3-1=2|2 2 3;2*2=4|3 4;4*3=12|12", "3-1=2|2 2 3;2*2=4|4 3;3*4=12|12"),
        # two results of equal value, made in either order, then divided by one another
        ("1 2 2 3 > 1", "2+2=4|1 3 4;3+1=4|4 4;4/4=1|1", "3+1=4|2 2 4;2+2=4|4 4;4/4=1|1"),
        # two results of equal value, one of them used before the other
        ("1 2 2 3 5 > 24", "2+2=4|1 3 4 5;3+1=4|4 4 5;5*4=20|4 20;20+4=24|24",
         "3+1=4|2 2 4 5;2+2=4|4 4 5;5*4=20|4 20;20+4=24|24"),
    ],
)  # fmt: skip
def test_key_of_equal_values_does_not_depend_on_who_came_first(problem: str, one: str, two: str) -> None:
    countdown = parse_problem(problem)
    assert check(countdown, one) == check(countdown, two) == ""
    assert answer_key(countdown, one) == answer_key(countdown, two)
    assert answer_key(countdown, one) in solutions(countdown)


def test_key_tells_different_expressions_apart() -> None:
    problem = parse_problem(P)
    ways = [P_RIGHT, "7+2=9|3 5 9;5*3=15|9 15;15+9=24|24", "5*3=15|2 7 15;15+2=17|7 17;17+7=24|24"]
    assert [check(problem, way) for way in ways] == ["", "", ""]
    assert {answer_key(problem, way) for way in ways} == {"(((3*5)+7)+2)", "((2+7)+(3*5))", "(((3*5)+2)+7)"}
    pair = parse_problem(PAIR)
    assert answer_key(pair, "8-3=5|5") != answer_key(pair, "3-8=5|5")


def test_key_does_not_depend_on_the_arithmetic_being_right() -> None:
    """Otherwise voting would know what the checker knows."""
    right, wrong = "5*3=15|2 7 15;15+7=22|2 22;22+2=24|24", "5*3=16|2 7 16;16+7=21|2 21;21+2=24|24"
    problem = parse_problem(P)
    assert check(problem, right) == ""
    assert check(problem, wrong) != ""
    assert answer_key(problem, wrong) == answer_key(problem, right) == "(((3*5)+7)+2)"
    assert answer_key(problem, "9*9=81|81") == "(9*9)"  # even numbers that are not there
    assert answer_key(problem, "5*3=15|1 1 1") == "(3*5)"  # nor on the states


# -- Reading problems, the task --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["2 3 5 7 > 24", "7 5 3 2 > 24", " 2,3, 5,7>24 ", "2\t3 5 7 > 24\n", "02 3 5 7 > 24"])
def test_problems_are_read_however_they_are_spaced(text: str) -> None:
    assert parse_problem(text) == CountdownProblem((2, 3, 5, 7), 24)
    assert CountdownTask().parse(text) == Problem(id=P, prompt=P)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write the numbers, '>' and the target, like '3 5 7 11 > 24'"),
        ("2 3 5 7", "not a Countdown problem: '2 3 5 7'"),
        ("2 3 5 7 > ", "not a Countdown problem"),
        ("2 3 5 7 > 24 > 3", "not a Countdown problem"),
        ("2 -3 > 24", "not a Countdown problem"),
        ("2.5 3 > 24", "not a Countdown problem"),
        ("two 3 > 24", "not a Countdown problem"),
        ("٢ ٣ > 24", "not a Countdown problem"),
        ("__import__('os') > 24", "not a Countdown problem"),
        ("9" * 10_000 + " > 24", "not a Countdown problem"),
        ("5 > 5", "1 numbers in '5 > 5'; Countdown takes 2 to 6"),
        ("1 2 3 4 5 6 7 > 24", "7 numbers in '1 2 3 4 5 6 7 > 24'; Countdown takes 2 to 6"),
        ("1 " * 5_000 + "1 > 24", "5001 numbers in"),
        ("0 3 > 24", "a number of '0 3 > 24' lies outside 1..99"),
        ("3 100 > 24", "lies outside 1..99"),
        ("3 8 > 0", "lies outside 1..99"),
        ("3 8 > 100", "lies outside 1..99"),
    ],
)
def test_texts_that_are_no_problem_are_refused_in_one_short_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_problem(text)
    assert message in str(error.value)
    assert len(str(error.value)) < 250
    assert "\n" not in str(error.value)


def test_a_target_out_of_reach_is_refused_by_the_task() -> None:
    assert parse_problem("1 1 > 50") == CountdownProblem((1, 1), 50)
    with pytest.raises(ValueError, match=r"'1 1 > 50' has no solution with results in 1\.\.99; try another target"):
        CountdownTask().parse("1 1 > 50")


@pytest.mark.parametrize("num_numbers", [2, 7])
def test_the_task_refuses_sizes_outside_its_law(num_numbers: int) -> None:
    with pytest.raises(ValueError, match="3 to 6"):
        CountdownTask(num_numbers)


@pytest.mark.parametrize("num_numbers", [3, 4, 5, 6])
def test_the_task_serves_problems_of_its_size(num_numbers: int) -> None:
    task = CountdownTask(num_numbers)
    for problem in islice(task.problems("validation", 0), 5):
        assert problem.id == problem.prompt == parse_problem(problem.prompt).text
        assert len(parse_problem(problem.prompt).numbers) == num_numbers
        if num_numbers < 5:  # the solver takes a tenth of a second with 5 numbers, and over one with 6
            assert task.difficulty(problem) in DIFFICULTIES
            assert task.parse(problem.prompt) == problem
