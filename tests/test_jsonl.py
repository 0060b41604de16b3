"""Files of problems, and the answers in solutions."""

import gzip
import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from arts.build import build_task
from arts.tasks.answers import find_answer, find_number, same_text, to_number
from arts.tasks.jsonl import INSTRUCTION
from arts.tasks.leakage import leaked
from arts.tasks.rows import file_rows

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


def test_formulas_are_compared_by_check_math(tmp_path: Path) -> None:
    task = build_task(write(tmp_path, {"problem": "Expand", "answer": "x^2+2x+1", "id": "a"}) + "?check=math")
    assert task.judge(task.parse("a"), "so \\boxed{(x+1)^2}").correct
    assert task.judge(task.parse("a"), "so \\boxed{x+1}") == (False, "x+1", "not x^2+2x+1")


def test_fields_have_the_names_that_data_sets_give_them(tmp_path: Path) -> None:
    rows = [
        {"question": "GSM8K", "answer": "3 * 6 = 18\n#### 18"},
        {"problem": "MATH", "solution": "so \\boxed{7}", "type": "Algebra", "level": "Level 5", "unique_id": "test/1"},
        {"problem": "MATH-500", "answer": "8", "subject": "Geometry", "level": 2, "solution": "\\boxed{9}"},
        {"problem_id": 3, "problem": "AIME", "answer": 27.0},
    ]
    path = Path(write(tmp_path, *rows))
    packed = path.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for name in (str(path), str(packed)):
        task = build_task(f"{name}?split=test")
        problems = {one.metadata["problem"]: one for one in task.problems("test", 0)}
        assert [problems[row].metadata["answer"] for row in ("GSM8K", "MATH", "MATH-500", "AIME")] == [
            "18",
            "7",
            "8",
            "27.0",
        ]
        assert (problems["MATH"].id, problems["AIME"].id) == ("test/1", "3")
        assert problems["MATH"].metadata | {"subject": "Algebra", "level": "5"} == problems["MATH"].metadata
        assert "subject" not in problems["GSM8K"].metadata and task.difficulty(problems["MATH-500"]) == "2"


def test_a_whole_file_may_be_one_split(tmp_path: Path) -> None:
    path = write(tmp_path, *sums(200))
    sizes = {}
    for split in ("train", "test", "train+validation"):
        task = build_task(f"{path}?split={split}")
        sizes[split] = [len(list(task.problems(one, 0))) for one in SPLITS]  # type: ignore[arg-type]
    assert sizes["train"] == [200, 0, 0] and sizes["test"] == [0, 0, 200]
    assert sizes["train+validation"][2] == 0 and 5 < sizes["train+validation"][1] < 40


def test_data_sets_of_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_list(sums(20))
    test = datasets.Dataset.from_list([{"problem": "What is 2 * 3?", "answer": "6"}])
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "set")
    task = build_task(f"hub:{tmp_path / 'set'}")
    assert [len(list(task.problems(split, 0))) for split in SPLITS] == [20, 0, 1]  # type: ignore[arg-type]
    assert len(build_task(f"hub:{tmp_path / 'set'}?rows=test").all_problems()) == 1  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="has no rows 'dev'; it has train, test"):
        build_task(f"hub:{tmp_path / 'set'}?rows=dev")
    asked = []

    def load(name: str, config: str | None) -> object:
        asked.append((name, config))
        return datasets.DatasetDict({"test": datasets.Dataset.from_list([{"problem": str(config), "answer": "1"}])})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["algebra", "geometry"])
    assert len(build_task("math500").all_problems()) == 1  # type: ignore[attr-defined]
    assert len(build_task("math?max_new_tokens=9").all_problems()) == 2  # type: ignore[attr-defined]
    assert asked == [("HuggingFaceH4/MATH-500", None)] + [
        ("EleutherAI/hendrycks_math", one) for one in ("algebra", "geometry")
    ]
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: 1 / 0)
    with pytest.raises(ValueError, match="data set 'some/thing' cannot be loaded: ZeroDivisionError"):
        build_task("hub:some/thing")


def test_a_check_that_hangs_dies_or_fails_is_no_stuck_run(tmp_path: Path) -> None:
    path = write(tmp_path, {"problem": "p", "answer": "1", "id": "a"})
    checks = tmp_path / "bad.py"
    checks.write_text(
        "import os\ndef bad(problem, answer, solution):\n    while solution == 'hang': pass\n"
        "    if solution == 'die': os._exit(3)\n    return 1 / (solution != 'fail') > 0\n"
    )
    task = build_task(f"{path}?check=python:{checks}:bad&check_seconds=0.3")
    problem = task.parse("a")
    assert task.judge(problem, "fine \\boxed{1}") == (True, "1", "")
    assert task.judge(problem, "hang").reason == "the check gave no answer: no answer within 0.3 s of computing"
    assert "ended with status 3" in task.judge(problem, "die").reason
    with pytest.raises(ValueError, match=r"problem 'a': the check .* failed on 'fail' with ZeroDivisionError"):
        task.judge(problem, "fail")
    assert task.judge(problem, "fine").correct
    with pytest.raises(ValueError, match="has no function 'good'"):
        build_task(f"{path}?check=python:{checks}:good")


def test_problems_in_both_sets_are_found_however_they_are_written() -> None:
    train = ["What is  $\\dfrac{1}{2}$ of 10?", "Solve x + 1 = 2.", "?!"]
    test = ["what is $\\frac{1}{2}$ of 10", "Solve x - 1 = 2.", "Find \\left( x \\right).", "Solve\n$x+1=2$", "?!"]
    assert [(leak.train, leak.test) for leak in leaked(train, test)] == [(0, 0), (1, 3), (2, 4)]
    assert leaked([], test) == [] and leaked(train, []) == []


def test_math_500_is_in_the_test_set_of_math_and_not_in_its_training_set(arts_data: Path) -> None:
    texts = {
        name: [row["problem"] for _, row in file_rows(arts_data / "math" / name)]
        for name in ("math500.jsonl", "math_train.jsonl.gz", "math_test.jsonl.gz")
    }
    assert len(leaked(texts["math_test.jsonl.gz"], texts["math500.jsonl"])) == 500
    assert leaked(texts["math_train.jsonl.gz"], texts["math500.jsonl"]) == []


def test_arts_leakage_and_arts_steps(tmp_path: Path) -> None:
    from arts.cli import app

    path = write(tmp_path, *sums(30), {"problem": "q", "answer": "1", "solution": "a\nb\nc"})
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": "What is 3+1?", "answer": "4"}\n')
    result = CliRunner().invoke(app, ["leakage", path, str(other)])
    assert result.exit_code == 1 and "1 of 1 problems" in result.output and "1 is 4 there" in result.output
    assert CliRunner().invoke(app, ["leakage", str(other), str(other)[:-6] + ".jsonl"]).exit_code == 1
    other.write_text('{"problem": "Else?", "answer": "4", "text": "Let it be. Then go. So 4."}\n')
    assert CliRunner().invoke(app, ["leakage", path, str(other)]).exit_code == 0
    steps = CliRunner().invoke(app, ["steps", str(other), "--field", "text"])
    assert steps.exit_code == 0 and "3 steps, sentences" in steps.output and '"Then go. "' in steps.output
    plain = tmp_path / "one.txt"
    plain.write_text("a\n\nb\n\nc")
    assert "1 by paragraphs" in CliRunner().invoke(app, ["steps", str(plain)]).output
    for arguments, message in (
        (["steps", path], "no text in the field 'solution'"),
        (["leakage", "toy", path], "has no end"),
    ):
        with pytest.raises(ValueError, match=message):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
