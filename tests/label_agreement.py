"""Our checkers beside the labels of real rollouts: where they differ, a solution at a time.

    python tests/label_agreement.py DATA > tests/cases/label_disagreements.tsv

DATA is the folder of real problems and rollouts. A label counts as right from a score of 0.99.
"""

import csv
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from arts.tasks.gym_checks import judge_game24, judge_gym
from arts.tasks.math_answer import judge_math
from arts.tree import Verdict

AMC = ("amc23_llama3b_rl_step400_n50", "amc23_llama3b_rl_step800_n50")
GYM = ("rg_easy_math_7models_n19", "rg_algebra_qwen2.5-3b_base_vs_rl_x3", "rg_geometry_qwen2.5-3b_base_vs_rl_x3")
GAME24 = "game24_gpt4_cot100"
COLUMNS = ("file", "task", "problem", "gold", "answer", "score", "ours", "solutions")


class Judged(NamedTuple):
    file: str
    task: str
    problem: str
    gold: str
    score: float
    verdict: Verdict

    @property
    def agrees(self) -> bool:
        return self.verdict.correct == (self.score >= 0.99)


def _rows(folder: Path, name: str) -> Any:
    with gzip.open(folder / "rollouts" / name, "rt", encoding="utf-8") as file:
        return json.load(file) if name.endswith(".json.gz") else [json.loads(line) for line in file]


def judge_amc(folder: Path, name: str) -> Iterator[Judged]:
    problems = _rows(folder, f"{name}.json.gz")["categories"][0]["datasets"][0]["results"]
    for number, problem in enumerate(problems):
        for sample in problem["completions"]:
            verdict = judge_math(problem["expected_answer"], sample["full_model_response"])
            yield Judged(name, "amc23", str(number), problem["expected_answer"], sample["score"], verdict)


def judge_gym_file(folder: Path, name: str) -> Iterator[Judged]:
    """Of the easy file, whose scores hold partial credit, right is what gets 0.99 of it."""
    for row in _rows(folder, f"{name}.jsonl.gz"):
        for sample in row["samples"]:
            verdict = judge_gym(row["task"], row["problem"], row["answer"], sample["text"], credit="easy" in name)
            task = row["task"].rpartition("/")[2]
            yield Judged(name, task, row["problem_id"], row["answer"], sample["score"] or 0.0, verdict)


def judge_game24_file(folder: Path) -> Iterator[Judged]:
    with (folder / "rollouts" / "game24_puzzles.csv").open(encoding="utf-8") as file:
        puzzles = [row["Puzzles"] for row in csv.DictReader(file)]
    for row in _rows(folder, f"{GAME24}.json.gz"):
        for text, info in zip(row["ys"], row["infos"], strict=True):
            puzzle = puzzles[row["idx"]]
            yield Judged(GAME24, "game24", str(row["idx"]), puzzle, info["r"], judge_game24(puzzle, text))


def judge_all(folder: Path) -> Iterator[Judged]:
    for name in AMC:
        yield from judge_amc(folder, name)
    for name in GYM:
        yield from judge_gym_file(folder, name)
    yield from judge_game24_file(folder)


def _shown(verdict: Verdict) -> str:
    return "right" if verdict.correct else "wrong"


def disagreements(judged: Iterator[Judged]) -> list[tuple[str, ...]]:
    """Rows of the table, equal ones counted."""
    rows = Counter(
        (one.file, one.task, one.problem, one.gold, str(one.verdict.answer), f"{one.score:.4f}", _shown(one.verdict))
        for one in judged
        if not one.agrees
    )
    return [(*(" ".join(cell.split()) for cell in row), str(count)) for row, count in sorted(rows.items())]


if __name__ == "__main__":
    print(*COLUMNS, sep="\t")
    for line in disagreements(judge_all(Path(sys.argv[1]))):
        print(*line, sep="\t")
