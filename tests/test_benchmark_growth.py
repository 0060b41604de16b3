"""The benchmark of growth, tiny: rows of real commands, slopes without their start, plans with exact figures."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # its neighbours are imported as they are for a script
    return importlib.import_module("growth")


@pytest.fixture
def plans(growth: ModuleType) -> ModuleType:
    return importlib.import_module("plan")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "recipes")
    return importlib.import_module("growth_table")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_command_becomes_a_row_once(growth: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    options: dict[str, Any] = {"part": ["stages"], "world": ["table"], "size": [5], "work": tmp_path / "work"}
    growth.main(**options, stage=["collect"], out=out)
    (row,) = rows_of(out)
    assert {name: row[name] for name in ("part", "world", "stage", "size", "problems")} == {
        "part": "stage",
        "world": "table",
        "stage": "collect",
        "size": 5,
        "problems": 5,
    }
    assert row["rollouts"] >= 5 * 4
    assert row["generated_tokens"] >= row["distinct_tokens"] >= row["nodes"] >= 5
    assert 10 < row["peak_mb"] < 2_000
    assert row["cpu_s"] > 0
    files = [path for path in (tmp_path / "work" / "table-5" / "trees").rglob("*") if path.is_file()]
    assert row["disk_bytes"] == sum(path.stat().st_size for path in files)
    growth.main(**options, stage=["collect", "status"], out=out)
    assert [one["stage"] for one in rows_of(out)] == ["collect", "status"]


def test_a_command_that_fails_ends_the_benchmark_with_what_it_said(growth: ModuleType, tmp_path: Path) -> None:
    stages = importlib.import_module("growth_stages")
    with pytest.raises(RuntimeError, match=r"ended with 3; it said: too bad"):
        stages.run([sys.executable, "-c", "print('too bad'); raise SystemExit(3)"], tmp_path / "log")


def test_a_command_whose_trees_are_gone_gets_new_ones(growth: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "rows"
    growth.main(part=["stages"], world=["table"], stage=["status"], size=[5], work=tmp_path, out=out)
    assert [row["stage"] for row in rows_of(out)] == ["status"]
    assert (tmp_path / "table-5" / "trees").is_dir()


def test_operations_have_a_row_for_every_shape(growth: ModuleType, tmp_path: Path) -> None:
    out, operations = tmp_path / "rows.jsonl", ["build", "pack", "targets pairwise_rm"]
    growth.main(part=["trees"], nodes=[60], operation=operations, out=out)
    rows = rows_of(out)
    assert {(row["shape"], row["operation"]) for row in rows} == {(s, o) for s in ("wide", "deep") for o in operations}
    assert all(row["us_per_node"] > 0 and row["bytes_per_node"] > 0 and row["nodes"] < 120 for row in rows)


def test_every_operation_runs_on_a_small_tree(growth: ModuleType) -> None:
    trees = importlib.import_module("growth_trees")
    for shape in trees.SHAPES:
        one = trees.grown(shape, 40)
        for operation in trees.OPERATIONS.values():
            operation(one)


@pytest.mark.parametrize("shape", ["wide", "deep"])
def test_grown_trees_have_about_the_nodes_that_were_asked_for(growth: ModuleType, shape: str) -> None:
    trees = importlib.import_module("growth_trees")
    for size in (100, 1_000, 3_000):
        one = trees.grown(shape, size)
        assert 0.9 * size < len(one.tree.nodes) <= 1.1 * size
        assert {node.verdict.correct for node in one.tree.nodes if node.verdict} == {True, False}
        assert json.loads(one.text)["trunks"] == list(one.tree.trunks)


# --- slopes -----------------------------------------------------------------------------------------------------------


def test_a_slope_leaves_out_what_starting_costs(tables: ModuleType) -> None:
    """5 s to start, 2 ms and 300 bytes a problem; the last thousand at twice that price."""
    at = {10: 5.02, 110: 5.22, 1_110: 9.22}
    rows = [
        {"size": size, "cpu_s": cpu_s, "peak_mb": 100 + 300 * size / 1024**2} for size, cpu_s in reversed(at.items())
    ]
    first, second = tables.slopes(rows)
    assert (first.size, second.size) == (110, 1_110)
    assert (first.ms, second.ms) == pytest.approx((2.0, 4.0))
    assert (first.memory, second.memory) == pytest.approx((300, 300))
    page = "before\n<!-- growth: stages table -->\nold\n<!-- end of table -->\nafter"
    whole = [{"part": "stage", "world": "table", "stage": "collect", "disk_bytes": 2_220_000, **row} for row in rows]
    filled = tables.filled(page, whole)
    assert "| collect | 5.0, 100 | 5.2, 100 | 9.2, 100 | 4.00 | 2.00 | 300 B | 2.0 kB |" in filled
    assert "old" not in filled
    assert tables.filled(filled, whole) == filled


def test_the_page_is_made_from_the_committed_rows(tables: ModuleType) -> None:
    text = tables.PAGE.read_text(encoding="utf-8")
    assert len(tables.PLACE.findall(text)) >= 6
    assert tables.filled(text, tables.read_rows(tables.RESULTS)) == text, "run `python recipes/growth_table.py`"


# --- plans ------------------------------------------------------------------------------------------------------------


def test_the_papers_problem_in_tokens(plans: ModuleType) -> None:
    """16 trunks of 400 tokens; 56 forks, 8 from each inner step but the last, draw 350, 300, ... 50: 200 on average."""
    work = plans.Work()
    assert (work.forks, work.problem_tokens) == (56, 16 * 400 + 8 * sum(range(50, 400, 50)))
    assert work.generated_tokens == 211_200_000
    assert work.distinct_tokens == 12_000 * (17_600 + 150)
    assert work.sent_tokens == 12_000 * (150 + 56 * (150 + 200))
    _, tree = plans.made_up_problem(work)
    assert tree.num_distinct_tokens() == work.problem_tokens
    assert (len(tree.trunks), len(tree.leaves())) == (16, 72)


def test_the_lines_of_a_plan(plans: ModuleType) -> None:
    work = plans.Work(problems=1_000, trunks=4, rollouts=4, steps=4, tokens=100, prompt_tokens=50, test_problems=10)
    cluster = plans.Cluster(
        gpus=2, tokens_per_second=1_000, verifier_weights=1e9, peak_tflops=1_000, share=0.5, price=3.0
    )
    measured = plans.Measured(write_us=0.5, read_us=0.25, prepare_us=0.25, packed_bytes=6, loaded_bytes=40)
    lines = {line.what: line for line in plans.plan(work, cluster, measured)}
    assert lines["rollouts"].figure == "4,000"
    assert lines["tokens drawn"].figure == "400,000"
    assert lines["prompt tokens sent"].figure == "50,000"
    # 400,000 tokens / 1,000 a second = 400 s of one GPU, 200 s of two.
    assert lines["drawing"].figure == "0.111 GPU hours, 3 min 20 s on 2"
    # 0.2 s of a core in those 200 s; full at 2 M tokens a second, 1 M for each of the two.
    assert lines["driver of the collection"].figure == "5.56e-05 core hours, 0% of a core"
    assert lines["driver of the collection"].how.endswith("one core is full at 2 M tokens/s, 1 M a GPU")
    assert lines["verifier's tokens"].figure == "900,000"
    assert lines["start of a trainer's process"].figure == "0 s, 2.7 MB"
    # 900,000 tokens x 6 x 1e9 operations at 5e14 a second.
    assert lines["training"].figure == "0.003 GPU hours, 5 s on 2"
    assert lines["memory of `arts evaluate`"].figure == "640 kB"
    rollouts, tree = plans.made_up_problem(work)
    assert lines["disk, trees"].how == f"{plans.stored_bytes(tree) / 400:.1f} bytes a token"
    assert lines["network, workers to driver"].how == f"{plans.sent_bytes(rollouts, tree) / 400:.1f} bytes a token"
    assert {line.origin for line in lines.values()} == {"counted", "measured", "assumed"}


def test_money_is_gpu_hours_times_price(plans: ModuleType) -> None:
    work, measured = plans.Work(problems=10), plans.Measured(1, 1, 1, 1, 1)
    cluster = plans.Cluster(tokens_per_second=1.0, price=2.0)
    (line,) = (line for line in plans.plan(work, cluster, measured) if line.what == "money")
    drawn = (176_000 + 500 * 16 * 400) / 3600
    verifier = (6 * 2 * 177_500 + 2 * (3_200_000 + 75_000)) * 1.54e9 / (0.35 * 989e12) / 3600
    assert line.figure == f"{2 * (drawn + verifier):,.0f}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problems": 0}, "problems is 0; it must be at least 1"),
        ({"rollouts": 8}, "8 rollouts hold no 16 trunks"),
        ({"steps": 1}, "no inner step to fork from"),
        ({"tokens": 4}, "4 tokens make no 8 steps"),
    ],
)
def test_work_that_cannot_be_is_refused(plans: ModuleType, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plans.Work(**options)


def test_a_cluster_without_gpus_is_refused(plans: ModuleType) -> None:
    with pytest.raises(ValueError, match="gpus is 0; it must be above 0"):
        plans.Cluster(gpus=0)


def test_a_plan_needs_measured_figures(plans: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"growth\.py --part problem"):
        plans.read_measured(tmp_path / "none.jsonl")
