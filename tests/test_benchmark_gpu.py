"""The GPU benchmark runs whole on a CPU at small size: every way to compute a step comes to the same loss."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # its neighbours are imported as they are for a script
    return importlib.import_module("gpu")


def test_operations_are_those_of_a_slow_count(gpu: ModuleType) -> None:
    """2 a weight and token forth, twice that back; 4 hidden a visible key forth, twice that back."""
    bench = gpu.Bench("tiny", "cpu", "full", gpu.TINY, 1)
    training = gpu.Training(bench)
    model = training.verifier.language_model.model
    weights = sum(parameter.numel() for name, parameter in model.named_parameters() if name.endswith("proj.weight"))
    hidden, layers = model.config.hidden_size, model.config.num_hidden_layers
    expected = 0
    for trees in training.forests:
        for tree in trees.packed:
            for query, position in enumerate(tree.positions):
                visible = sum(query < end for end in tree.subtree_end[: query + 1])
                assert visible == position + 1
                expected += 3 * (2 * weights + 4 * layers * hidden * visible)
    assert training.operations == pytest.approx(expected)
    assert training.distinct_tokens == sum(len(tree.token_ids) for trees in training.forests for tree in trees.packed)
    assert training.path_tokens > 1.3 * training.distinct_tokens


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_whole_and_all_ways_agree(gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(size=["tiny"], device="cpu", repetitions=1, out=tmp_path / "gpu.json")
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = {(row["part"], row["way"]): row for row in found["rows"]}
    assert not [row for row in rows.values() if "failed" in row]
    assert {part for part, _ in rows} == {"train", "search", "draw"}
    assert found["matrix_peak"]["tiny"] > 0
    training = [row for row in rows.values() if row["part"] == "train"]
    assert len(training) == 5
    for row in training:
        assert row["losses"] == pytest.approx(training[0]["losses"], rel=1e-5)
        assert 0 < row["peak_share"] < 1
    packed = rows["train", "packed"]
    bound = packed["path_tokens"] / packed["distinct_tokens"]
    assert packed["share_of_bound"] == pytest.approx(packed["faster_than_paths"] / bound)
    kept, whole = rows["search", "keys and values kept"], rows["search", "whole prefixes"]
    assert kept["distinct_tokens"] == whole["distinct_tokens"]
    assert kept["read_tokens"] < whole["read_tokens"]
    assert all(rows["draw", way]["drawn_tokens"] > 0 for way in ("transformers' cache", "our pool"))
    shown = capsys.readouterr().out
    assert "matrix peak tiny" in shown
    assert "packed, activations again" in shown
