"""docs/quickstart.md does what it says: its commands run, in order, against a small server."""

import json
import random
import re
import shlex
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from fake_server import Settings
from servers import fake_server

from arts.cli import main

PAGE = ROOT / "docs" / "quickstart.md"


def commands() -> list[list[str]]:
    """Arguments of every `arts` command of the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("arts ")]


def write_problems(path: Path, count: int) -> None:
    rng, rows = random.Random(0), []
    for _ in range(count):
        value = rng.randint(1, 40)
        text = str(value)
        for _ in range(3):
            number = rng.choice([-1, 1]) * rng.randint(1, 40)
            text += f" {'+' if number > 0 else '-'} {abs(number)}"
            value += number
        rows.append({"problem": f"What is {text}?", "answer": str(value)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.timeout(400)
def test_the_page_runs_from_a_server_and_a_file_to_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARTS_API_KEY", raising=False)
    write_problems(tmp_path / "problems.jsonl", 2000)
    said: dict[str, str] = {}
    with fake_server(Settings(model="sums", token_ids=False)) as server:
        for arguments in commands():
            own = [one.replace("http://127.0.0.1:8000/v1#my-model", f"{server.url}#sums") for one in arguments]
            monkeypatch.setattr(sys, "argv", ["arts", *own])
            with pytest.raises(SystemExit) as end:
                main()
            printed = capsys.readouterr()
            assert end.value.code == 0, printed.err
            said[" ".join(own[:2] if own[1] in ("--dry-run", "--status") else own[:1])] = printed.out
    assert [one[0] for one in commands()] == [
        "doctor",
        "collect",
        "collect",
        "collect",
        "train",
        "collect",
        "evaluate",
        "search",
    ]
    assert "continue_final_message" in said["doctor"]
    assert "300 problems x 8 main trajectories" in said["collect --dry-run"]
    assert "300 of 300 problems (100%), finished" in said["collect --status"]
    assert "10 problems" in said["search"]
    results = json.loads((tmp_path / "runs/evaluation/results.json").read_text(encoding="utf-8"))
    assert results["num_problems"] == 80
    assert results["differences"]["arts-random"]["16"]["low"] > 0.0
