"""Collect from a server that fails a fifth of all requests, and from one while the program is killed again and again.

    python tests/faults.py            # 10,000 rollouts under faults, 50 kills: some minutes; prints what happened

The server logs what it served and every fault it injected; the log is compared with what is in the store.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fake_server import FAULTS
from servers import free_port

from arts.build import build_proposer, build_task
from arts.collect import collect
from arts.sparse_deep_fork import CollectSettings
from arts.store import Collection, load_trees, open_collection
from arts.tree import ReasoningTree, StopReason, Usage

HERE = Path(__file__).parent
UNUSABLE = {"429", "500", "502 html", "stall", "truncated", "reset", "empty", "not utf-8"}
OPTIONS = "timeout_s=4&max_attempts=8"  # far above what a busy machine takes: an answer that comes too late is lost


@contextmanager
def server_process(log: Path, settings: dict[str, Any]) -> Iterator[str]:
    """A fake server in a process of its own; its URL."""
    port = free_port()
    command = [sys.executable, HERE / "fake_server.py", "--port", str(port), "--log", log]
    with subprocess.Popen([*command, "--settings", json.dumps(settings)], env=environment()) as process:
        try:
            wait_for(port, process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def environment() -> dict[str, str]:
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def wait_for(port: int, process: "subprocess.Popen[Any]", seconds: float = 60.0) -> None:
    import socket

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


class Key(NamedTuple):
    """One rollout as the server saw it."""

    prompt: str
    begun: str
    text: str


def served(log: Path) -> list[dict[str, Any]]:
    """The rows of the log with something that can be used."""
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["fault"] not in UNUSABLE]


def rollouts_of(tree: ReasoningTree) -> Counter[tuple[str, str]]:
    """(problem, whole text) of each finished path, with the number of its draws."""
    counts: Counter[tuple[str, str]] = Counter()
    for leaf in tree.leaves():
        if leaf.stop is not StopReason.ERROR:
            counts[tree.problem.prompt, tree.text(leaf.id)] += leaf.num_draws
    return counts


# --- a server with faults ---------------------------------------------------------------------------------------------


class FaultReport(NamedTuple):
    rollouts: int
    failed: int
    "draws that are in the trees as failed"
    lost: int
    "served and not in the store"
    doubled: int
    "in the store more often than they were served, or asked for again after an answer"
    faults: dict[str, int]
    requests: int
    token_difference: int
    "generated tokens: the store's bill minus the server's log"
    estimated: int
    seconds: float
    runs: int


def check_faults(
    folder: Path, *, num_problems: int, num_samples: int, share: float = 0.2, n: bool = False, seed: int = 0
) -> FaultReport:
    """Collect to the end from a server that fails that share of all requests, in all the ways it knows."""
    log, out = folder / "log.jsonl", folder / "trees"
    settings = {"faults": dict.fromkeys(FAULTS, share / len(FAULTS)), "n": n, "latency_s": 0.01, "seed": seed}
    settings |= {"stall_s": 8.0, "slow_s": 0.2}
    task, started = build_task("toy:3x3"), time.monotonic()
    wanted = CollectSettings(num_problems=num_problems, num_samples=num_samples, merge=False, block_size=8)
    with server_process(log, settings) as url:
        proposer = build_proposer(f"{url}#toy?{OPTIONS}", task)
        before = len(served(log))
        runs = 0
        while runs == 0 or (runs < 5 and open_collection(out).journals()):
            collect(task, proposer, wanted, out)
            runs += 1
        proposer.close()  # type: ignore[attr-defined]
    trees = load_trees(out)
    in_store = sum((rollouts_of(tree) for tree in trees), Counter())
    rows = served(log)[before:]
    at_server = Counter((row["prompt"], row["begun"] + text) for row in rows for text in row["served"])
    usage = total(trees)
    asked = Counter((row["prompt"], row["begun"], row["seed"], row["n"]) for row in rows)
    return FaultReport(
        rollouts=in_store.total(),
        failed=sum(leaf.stop is StopReason.ERROR for tree in trees for leaf in tree.leaves()),
        lost=(at_server - in_store).total(),
        doubled=(in_store - at_server).total() + sum(count - 1 for count in asked.values()),
        faults=dict(Counter(row["fault"] for row in map(json.loads, log.read_text().splitlines()) if row["fault"])),
        requests=len(log.read_text().splitlines()),
        token_difference=usage.generated_tokens - sum(sum(row["tokens"]) for row in rows),
        estimated=usage.estimated_requests,
        seconds=time.monotonic() - started,
        runs=runs,
    )


def total(trees: list[ReasoningTree]) -> Usage:
    usage = Usage()
    for tree in trees:
        usage = usage.plus(tree.usage)
    return usage


# --- kills ------------------------------------------------------------------------------------------------------------


class KillReport(NamedTuple):
    kills: int
    before_a_row: int
    "of them, those between the arrival of a reply and its row"
    kept: int
    "finished rollouts that were on disk at a kill, and stayed as they were"
    asked_again: int
    "rollouts that the server was asked for although they were stored"
    same: bool
    "the trees are those of a run that nobody killed, bytes and all"
    seconds: float


COLLECT = ["--task", "toy:3x3", "--num-problems", "40", "--num-samples", "8", "--block-size", "2"]


def check_kills(folder: Path, *, kills: int, before_a_row: int, seed: int = 0) -> KillReport:
    """Run one collection, killed so often, to its end; compare it with one that was left alone."""
    rng, started = random.Random(seed), time.monotonic()
    log, whole, broken = folder / "log.jsonl", folder / "whole", folder / "broken"
    kept = asked_again = done = 0
    with server_process(log, {"n": False, "latency_s": 0.02}) as url:
        name = f"{url}#toy?max_in_flight=4"
        run(name, whole).wait()
        size = sum(path.stat().st_size for path in whole.glob("trees-*.jsonl"))
        for number in range(kills):
            stored, seen = stored_keys(broken), len(log.read_text().splitlines())
            if number < before_a_row:
                process = run(name, broken, "--die-before-append", str(rng.randint(1, 3)))
                process.wait(60)
            else:
                process = run(name, broken)
                until = progress_of(broken) + rng.randint(1, max(2, size // (2 * kills)))
                while process.poll() is None and progress_of(broken) < until:
                    time.sleep(0.002)
                process.kill()
                process.wait(60)
            done += process.returncode == -signal.SIGKILL
            again = stored_keys(broken)
            assert stored <= again, "a finished rollout is gone"
            kept += len(stored)
            new = [json.loads(line) for line in log.read_text().splitlines()[seen:]]
            asked_again += sum((row["prompt"], row["begun"], row["seed"]) in {one[:3] for one in stored} for row in new)
        assert run(name, broken).wait(120) == 0
    shards = [{path.name: path.read_bytes() for path in out.glob("trees-*.jsonl")} for out in (whole, broken)]
    return KillReport(done, before_a_row, kept, asked_again, shards[0] == shards[1], time.monotonic() - started)


def run(name: str, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, HERE / "faults.py", "--collect", *more, "--proposer", name, "--out", out, *COLLECT]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def progress_of(folder: Path) -> int:
    sizes = 0
    for path in folder.glob("trees-*"):
        try:
            sizes += path.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def stored_keys(folder: Path) -> set[tuple[str, str, int, str]]:
    """(prompt, prefix, seed, text) of each rollout that is in a journal; those of finished shards are not looked at."""
    from arts.proposers.openai_http import _server_seed
    from arts.sparse_deep_fork import ProblemRun, rollout_seed

    if not (folder / "collection.json").exists():
        return set()
    collection, task = open_collection(folder), build_task("toy:3x3")
    settings = CollectSettings(**{"forks_per_pivot": 1, **collection.header["settings"]})
    keys = set()
    for shard in collection.journals():
        for row in collection.read_journal(shard, repair=False):
            problem = task.parse(row.problem_id)
            trunks = ProblemRun(task, settings, problem, collection.read_journal(shard, repair=False)).rollouts
            for rollout in row.rollouts:
                begun = "".join(step.text for step in trunks[rollout.trunk].steps[: rollout.num_shared])
                text = "".join(step.text for step in rollout.steps)
                seed = _server_seed(rollout_seed(settings.seed, problem, rollout.index))
                keys.add((problem.prompt, begun, seed, text))
    return keys


def collect_and_die(arguments: list[str]) -> None:
    """`arts collect`, killed before one of its writes where asked to."""
    if arguments[:1] == ["--die-before-append"]:
        left, arguments = int(arguments[1]), arguments[2:]
        append = Collection.append

        def dying(self: Collection, shard: int, rows: Any) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            append(self, shard, rows)

        Collection.append = dying  # type: ignore[method-assign]
    from arts.cli import main

    sys.argv = ["arts", "collect", *arguments]
    main()


def main() -> None:
    if sys.argv[1:2] == ["--collect"]:
        collect_and_die(sys.argv[2:])
        return
    with tempfile.TemporaryDirectory() as name:
        report = check_faults(Path(name), num_problems=320, num_samples=16)
    print(
        f"{report.rollouts:,} rollouts stored, {report.requests:,} requests, {report.runs} run(s), "
        f"{report.seconds:.0f} s"
    )
    for fault, count in sorted(report.faults.items()):
        print(f"  {fault:<14} {count:5}")
    print(f"failed {report.failed}, lost {report.lost}, doubled {report.doubled}")
    print(f"tokens: bill minus log {report.token_difference}; {report.estimated} requests were estimated")
    with tempfile.TemporaryDirectory() as name:
        kills = check_kills(Path(name), kills=50, before_a_row=10)
    print(
        f"{kills.kills} kills, {kills.before_a_row} of them between a reply and its row: {kills.kept:,} stored "
        f"rollouts seen and kept, {kills.asked_again} asked again, same trees: {kills.same} ({kills.seconds:.0f} s)"
    )


if __name__ == "__main__":
    main()
