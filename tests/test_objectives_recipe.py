"""The objectives experiment: its rows are whole, its choice is by validation, and the docs' tables are the rows'."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "recipes" / "objectives.py"))


@pytest.fixture
def rows(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results file of one's own."""
    path = tmp_path / "rows.jsonl"
    monkeypatch.setitem(recipe["table_lines"].__globals__, "RESULTS", path)
    return path


def row(recipe: dict[str, Any], text: str, seed: int, rate: float, accuracy: float, stage: str = "validation") -> str:
    spec = recipe["_spec"](text, 600, seed, rate, (10.0, 0.1), "trees-a")
    best_of = {str(k): accuracy for k in recipe["SIZES_K"]}
    metrics = {"best_of": best_of, "gap_closed": 0.0, "rare": 0.0, "per_problem": f"{accuracy} {accuracy}"}
    return json.dumps({"stage": stage, "spec": spec, "metrics": metrics}) + "\n"


@pytest.mark.parametrize("size", [600, 2400])
def test_tables_of_the_docs_are_those_of_the_committed_rows(recipe: dict[str, Any], size: int) -> None:
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    table = "\n".join(recipe["table_lines"](size, "validation"))
    assert table in page, f"run `python recipes/objectives.py table --stage validation --size {size}` and put it there"


def test_the_learning_rate_is_chosen_on_seeds_that_all_trials_have(recipe: dict[str, Any], rows: Path) -> None:
    lines = [row(recipe, "rfm", seed, 3e-4, accuracy) for seed, accuracy in ((0, 0.5), (1, 0.9))]
    lines.append(row(recipe, "rfm", 0, 6e-4, 0.6))  # better on seed 0, the only one to compare on
    lines.append(row(recipe, "rfm:leaf_weight=4", 0, 3e-4, 0.1))  # options are another objective, not a trial
    rows.write_text('{"stage": "pool:validation+", "pool": {}}\n' + "".join(lines))
    chosen = recipe["_chosen"](600, None)
    assert [(spec["learning_rate"], spec["seed"], spec["options"]) for spec in chosen] == [
        (6e-4, 0, {}),
        (3e-4, 0, {"leaf_weight": 4.0}),
    ]


def test_table_keeps_trials_apart_and_takes_means_over_seeds(recipe: dict[str, Any], rows: Path) -> None:
    rows.write_text("".join(row(recipe, "rfm", *trial) for trial in ((0, 3e-4, 0.4), (1, 3e-4, 0.6), (0, 6e-4, 0.9))))
    table = recipe["table_lines"](600, "validation")
    assert [line.split(" | ")[:2] for line in table[2:]] == [["| rfm, rate 0.0006", "1"], ["| rfm", "2"]]
    assert "| 0.500 | 0.500 | 0.500 | 0.500 [0.500, 0.500] |" in table[3]
