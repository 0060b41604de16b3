"""How fast are rollouts put on disk, and what does a forest of a million cost to read?

    python benchmarks/store.py                                            # both parts: two minutes, 1 GB of disk
    python benchmarks/store.py --part append --batch 64 --batch 256 --seconds 5 --json store.json
    python benchmarks/store.py --part forest --num-rollouts 100000 --tree-rollouts 16

`append`: batches of rollouts that are on disk before they count (`Collection.append`), beside the same rows, ready
made, in SQLite with one transaction a batch and full sync, and in a bare file that is written and synced: what the disk
gives. The three take turns, batch by batch. One rollout is one reply and one row, as from a server that gives one
choice a request. `forest`: trees in shards as `collect` writes them. A fresh process opens them, walks through all of
them and counts them, with its peak memory; beside it the same lines through `json.loads` alone. Memory is read where
Linux tells it.
"""

import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from arts.build import about
from arts.files import dump
from arts.store import Collection, JournalRow, _journal_row_to_json, create_collection, open_collection, tree_to_json
from arts.tree import Problem, Rollout, Step, StopReason, Usage, Verdict, build_tree

Row = dict[str, Any]
STEP_TOKENS = 16
TREES_PER_SHARD = 512  # of `arts collect` with its default block
NUM_TEMPLATES = 64  # different trees; their copies differ in the problem's name
SLOT = "########"  # for the number of a problem
WAYS = ("append", "sqlite", "bare")


# --- append -----------------------------------------------------------------------------------------------------------


def random_rollout(rng: random.Random, index: int, num_first: int = 1 << 30) -> Rollout:
    """Three or four steps of 16 tokens; the first one is one of `num_first`."""
    steps = []
    last = rng.choice((2, 3))
    for depth in range(last + 1):
        # Few first steps, so that some are drawn twice and trees branch.
        seed = rng.randrange(num_first) if depth == 0 else rng.random()
        ids = tuple(random.Random(f"{depth} {seed}").choices(range(1000, 50_000), k=STEP_TOKENS))
        text = " ".join(str(one % 1000) for one in ids) + ("" if depth == last else ";")
        steps.append(Step(text, ids, round(-9 * rng.random(), 6), StopReason.EOS if depth == last else StopReason.STOP))
    return Rollout(index, index, 0, tuple(steps))


def append(batch: int, seconds: float) -> Row:
    """Rollouts a second, each of the three ways in turn until all have had their time."""
    rng = random.Random(0)
    rows = [JournalRow(f"problem {n}", (random_rollout(rng, n % 16),), Usage(30, 60, 1)) for n in range(max(64, batch))]
    lines = [dump(_journal_row_to_json(row)) + "\n" for row in rows]
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    cpu_s = 0.0
    with tempfile.TemporaryDirectory() as name, ways_to_append(Path(name)) as ways:
        while any(sum(times) < seconds for times in spent.values()) or len(spent["bare"]) < 3:
            start = len(spent["bare"]) * batch % (len(rows) - batch + 1)
            for way, write in ways.items():
                part = rows[start : start + batch] if way == "append" else lines[start : start + batch]
                started, cpu_started = time.perf_counter(), time.process_time()
                write(part)
                spent[way].append(time.perf_counter() - started)
                cpu_s += time.process_time() - cpu_started if way == "append" else 0.0
        num_batches = len(spent["append"])
        found = Collection(Path(name), {}).read_journal(0)
    if len(found) != num_batches * batch:
        raise RuntimeError(f"{num_batches * batch} rollouts were appended, {len(found)} are there")
    # Medians of batches, so that a hiccup of the machine in one of the three does not count.
    row: Row = {"part": "append", "batch": batch, "num_rollouts": num_batches * batch}
    for way, times in spent.items():
        row |= {f"{way}_rate": batch / statistics.median(times), f"{way}_mean_rate": batch * num_batches / sum(times)}
    row |= {"bytes": sum(map(len, lines)) / len(lines), "cpu_us": 1e6 * cpu_s / (num_batches * batch)}
    return row | {f"of_{way}": row["append_rate"] / row[f"{way}_rate"] for way in ("sqlite", "bare")}


@contextmanager
def ways_to_append(folder: Path) -> Iterator[dict[str, Callable[[Any], None]]]:
    collection = create_collection(folder, {})
    with (folder / "bare").open("ab", buffering=0) as file, closing(sqlite3.connect(folder / "rows.db")) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=full")
        database.execute("create table rows (row text)")

        def bare(lines: Sequence[str]) -> None:
            file.write("".join(lines).encode())
            os.fsync(file.fileno())

        def sqlite(lines: Sequence[str]) -> None:
            with database:
                database.executemany("insert into rows values (?)", ((line,) for line in lines))

        yield {"append": lambda rows: collection.append(0, rows), "sqlite": sqlite, "bare": bare}


# --- forest -----------------------------------------------------------------------------------------------------------


def write_forest(folder: Path, num_trees: int, tree_rollouts: int) -> None:
    """Shards as `collect` leaves them; trees are copies of a few, so that a million rollouts take seconds."""
    rng = random.Random(0)
    lines = []
    for _ in range(min(NUM_TEMPLATES, num_trees)):
        rollouts = [random_rollout(rng, index, 12) for index in range(tree_rollouts)]
        tree = build_tree(
            Problem(f"problem {SLOT}", f"prompt {SLOT}"),
            rollouts,
            tokenizer="random",
            usage=Usage(30, 60 * tree_rollouts, 1),
            judge=lambda text: Verdict(len(text) % 3 == 0, text[-8:]),
        )
        lines.append(dump(tree_to_json(tree)) + "\n")
    collection = create_collection(folder, {})
    for shard, first in enumerate(range(0, num_trees, TREES_PER_SHARD)):
        with collection.shard_path(shard).open("w", encoding="utf-8") as file:
            for number in range(first, min(first + TREES_PER_SHARD, num_trees)):
                file.write(lines[number % len(lines)].replace(SLOT, f"{number:08d}"))


def forest(num_rollouts: int, tree_rollouts: int) -> Row:
    """What a fresh process needs for a forest of that size."""
    num_trees = -(-num_rollouts // tree_rollouts)
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        write_forest(Path(name), num_trees, tree_rollouts)
        row: Row = {"part": "forest", "num_rollouts": num_trees * tree_rollouts, "num_trees": num_trees}
        row |= {"write_s": time.perf_counter() - started, "status_us": status_us(open_collection(Path(name)))}
        row["bytes"] = sum(path.stat().st_size for path in Path(name).iterdir())
        command = [sys.executable, __file__, "--read", name]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        row |= json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    if (row["counted"], row["walked"], row["draws"]) != (num_trees, num_trees, num_trees * tree_rollouts):
        raise RuntimeError(f"{num_trees} trees of {tree_rollouts} rollouts were written, other ones are there: {row}")
    return row | {"of_json": row["walk_s"] / row["json_s"]}


def status_us(collection: Collection) -> float:
    """Microseconds to read how far a run is; what is written is what `collect` writes."""
    progress = {
        "done": 1,
        "total": 2,
        "generated_tokens": 3,
        "prompt_tokens": 4,
        "rollouts": 5,
        "failed": {},
        "found": 0,
    }
    collection.write_status({"started": time.time(), "updated": time.time(), **progress})
    times = []
    for _ in range(200):
        started = time.perf_counter()
        found = collection.read_status()
        times.append(time.perf_counter() - started)
        if not found or found["generated_tokens"] != 3:
            raise RuntimeError(f"the status was not read back: {found}")
    return 1e6 * statistics.median(times)


def read(folder: Path) -> Row:
    """In a process of its own: open, walk, count; then the lines through `json.loads` alone."""
    row: Row = {"start_mb": peak_mb()}
    with timed(row, "open_s"):
        collection = open_collection(folder)
    walked = nodes = draws = 0
    with timed(row, "walk_s"):
        for tree in collection.trees():
            walked += 1
            nodes += len(tree.nodes) - 1
            draws += len(tree.trunks)
    row |= {"walked": walked, "nodes": nodes, "draws": draws, "walk_mb": peak_mb()}
    with timed(row, "count_s"):
        row["counted"] = collection.num_trees()
    row["count_mb"] = peak_mb()
    with timed(row, "json_s"):
        for path in collection.finished_shards():
            with path.open("rb") as file:
                for line in file:
                    json.loads(line)
    return row


@contextmanager
def timed(row: Row, name: str) -> Iterator[None]:
    """Seconds of this process: one thread works, and what others take from a busy machine is left out."""
    started = time.process_time()
    yield
    row[name] = time.process_time() - started


def peak_mb() -> float:
    """Most memory this process ever held; `getrusage` would count its parent's, too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


# --- tables -----------------------------------------------------------------------------------------------------------


def append_table(rows: Sequence[Row]) -> Table:
    title = f"Rollouts a second that are on disk, rows of {rows[0]['bytes']:,.0f} bytes (medians over batches)"
    table = Table(title=title)
    for column in (
        "rollouts a batch",
        "append",
        "SQLite",
        "/ SQLite",
        "bare write + sync",
        "/ bare",
        "CPU us a rollout",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        rates = {way: f"{row[f'{way}_rate']:,.0f}" for way in WAYS}
        ratios = (f"{row['of_sqlite']:.2f}", f"{row['of_bare']:.2f}")
        cells = (rates["append"], rates["sqlite"], ratios[0], rates["bare"], ratios[1], f"{row['cpu_us']:.0f}")
        table.add_row(f"{row['batch']:,}", *cells)
    return table


def forest_table(rows: Sequence[Row]) -> Table:
    table = Table(title="A forest: processor time, and peak memory of the process")
    columns = ("open, ms", "count, s", "walk, s", "/ json.loads", "rollouts a second")
    for column in ("rollouts", "trees", "MB", *columns, "memory: start, walk, count, MB", "read_status, us"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row['num_rollouts']:,}",
            f"{row['num_trees']:,}",
            f"{row['bytes'] / 1e6:,.0f}",
            f"{1e3 * row['open_s']:.1f}",
            f"{row['count_s']:.3f}",
            f"{row['walk_s']:.2f}",
            f"{row['of_json']:.2f}",
            f"{row['num_rollouts'] / row['walk_s']:,.0f}",
            f"{row['start_mb']:.0f}, {row['walk_mb']:.0f}, {row['count_mb']:.0f}",
            f"{row['status_us']:.0f}",
        )
    return table


def main(
    part: Annotated[list[str] | None, typer.Option(help="append or forest; repeat. Default: both")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="of `append`; repeat. Default: 1, 16, 64, 256, 1024")] = None,
    seconds: Annotated[float, typer.Option(help="of `append`: at least, a batch size and way")] = 3.0,
    num_rollouts: Annotated[
        list[int] | None, typer.Option(help="of `forest`; repeat. Default: 100,000 and 1,000,000")
    ] = None,
    tree_rollouts: Annotated[int, typer.Option(help="of `forest`: rollouts of a tree")] = 16,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the rows")] = None,
    read_folder: Annotated[Path | None, typer.Option("--read", hidden=True)] = None,
) -> None:
    """Time what is written to disk, and read from it."""
    if read_folder is not None:
        print(dump(read(read_folder)))
        return
    parts: dict[str, Callable[[], list[Row]]] = {
        "append": lambda: [append(size, seconds) for size in batch or (1, 16, 64, 256, 1024)],
        "forest": lambda: [forest(size, tree_rollouts) for size in num_rollouts or (100_000, 1_000_000)],
    }
    rows = [row for name in part or parts for row in parts[name]()]
    console = Console(width=None if sys.stdout.isatty() else 150)
    for name, table in (("append", append_table), ("forest", forest_table)):
        if own := [row for row in rows if row["part"] == name]:
            console.print(table(own))
    made_by = about()
    made_by["versions"]["sqlite"] = sqlite3.sqlite_version
    print(", ".join(f"{name} {version}" for name, version in made_by["versions"].items()), made_by["date"])
    if json_file is not None:
        json_file.write_text(dump({"about": made_by, "rows": rows}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
