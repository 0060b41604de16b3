"""The search experiment: the docs' tables are the committed rows', curves are cut where they should be."""

import runpy
import subprocess
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from arts.collect import collect
from arts.evaluate.searches import SearchSpec, run_specs
from arts.files import dump
from arts.proposers.table import TableProposer
from arts.protocols import ScoreScale
from arts.score_function import FunctionScorer
from arts.search.whole_path import WholePathScorer
from arts.sparse_deep_fork import CollectSettings
from arts.tasks.toy import ToyTask
from arts.tree import Problem

ROOT = Path(__file__).resolve().parent.parent
TASK = ToyTask(3, 3)


@pytest.fixture(scope="module")
def curves() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "recipes" / "search_curves.py"))


def test_tables_of_the_docs_are_those_of_the_committed_rows(curves: dict[str, Any]) -> None:
    rows, pools = curves["read_results"]()
    places = 0
    for page in curves["PAGES"]:
        text = page.read_text(encoding="utf-8")
        places += len(curves["PLACE"].findall(text))
        assert curves["filled"](text, rows, pools) == text, "run `python recipes/search_curves.py`"
    assert places >= 4


def test_rows_and_pools_survive_being_kept(curves: dict[str, Any], tmp_path: Path) -> None:
    problems = list(islice(TASK.problems("validation", 0), 4))
    scorer = WholePathScorer(
        FunctionScorer(lambda problem, steps: 0.3 + 0.1 * len(steps), scale=ScoreScale(kind="log_value"))
    )
    made = []
    for keep_curves, specs in (
        (False, [SearchSpec("best-of-n", 20), SearchSpec("beam", 20, 1)]),
        (True, [SearchSpec("best-of-n:n=1", 30)]),
    ):
        made += run_specs(
            tmp_path / "test-4", specs, problems, TASK, TableProposer(), scorer, header={}, keep_curves=keep_curves
        )
    settings = CollectSettings(split="validation", num_problems=4, num_samples=8, pivots="none")
    pool = collect(TASK, TableProposer(), settings, tmp_path / "pool-test-4")
    results = tmp_path / "rows.jsonl"
    results.write_text("".join(dump(line) + "\n" for line in curves["kept"](tmp_path)), encoding="utf-8")
    rows, pools = curves["read_results"](results)
    assert [(row.spec, row.problem, row.correct, row.covered) for row in rows["test-4"]] == [
        (row.spec, row.problem, row.correct, row.covered) for row in made
    ]
    for row, other in zip(rows["test-4"], made, strict=True):
        assert row.bill.generated_tokens == other.bill.generated_tokens
        assert row.bill.verifier_tokens == other.bill.verifier_tokens
        assert [point[:3] for point in row.curve] == [point[:3] for point in other.curve]
    for tree in pool.trees():
        right = sum(bool((verdict := tree.nodes[leaf].verdict) and verdict.correct) for leaf in tree.trunks)
        assert pools["test-4"][tree.problem.id] == right / 8
    table = "\n".join(curves["table_lines"]("all", "test-4", rows, pools))
    assert "| 20 | `best-of-n` | 4 | 1 |" in table and "`beam`" in table and "n=1" not in table


def row(curves: dict[str, Any], problem: str, seed: int, spent: int, curve: list[list[int]]) -> Any:
    line = {
        "set": "x", "strategy": "arts", "budget": 100, "seed": seed, "correct": str(curve[-1][2]), "covered": "1",
        "proposer": str(spent), "verifier": "7", "curve": [curve],
    }  # fmt: skip
    return next(iter(curves["_rows"](line, [problem])))


def test_a_curve_is_right_at_every_budget(curves: dict[str, Any]) -> None:
    rows = [
        row(curves, "p", 0, 40, [[0, 0, 0], [40, 0, 1]]),
        row(curves, "p", 1, 100, [[0, 0, 0], [20, 0, 1], [60, 0, 0]]),
        row(curves, "q", 0, 100, [[0, 0, 0]]),
        row(curves, "q", 1, 10, [[0, 0, 0], [10, 0, 1]]),
    ]
    curve = curves["Curve"](rows)
    assert [curve.accuracy(budget) for budget in (5, 10, 20, 40, 60, 100)] == [0, 0.25, 0.5, 0.75, 0.5, 0.5]
    assert curve.spent(30) == (30 + 30 + 30 + 10) / 4 and curve.spent(100) == (40 + 100 + 100 + 10) / 4
    assert curve.budget_to_reach(0.25) == 10
    assert curve.budget_to_reach(0.5) == 20, "from there on it never falls below"
    assert curve.budget_to_reach(0.75) is None


@pytest.mark.parametrize(
    ("steps", "value"),
    [
        (("15-13=2|2 2 11;",), 0.9),
        (("15-13=2|2 2 11;", "11*2=22|2 22;"), 0.9),
        (("15-13=2|2 2 11;", "11*2=22|2 22;", "22+2=24|24"), 1.0),
        (("15-13=2|2 2 11;", "11*2=22|2 22;", "22-2=20|20"), 0.0),
        (("15-13=2|2 2 11;", "11+2=13|2 13;"), 0.0),
        (("15-13=2|11 2 2;",), 0.9),  # any order says the same
        (("15-13=3|2 3 11;",), 0.0),
        (("15-13=2|2 2 12;",), 0.0),
        (("nonsense;",), 0.0),
        (("15-13=2|2 2 11",), 0.0),
    ],
)
def test_the_solver_knows_what_can_be_reached(steps: tuple[str, ...], value: float) -> None:
    reach = runpy.run_path(str(ROOT / "recipes" / "solver_score.py"))["reach"]
    assert reach(Problem("x", "2 11 13 15 > 24"), steps) == value


def test_the_recipe_is_valid_bash() -> None:
    subprocess.run(["bash", "-n", str(ROOT / "recipes" / "search_curves.sh")], check=True)
