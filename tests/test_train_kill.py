"""`kill -9` in the middle of `arts train`, then the same command again: the weights of a run that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tiny_verifier import save_backbone

from arts.build import build_proposer, build_task
from arts.cli import main
from arts.collect import collect
from arts.models import shipped_folder
from arts.sparse_deep_fork import CollectSettings

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
# Six steps an epoch, and no early stop that could come before the signal.
OPTIONS = ["--batch-trees", "3", "--validation-share", "0.25", "--patience", "1000", "--checkpoint-every-s", "0"]


def collection(folder: Path, task: str, proposer: str, num_problems: int) -> Path:
    chosen = build_task(task)
    collect(
        chosen,
        build_proposer(proposer, chosen),
        CollectSettings(num_problems=num_problems, num_samples=6),
        folder,
    )
    return folder


def command(trees: Path, backbone: Path, tuning: str, out: Path, *options: str) -> list[str]:
    arguments = ["train", str(trees), "--backbone", f"hf:{backbone}", "--tuning", tuning, "--out", str(out)]
    return [sys.executable, "-m", "arts", *arguments, *OPTIONS, *options]


def finish(arguments: list[str]) -> None:
    run = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr


def finish_here(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process, which has torch loaded already: `python -m arts` calls `main` and nothing else."""
    monkeypatch.setattr(sys, "argv", ["arts", *arguments[3:]])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


def checkpointed_step(out: Path) -> int:
    """0 before the first checkpoint, or after the last one was removed. Safetensors opens a file twice, between which
    the run may put the next one in its place; so its header is read here."""
    try:
        with (out / "checkpoint.safetensors").open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except FileNotFoundError:
        return 0
    return int(json.loads(header["__metadata__"]["state"])["step"])


def kill_at(arguments: list[str], out: Path, step: int) -> int:
    """Start the command, kill it when that step is on the disk, and return the step it had come to."""
    assert (before := checkpointed_step(out)) < step, f"step {before} was there before"
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while checkpointed_step(out) < step and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    assert not (out / "verifier.json").exists()
    reached = checkpointed_step(out)
    assert reached >= step
    return reached


def outcome(out: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """All weights, and the card without the time it took."""
    weights = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}
    card = json.loads((out / "verifier.json").read_text())
    del card["result"]["seconds"]
    return weights, card


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("models") / "tiny")


def test_killed_training_goes_on_to_the_weights_of_an_uninterrupted_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = collection(tmp_path / "trees", "toy", "table", num_problems=24)
    killed, whole = (
        command(trees, tiny_folder, "full", tmp_path / name, "--epochs", "5") for name in ("killed", "whole")
    )
    reached = kill_at(killed, tmp_path / "killed", step=5)
    finish_here(killed, monkeypatch)
    finish_here(whole, monkeypatch)
    weights, card = outcome(tmp_path / "killed")
    assert set(weights) == {"head.safetensors", "backbone/model.safetensors"}
    assert reached < card["result"]["num_steps"]
    assert (weights, card) == outcome(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_training_on_the_shipped_model_survives_being_killed_again_and_again(tmp_path: Path, tuning: str) -> None:
    trees = collection(tmp_path / "trees", "countdown", "countdown", num_problems=24)
    backbone = shipped_folder("countdown-proposer")
    # Every resumed run is a process of its own here, as a user's would be.
    killed, whole = (command(trees, backbone, tuning, tmp_path / name, "--epochs", "4") for name in ("killed", "whole"))
    reached = [kill_at(killed, tmp_path / "killed", step) for step in (1, 9)]
    assert reached == sorted(reached)
    finish(killed)
    finish(whole)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
