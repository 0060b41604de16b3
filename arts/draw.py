"""Draw Sparse Deep Fork trees into a store, by two loops: a local model in blocks, a server without a pause.

A local model works in fixed blocks of problems. A server is kept busy all the time, and no problem waits for another.
Either way a reply is stored before it counts. Knows no folder: the store may be a `Collection`, or a worker's memory.
"""

import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from arts.protocols import ConcurrentProposer, Proposer, ProposerIdentity, Reply, Task
from arts.sparse_deep_fork import CollectSettings, Job, ProblemRun
from arts.store import JournalRow
from arts.tree import Problem, ReasoningTree

_BLOCKS_PER_SHARD = 8
_MOST_IN_A_COMMIT = 1024  # replies that are synced to disk together
_TELL_EVERY_S = 1.0
_LOADS_IN_LINE = 2  # one flies; the other waits in line for places that become free while replies are put on disk


class Progress(NamedTuple):
    """Told to a watcher after every block of a local model, and every second or so of a server."""

    done: int
    "problems"
    total: int
    generated_tokens: int
    "in this run, as are those below"
    prompt_tokens: int = 0
    rollouts: int = 0
    failed: Mapping[str, int] = {}
    "draws that came to nothing, by kind of failure"
    found: int = 0
    "of the problems done, those that were done before this run"


Watch = Callable[[Progress], None]


class TreeStore(Protocol):
    """Where replies and trees go: a `Collection`, or the memory of a worker that draws for one."""

    def read_journal(self, shard: int) -> list[JournalRow]: ...

    def is_finished(self, shard: int) -> bool: ...

    def append(self, shard: int, rows: Sequence[JournalRow]) -> None: ...

    def finish_shard(self, shard: int, trees: Sequence[ReasoningTree], *, keep_journal: bool = False) -> None: ...

    def drop_journal(self, shard: int) -> None: ...

    def write_status(self, status: Mapping[str, Any]) -> None: ...


class OpenShard(NamedTuple):
    """A file that is still to be written: its problems, and the replies that are there."""

    number: int
    problems: Sequence[Problem]
    rows: Sequence[JournalRow]


class _Shard:
    """The problems of one file, as far as they got."""

    def __init__(self, number: int, runs: Sequence[ProblemRun]) -> None:
        self.number, self.runs = number, runs
        self.num_open = len(runs)


class CollectRun:
    """What all ways of drawing share: shards, rows, counts."""

    def __init__(
        self,
        task: Task,
        settings: CollectSettings,
        store: TreeStore,
        problems: Sequence[Problem],
        watch: Watch | None = None,
    ) -> None:
        self.task, self.settings, self.store = task, settings, store
        self.problems, self.watch = problems, watch
        self.is_stopping = False
        self.done = self.found = self.generated = self.prompt = self.rollouts = 0
        self.started = time.time()
        self.failed: Counter[str] = Counter()

    def open_shards(self) -> Iterator[OpenShard]:
        """Those that are not finished, in order. One that was finished with failures is taken up again."""
        size = self.settings.block_size * _BLOCKS_PER_SHARD
        for number, start in enumerate(range(0, len(self.problems), size)):
            wanted = self.problems[start : start + size]
            rows = self.store.read_journal(number)
            if self.store.is_finished(number) and not any(row.failure for row in rows):
                self.store.drop_journal(number)
                self.done += len(wanted)
                self.found += len(wanted)
                continue
            yield OpenShard(number, wanted, rows)

    def shards(self) -> Iterator[_Shard]:
        for number, problems, rows in self.open_shards():
            by_problem: dict[str, list[JournalRow]] = {}
            for row in rows:
                by_problem.setdefault(row.problem_id, []).append(row)
            yield _Shard(
                number, [ProblemRun(self.task, self.settings, one, by_problem.get(one.id, ())) for one in problems]
            )

    def count(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            self.generated += reply.usage.generated_tokens
            self.prompt += reply.usage.prompt_tokens
            num_failed = sum(draw[-1].stop == "error" for draw in reply.draws)
            self.rollouts += len(reply.draws) - num_failed
            if num_failed:
                self.failed[reply.failure.partition(":")[0] or "model"] += num_failed

    def finish(self, shard: _Shard, proposer: ProposerIdentity) -> None:
        """Write the trees of a shard. Its journal stays where failures are to be tried again."""
        law, tokenizer = proposer.log_prior_law, proposer.tokenizer_fingerprint
        trees = []
        for run in shard.runs:
            if self.is_stopping:  # checkers may be slow
                raise KeyboardInterrupt
            trees.append(run.tree(log_prior_law=law, tokenizer=tokenizer))
        self.store.finish_shard(
            shard.number,
            trees,
            keep_journal=any(run.failed for run in shard.runs),
        )

    @property
    def progress(self) -> Progress:
        return Progress(
            self.done, len(self.problems), self.generated, self.prompt, self.rollouts, dict(self.failed), self.found
        )

    def tell(self) -> None:
        """Say how far it is, to the watcher and to those who look at the folder."""
        state = self.progress
        self.store.write_status({"started": self.started, "updated": time.time(), **state._asdict()})
        if self.watch:
            self.watch(state)


def draw(run: CollectRun, proposer: Proposer) -> None:
    """Draw what a run lacks, the way that suits the proposer."""
    if isinstance(proposer, ConcurrentProposer):
        _draw_concurrently(run, proposer)
    else:
        _draw_in_blocks(run, proposer)


# --- a local model ----------------------------------------------------------------------------------------------------


def _draw_in_blocks(run: CollectRun, proposer: Proposer) -> None:
    """Trunks of a block in one batch, then its forks."""
    size = run.settings.block_size
    for shard in run.shards():
        for start in range(0, len(shard.runs), size):
            block = shard.runs[start : start + size]
            _draw(run, proposer, shard, [(one, one.trunk_job()) for one in block])
            _draw(run, proposer, shard, [(one, job) for one in block for job in one.fork_jobs()])
            run.done += len(block)
            run.tell()
        run.finish(shard, proposer)


def _draw(run: CollectRun, proposer: Proposer, shard: _Shard, jobs: Sequence[tuple[ProblemRun, Job]]) -> None:
    """Ask for the missing rollouts; where rounding depends on the batch, for the whole batch if one is missing."""
    missing = [(one, part) for one, job in jobs if (part := one.missing(job)).indices]
    if not missing:
        return
    asked = missing if proposer.batch_invariant else jobs
    replies = proposer.propose([job.request for _, job in asked])
    run.count(replies)
    pairs = zip(asked, replies, strict=True)
    rows = [(one, row) for (one, job), reply in pairs if (row := one.row(job, reply)) is not None]
    run.store.append(shard.number, [row for _, row in rows])
    for one, row in rows:
        one.keep(row)


# --- a server ---------------------------------------------------------------------------------------------------------


@dataclass
class _Open:
    """A problem that is being worked on."""

    shard: _Shard
    run: ProblemRun
    outstanding: int = 0
    "jobs that are in the line or on their way"


class _Line:
    """Jobs in the order they are sent: first those of problems that were begun, siblings one behind the other."""

    def __init__(self, run: CollectRun, proposer: ConcurrentProposer) -> None:
        self._run, self._proposer = run, proposer
        self._jobs: deque[tuple[_Open, Job]] = deque()
        self._new = (_Open(shard, problem) for shard in run.shards() for problem in shard.runs)

    def next(self) -> tuple[_Open, Job] | None:
        while not self._jobs:
            problem = next(self._new, None)
            if problem is None:
                return None
            self.go_on(problem)
        return self._jobs.popleft()

    def go_on(self, problem: _Open) -> None:
        """Queue what a problem wants now that nothing of it is on its way; or be done with it."""
        jobs = problem.run.wanted(self._proposer.draws_at_once)
        problem.outstanding = len(jobs)
        self._jobs.extendleft((problem, job) for job in reversed(jobs))
        if not jobs:
            self._run.done += 1
            problem.shard.num_open -= 1
            if problem.shard.num_open == 0:
                self._run.finish(problem.shard, self._proposer)


_Landed = SimpleQueue["Future[Reply] | None"]
"""Replies as they come; None: the user wants to stop."""


def _draw_concurrently(run: CollectRun, proposer: ConcurrentProposer) -> None:
    """As many requests at a time as the proposer takes; replies that came together are synced to disk together."""
    landed: _Landed = SimpleQueue()
    flying: dict[Future[Reply], tuple[_Open, Job]] = {}
    line = _Line(run, proposer)
    told = 0.0
    with _stop_requests_to(landed, run):
        try:
            while True:
                while len(flying) < _LOADS_IN_LINE * proposer.max_in_flight and (one := line.next()) is not None:
                    future = proposer.submit(one[1].request)
                    flying[future] = one
                    future.add_done_callback(landed.put)
                if not flying:
                    break
                _land(run, line, flying, _take(landed))
                if time.monotonic() - told > _TELL_EVERY_S:
                    told = time.monotonic()
                    run.tell()
        finally:
            for future in flying:
                future.cancel()
            with suppress(ValueError, KeyboardInterrupt):  # what ended the run is said already
                _land(run, None, flying, _take(landed, wait=False))
    run.tell()


def _take(landed: _Landed, *, wait: bool = True) -> list["Future[Reply] | None"]:
    """What has landed; waits for the first where asked to."""
    taken = [landed.get()] if wait else []
    with suppress(Empty):
        while len(taken) < _MOST_IN_A_COMMIT or not wait:
            taken.append(landed.get_nowait())
    return taken


def _land(
    run: CollectRun,
    line: _Line | None,
    flying: dict[Future[Reply], tuple[_Open, Job]],
    taken: Sequence[Future[Reply] | None],
) -> None:
    """Put replies on disk, then count them, then go on. An exception of one comes after the others are safe."""
    rows: dict[int, list[tuple[ProblemRun, JournalRow]]] = {}
    replies, problems, error = [], [], None
    for future in taken:
        if future is None or future.cancelled() or future.exception() is not None:
            error = error or (KeyboardInterrupt() if future is None or future.cancelled() else future.exception())
            continue
        problem, job = flying.pop(future)
        reply = future.result()
        replies.append(reply)
        problems.append(problem)
        if (row := problem.run.row(job, reply)) is not None:
            rows.setdefault(problem.shard.number, []).append((problem.run, row))
    for number, new in rows.items():
        run.store.append(number, [row for _, row in new])
        for one, row in new:
            one.keep(row)
    run.count(replies)
    for problem in problems:
        problem.outstanding -= 1
        if line is not None and error is None and not problem.outstanding:
            line.go_on(problem)
    if error is not None:
        raise error


@contextmanager
def _stop_requests_to(landed: _Landed, run: CollectRun) -> Iterator[None]:
    """Ctrl-C comes as one more thing that landed, so that it never falls between a reply and its row.

    A second one does not wait for that.
    """
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or not is_ours:
        yield
        return

    def stop(*_: object) -> None:
        if run.is_stopping:
            raise KeyboardInterrupt
        run.is_stopping = True
        landed.put(None)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
