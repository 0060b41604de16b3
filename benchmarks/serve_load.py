"""Many clients before `arts serve`, and a model server behind it that misbehaves: answers, memory, the cost of serving.

    python benchmarks/serve_load.py                                   # 200 clients, 5,000 requests
    python benchmarks/serve_load.py --clients 20 --requests 300

Everything runs on this machine: the fake server of the tests, which draws from toy problems whose every answer and
chance is known, and the command itself, each in a process of its own. Three runs: straight to the fake server, through
`arts serve` (the difference is what serving costs), and through it with faults. Every answer is checked: it must be one
of the problem that was asked, with the chance and the verdict of that answer.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from arts.protocols import Problem
from arts.tasks.toy import ToyTask, toy_tree

ROOT = Path(__file__).resolve().parents[1]
TASK = ToyTask(3, 3)
NUM_PROBLEMS = 500
N = 4
LATENCY_S = 0.05
FAULTS = {
    "429": 0.01, "500": 0.02, "502 html": 0.01, "slow": 0.02, "stall": 0.002, "truncated": 0.01, "reset": 0.01,
    "wrong count": 0.02, "empty": 0.01, "duplicate": 0.02, "not utf-8": 0.01, "no usage": 0.02, "wrong usage": 0.02,
}  # fmt: skip
OPTIONS = "max_in_flight=256&timeout_s=2&max_attempts=6"


@dataclass
class Load:
    """What came of one run."""

    seconds: list[float] = field(default_factory=list)
    "of good answers"
    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    "of the server, after every tenth of the requests"
    wall_s: float = 0.0
    cpu_ms: float | None = None
    "of the server, a request: the figure that other work on the machine changes least"

    def quantile_ms(self, share: float) -> float:
        return 1000 * float(np.quantile(self.seconds, share))


def row(name: str, clients: int, load: Load, straight: Load | None = None) -> dict[str, str]:
    """One run for the table.

    Args:
        straight: the same load without `arts serve`: what it adds is told.
    """
    memory = load.memory_mb

    def added(share: float) -> str:
        return f"{load.quantile_ms(share) - straight.quantile_ms(share):.0f}" if straight else ""

    return {
        "run": name,
        "clients": str(clients),
        "answers by status": ", ".join(f"{code}: {count}" for code, count in load.codes.most_common()),
        "wrong": str(len(load.wrong)),
        "seconds": f"{load.wall_s:.1f}",
        "median": f"{load.quantile_ms(0.5):.0f}",
        "p99": f"{load.quantile_ms(0.99):.0f}",
        "added, median": added(0.5),
        "added, p99": added(0.99),
        "processor": "" if load.cpu_ms is None else f"{load.cpu_ms:.1f}",
        "memory at first, half, end": " ".join(f"{memory[at]:.0f}" for at in (0, len(memory) // 2, -1))
        if memory
        else "",
    }


def table(rows: Sequence[dict[str, str]]) -> str:
    """Rows in the form that docs take."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(one.values()) for one in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def exact_chance(problem: Problem, steps: Sequence[str]) -> float:
    """The verifier of the server under load: `python:benchmarks/serve_load.py:exact_chance`."""
    tree = toy_tree(problem)
    return min(1.0, float(tree.success_probabilities[tree.find("".join(steps)) or 0]))  # rounded sums exceed 1


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def process(*command: str) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    running = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.terminate()
        running.wait(60)


def until_open(port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def fake_server(faults: dict[str, float]) -> Iterator[int]:
    settings = {"faults": faults, "latency_s": LATENCY_S, "stall_s": 3.0, "slow_s": 0.2}
    port = free_port()
    with process("tests/fake_server.py", "--port", str(port), "--settings", json.dumps(settings)):
        until_open(port)
        yield port


@contextmanager
def arts_serve(upstream: int, clients: int) -> Iterator[tuple[int, int]]:
    """Port and process id of the command."""
    port = free_port()
    proposer = f"http://127.0.0.1:{upstream}/v1#toy?{OPTIONS}"
    verifier = "python:benchmarks/serve_load.py:exact_chance?kind=log_value&inner_is_value=true"
    limits = ("--max-active", str(clients), "--max-waiting", str(clients), "--deadline-s", "60")
    command = ("-m", "arts", "serve", "--proposer", proposer, "--verifier", verifier, "--task", "toy:3x3", *limits)
    with process(*command, "--port", str(port)) as running:
        until_open(port)
        yield port, running.pid


def memory_mb(pid: int) -> float:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith("VmRSS"))


def cpu_s(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def check(prompt: str, answer: dict[str, Any]) -> str | None:
    """What is wrong with an answer of `arts serve`; None: nothing."""
    text, said, tree = answer["choices"][0]["message"]["content"], answer["arts"], toy_tree(TASK.parse(prompt))
    node = tree.find(text)
    if node is None or tree.children[node]:
        return f"{text!r} is no answer of {prompt}"
    if said["verdict"]["correct"] is not TASK.judge(TASK.parse(prompt), text).correct:
        return f"the verdict on {text!r} of {prompt} is another"
    if abs(said["confidence"] - float(tree.success_probabilities[node])) > 1e-9:
        return f"the chance of {text!r} of {prompt} is another than {said['confidence']}"
    return None


async def run(port: int, *, clients: int, requests: int, searched: bool, pid: int | None = None) -> Load:
    """Ask so often, so many at a time; straight to the fake server where nothing is searched."""
    load, prompts, rng = Load(), iter(range(requests)), random.Random(0)
    order = [f"toy 3x3 seed {rng.randrange(NUM_PROBLEMS)}" for _ in range(requests)]
    started, cpu_before = time.monotonic(), cpu_s(pid) if pid is not None else 0.0

    async def client(http: aiohttp.ClientSession) -> None:
        for number in prompts:
            prompt = order[number]
            body = {"messages": [{"role": "user", "content": prompt}], "seed": number}
            body |= {"model": f"arts-best-of-{N}"} if searched else {"model": "toy", "n": N, "max_tokens": 99}
            since = time.monotonic()
            async with http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as reply:
                answer = await reply.json(content_type=None)
                load.codes[str(reply.status)] += 1
            if reply.status == 200:
                load.seconds.append(time.monotonic() - since)
                if searched and (fault := check(prompt, answer)):
                    load.wrong.append(fault)
            if pid is not None and number % max(1, requests // 10) == 0:
                load.memory_mb.append(memory_mb(pid))

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    load.wall_s = time.monotonic() - started
    if pid is not None:
        load.cpu_ms = 1000 * (cpu_s(pid) - cpu_before) / requests
    return load


def measure_cost(clients: int, requests: int) -> tuple[Load, Load]:
    """Straight to the fake server, and through `arts serve`; no faults."""
    with fake_server({}) as upstream, arts_serve(upstream, clients) as (port, pid):
        asyncio.run(run(port, clients=clients, requests=2 * clients, searched=True))
        straight = asyncio.run(run(upstream, clients=clients, requests=requests, searched=False))
        return straight, asyncio.run(run(port, clients=clients, requests=requests, searched=True, pid=pid))


def measure_faults(clients: int, requests: int) -> Load:
    with fake_server(FAULTS) as upstream, arts_serve(upstream, clients) as (port, pid):
        return asyncio.run(run(port, clients=clients, requests=requests, searched=True, pid=pid))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=5000)
    given = parser.parse_args()
    rows = []
    for clients in (1, given.clients):
        requests = given.requests if clients > 1 else max(50, given.requests // 50)
        straight, served = measure_cost(clients, requests)
        rows += [row("straight to the server", clients, straight), row("through arts serve", clients, served, straight)]
    faulty = measure_faults(given.clients, given.requests)
    rows.append(row(f"with {100 * sum(FAULTS.values()):.0f}% faults", given.clients, faulty))
    print(f"best of {N}; the server takes {1000 * LATENCY_S:.0f} ms a request; times in ms, memory in MB")
    print(table(rows))


if __name__ == "__main__":
    main()
