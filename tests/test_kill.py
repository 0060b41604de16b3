"""`kill -9` and Ctrl-C during `arts collect`: the same command again ends with the same bytes as if nothing had been.

The program runs in processes of its own and is stopped (SIGSTOP) the moment its journal shows that it is inside a
shard, so that each kill is known to land there; then it is killed, or interrupted.
"""

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from arts.cli import main
from arts.store import load_trees

TIMEOUT_S = 90.0


class State(NamedTuple):
    """How far a collection got."""

    num_shards: int
    journal_bytes: int


def state_of(folder: Path) -> State:
    """What is on disk; a journal may vanish between two looks."""
    journal_bytes = 0
    for path in folder.glob("trees-*.journal"):
        try:
            journal_bytes += path.stat().st_size
        except FileNotFoundError:
            continue
    return State(len(list(folder.glob("trees-*.jsonl"))), journal_bytes)


@contextmanager
def started(folder: Path, arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "arts", "collect", "--out", str(folder), *arguments]

    # A shell without a terminal starts its background jobs with SIGINT ignored, and children inherit that.
    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(folder: Path, arguments: list[str]) -> str:
    with started(folder, arguments) as process:
        out, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, errors
    return out


def stop_inside_a_shard(process: subprocess.Popen[str], folder: Path, at_least: State) -> State:
    """Stop the process at the first moment it is that far, further than it was found, and has replies in a journal.

    Says where it stands then.
    """
    found = state_of(folder)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"it ended before it was killed: {process.stderr and process.stderr.read()}"
        seen = state_of(folder)
        if seen.journal_bytes and seen >= at_least and seen > found:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            stopped = state_of(folder)
            if stopped.journal_bytes:
                return stopped
            process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    pytest.fail("the run never came to the place where it was to be killed")


def kill(folder: Path, arguments: list[str], at_least: State) -> State:
    with started(folder, arguments) as process:
        stopped = stop_inside_a_shard(process, folder, at_least)
        process.kill()
        process.wait(TIMEOUT_S)
        assert process.returncode == -signal.SIGKILL
    assert state_of(folder) == stopped
    return stopped


def interrupt(folder: Path, arguments: list[str], at_least: State) -> State:
    """Ctrl-C: leaves quickly, with status 130."""
    with started(folder, arguments) as process:
        stop_inside_a_shard(process, folder, at_least)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        asked = time.monotonic()
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert time.monotonic() - asked < 10, "it left at once"
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
    return state_of(folder)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("trees-*.jsonl")}


def shards(folder: Path) -> dict[str, str]:
    """Hash of every shard of a finished collection: equal ones are equal byte for byte."""
    assert not list(folder.glob("*.journal")), "a finished collection has no journal"
    assert not list(folder.glob("*.tmp"))
    return hashes(folder)


def check_kills(tmp_path: Path, arguments: list[str], ends: list[State], *, num_shards: int) -> None:
    """Kill one and the same run at each of these places in turn, interrupt it at the last one, finish it, compare."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    said = finish(whole, arguments)
    wanted = shards(whole)
    assert len(wanted) == num_shards
    reached = [kill(broken, arguments, end) for end in ends[:-1]] + [interrupt(broken, arguments, ends[-1])]
    assert all(earlier <= later for earlier, later in pairwise(reached)), "nothing was lost"
    assert reached[-1].num_shards < num_shards
    assert hashes(broken).items() <= wanted.items()
    assert re.sub("broken", "whole", finish(broken, arguments)) == said
    assert shards(broken) == wanted
    assert load_trees(broken) == load_trees(whole)


TABLE = ["--task", "toy:2x3", "--proposer", "table", "--num-samples", "6"]


def test_killed_and_interrupted_table_runs_end_with_the_same_bytes(tmp_path: Path) -> None:
    arguments = [*TABLE, "--num-problems", "120", "--block-size", "4"]
    ends = [State(0, 1), State(1, 12_000), State(2, 1)]
    check_kills(tmp_path, arguments, ends, num_shards=4)


MODEL = ["--num-problems", "16", "--num-samples", "4", "--block-size", "4"]


def test_a_killed_run_of_the_shipped_model_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs that end run in this process, which has torch already."""

    def finish_here(folder: Path) -> dict[str, str]:
        monkeypatch.setattr(sys, "argv", ["arts", "collect", "--out", str(folder), *MODEL])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return shards(folder)

    assert kill(tmp_path / "broken", MODEL, State(0, 8_000)).num_shards == 0
    assert finish_here(tmp_path / "broken") == finish_here(tmp_path / "whole")
    assert len(load_trees(tmp_path / "whole")) == 16


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_and_interrupted_run_of_the_shipped_model_ends_with_the_same_bytes(tmp_path: Path) -> None:
    arguments = ["--num-problems", "36", "--num-samples", "4", "--block-size", "3"]
    check_kills(tmp_path, arguments, [State(0, 1), State(0, 20_000), State(1, 1), State(1, 8_000)], num_shards=2)


def test_ctrl_c_before_the_first_reply_leaves_with_status_130(tmp_path: Path) -> None:
    arguments = [*TABLE, "--num-problems", "400", "--block-size", "4"]
    with started(tmp_path / "out", arguments) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("collecting trees")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 130


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "arguments",
    [
        [*TABLE, "--num-problems", "600", "--block-size", "5", "--pivots", "node"],
        ["--num-problems", "120", "--num-samples", "8", "--block-size", "4", "--temperature", "0.8"],
    ],
    ids=["table", "shipped model"],
)
def test_runs_killed_at_many_random_moments_end_with_the_same_bytes(arguments: list[str], tmp_path: Path) -> None:
    """Wherever the kill lands: also while the program starts, between two shards, and inside a write."""
    started_at = time.monotonic()
    finish(tmp_path / "whole", arguments)
    duration_s, rng, num_killed = time.monotonic() - started_at, random.Random(0), 0
    for _ in range(8):
        with started(tmp_path / "broken", arguments) as process:
            try:
                process.wait(rng.uniform(0.1, 0.4) * duration_s)
            except subprocess.TimeoutExpired:
                num_killed += 1
            process.kill()
    finish(tmp_path / "broken", arguments)
    assert num_killed >= 1
    assert shards(tmp_path / "broken") == shards(tmp_path / "whole")
