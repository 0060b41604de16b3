"""Draw Sparse Deep Fork trees into a folder, and lose nothing.

A local model works in fixed blocks of problems. A server is kept busy all the time, and no problem waits for another.
Either way a reply is on disk before it counts, and a killed run goes on inside the problem.
"""

import hashlib
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from arts.protocols import ConcurrentProposer, Proposer, Reply, Task
from arts.sparse_deep_fork import CollectSettings, Job, ProblemRun
from arts.store import Collection, JournalRow, create_collection
from arts.tree import Problem

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


def collect(
    task: Task,
    proposer: Proposer,
    settings: CollectSettings,
    folder: Path,
    *,
    about: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Collection:
    """Draw trees into a folder, or finish the run that was started there.

    The result is the same whether or not the run was interrupted: draws depend on seeds made from the problem and the
    rollout's index, and a block of a proposer whose rounding depends on the batch is drawn again as a whole. Draws that
    a server failed at are in the trees as such, and are tried again by the same call.

    Raises:
        ValueError: the folder holds a collection made with other settings, is being written by another process, or
            cannot be written to; or the server is down. What was drawn is kept.
    """
    stream = task.problems(settings.split, settings.seed)
    problems = list(islice(stream, settings.first_problem, settings.first_problem + settings.num_problems))
    if len(problems) < settings.num_problems:
        raise ValueError(
            f"task {task.name} has {len(problems)} problems in split {settings.split} from place "
            f"{settings.first_problem} on, and {settings.num_problems} were asked for"
        )
    collection = create_collection(folder, run_header(task, proposer, settings, problems), about=about)
    with collection.lock():
        run = _Run(task, proposer, settings, collection, problems, watch)
        if isinstance(proposer, ConcurrentProposer):
            _collect_concurrently(run, proposer)
        else:
            _collect_in_blocks(run)
    return collection


def _digest(problems: Sequence[Problem]) -> str:
    """Names the problems, where a file that may change decides them."""
    return hashlib.sha256("\n".join(problem.id for problem in problems).encode()).hexdigest()[:16]


def run_header(
    task: Task, proposer: Proposer, settings: CollectSettings, problems: Sequence[Problem] = ()
) -> dict[str, Any]:
    own = asdict(settings)
    if settings.forks_per_pivot == 1:
        del own["forks_per_pivot"]  # it came later: collections made before go on
    return {
        "task": task.name,
        **({"problems": _digest(problems)} if getattr(task, "problems_may_change", False) else {}),
        "proposer": proposer.fingerprint,
        "tokenizer": proposer.tokenizer_fingerprint,
        "log_prior_law": proposer.log_prior_law,
        "settings": own,
    }


class _Shard:
    """The problems of one file, as far as they got."""

    def __init__(self, number: int, runs: Sequence[ProblemRun]) -> None:
        self.number, self.runs = number, runs
        self.num_open = len(runs)


class _Run:
    """What both ways of drawing share: shards, rows, counts."""

    def __init__(
        self,
        task: Task,
        proposer: Proposer,
        settings: CollectSettings,
        collection: Collection,
        problems: Sequence[Problem],
        watch: Watch | None,
    ) -> None:
        self.task, self.proposer, self.settings, self.collection = task, proposer, settings, collection
        self.problems, self.watch = problems, watch
        self.is_stopping = False
        self.done = self.found = self.generated = self.prompt = self.rollouts = 0
        self.started = time.time()
        self.failed: Counter[str] = Counter()

    def shards(self) -> Iterator[_Shard]:
        """Those that are not finished, in order. One that was finished with failures is taken up again."""
        size = self.settings.block_size * _BLOCKS_PER_SHARD
        for number, start in enumerate(range(0, len(self.problems), size)):
            wanted = self.problems[start : start + size]
            rows = self.collection.read_journal(number)
            if self.collection.shard_path(number).exists() and not any(row.failure for row in rows):
                self.collection.drop_journal(number)
                self.done += len(wanted)
                self.found += len(wanted)
                continue
            by_problem: dict[str, list[JournalRow]] = {}
            for row in rows:
                by_problem.setdefault(row.problem_id, []).append(row)
            runs = [ProblemRun(self.task, self.settings, one, by_problem.get(one.id, ())) for one in wanted]
            yield _Shard(number, runs)

    def count(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            self.generated += reply.usage.generated_tokens
            self.prompt += reply.usage.prompt_tokens
            num_failed = sum(draw[-1].stop == "error" for draw in reply.draws)
            self.rollouts += len(reply.draws) - num_failed
            if num_failed:
                self.failed[reply.failure.partition(":")[0] or "model"] += num_failed

    def finish(self, shard: _Shard) -> None:
        """Write the trees of a shard. Its journal stays where failures are to be tried again."""
        law, tokenizer = self.proposer.log_prior_law, self.proposer.tokenizer_fingerprint
        trees = []
        for run in shard.runs:
            if self.is_stopping:  # checkers may be slow
                raise KeyboardInterrupt
            trees.append(run.tree(log_prior_law=law, tokenizer=tokenizer))
        self.collection.finish_shard(
            shard.number,
            trees,
            keep_journal=any(run.failed for run in shard.runs),
        )

    def tell(self) -> None:
        """Say how far it is, to the watcher and to those who look at the folder."""
        state = Progress(
            self.done, len(self.problems), self.generated, self.prompt, self.rollouts, dict(self.failed), self.found
        )
        self.collection.write_status({"started": self.started, "updated": time.time(), **state._asdict()})
        if self.watch:
            self.watch(state)


# --- a local model ----------------------------------------------------------------------------------------------------


def _collect_in_blocks(run: _Run) -> None:
    """Trunks of a block in one batch, then its forks."""
    size = run.settings.block_size
    for shard in run.shards():
        for start in range(0, len(shard.runs), size):
            block = shard.runs[start : start + size]
            _draw(run, shard, [(one, one.trunk_job()) for one in block])
            _draw(run, shard, [(one, job) for one in block for job in one.fork_jobs()])
            run.done += len(block)
            run.tell()
        run.finish(shard)


def _draw(run: _Run, shard: _Shard, jobs: Sequence[tuple[ProblemRun, Job]]) -> None:
    """Ask for the missing rollouts; where rounding depends on the batch, for the whole batch if one is missing."""
    missing = [(one, part) for one, job in jobs if (part := one.missing(job)).indices]
    if not missing:
        return
    asked = missing if run.proposer.batch_invariant else jobs
    replies = run.proposer.propose([job.request for _, job in asked])
    run.count(replies)
    pairs = zip(asked, replies, strict=True)
    rows = [(one, row) for (one, job), reply in pairs if (row := one.row(job, reply)) is not None]
    run.collection.append(shard.number, [row for _, row in rows])
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

    def __init__(self, run: _Run, proposer: ConcurrentProposer) -> None:
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
                self._run.finish(problem.shard)


_Landed = SimpleQueue["Future[Reply] | None"]
"""Replies as they come; None: the user wants to stop."""


def _collect_concurrently(run: _Run, proposer: ConcurrentProposer) -> None:
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
    run: _Run,
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
        run.collection.append(number, [row for _, row in new])
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
def _stop_requests_to(landed: _Landed, run: _Run) -> Iterator[None]:
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
