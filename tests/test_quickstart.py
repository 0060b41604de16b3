"""docs/quickstart.md does what it says: its commands run, in order, against a small server."""

import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from conftest import ROOT
from fake_server import Settings
from servers import fake_server, free_port

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


def ask_while_it_serves(arguments: list[str], problem: dict[str, str]) -> str:
    """What a client gets from the server that a command starts."""
    port = free_port()
    own = [str(port) if before == "--port" else one for before, one in zip(["", *arguments], arguments, strict=False)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-m", "arts", *own], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=60)
            answer = client.chat.completions.create(
                model="arts-best-of-16", messages=[{"role": "user", "content": problem["problem"]}]
            )
        finally:
            process.terminate()
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 16
    return answer.choices[0].message.content or ""


@pytest.mark.timeout(600)
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
            if own[0] == "serve":
                said["serve"] = ask_while_it_serves(own, json.loads((tmp_path / "problems.jsonl").open().readline()))
                continue
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
        "serve",
    ]
    assert "boxed{" in said["serve"]
    assert "continue_final_message" in said["doctor"]
    assert "300 problems x 8 main trajectories" in said["collect --dry-run"]
    assert "300 of 300 problems (100%), finished" in said["collect --status"]
    assert "10 problems" in said["search"]
    results = json.loads((tmp_path / "runs/evaluation/results.json").read_text(encoding="utf-8"))
    assert results["num_problems"] == 80
    assert results["differences"]["arts-random"]["16"]["low"] > 0.0
