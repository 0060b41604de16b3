"""recipes/math500_qwen.sh runs from its first line to its last, with tiny random models in place of the large ones."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_models import save_qwen25

RECIPE = ROOT / "recipes" / "math500_qwen.sh"


def write_problems(path: Path, count: int, first: int) -> None:
    rng = random.Random(first)
    rows = [
        {
            "problem": f"Problem {number}: find $\\frac{{{rng.randint(1, 9)}}}{{2}}$.",
            "answer": rf"\frac{{{number}}}{{2}}",
            "subject": rng.choice(["Algebra", "Geometry"]),
            "level": rng.randint(1, 5),
        }
        for number in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_line_of_the_recipe_works_on_tiny_models(tmp_path: Path) -> None:
    write_problems(tmp_path / "train.jsonl", 24, 0)
    write_problems(tmp_path / "test.jsonl", 6, 100)
    # Random models are never right; rankings need some solutions that are.
    (tmp_path / "even.py").write_text("def is_even(problem, gold, solution):\n    return len(solution) % 2 == 0\n")
    check = f"python:{tmp_path / 'even.py'}:is_even"
    environment = os.environ | {
        "ARTS": f"{sys.executable} -m arts",
        "PYTHONPATH": str(ROOT),
        "OUT": str(tmp_path / "out"),
        "DEVICE": "cpu",
        "PRECISION": "fp32",
        "GENERATOR": f"hf:{save_qwen25(tmp_path / 'generator')}",
        "TUNED_GENERATOR": f"hf:{save_qwen25(tmp_path / 'tuned', seed=1)}",
        "BACKBONE": f"hf:{save_qwen25(tmp_path / 'backbone', seed=2)}",
        "TRAIN_TASK": f"{tmp_path / 'train.jsonl'}?check={check}&split=train",
        "TEST_TASK": f"{tmp_path / 'test.jsonl'}?check={check}&split=test",
        "NUM_PROBLEMS": "24",
        "NUM_TEST": "6",
        "NUM_SAMPLES": "4",
        "MAX_NEW_TOKENS": "24",
        "BUDGET_TOKENS": "60",
    }
    for _ in range(2):  # the second time everything is there already
        run = subprocess.run(["bash", str(RECIPE)], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "evaluation" / "results.json").read_text())
    assert results["verifiers"] == ["rfm", "pointwise_prm", "pairwise_rm", "outcome", "mean_flow"]
    assert results["scales"]["pointwise_prm"]["aggregation"] == results["scales"]["pairwise_rm"]["aggregation"] == "min"
    assert results["num_problems"] == 6
    assert "extinction zone" in results["subsets"]
    assert "6 problems" in run.stdout  # of the search, at the end


def test_a_leak_stops_the_recipe_before_anything_is_paid(tmp_path: Path) -> None:
    write_problems(tmp_path / "train.jsonl", 5, 0)
    environment = os.environ | {
        "ARTS": f"{sys.executable} -m arts",
        "PYTHONPATH": str(ROOT),
        "OUT": str(tmp_path / "out"),
        "TRAIN_TASK": f"{tmp_path / 'train.jsonl'}?check=math&split=train",
        "TEST_TASK": f"{tmp_path / 'train.jsonl'}?check=math&split=test",
    }
    run = subprocess.run(["bash", str(RECIPE)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode != 0
    assert "5 of 5 problems" in run.stdout
    assert not (tmp_path / "out").exists()
