"""The packing benchmark: its counts are those of the trees, both sides have one loss, and it writes what it shows."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from arts.build import build_proposer, build_task
from arts.collect import collect
from arts.sparse_deep_fork import CollectSettings
from arts.tree import ReasoningTree

PROMPT = 20


@pytest.fixture(scope="module")
def packing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_packing", ROOT / "benchmarks" / "packing.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks for its module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = build_task("countdown")
    folder = tmp_path_factory.mktemp("packing") / "trees"
    collect(task, build_proposer("countdown", task), CollectSettings(num_problems=4, num_samples=4), folder)
    return folder


def tokens_of(trees: list[ReasoningTree], prompt: int) -> tuple[int, int]:
    """(distinct tokens, tokens of all draws), by walking every path."""
    distinct = sum(prompt + tree.num_distinct_tokens() for tree in trees)
    paths = sum(
        leaf.num_draws * (prompt + sum(len(step.token_ids) for step in tree.path(leaf.id)))
        for tree in trees
        for leaf in tree.leaves()
    )
    return distinct, paths


@pytest.mark.parametrize(("case", "prompt"), [("countdown:4", 7), (f"prompt:{PROMPT}:4", PROMPT)])
def test_counts_are_those_of_the_trees_and_the_losses_agree(
    packing: ModuleType, folder: Path, tmp_path: Path, case: str, prompt: int, capsys: pytest.CaptureFixture[str]
) -> None:
    trees = packing.countdown_trees(4, 4, folder)
    distinct, paths = tokens_of(trees, prompt)
    out = tmp_path / "rows.jsonl"
    packing.main(case=[case], trees=folder, batch_trees=2, num_batches=2, repetitions=1, rows_tokens=256, out=out)
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (row["case"], row["trees"], row["batch_trees"]) == (case, 4, 2)
    assert (row["distinct_tokens"], row["path_tokens"]) == (distinct, paths)
    assert (row["packed_tokens"], row["packed_padding"]) == (distinct, 0)  # seen by a hook on the model
    assert row["paths_tokens"] == paths
    assert 0 <= row["paths_padding"] < 0.5 * paths
    assert row["path_per_distinct"] == paths / distinct > 1
    assert row["packed_loss"] == pytest.approx(row["paths_loss"], rel=1e-5)
    assert row["train_ratio"] > 0 < row["infer_ratio"]
    assert f"{paths:,} / {distinct:,}" in capsys.readouterr().out
