"""Comparing mathematical answers: a table of cases, the labels of real solutions, and answers that want to do harm."""

import csv
import json
import os
import random
import resource
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from hostile import BAIT, GOLDS, KINDS, hostile_answer
from hypothesis import given, settings
from hypothesis import strategies as st
from label_agreement import AMC, COLUMNS, GAME24, GYM, Judged, disagreements, judge_all

from arts.functions import CallError
from arts.tasks import math_answer
from arts.tasks.answers import find_answer, find_number, to_number
from arts.tasks.math_answer import answer_key, check_math, judge_math, plain_formula, require_library

CASES = [json.loads(line) for line in (ROOT / "tests/cases/math_answers.jsonl").read_text("utf-8").splitlines()]


def test_the_table_of_cases_is_long_says_where_each_is_from_and_has_both_verdicts() -> None:
    assert len(CASES) >= 150 and all(case["source"] for case in CASES)
    verdicts = Counter(case["same"] for case in CASES)
    assert verdicts[True] > 60 and verdicts[False] > 60
    assert len({(case["gold"], case["answer"]) for case in CASES}) > 0.98 * len(CASES)


def test_every_case_of_the_table() -> None:
    wrong = [case for case in CASES if check_math(case["gold"], case["answer"]).correct != case["same"]]
    assert wrong == []


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("<think>\\boxed{1}</think><answer>2</answer>", "2"),
        ("<answer>1</answer> no, <answer>\n 2 </answer>", "2"),
        ("<answer>\\boxed{\\frac{1}{2}}</answer>", "\\frac{1}{2}"),
        ("<answer>one <answer>3</answer>", "3"),
        ("<answer>4", None),
        ("<answer></answer> \\boxed{5}", None),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{ x \\right.} ", "\\left\\{ x \\right."),
        ("\\boxed{\\begin{pmatrix}1\\\\{2}\\end{pmatrix}}", "\\begin{pmatrix}1\\\\{2}\\end{pmatrix}"),
        ("\\fbox{6} and \\boxed{7}", "7"),
        ("Final Answer: The final answer is $x = 3$. I hope it is correct.", "x = 3"),
        ("The answer is $\\frac{1}{2}$.", "\\frac{1}{2}"),
        ("The answer is\n\\[\n 5 \n\\]", "5"),
        ("The answer is $2$ or $3$.", "$2$ or $3$"),
        ("The answer is 3.5. They walk on.", "3.5"),
        ("**Answer:** 42", "42"),
        ("so 7\nA: 18", "18"),
        ("A: 18\nno more", None),
        ("#### 70,000", "70,000"),
    ],
)
def test_the_answer_is_found_where_it_is_marked(solution: str, answer: str | None) -> None:
    assert find_answer(solution) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (".5", 0.5), ("-.5", -0.5), ("5.", 5), ("14...", None), ("1,2", None), ("1 2", None), ("1 000", 1000),
        ("11_2", None),
        ("3 1/2", 3.5), ("-3 1/2", -3.5), ("3 5/2", None), ("3\\frac12", 3.5), ("- 3", -3), ("$ 12", 12),
    ],
)  # fmt: skip
def test_numbers_that_look_like_others(text: str, number: float | None) -> None:
    found = to_number(text)
    assert (None if found is None else float(found)) == number


def test_a_mixed_number_is_one_number() -> None:
    assert find_number("\\boxed{3\\frac{1}{2}}") == to_number("7/2")


@given(st.integers(-(10**15), 10**15), st.integers(1, 10**6))
def test_every_way_to_write_a_fraction_is_the_same(numerator: int, denominator: int) -> None:
    sign, size = ("-" if numerator < 0 else ""), abs(numerator)
    whole, rest = divmod(size, denominator)
    ways = [f"{numerator}/{denominator}", f"{sign}\\frac{{{size}}}{{{denominator}}}", f"${numerator}/{denominator}$"]
    if rest and whole:
        ways.append(f"{sign}{whole} \\frac{{{rest}}}{{{denominator}}}")
    for way in ways:
        assert check_math(ways[0], way).correct
        assert answer_key(way) == answer_key(ways[0])
        assert not check_math(f"{numerator + 1}/{denominator}", way).correct


@settings(max_examples=300)
@given(st.text(max_size=80))
def test_every_short_text_is_its_own_answer_and_has_one_key(text: str) -> None:
    verdict = check_math(text, text)
    assert verdict.correct == bool(plain_formula(text).strip())
    assert verdict.answer == answer_key(text) == check_math("no such answer", text).answer


def test_no_answer_and_long_answers_take_no_part_in_votes() -> None:
    assert judge_math("4", "I do not know") == (False, None, "no answer in it")
    verdict = judge_math("1" * 301, "\\boxed{" + "1" * 301 + "}")
    assert (verdict.correct, verdict.answer) == (False, None) and "longer than 300" in verdict.reason


def test_a_comparison_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def library(gold: str, answer: str) -> bool:
        asked.append((gold, answer))
        if answer == "f(x)":
            raise CallError("time", "no answer within 2 s of computing")
        return True

    monkeypatch.setattr(math_answer, "_same_formula", library)
    math_answer._compare.cache_clear()
    assert [check_math("g(x)", "h(x)").correct for _ in range(3)] == [True] * 3
    late = [check_math("g(x)", "f(x)") for _ in range(3)]
    assert late == [(False, "f(x)", "comparing it failed: no answer within 2 s of computing")] * 3
    assert asked == [("g(x)", "h(x)"), ("g(x)", "f(x)")]
    math_answer._compare.cache_clear()


def test_comparing_formulas_without_the_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_answer, "_library", None)
    monkeypatch.setattr(math_answer, "find_spec", lambda name: None)
    assert check_math("4", "4.0").correct
    with pytest.raises(ValueError, match=r'pip install "arts-llm\[math\]"'):
        check_math("x", "y + y")


def test_threads_get_their_own_answers() -> None:
    wrong = []

    def ask(number: int) -> None:
        for step in range(6):
            if check_math(f"x + {number}", f"{step} + x").correct != (number == step):
                wrong.append((number, step))  # noqa: PERF401 (a list of all would hide which came first)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture(scope="module")
def judged(arts_data: Path) -> list[Judged]:
    return list(judge_all(arts_data))


def test_labels_of_real_solutions_agree_but_for_those_in_the_table(judged: list[Judged]) -> None:
    with (ROOT / "tests/cases/label_disagreements.tsv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert tuple(header) == COLUMNS
    assert disagreements(iter(judged)) == [tuple(row) for row in rows]


@pytest.mark.parametrize("name", [*AMC, *GYM, GAME24])
def test_labels_agree_in_995_of_1000_solutions_of_a_file(name: str, judged: list[Judged]) -> None:
    of_file = [one for one in judged if one.file == name]
    differing = sum(not one.agrees for one in of_file)
    assert len(of_file) >= 1800
    assert differing <= (0 if name in (GAME24, *AMC) else 0.005 * len(of_file))


def attack(folder: Path, answers: list[str], rng: random.Random) -> Counter[str]:
    """Compare hostile answers, in a folder where it would be seen if any of them were run."""
    before, reasons = os.getcwd(), Counter[str]()
    require_library().close()  # its next process starts in the folder
    os.chdir(folder)
    try:
        for answer in answers:
            verdict = check_math(rng.choice(GOLDS), answer)
            reasons["right" if verdict.correct else verdict.reason] += 1
    finally:
        os.chdir(before)
        require_library().close()
    assert list(folder.iterdir()) == [], "nothing was run"
    return reasons


def test_hostile_answers_do_no_harm(tmp_path: Path) -> None:
    rng = random.Random(1)
    reasons = attack(tmp_path, [kind(rng) for kind in KINDS for _ in range(6)], rng)
    assert sum(count for reason, count in reasons.items() if "no answer within" in reason) <= 3
    assert check_math("x + 1", "1 + x").correct, "the library still answers"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_hostile_answers_take_ten_minutes_of_one_core(tmp_path: Path) -> None:
    rng = random.Random(0)
    start = time.process_time() + children_s()
    reasons = attack(tmp_path, [hostile_answer(rng) for _ in range(10_000)], rng)
    late = sum(count for reason, count in reasons.items() if "no answer within" in reason)
    print(f"{time.process_time() + children_s() - start:.0f} s of computing, {late} over the limit, {BAIT} not there")
    assert late <= 200
    assert time.process_time() + children_s() - start <= 600


def children_s() -> float:
    """Processor seconds of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
