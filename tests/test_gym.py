"""reasoning-gym's problems, the checkers of our own for them, and the expressions that these read."""

import json
import re
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arts.build import build_task
from arts.tasks.arithmetic import derivative_is, exact_value, numbers_in, parse_expression
from arts.tasks.gym_checks import GYM_CHECKS, gym_check, judge_game24, judge_gym
from arts.tree import Problem

expressions = st.recursive(
    st.integers(0, 30).map(str),
    lambda part: st.builds("({} {} {})".format, part, st.sampled_from("+-*/"), part) | part.map("-{}".format),
    max_leaves=10,
)


@given(expressions)
def test_arithmetic_is_that_of_python_over_fractions(text: str) -> None:
    """Python's own parser reads what the test wrote; its numbers are made fractions."""
    exact = re.sub(r"\d+", r"Fraction(\g<0>)", text)
    try:
        expected = eval(exact, {"Fraction": Fraction})  # noqa: S307 (a text of the test's own)
    except ZeroDivisionError:
        expected = None
    parsed = parse_expression(text)
    assert parsed is not None and exact_value(parsed) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2*3", 7), ("(1+2)*3", 9), ("8/(3-8/3)", 24), ("2 - 3 - 4", -5), ("16/4/2", 2), ("--3", 3), ("0.5*4", 2),
        ("1/0", None), ("2**3", None), ("x", None), ("sin(0)", None),
    ],
)  # fmt: skip
def test_values_of_expressions(text: str, value: int | None) -> None:
    parsed = parse_expression(text)
    assert parsed is not None and exact_value(parsed) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "1 2", "(1", "1)", "2x", "1 +", "a.b", "__import__('os')", "f(", "1;2", "(" * 100 + "1" + ")" * 100,
        "1+" * 600 + "1", "9" * 50, "[1]", "1 = 1", "×", "2^3", "-" * 90 + "1",
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused(text: str) -> None:
    assert parse_expression(text) is None


def test_the_numbers_of_an_expression() -> None:
    parsed = parse_expression("(10 - 4) * 5 - 6")
    assert parsed is not None and numbers_in(parsed) == [10, 4, 5, 6]


@pytest.mark.parametrize(
    ("expression", "integrand", "same"),
    [
        ("x**3/3 + C", "x**2", True),
        ("x**3/3 + x", "x**2", False),
        ("-2*x*asin(x) - 2*sqrt(1-x**2) + C", "-2*asin(x)", True),
        ("-3*x*atan(2*x) + (3/4)*ln(1 + 4*x**2)", "-3*atan(2*x)", True),
        ("exp(x)*sin(x)/2 - exp(x)*cos(x)/2", "exp(x)*sin(x)", True),
        ("-2*(4*x - 7)**(3/2)", "-12*sqrt(4*x - 7)", True),
        ("2**x", "2**x*log(2)", True),
        ("E**x", "exp(x)", True),
        ("0.333*x**3", "x**2", False),
        ("tan(x) + sec(x)*0", "1/cos(x)**2", True),
        ("unknown(x)", "1", False),
        ("1/0*x", "1", False),
        ("x**x**x**9**9**9", "1", False),
    ],
)
def test_derivatives(expression: str, integrand: str, same: bool) -> None:
    one, other = parse_expression(expression), parse_expression(integrand)
    assert one is not None and other is not None
    assert derivative_is(one, other, "x") == same


@pytest.mark.parametrize(
    ("solution", "right"),
    [
        ("Steps:\n10 - 4 = 6\nAnswer: (10 - 4) * 5 - 6 = 24", True),
        ("answer: 5 * (10 - 4) - 6", True),
        ("Answer: (10 - 4) * 4 = 24", False),
        ("Answer: 6 * 4 = 24", False),
        ("Answer: 10 + 4 + 5 + 6 = 24", False),
        ("Answer: 4 5 6 10", False),
        ("Answer: None", False),
        ("", False),
        ("Answer: (10 - 4) * 5 - 6 = 24\nI am sure", False),
    ],
)
def test_the_game_of_24(solution: str, right: bool) -> None:
    assert judge_game24("4 5 6 10", solution).correct == right


@pytest.mark.parametrize(
    ("task", "gold", "answer", "right"),
    [
        ("gcd", "4", "4.0", True), ("gcd", "4", "x", False), ("basic_arithmetic", "1258", "1,258", True),
        ("complex_arithmetic", "19.00i", "0.0 + 19.0i", True), ("complex_arithmetic", "3.00", "3 - 0i", True),
        ("complex_arithmetic", "1.0 + 4.0i", "(1 + 4i)", True), ("complex_arithmetic", "1.0 + i", "1 - i", False),
        ("complex_arithmetic", "2.0i", "2", False), ("complex_arithmetic", "2.0i", "", False),
        ("polynomial_equations", "-1.0211, 1.0211", "1.0211, -1.0211", True),
        ("polynomial_equations", "-1.0211, 1.0211", "1.0210, -1.0210", False),
        ("polynomial_equations", "", '""', True), ("polynomial_equations", "", "1", False),
        ("polynomial_equations", "0.0", "x = 0", True), ("polynomial_equations", "0.0, 1.0", "0", False),
        ("bitwise_arithmetic", "0xb1d", "0x0B1D", True), ("bitwise_arithmetic", "-0x10", "-16", True),
        ("bitwise_arithmetic", "0xb1d", "b1d", False), ("bitwise_arithmetic", "0x1", "0x", False),
        ("fraction_simplification", "$\\frac{1}{2}$", "1/2", True),
        ("fraction_simplification", "$\\frac{1}{2}$", "2/4", False),
        ("power_function", "9276.714066490002", "9.28e+3", True), ("power_function", "9276.7", "9.27e+3", False),
        ("power_function", "1.0", "1e999999999999", False), ("power_function", "1.0", "NaN", False),
        ("prime_factorization", "2 × 3 × 13", "13 * 2 × 3", True), ("prime_factorization", "2 × 2", "4", False),
        ("time_intervals", "01:29:27.345", "01:29:27.346", True), ("time_intervals", "02:14:24", "02:14:14", False),
        ("time_intervals", "64 days, 07:01", "64 days, 07:01", True), ("time_intervals", "46 days", "46", True),
        ("time_intervals", "64 days, 07:01", "65 days, 07:01", False),
        ("advanced_geometry", "84.29°", "84.291°", True),
        ("advanced_geometry", "(58.000, -130.000)", "(58, -130)", True),
        ("advanced_geometry", "(1.000, 2.000)", "(1, 3)", False), ("advanced_geometry", "0.951", "0.95", False),
        ("simple_geometry", "84", "84.0", False), ("decimal_arithmetic", "25.0333771562", "25.0328", True),
        ("number_format", "417691772.015", "417,691,772.015", True), ("calendar_arithmetic", "Sunday", "sunday", True),
    ],
)  # fmt: skip
def test_answers_of_tasks(task: str, gold: str, answer: str, right: bool) -> None:
    assert gym_check(task)("", gold, answer) == right


def test_credit_for_being_near_is_given_where_it_is_asked_for() -> None:
    for task, gold, answer in (
        ("time_intervals", "64 days, 07:01", "65 days, 07:01"),
        ("time_intervals", "02:14:24", "02:28:00"),
        ("polynomial_equations", "1.0211", "1.0205"),
    ):
        solution = f"<answer>{answer}</answer>"
        assert not judge_gym(task, "", gold, solution).correct
        assert judge_gym(f"easy/{task}", "", gold, solution, credit=True).correct


def test_only_tags_make_an_answer() -> None:
    assert judge_gym("gcd", "", "4", "so <answer> 4 </answer>") == (True, "4", "")
    assert judge_gym("gcd", "", "4", "The answer is 4").reason == "no answer in it"
    assert judge_gym("gcd", "", "4", "<answer>" + "4" * 2000 + "</answer>").answer is None
    with pytest.raises(ValueError, match=r"no checker for the task 'sudoku'; there are checkers for advanced_geometry"):
        judge_gym("sudoku", "", "4", "4")


@given(st.text(max_size=60), st.sampled_from(sorted(set(GYM_CHECKS) - {"countdown", "puzzle24"})))
def test_no_answer_is_too_strange(text: str, task: str) -> None:
    problem, gold = ("∫ x dx", "x") if "integration" in task else ("", "0x1" if "bit" in task else "1")
    gym_check(task)(problem, gold, text)


@pytest.mark.parametrize("name", sorted(GYM_CHECKS))
def test_the_package_s_own_answers_are_right_and_others_wrong(name: str) -> None:
    pytest.importorskip("reasoning_gym")
    task = build_task(f"gym:{name}")
    problems = list(islice(task.problems("train", 0), 4))
    golds = [str(problem.metadata["answer"]) for problem in problems]
    for problem, gold in zip(problems, golds, strict=True):
        if "Integral" not in gold:  # some of its answers are integrals that it could not work out itself
            assert task.judge(problem, f"<answer>{gold}</answer>").correct, (problem.prompt, gold)
        assert not task.judge(problem, "<answer>no idea 77777771</answer>").correct
    assert task.parse(problems[3].id) == problems[3]


def test_streams_of_gym_tasks_share_no_problem_between_splits_and_seeds() -> None:
    pytest.importorskip("reasoning_gym")
    task = build_task("gym:chain_sum,gcd?config={}&separator=;&max_new_tokens=99")
    assert (task.step_separator, task.max_new_tokens) == (";", 99)

    def draw(split: str, seed: int, count: int = 60) -> list[Problem]:
        return list(islice(task.problems(split, seed), count))  # type: ignore[arg-type]

    texts = {(split, seed): {one.prompt for one in draw(split, seed)} for split in ("train", "test") for seed in (0, 1)}
    assert all(len(found) == 60 for found in texts.values())
    for seed in (0, 1):
        for other in (0, 1):
            assert not texts["train", seed] & texts["test", other]
    assert len(texts["train", 0] & texts["train", 1]) < 3, "seeds are spaced"
    assert draw("train", 0, 10) == draw("train", 0)[:10]
    assert {task.difficulty(one) for one in draw("train", 0)} == {"chain_sum", "gcd"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym:sudoku", "no checker for the reasoning-gym task 'sudoku'"),
        ("gym:", "no checker for the reasoning-gym task ''"),
        ("gym:gcd?prompt=x", "must have {problem} in it"),
        ("gym:gcd?config=7", "must be a JSON object"),
        ("gym:gcd?config={", "must be a JSON object"),
        ("gym:gcd?config=" + json.dumps({"seed": 1}), "without seed and size"),
        ("gym:gcd?config=" + json.dumps({"colour": 1}), "reasoning-gym's gcd does not take"),
        ("gym:gcd?max_new_tokens=0", "must be at least 1"),
        ("gym:gcd?separator=", "separator is empty"),
    ],
)
def test_wrong_gym_tasks_are_named(name: str, message: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match=message):
        build_task(name)
    with pytest.raises(ValueError, match="problems are named like gcd/17"):
        build_task("gym:gcd").parse("17")
