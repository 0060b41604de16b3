"""The benchmarks of servers and of the store, tiny: their counts agree, and their numbers can be what they say."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT

from arts.net.client import Client
from arts.proposers.openai_reply import read_completion, steps_of
from arts.proposers.probe import probe


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def http_saturation() -> ModuleType:
    return benchmark("http_saturation")


@pytest.fixture(scope="module")
def store() -> ModuleType:
    return benchmark("store")


def rows_of(module: ModuleType, file: Path, **options: Any) -> list[dict[str, Any]]:
    module.main(**options, json_file=file)
    found = json.loads(file.read_text())
    assert {"arts", "python"} <= found["about"]["versions"].keys()
    rows: list[dict[str, Any]] = found["rows"]
    return rows


# --- http_saturation --------------------------------------------------------------------------------------------------


def test_share_of_capacity_lies_between_nothing_and_all(
    http_saturation: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"in_flight": [8], "seconds": 0.4, "latency_s": 0.05, "sync_ms": 3.0}
    rows = rows_of(http_saturation, tmp_path / "rows.json", **options)
    assert [row["client"] for row in rows] == ["arts", "aiohttp"]
    for row in rows:
        assert row["served"] == 8 * row["in_flight"]
        assert 0 < row["share"] < 1.001
        assert row["run_s"] >= row["wall_s"] > 8 * 0.0499
        assert 1 <= row["most_here"] <= row["in_flight"]
        assert 1 <= row["connections"] <= row["in_flight"]
        assert row["cpu_ms"] > 0 and row["server_cpu_ms"] > 0
    own = rows[0]
    assert own["synced"] == own["served"] >= own["syncs"] > 0
    assert own["trees"] * 16 == own["served"]
    assert 0.003 * own["syncs"] <= own["sync_s"] < own["run_s"]  # a slower disk was asked for
    shown = capsys.readouterr().out
    assert "its_hub is left out" in shown and "aiohttp" in shown


def test_a_client_that_asks_for_too_much_waits_for_a_place(http_saturation: ModuleType) -> None:
    with http_saturation.server(4, 0.02, 20) as (url, seen):
        http_saturation.run_aiohttp(url, http_saturation.Work(12, 3, 20, 1, 0.0))
    assert seen["served"] == 48 and 4 < seen["most_here"] <= 12
    assert seen["wall_s"] >= 48 / 4 * 0.02


def test_server_of_the_benchmark_answers_the_probe(http_saturation: ModuleType) -> None:
    with http_saturation.server(4, 0.001, 120) as (url, seen):
        client = Client(url)
        try:
            found = client.run(probe(client, None, "a prompt"))
        finally:
            client.close()
    assert found.model == http_saturation.MODEL
    assert found.log_probs and found.usage and found.extra_fields and not found.n
    assert seen["served"] > 5


def test_answers_of_the_benchmark_are_steps(http_saturation: ModuleType) -> None:
    answer = json.loads(http_saturation.answer_template(170))
    (choice,) = read_completion(answer, "chat", 170).choices
    steps = steps_of(choice, ";", whole=True)
    assert [step.num_tokens for step in steps] == [50, 50, 50, 20]
    assert all(http_saturation.SLOT in step.text for step in steps)


# --- store ------------------------------------------------------------------------------------------------------------


def test_appended_rollouts_are_counted(store: ModuleType, tmp_path: Path) -> None:
    rows = rows_of(store, tmp_path / "rows.json", part=["append"], batch=[1, 100], seconds=0.05)
    assert [row["batch"] for row in rows] == [1, 100]
    for row in rows:
        assert row["num_rollouts"] % row["batch"] == 0 and row["num_rollouts"] >= 3 * row["batch"]
        assert row["append_rate"] > 0 and row["cpu_us"] > 0 and row["bytes"] > 100
        assert row["of_bare"] == pytest.approx(row["append_rate"] / row["bare_rate"])
        assert row["of_sqlite"] == pytest.approx(row["append_rate"] / row["sqlite_rate"])


def test_forest_is_walked_whole_and_memory_stays(store: ModuleType, tmp_path: Path) -> None:
    """More shards, not more memory: 512 trees are one of them."""
    rows = rows_of(store, tmp_path / "rows.json", part=["forest"], num_rollouts=[2048, 8192], tree_rollouts=4)
    assert [(row["num_trees"], row["num_rollouts"]) for row in rows] == [(512, 2048), (2048, 8192)]
    for row in rows:
        assert row["walked"] == row["counted"] == row["num_trees"]
        assert row["draws"] == row["num_rollouts"]
        assert 2 * row["draws"] < row["nodes"] <= 4 * row["draws"]  # three or four steps, some of them drawn twice
        assert row["open_s"] >= 0 and 0 < row["json_s"] < row["walk_s"]
        assert row["status_us"] > 0
    small, large = rows
    if small["walk_mb"]:  # where the system tells it
        assert small["walk_mb"] >= small["start_mb"] > 1 and small["count_mb"] >= small["walk_mb"]
        assert large["walk_mb"] < 1.1 * small["walk_mb"]
    assert large["bytes"] > 3 * small["bytes"]
