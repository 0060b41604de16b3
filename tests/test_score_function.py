"""A Python function as a verifier: what it is given, how its numbers are read, and what is said of its mistakes."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_imports import run_without_torch

from arts.build import build_scorer, build_task, needs_torch
from arts.collect import collect
from arts.evaluate.run import evaluate_trees
from arts.functions import load_function
from arts.proposers.table import TableProposer
from arts.protocols import ScoreScale
from arts.score_function import LOWEST_VALUE, FunctionScorer
from arts.sparse_deep_fork import CollectSettings
from arts.tree import Problem, ReasoningTree, Rollout, Step, StopReason, build_tree

STRENGTH = ScoreScale(kind="log_strength")


def step(text: str, stop: StopReason = StopReason.STOP) -> Step:
    return Step(text, (), None, stop)


TREE = build_tree(
    Problem("p", "1+1"),
    [
        Rollout(0, 0, 0, (step("a"), step("bb"), step("ccc", StopReason.EOS))),
        Rollout(1, 1, 0, (step("a"), step("dddd", StopReason.LENGTH))),
        Rollout(2, 2, 0, (step("a"), step("", StopReason.ERROR))),
        Rollout(3, 3, 0, (step("", StopReason.ERROR),)),
    ],
)


def by_text(tree: ReasoningTree, function: Any, scale: ScoreScale = STRENGTH) -> dict[str, float | None]:
    (scored,) = FunctionScorer(function, scale=scale).score([tree]).trees
    return {"/".join(node.text for node in scored.path(node.id)): node.log_flow for node in scored.nodes}


# --- what it is given and gives ---------------------------------------------------------------------------------------


def test_one_number_is_the_score_of_the_steps_so_far() -> None:
    calls: list[tuple[str, ...]] = []

    def length(problem: Problem, steps: Sequence[str]) -> float:
        assert problem.prompt == "1+1"
        calls.append(tuple(steps))
        return float(sum(map(len, steps)))

    expected = {"": 0.0, "a": 1.0, "a/bb": 3.0, "a/bb/ccc": 6.0, "a/dddd": 5.0, "a/": 1.0}
    assert by_text(TREE, length) == expected
    assert len(calls) == len(set(calls)) == 4  # every step once, and no failed draw


@pytest.mark.parametrize("make", [list, tuple, np.array])
def test_one_number_a_step_takes_one_call_a_leaf(make: Callable[[list[float]], Any]) -> None:
    calls: list[tuple[str, ...]] = []

    def lengths(problem: Problem, steps: Sequence[str]) -> Any:
        calls.append(tuple(steps))
        return make([float(len(step)) for step in steps])

    assert by_text(TREE, lengths) == {"": 0.0, "a": 1.0, "a/bb": 2.0, "a/bb/ccc": 3.0, "a/dddd": 4.0, "a/": 1.0}
    assert sorted(calls) == [("a", "bb", "ccc"), ("a", "dddd")]


def test_failed_draws_have_the_score_of_their_parent_and_cost_no_call() -> None:
    scored = FunctionScorer(lambda problem, steps: 0.5).score([TREE]).trees[0]
    failed = [node for node in scored.nodes if node.stop is StopReason.ERROR]
    assert [node.log_flow for node in failed] == [scored.nodes[node.parent].log_flow for node in failed]
    assert len(failed) == 2


@pytest.mark.parametrize(
    ("kind", "value", "log_score"),
    [
        ("log_value", 0.25, math.log(0.25)),
        ("log_value", 1, 0.0),
        ("log_value", True, 0.0),
        ("log_value", np.float32(0.5), math.log(0.5)),
        ("log_value", np.array(0.5), math.log(0.5)),
        ("log_value", 0.0, math.log(LOWEST_VALUE)),
        ("log_strength", -3.5, -3.5),
        ("log_flow", 10.0, math.log(10.0)),
        ("log_flow", 1e-300, math.log(1e-300)),
    ],
)
def test_numbers_are_read_by_their_scale(kind: Any, value: Any, log_score: float) -> None:
    assert by_text(TREE, lambda problem, steps: value, ScoreScale(kind=kind))["a"] == pytest.approx(log_score)


def test_no_chance_ranks_below_a_chance_of_zero() -> None:
    scorer = FunctionScorer(lambda problem, steps: 0.0 if len(steps) == 1 else 1e-300)
    first, second = scorer.score([TREE]).trees[0].nodes[1:3]
    assert first.log_flow < second.log_flow  # type: ignore[operator]


def test_scale_and_bill_are_those_of_a_scorer() -> None:
    scale = ScoreScale(kind="log_value", aggregation="min")
    scored = FunctionScorer(lambda problem, steps: 1.0, scale=scale).score([TREE, TREE])
    assert scored[1:] == (0, 0, scale) and len(scored.trees) == 2
    assert FunctionScorer(len).scale == ScoreScale(kind="log_value")


def test_a_function_that_knows_the_answer_is_right_whenever_a_draw_is(tmp_path: Path) -> None:
    task = build_task("toy")
    settings = CollectSettings(num_problems=20, num_samples=6, pivots="none", split="test")
    pool = list(collect(task, TableProposer(), settings, tmp_path / "pool").trees())
    oracle = FunctionScorer(lambda problem, steps: float(task.judge(problem, "".join(steps)).correct))
    at_n = evaluate_trees(pool, {"oracle_function": oracle.score(pool)}).to_json()["selectors"]
    assert at_n["oracle_function"] == at_n["oracle"]


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("log_value", 1.5, r"'p': .* returned 1\.5 for step \d, '\w+'; with kind 'log_value' each score is a chance"),
        ("log_value", -0.1, r"returned -0\.1 for step"),
        ("log_value", math.nan, "returned nan for step"),
        ("log_value", None, "returned None for step"),
        ("log_value", "0.5", "returned '0.5' for step"),
        ("log_strength", math.inf, "each score is a finite number"),
        ("log_flow", 0.0, r"returned 0\.0 .* each score is a finite number above 0"),
        ("log_strength", [], "returned 0 numbers for step"),
        ("log_strength", [1.0] * 7, "returned 7 numbers for step .* return one number for all the steps together, or"),
    ],
)
def test_what_a_function_must_not_return_is_said_with_problem_step_and_value(
    kind: Any, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FunctionScorer(lambda problem, steps: value, scale=ScoreScale(kind=kind)).score([TREE])


def test_a_wrong_number_in_a_series_is_said_with_its_own_step() -> None:
    with pytest.raises(ValueError, match=r"returned nan for step 2, 'bb'"):
        by_text(
            TREE, lambda problem, steps: [1.0, math.nan, 1.0][: len(steps)] if "bb" in steps else [1.0] * len(steps)
        )


def test_a_failure_inside_the_function_is_said_and_kept() -> None:
    def fails(problem: Problem, steps: Sequence[str]) -> float:
        return 1 / (len(steps) - 2)

    with pytest.raises(ValueError, match=r"'p': .* failed on step 2, 'dddd' with ZeroDivisionError: ") as caught:
        FunctionScorer(fails, scale=STRENGTH).score([TREE])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_function_that_leaves_is_a_failure_too() -> None:
    with pytest.raises(ValueError, match=r"failed on step 2, 'dddd' with SystemExit: 3"):
        FunctionScorer(lambda problem, steps: sys.exit(3)).score([TREE])


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'value'; a function's numbers can be 'log_value', "):
        FunctionScorer(len, scale=ScoreScale(kind="value"))  # type: ignore[arg-type]


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def scores_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_scores.py"
    path.write_text("WEIGHT = 3\ndef short(problem, steps):\n    return 1 / (1 + sum(map(len, steps)))\n")
    return path


def test_a_function_is_found_in_a_module_and_in_a_file(scores_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_function("math:log2") is math.log2
    assert load_function(f"{scores_file}:short")(Problem("p", ""), ("abc",)) == 0.25
    monkeypatch.syspath_prepend(scores_file.parent)
    assert load_function("my_scores:short")(Problem("p", ""), ("abc",)) == 0.25
    sys.modules.pop("my_scores")


def test_build_scorer_takes_the_scale_with_the_name(scores_file: Path) -> None:
    scored = build_scorer(f"python:{scores_file}:short").score([TREE])
    assert scored.trees[0].nodes[1].log_flow == pytest.approx(math.log(0.5)) and scored.scale.kind == "log_value"
    strength = build_scorer(f"python:{scores_file}:short?kind=log_strength&aggregation=min").score([TREE])
    assert strength.trees[0].nodes[1].log_flow == 0.5
    assert strength.scale == ScoreScale(kind="log_strength", aggregation="min")
    with pytest.raises(ValueError, match="has no option 'tag'; its options are kind, reward_right"):
        build_scorer(f"python:{scores_file}:short?tag=x")


def test_functions_need_no_torch(scores_file: Path) -> None:
    assert not needs_torch(f"python:{scores_file}:short") and needs_torch("countdown") and needs_torch("rm:x")
    code = f"from arts.build import build_scorer\nprint(build_scorer('python:{scores_file}:short').score([]))"
    result = run_without_torch(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "'short' names no function; write 'package.module:function'"),
        (":short", "names no function"),
        (
            "no.such.module:f",
            r"'no.such.module' could not be imported .*No module named 'no'.*named as FILE\.py:function",
        ),
        ("nowhere.py:f", "there is no file 'nowhere.py'"),
        ("{file}:long", "has no function 'long'; it has short"),
        ("{file}:WEIGHT", "has 3 for 'WEIGHT'; it has short"),
        ("{broken}:f", r"broken\.py' could not be imported \(NameError: name 'nothing' is not defined\)$"),
    ],
)
def test_names_that_lead_nowhere_are_refused(scores_file: Path, name: str, message: str) -> None:
    broken = scores_file.with_name("broken.py")
    broken.write_text("nothing\n")
    with pytest.raises(ValueError, match=message):
        load_function(name.format(file=scores_file, broken=broken))
