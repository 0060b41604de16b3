"""Workers on real Ray clusters, of several nodes on this machine: killed, cut off, refused, and always the same files.

make test-distributed          # installs Ray; minutes on two CPU cores
"""

import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import test_kill
from conftest import ROOT
from faults import rollouts_of, served, server_process
from ray_tools import (
    answer,
    die,
    leave,
    plain_tools,
    slow_answer,
    slow_tools,
    tools_of_many_temperatures,
    tools_without_a_library,
)
from test_kill import State, finish, kill, shards, started

from arts.cli import main
from arts.collect import collect
from arts.draw import Progress
from arts.evaluate.searches import ROWS, read_rows
from arts.proposers.table import TableProposer
from arts.scale import workers as scale_workers
from arts.scale.collect import collect_on
from arts.scale.workers import ClusterSettings, connected_workers
from arts.sparse_deep_fork import CollectSettings
from arts.store import load_trees
from arts.tasks.toy import ToyTask

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-distributed")
pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.timeout(900)]

SMALL = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
TASK = ToyTask(2, 3)


class Nodes:
    """A head that does no work, and nodes with one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
        self.by_id: dict[str, Any] = {}
        self.fill()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def fill(self) -> None:
        while len(self.by_id) < 2:
            node = self._cluster.add_node(num_cpus=1, **SMALL)
            self.by_id[node.node_id] = node

    def lose(self, node_id: str) -> None:
        self._cluster.remove_node(self.by_id.pop(node_id), allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def all_nodes() -> Iterator[Nodes]:
    # Processes of a node import what the tests do, and have no more rights to a CPU than Ray's own.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        patch.setenv("RAY_worker_niceness", "0")
        nodes = Nodes()
        yield nodes
        nodes.close()


@pytest.fixture
def nodes(all_nodes: Nodes) -> Nodes:
    """Two nodes that work, whatever the test before did to them."""
    all_nodes.fill()
    return all_nodes


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers take longer to start than what test_kill.py starts."""
    monkeypatch.setattr(test_kill, "TIMEOUT_S", 300.0)


def ray_options(nodes: Nodes) -> list[str]:
    return ["--engine", "ray", "--address", nodes.address]


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["arts", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0


# --- dying ------------------------------------------------------------------------------------------------------------


def log_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def at_work(rows: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Processes in the middle of a call, and their nodes."""
    depth: Counter[int] = Counter()
    for row in rows:
        depth[row["pid"]] += 1 if row["what"] == "begin" else -1
    return {row["pid"]: row["node"] for row in rows if depth[row["pid"]] > 0}


def test_a_killed_worker_and_a_lost_node_lose_and_double_nothing(nodes: Nodes, tmp_path: Path) -> None:
    """The node's worker finds no other place before the last one is free: it must get that."""
    settings = CollectSettings(num_problems=36, num_samples=4, block_size=2)
    log, told = tmp_path / "log", []
    killed: list[int] = []
    lost: list[str] = []

    def watch(state: Progress) -> None:
        told.append(state)
        working = at_work(log_of(log))
        if not killed and state.done >= 8 and working:
            killed.append(min(working))
            os.kill(killed[0], signal.SIGKILL)
        elif killed and not lost and state.done >= 18:
            # Another one than the one that was killed, so that both are known to have been at something.
            there = {row["node"] for row in log_of(log) if row["pid"] in killed}
            if others := [node for node in working.values() if node not in there]:
                lost.append(others[0])
                nodes.lose(others[0])

    with connected_workers(partial(slow_tools, str(log), 0.3), ClusterSettings(address=nodes.address)) as workers:
        identity, seven = workers.first(answer)
        assert seven == 7
        collect_on(workers, TASK, identity, settings, tmp_path / "many", watch=watch)
        assert len(workers.restarted) == 2
    assert killed
    assert lost
    assert not ray.is_initialized(), "the connection was ours"
    collect(TASK, TableProposer(), settings, tmp_path / "one")
    assert shards(tmp_path / "many") == shards(tmp_path / "one")

    begun = Counter(seed for row in log_of(log) if row["what"] == "begin" for seed in row["seeds"])
    stored = sum((rollouts_of(tree) for tree in load_trees(tmp_path / "many")), Counter()).total()
    assert len(begun) == stored == told[-1].rollouts, "every rollout is stored once, and billed once"
    most_of_a_block = 2 * 3 * settings.num_samples  # trunks, and their forks at most twice over
    assert 0 < begun.total() - stored <= 2 * 2 * most_of_a_block, "what two workers were at was drawn again"


def test_a_block_that_kills_whoever_does_it_ends_the_run(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other worker is at is not lost: only this block, and the one that waited behind it."""
    monkeypatch.setattr(scale_workers, "_MOST_RESTARTS", 1)
    given, done = count(), []
    with connected_workers(plain_tools, ClusterSettings(address=nodes.address, num_workers=2)) as workers:
        run = workers.run(die if number == 20 else slow_answer for number in given)
        with pytest.raises(ValueError, match="died again and again"):
            done.extend(run)
    assert next(given) - len(done) == 2


def test_work_that_cannot_be_read_on_loses_nothing_that_was_given(nodes: Nodes) -> None:
    def blocks() -> Iterator[Any]:
        yield from [slow_answer] * 7
        raise ValueError("the next shard is damaged")

    done = []
    with (
        pytest.raises(ValueError, match="the next shard is damaged"),
        connected_workers(plain_tools, ClusterSettings(address=nodes.address, num_workers=2)) as workers,
    ):
        done.extend(workers.run(blocks()))
    assert done == [7] * 7


def test_work_that_leaves_is_an_error_and_no_death(nodes: Nodes) -> None:
    with (
        pytest.raises(RuntimeError, match=r"the worker on [\d.]+ failed:\n(.|\n)*SystemExit: 3"),
        connected_workers(plain_tools, ClusterSettings(address=nodes.address, num_workers=1)) as workers,
    ):
        list(workers.run([leave]))


# --- the same results -------------------------------------------------------------------------------------------------

MODEL = ["--num-problems", "16", "--num-samples", "4", "--block-size", "4"]


def test_a_killed_driver_of_the_shipped_model_ends_with_the_bytes_of_one_machine(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = [*MODEL, *ray_options(nodes)]
    assert kill(tmp_path / "many", arguments, State(0, 1)).num_shards == 0
    said = finish(tmp_path / "many", arguments)
    run_here(monkeypatch, "collect", "--out", tmp_path / "one", *MODEL)
    assert shards(tmp_path / "many") == shards(tmp_path / "one")
    assert "16 trees" in said


def test_draws_from_a_server_are_the_same_and_asked_for_once(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, each with its own connections; the server's log is compared with what is stored."""
    log = tmp_path / "log.jsonl"
    toy = ["--task", "toy:3x3", "--num-problems", "12", "--num-samples", "4", "--block-size", "2", "--seed", "3"]
    with server_process(log, {"n": False, "latency_s": 0.01}) as url:
        named = [*toy, "--proposer", f"{url}#toy"]
        run_here(monkeypatch, "collect", "--out", tmp_path / "one", *named)
        before = len(served(log))
        run_here(monkeypatch, "collect", "--out", tmp_path / "many", *named, *ray_options(nodes))
        asked = Counter((row["prompt"], row["begun"], row["seed"]) for row in served(log)[before:])
    assert shards(tmp_path / "many") == shards(tmp_path / "one")
    stored = sum((rollouts_of(tree) for tree in load_trees(tmp_path / "many")), Counter())
    draws = Counter({key: count for key, count in asked.items() if key[0] in {one[0] for one in stored}})
    probes = draws.total() - stored.total()
    assert 0 <= probes <= 2 * 30, "what was asked besides: what the server can do, by each worker"
    assert max(count for (_, begun, _), count in draws.items() if begun) == 1, "no fork is asked for twice"


SEARCH = ["--num-problems", "12", "--no-report", "--curves", "--budget-tokens", "60"]


TABLE = ["--task", "toy:3x3", "--proposer", "table", "--verifier", "python:ray_tools:near_the_end"]


@pytest.mark.parametrize("arguments", [TABLE, []], ids=["table", "shipped model"])
def test_searches_have_the_rows_of_one_machine(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    arguments = ["search", *SEARCH, "--strategy", "best-of-n:n=4", "--strategy", "rebase:n=4", *arguments]
    run_here(monkeypatch, *arguments, "--out", tmp_path / "one")
    run_here(monkeypatch, *arguments, "--out", tmp_path / "many", *ray_options(nodes), "--block-size", "4")
    one, many = ({(row.spec, row.problem): row for row in read_rows(tmp_path / name)} for name in ("one", "many"))
    assert len(one) == 24
    assert many == one, "answers, bills and curves"
    assert (tmp_path / "many" / ROWS).stat().st_size == (tmp_path / "one" / ROWS).stat().st_size


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_cluster_without_what_workers_want_says_so_and_gives_up(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_workers, "_SAY_EVERY_S", 1.0)
    said: list[str] = []
    settings = ClusterSettings(address=nodes.address, gpus_per_worker=1, start_timeout_s=1.5)
    short = "each wants 1 CPU and 1 GPU, free are 2 of 2 CPU, 0 of 0 GPU, and no node is that large"
    with (
        pytest.raises(ValueError, match=f"{short}; start such a node, or ask for less"),
        connected_workers(plain_tools, settings, say=said.append) as workers,
    ):
        workers.first(answer)
    assert len(said) == 1
    assert said[0].startswith(f"no worker has started in 1 s: {short}; ")


def test_workers_that_differ_are_refused(nodes: Nodes) -> None:
    with (
        pytest.raises(ValueError, match="workers differ in fingerprint"),
        connected_workers(tools_of_many_temperatures, ClusterSettings(address=nodes.address)) as workers,
    ):
        list(workers.run([slow_answer] * 60))


def test_a_worker_that_lacks_a_library_or_cannot_be_told_what_to_build_says_so(nodes: Nodes) -> None:
    settings = ClusterSettings(address=nodes.address, num_workers=1)
    with (
        pytest.raises(ValueError, match=r"the worker on [\d.]+ says: No module named 'no_such_library'"),
        connected_workers(tools_without_a_library, settings) as workers,
    ):
        workers.first(answer)
    lock = threading.Lock()
    with (
        pytest.raises(ValueError, match=r"cannot be sent how to build their proposer .*names and settings only"),
        connected_workers(lambda: lock and plain_tools(), settings),
    ):
        pass


def test_a_machine_without_arts_is_told_how_to_get_it(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = 'raise ModuleNotFoundError("No module named \'arts\'", name="arts")\n'
    (tmp_path / "arts.py").write_text(missing, encoding="utf-8")
    monkeypatch.chdir(tmp_path)  # which workers import from, besides what they are told
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "tests")])}}
    ray.init(address=nodes.address, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    try:
        with (
            pytest.raises(ValueError, match=r"No module named 'arts'.*pip install \"arts-llm\[ray\]=="),
            connected_workers(plain_tools, ClusterSettings(num_workers=1)) as workers,
        ):
            workers.first(answer)
        assert ray.is_initialized(), "the connection was the caller's"
    finally:
        ray.shutdown()


def test_a_folder_that_a_worker_does_not_have_is_named(nodes: Nodes, tmp_path: Path) -> None:
    with started(tmp_path / "out", ["--proposer", "hf:no/such/folder", *ray_options(nodes)]) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 2
    assert re.search(
        r"^arts: the worker on [\d.]+ says: there is no model folder 'hf:no/such/folder'", said, re.MULTILINE
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense"])
def test_a_wrong_address_is_refused_at_once(address: str) -> None:
    with (
        pytest.raises(ValueError, match=f"there is no Ray cluster at {address} .*give HOST:PORT"),
        connected_workers(plain_tools, ClusterSettings(address=address)),
    ):
        pass
