"""What the commands cost as problems grow: each one a process of its own, as a user starts it.

A row has the processor time of the process (and of those it started), which other programs on the machine disturb
least, its peak memory, what it left on disk, and how much work it was: problems, rollouts, nodes, tokens. Knows the
commands; `growth.py` says which sizes are run, and keeps the rows. This module and its like must stay small in memory:
a process that is started begins with the peak of the one that starts it.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arts.sparse_deep_fork import fork_cost
from arts.store import open_collection

Row = dict[str, Any]
NUM_SAMPLES = 4


@dataclass(frozen=True)
class World:
    """What the stages are run on: a task, and what draws for it and judges its trees."""

    name: str
    sizes: tuple[int, ...]
    task: tuple[str, ...]
    "options of every command that draws"
    verifier: tuple[str, ...]
    strategy: str
    stages: tuple[str, ...]


WORLDS: Mapping[str, World] = {
    "model": World(
        "model",
        (100, 1_000, 10_000),
        ("--task", "countdown", "--proposer", "countdown"),
        ("--verifier", "countdown"),
        f"best-of-n:n={NUM_SAMPLES}",
        ("collect", "resume", "status", "evaluate", "search", "view", "train"),
    ),
    "table": World(
        "table",
        (100, 1_000, 10_000, 100_000),
        ("--task", "toy:2x3", "--proposer", "table"),
        (),
        f"majority:n={NUM_SAMPLES}",
        ("collect", "resume", "status", "evaluate", "search", "view"),
    ),
}


def command(world: World, stage: str, size: int, folder: Path) -> list[str]:
    """What a user types, behind `arts`."""
    trees = str(folder / "trees")
    collect = ["collect", *world.task, "--num-problems", str(size), "--num-samples", str(NUM_SAMPLES), "--out", trees]
    search = ["search", *world.task, *world.verifier, "--split", "train", "--num-problems", str(size)]
    commands = {
        "collect": collect,
        "resume": collect,  # of a collection that is finished: what the start and the end of one cost
        "status": ["collect", "--status", trees],
        "evaluate": ["evaluate", "--trees", trees, *world.verifier, "--out", str(folder / "evaluation")],
        "search": [*search, "--strategy", world.strategy, "--out", str(folder / "search")],
        "view": ["view", trees, "--out", str(folder / "view.html")],
        "train": ["train", trees, "--out", str(folder / "verifier"), "--epochs", "1", "--batch-trees", "16"],
    }
    return commands[stage]


OUTPUT = {
    "collect": "trees",
    "evaluate": "evaluation",
    "search": "search",
    "view": "view.html",
    "train": "verifier",
}


def stage_rows(
    world: World, stages: Sequence[str], sizes: Sequence[int], work: Path, is_known: Callable[[Row], bool]
) -> Iterator[Row]:
    """Each stage at each size, small sizes first.

    Args:
        work: folder for what the commands write. All but `search` need what `collect` left there.
        is_known: a row of these keys is there already; its stage is not run again.
    """
    for size in sizes:
        folder = work / f"{world.name}-{size}"
        for stage in stages:
            key = {"part": "stage", "world": world.name, "stage": stage, "size": size}
            if is_known(key):
                continue
            if stage in OUTPUT:
                remove(folder / OUTPUT[stage])
            folder.mkdir(parents=True, exist_ok=True)
            # The row of `collect` is known, and its trees are gone.
            if stage not in ("collect", "search") and not (folder / "trees").is_dir():
                run([sys.executable, "-m", "arts", *command(world, "collect", size, folder)], folder / "collect.log")
            spent = run([sys.executable, "-m", "arts", *command(world, stage, size, folder)], folder / f"{stage}.log")
            disk = disk_bytes(folder / OUTPUT[stage]) if stage in OUTPUT else 0
            yield key | spent | {"disk_bytes": disk} | (work_of(folder / "trees") if stage == "collect" else {})


def run(arguments: Sequence[str], log: Path) -> Row:
    """Seconds of the processor and of the clock, and the peak memory of a command; what it says goes to a file.

    Raises:
        RuntimeError: it failed.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}; it said: {log.read_text()[-2000:]}")
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "wall_s": round(time.monotonic() - started, 3),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
    }


def work_of(folder: Path) -> Row:
    """How much there is in a collection."""
    problems = rollouts = nodes = distinct = generated = 0
    for tree in open_collection(folder).trees():
        problems += 1
        nodes += len(tree.nodes) - 1
        rollouts += sum(leaf.num_draws for leaf in tree.leaves())
        distinct += tree.num_distinct_tokens()
        cost = fork_cost([tree])
        generated += cost.trunk_tokens + cost.fork_tokens
    return {
        "problems": problems,
        "rollouts": rollouts,
        "nodes": nodes,
        "distinct_tokens": distinct,
        "generated_tokens": generated,
    }


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def disk_bytes(path: Path) -> int:
    """Of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(file.stat().st_size for file in files)
