"""Many clients and a failing model server: no wrong answer reaches anybody, and memory stays flat."""

import runpy
from typing import Any

import pytest
from conftest import ROOT

BENCHMARK: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "serve_load.py"))
OURS = {"502", "503", "504"}
"""What faults of the model server may become; anything else that is no 200 is a mistake of ours."""


def check(load: Any, requests: int) -> None:
    assert sum(load.codes.values()) == requests
    assert load.wrong == []
    assert set(load.codes) <= {"200", *OURS}, load.codes
    assert load.codes["200"] >= 0.98 * requests


def test_no_wrong_answer_in_spite_of_faults() -> None:
    check(BENCHMARK["measure_faults"](clients=25, requests=150), 150)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_wrong_answer_and_no_leak_with_200_clients_and_5000_requests() -> None:
    load = BENCHMARK["measure_faults"](clients=200, requests=5000)
    check(load, 5000)
    # Caches fill at first (problems, connections); from then on memory is flat.
    half = len(load.memory_mb) // 2
    assert load.memory_mb[-1] < 1.1 * load.memory_mb[half], load.memory_mb


def test_all_runs_are_one_table() -> None:
    load, straight = (BENCHMARK["Load"](seconds=[seconds] * 3, wall_s=1.0) for seconds in (0.3, 0.1))
    load.codes["200"], load.memory_mb = 3, [80.0, 91.0, 92.0]
    rows = [BENCHMARK["row"]("straight", 2, straight), BENCHMARK["row"]("through arts serve", 2, load, straight)]
    head, _, first, second = BENCHMARK["table"](rows).splitlines()
    assert head.startswith("| run | clients | ") and first.startswith("| straight | 2 |")
    assert second == "| through arts serve | 2 | 200: 3 | 0 | 1.0 | 300 | 300 | 200 | 200 |  | 80 91 92 |"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"content": "nonsense"}, "is no answer of"),
        ({"verdict": None}, "the verdict on"),
        ({"confidence": 0.123}, "the chance of"),
    ],
)
def test_the_check_notices_wrong_answers(change: dict[str, Any], fault: str) -> None:
    tree = BENCHMARK["toy_tree"](BENCHMARK["TASK"].parse("toy 3x3 seed 1"))
    leaf = next(node for node, below in enumerate(tree.children) if not below)
    text = tree.text(leaf)
    correct = BENCHMARK["TASK"].judge(BENCHMARK["TASK"].parse("toy 3x3 seed 1"), text).correct
    answer = {
        "choices": [{"message": {"content": change.get("content", text)}}],
        "arts": {
            "verdict": {"correct": not correct if "verdict" in change else correct},
            "confidence": change.get("confidence", float(tree.success_probabilities[leaf])),
        },
    }
    assert fault in BENCHMARK["check"]("toy 3x3 seed 1", answer)
    good = {"choices": [{"message": {"content": text}}], "arts": {"verdict": {"correct": correct},
            "confidence": float(tree.success_probabilities[leaf])}}  # fmt: skip
    assert BENCHMARK["check"]("toy 3x3 seed 1", good) is None
