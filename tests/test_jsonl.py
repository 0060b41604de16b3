"""Files of problems, and the answers in solutions."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arts.build import build_task
from arts.tasks.answers import find_answer, find_number, same_text, to_number
from arts.tasks.jsonl import INSTRUCTION

SPLITS = ("train", "validation", "test")


def write(folder: Path, *rows: object) -> str:
    path = folder / "problems.jsonl"
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return str(path)


def sums(count: int) -> list[dict[str, str]]:
    return [{"problem": f"What is {one} + 1?", "answer": str(one + 1)} for one in range(count)]


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("so \\boxed{14}.", "14"),
        ("\\boxed{1} and then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{ {a} b }", "{a} b"),
        ("\\boxed {7}", "7"),
        ("\\boxed{3} but this one never ends: \\boxed{4", "3"),
        ("\\boxed{}", None),
        ("work\n#### 1,234", "1,234"),
        ("The answer is 7.", "7"),
        ("Final Answer: **42**", "42"),
        ("the answer is 3. No, the answer is 4", "4"),
        ("#### 5\nThe answer is 6", "6"),
        ("The answer is:\n\n12 apples\n", "12 apples"),
        ("\\boxed{1}\nThe answer is 2", "1"),
        ("nothing here", None),
        ("", None),
    ],
)
def test_the_answer_is_found_where_it_is_marked(solution: str, answer: str | None) -> None:
    assert find_answer(solution) == answer


@pytest.mark.parametrize(
    ("solution", "number"),
    [
        ("\\boxed{14}", Fraction(14)),
        ("\\boxed{-3.50}", Fraction(-7, 2)),
        ("\\boxed{1,234,567}", Fraction(1234567)),
        ("The answer is $12.", Fraction(12)),
        ("The answer is 40%", Fraction(40)),
        ("The answer is 3/4 of a cake", Fraction(3, 4)),
        ("so 3 apples and 5 pears, 8 in all", Fraction(8)),
        ("The answer is unknown", None),
        ("no digits", None),
        ("\\boxed{\\frac{3}{4}}", Fraction(3, 4)),
        ("\\boxed{\\dfrac{ -3 }{ 4 }}", Fraction(-3, 4)),
        ("\\boxed{12 \\text{ m}^2}", Fraction(12)),
        ("\\boxed{90^\\circ}", Fraction(90)),
        ("\\boxed{\N{MINUS SIGN}5}", Fraction(-5)),
        ("\\boxed{1.5e3}", Fraction(1500)),
        ("\\boxed{1{,}234}", Fraction(1234)),
        ("\\boxed{1\\,234}", Fraction(1234)),
        ("\\boxed{x = 7}", Fraction(7)),
        ("\\boxed{10^{5}}", None),
        ("\\boxed{\\sqrt{7}}", None),
        ("\\boxed{3 or 7}", None),
        ("\\boxed{3, 7}", None),
        ("\\boxed{2 + 3}", None),
        ("\\boxed{1e99999999}", None),
        ("1/0", None),
    ],
)
def test_numbers_are_exact(solution: str, number: Fraction | None) -> None:
    assert find_number(solution) == number


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_every_number_is_found_in_its_box(numerator: int, denominator: int) -> None:
    assert find_number(f"hence \\boxed{{{numerator}/{denominator}}}") == Fraction(numerator, denominator)
    assert find_number(f"\\boxed{{{numerator:,}}}") == numerator
    assert to_number(str(numerator)) == numerator


@given(st.text(max_size=400))
def test_no_text_is_too_strange(text: str) -> None:
    find_answer(text)
    find_number(text)
    assert same_text(text, text)


def test_equal_texts_differ_only_in_what_does_not_count() -> None:
    assert same_text(" Paris. ", "paris") and same_text("New  York", "new york") and not same_text("Rome", "Paris")


def test_problems_have_a_split_for_ever_whatever_stands_around_them(tmp_path: Path) -> None:
    task = build_task(write(tmp_path, *sums(400)))
    sizes = {split: list(task.problems(split, 0)) for split in SPLITS}  # type: ignore[arg-type]
    assert sum(map(len, sizes.values())) == 400
    assert 280 < len(sizes["train"]) < 355 and min(map(len, sizes.values())) > 20
    fewer = build_task(write(tmp_path, *reversed(sums(100)), {"problem": " what IS 0 + 1? ", "answer": "1"}))
    for split in SPLITS:
        ids = {problem.id for problem in sizes[split]}
        assert {problem.id for problem in fewer.problems(split, 3)} <= ids  # type: ignore[arg-type]
    other_order = [problem.id for problem in task.problems("train", 1)]
    assert other_order != [one.id for one in sizes["train"]] and set(other_order) == {one.id for one in sizes["train"]}


def test_fields_of_a_row_and_options_of_a_file(tmp_path: Path) -> None:
    row = {"problem": "What is 2 + 2?", "answer": 4, "id": "two", "split": "test", "level": 3}
    path = write(tmp_path, row)
    (problem,) = build_task(path).problems("test", 0)
    assert (problem.id, problem.prompt) == ("two", INSTRUCTION.replace("{problem}", row["problem"]))
    plain = build_task(f"{path}?prompt={{problem}}%20=&separator=;&max_new_tokens=9")
    (problem,) = plain.problems("test", 0)
    assert (problem.prompt, plain.step_separator, plain.max_new_tokens) == ("What is 2 + 2? =", ";", 9)
    assert plain.difficulty(problem) == "3"
    assert plain.parse("two") == plain.parse(" What is 2 + 2? ") == problem
    assert plain.judge(problem, "2 + 2 = 4").correct and not plain.judge(problem, "The answer is 5").correct
    assert plain.judge(problem, "none").answer is None
    assert build_task(plain.name).parse("two") == problem, "its name makes it again"


def test_texts_and_functions_as_checks(tmp_path: Path) -> None:
    path = write(tmp_path, {"problem": "Capital of France?", "answer": "Paris", "id": "a"})
    exact = build_task(f"{path}?check=exact")
    assert exact.judge(exact.parse("a"), "I think so.\nThe answer is **paris**.").correct
    assert not exact.judge(exact.parse("a"), "Rome").correct
    (tmp_path / "checks.py").write_text("def ends(problem, answer, solution):\n    return solution.endswith(answer)\n")
    own = build_task(f"{path}?check=python:{tmp_path / 'checks.py'}:ends")
    assert own.judge(own.parse("a"), "It is Paris").correct and not own.judge(own.parse("a"), "Paris it is").correct


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ((), "", "holds no problem"),
        (("{",), "", "line 1 is no problem"),
        (({"problem": "x"},), "", "no field 'answer'"),
        (({"answer": "1"},), "", "no field 'problem'"),
        (({"problem": "", "answer": "1"},), "", "must be a text"),
        (({"problem": "x", "answer": None},), "", "answer is None"),
        (({"problem": "x", "answer": True},), "", "answer is True"),
        (({"problem": "x", "answer": "Paris"},), "", "formulas want check=math, and texts check=exact"),
        (({"problem": "x", "answer": "1", "split": "dev"},), "", "split is 'dev'"),
        (({"problem": "x", "answer": "1"}, {"problem": " X ", "answer": "2"}), "", "line 2: .* with the answer '1'"),
        (({"problem": "x", "answer": "1"},), "?check=magic", "check is 'magic'"),
        (({"problem": "x", "answer": "1"},), "?prompt=hello", "must have {problem} in it"),
        (({"problem": "x", "answer": "1"},), "?max_new_tokens=0", "must be at least 1"),
        (({"problem": "x", "answer": "1"},), "?separator=", "separator is empty"),
        (({"problem": "x", "answer": "1"},), "?colour=red", "has no option 'colour'"),
    ],
)
def test_mistakes_in_a_file_are_named(rows: tuple[object, ...], options: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_task(write(tmp_path, *rows) + options)


def test_a_missing_file_and_an_unknown_problem_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read as a file of problems"):
        build_task(str(tmp_path / "none.jsonl"))
    task = build_task(write(tmp_path, *sums(3)))
    with pytest.raises(ValueError, match="has no problem with the id or text 'What'"):
        task.parse("What")
