"""The objectives experiment: its rows are whole, its choice is by validation, and the docs' tables are the rows'."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arts.collect import collect
from arts.proposers.table import TableProposer
from arts.sparse_deep_fork import CollectSettings
from arts.store import load_trees
from arts.tasks.toy import ToyTask

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "recipes" / "objectives.py"))


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "recipes" / "objectives_table.py"))


@pytest.fixture
def rows(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results file of one's own."""
    path = tmp_path / "rows.jsonl"
    monkeypatch.setitem(recipe["_rows"].__globals__, "RESULTS", path)
    return path


def row(recipe: dict[str, Any], text: str, seed: int, rate: float, accuracy: float, stage: str = "validation") -> str:
    spec = recipe["_spec"](text, 600, seed, rate, (10.0, 0.1), "trees-a")
    best_of = {str(k): accuracy for k in recipe["SIZES_K"]}
    metrics = {"best_of": best_of, "gap_closed": 0.0, "rare": 0.0, "per_problem": f"{accuracy} {accuracy}"}
    return json.dumps({"stage": stage, "spec": spec, "metrics": metrics}) + "\n"


def test_tables_of_the_docs_are_those_of_the_committed_rows(tables: dict[str, Any]) -> None:
    page = tables["PAGE"].read_text(encoding="utf-8")
    assert len(tables["PLACE"].findall(page)) >= 2
    assert tables["filled"](page, tables["read_rows"]()) == page, "run `python recipes/objectives_table.py`"


def test_the_learning_rate_is_chosen_on_seeds_that_all_trials_have(recipe: dict[str, Any], rows: Path) -> None:
    lines = [row(recipe, "rfm", seed, 3e-4, accuracy) for seed, accuracy in ((0, 0.5), (1, 0.9))]
    lines.append(row(recipe, "rfm", 0, 6e-4, 0.6))  # better on seed 0, the only one to compare on
    lines.append(row(recipe, "rfm:leaf_weight=4", 0, 3e-4, 0.1))  # options are another objective, not a trial
    rows.write_text('{"stage": "pool:validation+", "pool": {}}\n' + "".join(lines))
    chosen = recipe["_chosen"]([600], None)
    assert [(spec["learning_rate"], spec["seed"], spec["options"]) for spec in chosen] == [
        (6e-4, 0, {}),
        (3e-4, 0, {"leaf_weight": 4.0}),
    ]


def test_table_keeps_trials_apart_and_takes_means_over_seeds(recipe: dict[str, Any], tables: dict[str, Any]) -> None:
    trials = ((0, 3e-4, 0.4), (1, 3e-4, 0.6), (0, 6e-4, 0.9))
    lines = tables["table_lines"]("600", "validation", [json.loads(row(recipe, "rfm", *trial)) for trial in trials])
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| rfm, rate 0.0006", "1: 0.900 to 0.900"],
        ["| rfm", "2: 0.400 to 0.600"],
    ]
    assert "| 0.500 | 0.500 | 0.500 | 0.500 [0.500, 0.500] |" in lines[3]
    assert "+40.0 [+40.0, +40.0]" in lines[2]  # points above the rows named rfm


@pytest.mark.parametrize(
    ("setting", "sections"),
    [
        ({}, {"2400", "cells"}),
        ({"options": {"leaf_weight": 4.0}}, {"2400"}),
        ({"options": {"inner_weight": 0.0}}, {"cells"}),
        ({"rewards": [2.0, 0.5]}, {"cells"}),
        ({"objective": "outcome"}, {"2400", "allocation"}),
        ({"objective": "outcome", "size": 7008, "chains": 4}, {"allocation"}),
        ({"objective": "outcome", "size": 1200, "trees": "trees-16"}, {"allocation"}),
        ({"objective": "outcome", "size": 8000}, {"8000"}),
    ],
)
def test_every_setting_has_its_tables(tables: dict[str, Any], setting: dict[str, Any], sections: set[str]) -> None:
    plain = {"objective": "rfm", "options": {}, "size": 2400, "seed": 0, "learning_rate": 3e-4}
    spec = plain | {"rewards": [10.0, 0.1], "trees": "trees-a", "epochs": 2} | setting
    names = ("600", "2400", "8000", "cells", "allocation")
    assert {name for name in names if tables["_belongs"](name, spec)} == sections


def test_chains_of_a_tree_are_what_would_have_been_drawn_without_forks(recipe: dict[str, Any], tmp_path: Path) -> None:
    forked = CollectSettings(num_problems=5, num_samples=8, pivots="node", fork_probability=1.0)
    plain = replace(forked, num_samples=3, pivots="none")
    folders = {name: tmp_path / name for name in ("forked", "plain")}
    collect(ToyTask(3, 3), TableProposer(), forked, folders["forked"])
    collect(ToyTask(3, 3), TableProposer(), plain, folders["plain"])
    for tree, expected in zip(load_trees(folders["forked"]), load_trees(folders["plain"]), strict=True):
        chains = recipe["_chains"](tree, 3)
        assert len(chains.nodes) < len(tree.nodes)
        assert (chains.nodes, chains.trunks) == (expected.nodes, expected.trunks)
