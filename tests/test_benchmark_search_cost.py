"""The benchmark of search costs: hooks see what bills say, each token of a tree once, and the counts of a formula."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT

from arts.search.tree import SearchTree


@pytest.fixture
def search_cost(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # its neighbours are imported as they are for a script
    return importlib.import_module("search_cost")


def rows_of(search_cost: ModuleType, out: Path, **options: Any) -> list[dict[str, Any]]:
    search_cost.main(**options, out=out)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_countdown_tokens_go_through_the_verifier_once(search_cost: ModuleType, tmp_path: Path) -> None:
    names = ["beam:width=2,expand=2", "mcts:expand=2", "arts:settled=1.01"]
    options: dict[str, Any] = {"part": ["countdown"], "strategy": names, "num_problems": 2, "budget_tokens": 60}
    rows = rows_of(search_cost, tmp_path / "rows.jsonl", **options)
    assert [row["strategy"] for row in rows] == names
    for row in rows:
        assert row["kept_verifier_tokens"] == row["kept_verifier_billed"] == row["kept_distinct_tokens"] > 0
        assert row["kept_verifier_ratio"] == 1.0
        assert row["whole_verifier_tokens"] == row["whole_verifier_billed"] > row["whole_distinct_tokens"]
        for side in ("kept", "whole"):
            assert row[f"{side}_proposer_tokens"] == row[f"{side}_proposer_counted"]
            assert row[f"{side}_drawn_tokens"] <= 2 * 60
        assert row["kept_proposer_tokens"] < row["whole_proposer_tokens"]


def test_long_paths_cost_what_the_formula_says(
    search_cost: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four new paths a level: a whole path of s steps is P + s T tokens, kept it is T; the problem itself is P."""
    options: dict[str, Any] = {"part": ["paths"], "num_steps": [3, 6], "step_tokens": 5, "repetitions": 1}
    rows = rows_of(search_cost, tmp_path / "rows.jsonl", **options)
    shown = capsys.readouterr().out
    for row, steps in zip(rows, (3, 6), strict=True):
        prompt, size = search_cost.PROMPT_TOKENS, 5
        whole = prompt + 4 * sum(prompt + size * step for step in range(1, steps + 1))
        kept = prompt + 4 * size * steps
        assert row["whole_verifier_tokens"] == row["whole_verifier_billed"] == whole
        assert row["kept_verifier_tokens"] == row["kept_verifier_billed"] == row["kept_distinct_tokens"] == kept
        assert row["token_ratio"] == whole / kept
        assert row["kept_scores"] == pytest.approx(row["whole_scores"], abs=1e-5)
        assert f"{whole:,} / {kept:,}" in shown


def test_overhead_fills_trees_up_to_their_size(search_cost: ModuleType, tmp_path: Path) -> None:
    names = ["best-of-n", "beam", "best-first"]
    options: dict[str, Any] = {"part": ["overhead"], "overhead_strategy": names, "num_nodes": [10, 100]}
    rows = rows_of(search_cost, tmp_path / "rows.jsonl", **options)
    assert [(row["strategy"], row["nodes"]) for row in rows] == [(name, size) for name in names for size in (10, 100)]
    assert {row["stopped"] for row in rows} == {"budget"}


@pytest.mark.parametrize("strategy", ["arts:settled=1.01,give_up=0", "arts:settled=1.01"])
def test_an_answer_is_looked_at_a_few_times_however_many_come_after_it(
    search_cost: ModuleType, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Though a strategy that ends is begun again until the budget is spent."""
    num_looks = 0
    look = SearchTree.path_log_score

    def counted(tree: SearchTree, node: int) -> float:
        nonlocal num_looks
        num_looks += 1
        return look(tree, node)

    monkeypatch.setattr(SearchTree, "path_log_score", counted)
    (row,) = search_cost.overhead(strategy, [8000])
    assert row["nodes"] == 8000
    assert 0 < num_looks < 5 * 3 * 8000 / 8, "of five runs; an answer has eight nodes"
