"""`arts collect` from a server: what is drawn, what fails, how it stops, what it says and what it never says."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_server import Settings
from faults import environment, rollouts_of, server_process
from servers import fake_server

from arts.build import build_proposer
from arts.collect import Progress, collect
from arts.collect_report import Prices, dry_run_lines, duration, status_lines
from arts.proposers.table import TableProposer
from arts.protocols import Reply, Request
from arts.sparse_deep_fork import CollectSettings, rollout_seed
from arts.store import load_trees, open_collection
from arts.tasks.toy import ToyTask
from arts.tree import ReasoningTree, Step, StopReason, Usage

TASK = ToyTask(3, 3)
SMALL = CollectSettings(num_problems=20, num_samples=6, block_size=1)  # shards of 8 problems
FAST = "max_attempts=2&give_up_s=1"


class Concurrent(TableProposer):
    """A table that answers from threads, in any order, and fails as it is told."""

    draws_at_once = 1
    max_in_flight = 8

    def __init__(self, *, failing: Sequence[int] = (), dies_after: int | None = None, delay_s: float = 0.0) -> None:
        super().__init__()
        self.failing, self.dies_after, self.delay_s = set(failing), dies_after, delay_s
        self.asked: list[Request] = []

    def submit(self, request: Request) -> Future[Reply]:
        self.asked.append(request)
        future: Future[Reply] = Future()
        threading.Timer(self.delay_s, self._answer, (future, request, len(self.asked))).start()
        return future

    def _answer(self, future: Future[Reply], request: Request, number: int) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if self.dies_after is not None and number > self.dies_after:
            future.set_exception(ValueError("the server is down"))
        elif self.failing & set(request.seeds):
            failed = (Step("", (), None, StopReason.ERROR),)
            usage = Usage(failed_requests=3)
            future.set_result(Reply((failed,) * len(request.seeds), usage, "timeout: no answer within 1 s"))
        else:
            future.set_result(self._reply(request))


def drawn(folder: Path, proposer: Any, settings: CollectSettings = SMALL) -> list[ReasoningTree]:
    collect(TASK, proposer, settings, folder)
    return load_trees(folder)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("trees-*.jsonl"))}


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_trees_are_those_of_the_same_proposer_in_blocks(tmp_path: Path) -> None:
    blocks = drawn(tmp_path / "blocks", TableProposer())
    for at_once in (1, 4):
        proposer = Concurrent()
        proposer.draws_at_once = at_once
        found = drawn(tmp_path / str(at_once), proposer)
        assert [tree.nodes for tree in found] == [tree.nodes for tree in blocks]
        assert max(len(request.seeds) for request in proposer.asked) == at_once
    assert len(shards(tmp_path / "1")) == 3


def test_trees_from_a_server_are_those_of_its_model(tmp_path: Path) -> None:
    with fake_server(Settings(n=False)) as server:
        proposer = build_proposer(f"{server.url}#toy", TASK)
        server.app.rows.clear()  # what the server can do is known now
        found = drawn(tmp_path, proposer)
        rows = server.app.rows
    table = TableProposer()
    for tree in found:
        seeds = [rollout_seed(0, tree.problem, index) & 0x7FFFFFFF for index in range(6)]
        (reply,) = table.propose([Request(tree.problem, (), tuple(seeds), 6)])
        texts = ["".join(step.text for step in draw) for draw in reply.draws]
        assert [tree.text(leaf) for leaf in tree.trunks] == texts
        priors = [sum(step.log_prior or 0.0 for step in draw) for draw in reply.draws]
        assert [sum(node.log_prior or 0.0 for node in tree.path(leaf)) for leaf in tree.trunks] == pytest.approx(priors)
        tokens = [sum(row["tokens"]) for row in rows if row["prompt"] == tree.problem.prompt]
        assert tree.usage == Usage(tree.usage.prompt_tokens, sum(tokens), len(tokens))


def test_requests_of_one_problem_follow_each_other(tmp_path: Path) -> None:
    """What the server has read for one is there for the next."""
    proposer = Concurrent()
    drawn(tmp_path, proposer)
    problems = [request.problem.id for request in proposer.asked]
    changes = sum(one != other for one, other in pairwise(problems))
    assert changes < 5 * len(set(problems)), "trunks in a row, and forks in a row"


def test_a_slow_problem_holds_no_other_back(tmp_path: Path) -> None:
    first = next(TASK.problems("train", 0))

    class Slow(Concurrent):
        def submit(self, request: Request) -> Future[Reply]:
            if request.problem == first and not request.prefix:
                future: Future[Reply] = Future()
                held.append((future, request))
                self.asked.append(request)
                return future
            return super().submit(request)

    held: list[tuple[Future[Reply], Request]] = []
    proposer, done = Slow(), []

    def watch(state: Progress) -> None:
        done.append(state.done)

    thread = threading.Thread(target=lambda: collect(TASK, proposer, SMALL, tmp_path, watch=watch))
    thread.start()
    deadline = time.monotonic() + 20
    while (len(shards(tmp_path)) if tmp_path.exists() else 0) < 2:
        assert time.monotonic() < deadline, "all shards but that of the slow problem are finished"
        time.sleep(0.01)
    assert "trees-00000.jsonl" not in shards(tmp_path)
    for future, request in held:
        future.set_result(proposer._reply(request))
    thread.join(20)
    assert len(load_trees(tmp_path)) == SMALL.num_problems


# --- what fails -------------------------------------------------------------------------------------------------------


def test_failed_draws_are_typed_and_tried_again(tmp_path: Path) -> None:
    sound = drawn(tmp_path / "sound", Concurrent())
    problem = sound[3].problem
    failing = [rollout_seed(0, problem, 1), rollout_seed(0, sound[12].problem, 7)]  # a trunk, and a fork
    faulty = drawn(tmp_path / "faulty", Concurrent(failing=failing))
    for place in (3, 12):
        failed = [node for node in faulty[place].nodes if node.stop is StopReason.ERROR]
        assert len(failed) == 1 and not failed[0].is_answer
        assert faulty[place].usage.failed_requests == 3
    assert all(
        one == other for place, (one, other) in enumerate(zip(sound, faulty, strict=True)) if place not in (3, 12)
    )
    assert "2 draws timeout, most of them: no answer within 1 s" in "\n".join(
        status_lines(tmp_path / "faulty", Prices())
    )
    again = Concurrent()
    mended = drawn(tmp_path / "faulty", again)
    assert {request.problem.id for request in again.asked} == {problem.id, sound[12].problem.id}
    assert [tree.nodes for tree in mended] == [tree.nodes for tree in sound]
    assert mended[3].usage == sound[3].usage._replace(failed_requests=3)
    assert open_collection(tmp_path / "faulty").journals() == []
    proposer = Concurrent()
    drawn(tmp_path / "faulty", proposer)
    assert proposer.asked == []


def test_forks_wait_for_a_trunk_that_is_to_be_tried_again(tmp_path: Path) -> None:
    """Their numbers, and so their seeds, depend on all trunks."""
    problem = next(TASK.problems("train", 0))
    one = CollectSettings(num_problems=1, num_samples=6)
    faulty = Concurrent(failing=[rollout_seed(0, problem, 0)])
    drawn(tmp_path, faulty, one)
    assert not any(request.prefix for request in faulty.asked)
    assert rollouts_of(load_trees(tmp_path)[0]).total() == 5
    (mended,) = drawn(tmp_path, Concurrent(), one)
    (sound,) = drawn(tmp_path / "sound", Concurrent(), one)
    assert mended.nodes == sound.nodes


def test_what_landed_beside_a_fatal_error_is_kept(tmp_path: Path) -> None:
    dying = Concurrent(dies_after=37)
    with pytest.raises(ValueError, match="the server is down"):
        drawn(tmp_path, dying)
    stored = sum(len(row.rollouts) for shard in (0, 1, 2) for row in open_collection(tmp_path).read_journal(shard))
    assert 30 <= stored <= 37
    resumed, sound = Concurrent(), Concurrent()
    found = drawn(tmp_path, resumed)
    assert [tree.nodes for tree in found] == [tree.nodes for tree in drawn(tmp_path / "sound", sound)]
    assert len(resumed.asked) == len(sound.asked) - stored, "nothing is asked twice"


# --- how it stops -----------------------------------------------------------------------------------------------------


@contextmanager
def collecting(out: Path, url: str, *more: str, env: dict[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "arts", "collect", "--task", "toy:3x3", "--proposer", url, "--out", str(out)]
    size = ["--num-problems", "400", "--num-samples", "8", "--block-size", "4"]

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        [*command, *size, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), **(env or {})},
        preexec_fn=listen,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_rows(out: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 2000 for path in out.glob("trees-*")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_stops_within_two_seconds_and_the_run_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    settings = {"latency_s": 0.03, "n": False, "faults": {"stall": 0.05}, "stall_s": 60}
    with server_process(log, settings) as url, collecting(tmp_path / "out", f"{url}#toy?max_in_flight=16") as process:
        wait_for_rows(tmp_path / "out", process)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - asked < 2.0
        assert process.returncode == 130, errors
        assert "Traceback" not in errors and "goes on from here" in errors
    collection = open_collection(tmp_path / "out")
    kept = sum(len(row.rollouts) for shard in collection.journals() for row in collection.read_journal(shard))
    assert kept > 10
    assert collection.num_trees() < 400


def test_a_server_that_goes_away_ends_the_run_in_words(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with server_process(log, {"latency_s": 0.02, "n": False}) as url:
        with collecting(tmp_path / "out", f"{url}#toy?{FAST}") as process:
            wait_for_rows(tmp_path / "out", process)
            os.system(f"pkill -9 -f 'fake_server.py --port {url.split(':')[2].split('/')[0]}'")
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "gave no good answer" in errors and "run the same command again" in errors
        assert "Traceback" not in errors


def test_a_full_disk_ends_the_run_in_words_and_keeps_what_fitted(tmp_path: Path) -> None:
    proposer = Concurrent()
    resource_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource_limit[1]))
    try:
        with pytest.raises(ValueError, match="cannot write to"):
            drawn(tmp_path, proposer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, resource_limit)
    found = drawn(tmp_path, Concurrent())
    assert [tree.nodes for tree in found] == [tree.nodes for tree in drawn(tmp_path / "sound", Concurrent())]


def test_a_second_process_is_told_and_a_look_at_the_folder_disturbs_nobody(tmp_path: Path) -> None:
    with server_process(tmp_path / "log.jsonl", {"latency_s": 0.05, "n": False}) as url:
        with collecting(tmp_path / "out", f"{url}#toy?max_in_flight=4") as process:
            wait_for_rows(tmp_path / "out", process)
            with collecting(tmp_path / "out", f"{url}#toy") as second:
                _, errors = second.communicate(timeout=60)
                assert second.returncode == 2
                assert "another process is writing" in errors
            lines = "\n".join(status_lines(tmp_path / "out", Prices(prompt=1.0, generated=2.0)))
            assert "running" in lines and "a second" in lines and "cost so far" in lines
            assert process.poll() is None
        lines = "\n".join(status_lines(tmp_path / "out", Prices()))
        assert "stopped" in lines


# --- what it never says -----------------------------------------------------------------------------------------------


def test_the_key_is_in_nothing_that_is_written_or_printed(tmp_path: Path) -> None:
    """The server repeats the key in its errors, and it fails often."""
    key = "sk-very-secret-0123456789"
    settings = {"key": key, "faults": {"500": 0.1, "429": 0.1, "truncated": 0.1}, "latency_s": 0.0}
    small = ["--num-problems", "8"]
    said = []
    with server_process(tmp_path / "log.jsonl", settings) as url:
        for number, env in enumerate([{"ARTS_API_KEY": key}, {"ARTS_API_KEY": "sk-wrong-9876543210"}, {}]):
            with collecting(tmp_path / str(number), f"{url}#toy?{FAST}", *small, env=env) as process:
                said.append(process.communicate(timeout=60))
                assert process.returncode == (0 if number == 0 else 2), said[-1]
        (tmp_path / "key.txt").write_text(key + "\n")
        with collecting(tmp_path / "3", f"{url}#toy?key_file={tmp_path / 'key.txt'}", *small) as process:
            said.append(process.communicate(timeout=60))
            assert process.returncode == 0, said[-1]
    (tmp_path / "key.txt").unlink()
    assert "the key was not accepted" in said[1][1] and "ARTS_API_KEY" in said[2][1]
    texts = ["".join(pair) for pair in said]
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.name != "log.jsonl"]
    assert len(texts) > 8
    for text in texts:
        assert "sk-very-secret" not in text and "sk-wrong" not in text


# --- what it says before and while it runs ----------------------------------------------------------------------------


def test_a_dry_run_bounds_the_bill_and_sends_nothing(tmp_path: Path) -> None:
    settings = CollectSettings(num_problems=100, num_samples=8, pivots="none")
    prices = Prices(prompt=1.0, generated=10.0)
    lines = list(dry_run_lines(TASK, settings, tmp_path / "new", prices, 100.0))
    assert lines[0] == "100 problems x 8 main trajectories of at most 6 tokens"
    assert "4,800 tokens generated" in lines[1] and "at 100 tokens a second" in lines[3]
    assert not (tmp_path / "new").exists()
    most = float(lines[2].rpartition(" ")[2])
    drawn(tmp_path / "pilot", TableProposer(), CollectSettings(num_problems=10, num_samples=8, pivots="none"))
    more = "\n".join(dry_run_lines(TASK, settings, tmp_path / "pilot", prices, 100.0))
    assert "expected" in more and "540 tokens generated" not in more
    spent = sum(tree.usage.generated_tokens for tree in load_trees(tmp_path / "pilot"))
    assert f"{10 * spent:,} tokens generated" in more
    assert 10 * spent / 1e5 <= most


def test_status_of_a_finished_run_counts_every_token(tmp_path: Path) -> None:
    trees = drawn(tmp_path, Concurrent())
    usage = Usage()
    for tree in trees:
        usage = usage.plus(tree.usage)
    lines = "\n".join(status_lines(tmp_path, Prices(prompt=1e6, generated=0.0)))
    assert "20 of 20 problems (100%), finished" in lines
    assert f"{usage.generated_tokens:,} tokens generated" in lines
    assert f"cost so far  {usage.prompt_tokens:,.2f}" in lines


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.2, "3 s"), (70, "1 min 10 s"), (3600 * 2.5, "2 h 30 min"), (86400 * 3, "3.0 days")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_wrong_prices_are_refused() -> None:
    with pytest.raises(ValueError, match="price of generated tokens is -1"):
        Prices(generated=-1)


def test_a_status_file_is_json_that_others_can_read(tmp_path: Path) -> None:
    drawn(tmp_path, Concurrent())
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["done"], status["total"]) == (20, 20)
