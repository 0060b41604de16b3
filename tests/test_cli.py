"""The command line: help without torch, one clear sentence and status 2 for every mistake, and the whole pipeline."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_imports import run_without_torch

from arts.cli import main
from arts.evaluate.searches import read_rows
from arts.models import shipped_folder
from arts.search.strategies import STRATEGIES
from arts.verifier.objectives import OBJECTIVES

MAIN = "from arts.cli import main\nmain()"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "arts", *arguments], capture_output=True, text=True, check=False)


def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says on standard error; it must end with status 2, in one line."""
    monkeypatch.setattr(sys, "argv", ["arts", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("arts: ")
    return said


def test_help_names_every_command_and_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; sys.argv = ['arts', '--help']\nfrom arts.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code + "print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for command in ("collect", "train", "evaluate", "search", "solve", "demo"):
        assert f"\n  {command}" in shown
    assert shown.rstrip().endswith("[]")


TOY = ("--task", "toy", "--proposer", "table")

MISTAKES = [
    (("solve", "3 5 7 11 = 24"), "not a Countdown problem"),
    (("solve", "3 5 7 11 > x"), "not a Countdown problem"),
    (("solve", "3 5 700 11 > 24"), "outside 1..99"),
    (("solve", "1 1 1 1 > 60"), "no solution"),
    (("solve", "1 2 3 4 5 6 7 > 28"), "Countdown takes 2 to 6"),
    (("solve", "3 5 7 11 > 24", "--proposer", "hf:/no/such/folder"), "no model folder"),
    (("solve", "3 5 7 11 > 24", "--proposer", "http://localhost:9/v1#m"), "is there a server"),
    (("solve", "3 5 7 11 > 24", "--verifier", "/no/such/folder"), "holds no verifier"),
    (("solve", "3 5 7 11 > 24", "--temperature", "0"), "temperature 0"),
    (("solve", "3 5 7 11 > 24", "--task", "chess"), "unknown task 'chess'"),
    (("solve", "3 5 7 11 > 24", "--device", "abacus"), "device 'abacus' cannot be used"),
    (("solve", "3 5 7 11 > 24", "--strategy", "teleport"), "strategy is 'teleport'; allowed are arts, best-of-n,"),
    (("solve", "3 5 7 11 > 24", "--strategy", "beam:width=0"), "strategy beam: width is 0; it must be at least 1"),
    (
        ("solve", "3 5 7 11 > 24", "--num-samples", "9", "--strategy", "beam:width=2"),
        "--num-samples is for best of N without a strategy; give beam options of its own",
    ),
    (("search", "--out", "X", "--strategy", "teleport"), "strategy is 'teleport'; allowed are arts, best-of-n,"),
    (("search", "--out", "X", "--strategy", "beam:height=2"), "strategy beam has no option 'height'; its options are"),
    (("search", "--out", "X", "--strategy", "mcts:preset=go"), "strategy mcts: preset is 'go'; allowed are"),
    (("search", "--out", "X", "--strategy", "beam", "--split", "dev"), "--split is 'dev'; allowed are train,"),
    (("search", "--out", "X", "--strategy", "beam", "--task", "chess"), "unknown task 'chess'"),
    (("search", "--out", "X", "--strategy", "beam", "--proposer", "table"), "toy task only"),
    (("search", "--out", "X", "--strategy", "beam", "--verifier", "/no/such/folder"), "holds no verifier"),
    (
        ("search", "--out", "X", "--strategy", "beam", *TOY, "--verifier", "python:no_such_module:f"),
        "no_such_module",
    ),
    (("collect", "--out", "X", "--task", "countdown:9"), "3 to 6"),
    (("collect", "--out", "X", "--num-problems", "0"), "num_problems is 0"),
    (("collect", "--out", "X", "--split", "dev"), "--split is 'dev'"),
    (("collect", "--out", "X", "--proposer", "table"), "toy task only"),
    (("train", "/no/such/folder", "--out", "X"), "holds no collection"),
    (("train", "T", "--out", "X", "--objective", "ppo"), "objective is 'ppo'; allowed are rfm, mean_flow,"),
    (("train", "T", "--out", "X", "--set", "alpha=1"), "objective mean_flow has no option 'alpha'; its options are"),
    (("train", "T", "--out", "X", "--set", "leaf_weight"), "is not of the form KEY=VALUE"),
    (
        ("train", "T", "--out", "X", "--set", "leaf_weight=big"),
        "objective mean_flow: leaf_weight is 'big'; it must be a number",
    ),
    (("train", "T", "--out", "X", "--preset", "paper", "--objective", "outcome"), "--preset paper fixes the objective"),
    (("train", "T", "--out", "X", "--preset", "mine"), "--preset is 'mine'; allowed are paper"),
    (("train", "T", "--out", "X", "--keep", "last"), "--keep is 'last'"),
    (("evaluate", "--trees", "/no/such/folder", "--out", "X"), "holds no collection"),
    (("evaluate", "--trees", "T", "--out", "X", "--aggregate", "max"), "--aggregate is 'max'; allowed are last, min"),
    (("evaluate", "--trees", "T", "--out", "X", "--inner-values", "/no/such"), "is no file of inner values; make one"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=[" ".join(a[:3]) for a, _ in MISTAKES])
def test_mistake_is_one_clear_sentence_and_status_2(
    arguments: tuple[str, ...],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in fail(monkeypatch, capsys, *arguments)
    assert not (tmp_path / "X").exists(), "a refused command leaves nothing behind"


def test_foreign_folder_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = fail(monkeypatch, capsys, "solve", "3 5 7 11 > 24", "--proposer", f"hf:{tmp_path}")
    assert str(tmp_path) in said
    assert "no config.json" in said


def test_weights_of_another_kind_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shipped_folder("countdown-proposer"), folder)
    (folder / "model.safetensors").write_bytes(b"\x00" * 64)
    assert "could not be loaded" in fail(monkeypatch, capsys, "solve", "3 5 7 11 > 24", "--proposer", f"hf:{folder}")


def test_verifier_of_another_base_model_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "verifier"
    shutil.copytree(shipped_folder("countdown-verifier"), folder)
    card = json.loads((folder / "verifier.json").read_text())
    (folder / "verifier.json").write_text(json.dumps(card | {"base_fingerprint": "0" * 16}))
    said = fail(monkeypatch, capsys, "solve", "3 5 7 11 > 24", "--verifier", str(folder), "--backbone", "countdown")
    assert "0000000000000000" in said
    assert "was trained on" in said


@pytest.mark.timeout(400)  # six processes, each of which imports torch
def test_collect_train_evaluate_from_the_shell(tmp_path: Path) -> None:
    train, pool, verifier, out = (str(tmp_path / name) for name in ("train", "pool", "verifier", "out"))
    drawn = run("collect", "--out", train, "--num-problems", "24", "--num-samples", "4")
    assert drawn.returncode == 0, drawn.stderr
    assert " N (the paper's budget is 1.5 N)" in drawn.stdout
    trained = run("train", train, "--out", verifier, "--epochs", "1", "--validation-share", "0.3")
    assert trained.returncode == 0, trained.stderr
    run("collect", "--out", pool, "--split", "test", "--pivots", "none", "--num-problems", "12", "--num-samples", "4")
    values = str(tmp_path / "values.jsonl")
    drawn = run("values", "--trees", pool, "--out", values, "--nodes-per-problem", "2", "--num-rollouts", "2")
    assert drawn.returncode == 0, drawn.stderr
    measured = ("--calibrate", train, "--inner-values", values)
    shown = run(
        "evaluate",
        "--trees",
        pool,
        "--verifier",
        "countdown",
        "--verifier",
        f"mine={verifier}",
        "--out",
        out,
        *measured,
    )
    assert shown.returncode == 0, shown.stderr
    assert set(json.loads((tmp_path / "out" / "calibration.json").read_text())) == {"arts", "mine"}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["num_problems"] == 12
    assert {"arts", "mine", "random", "majority", "oracle", "flow_vote"} <= set(results["selectors"])
    assert results["cost"]["verifier"]["computed_tokens"] == results["cost"]["verifier"]["distinct_tokens"] > 0
    assert len((tmp_path / "out" / "draws.jsonl").read_text().splitlines()) == 12
    report = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in report and 'href="view.html#?group=right%3Aarts"' in report
    assert "right:mine" in (tmp_path / "out" / "view.html").read_text()


def test_list_objectives_prints_one_name_a_line_with_its_paper() -> None:
    lines = run("train", "--list-objectives").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(OBJECTIVES)
    assert all("arXiv" in line or "Sutton" in line for line in lines)


def test_list_strategies_prints_what_each_needs_and_its_paper_without_torch() -> None:
    shown = run_without_torch(f"import sys\nsys.argv = ['arts', 'search', '--list-strategies']\n{MAIN}")
    assert shown.returncode == 0, shown.stderr
    lines = [re.split(r"\s{2,}", line, maxsplit=2) for line in shown.stdout.splitlines()]
    needs = {"none": "no verifier", "ends": "scores of ends", "all": "scores of steps"}
    assert lines == [[name, needs[strategy.scores], strategy.paper] for name, strategy in STRATEGIES.items()]


def test_search_without_a_strategy_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["arts", "search", "--out", "X"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "Missing option '--strategy'" in capsys.readouterr().err


SCORE = """
def letters(problem, steps):
    return 0.1 + 0.2 * "abc".index(steps[-1][0])
"""


def test_a_run_of_failures_only_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def score(problem, steps):\n    raise TypeError('my own mistake')\n")
    out = tmp_path / "out"
    words = ["arts", "search", "--out", str(out), *TOY, "--verifier", f"python:{tmp_path / 'score.py'}:score"]
    words += ["--num-problems", "4", "--strategy", "best-of-n:n=2"]
    ended = run_without_torch(f"import sys\nsys.argv = {words!r}\n{MAIN}")
    assert ended.returncode == 2
    assert "4 FAILED" in ended.stdout
    assert "every search failed" in ended.stderr
    counts = [int(count) for count in re.findall("note: (\\d) searches failed: .*my own mistake", ended.stderr)]
    assert len(counts) < sum(counts) == 4, "equal mistakes are one note, whatever their problem"
    assert len(read_rows(out)) == 4


def test_strategies_are_compared_from_the_shell_and_more_are_added_without_torch(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCORE)
    out = tmp_path / "out"
    scorer = ("--verifier", f"python:{tmp_path / 'score.py'}:letters")
    common = ("search", "--out", str(out), *TOY, *scorer, "--num-problems", "4", "--budget-tokens", "24")

    def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_without_torch(f"import sys\nsys.argv = {['arts', *common, *arguments]!r}\n{MAIN}")

    first = compare("--strategy", "majority", "--strategy", "beam:width=2,expand=2")
    assert first.returncode == 0, first.stderr
    table = [line.split() for line in first.stdout.splitlines()]
    assert [row[:2] for row in table[1:3]] == [["majority", "24"], ["beam:width=2,expand=2", "24"]]
    assert first.stdout.splitlines()[-1] == f"4 problems; tokens are means a problem; rows in {out}"
    assert "searching: 8/8" in first.stderr
    assert 'no report.html: charts need matplotlib; run: pip install "arts-llm[report]"' in first.stderr
    lines = (out / "searches.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 8
    assert max(json.loads(line)["bill"]["generated_tokens"] for line in lines) <= 24
    (out / "searches.jsonl").write_text("".join(lines)[: -len(lines[-1]) // 2])  # in the middle of the last line
    more = compare("--strategy", "majority", "--strategy", "beam:width=2,expand=2", "--strategy", "arts", "--seed", "0")
    assert more.returncode == 0, more.stderr
    again = (out / "searches.jsonl").read_text().splitlines(keepends=True)
    assert sorted(again[:8]) == sorted(lines)
    assert [json.loads(line)["spec"]["strategy"] for line in again[8:]] == ["arts"] * 4
    assert more.stdout.splitlines()[1:3] == first.stdout.splitlines()[1:3]
    other = compare("--strategy", "majority", "--split", "test")
    assert other.returncode == 2
    assert other.stderr.splitlines()[-1].startswith(f"arts: {out} holds searches with split 'validation' (now 'test')")


def test_module_and_script_are_the_same_program() -> None:
    assert "collect" in run("--help").stdout
    assert run("no-such-command").returncode == 2


def test_unfinished_collection_is_used_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the second of two shards the first can be evaluated, and a note says what is missing."""
    folder, out = tmp_path / "trees", tmp_path / "out"
    arguments = ["arts", "collect", "--task", "toy", "--proposer", "table", "--out", str(folder), "--block-size", "2"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--num-problems", "20", "--num-samples", "4"])
    with pytest.raises(SystemExit):
        main()
    assert len(list(folder.glob("trees-*.jsonl"))) == 2
    (folder / "trees-00001.jsonl").unlink()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["arts", "evaluate", "--trees", str(folder), "--out", str(out), "--no-report"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "holds 16 of 20 trees" in capsys.readouterr().err
    assert json.loads((out / "results.json").read_text())["num_problems"] == 16


def test_interrupted_command_says_that_it_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("arts.collect.collect", interrupt)
    monkeypatch.setattr(
        sys, "argv", ["arts", "collect", "--task", "toy", "--proposer", "table", "--out", str(tmp_path / "x")]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert "the same command goes on from here" in capsys.readouterr().err
