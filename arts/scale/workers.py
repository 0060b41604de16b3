"""Workers on a Ray cluster: each builds its models once, then does what a driver hands out, block by block.

Of what Ray offers, restartable actors and `ray.wait` leave the least to ourselves. Ray keeps a model in memory between
blocks (plain tasks do not; those on GPUs end their process each time), restarts a worker that died or lost its node and
runs its blocks again, and accounts for CPUs and GPUs. `ActorPool` keeps idle workers, so that one that lost its node
would wait for a place for ever; here a worker without a block is let go, which frees its place. Ray Data takes all
input up front and sees rows, where rounding wants fixed blocks. What is left is `Workers.run`.

Knows neither trees nor searches: work is a function of a worker's tools. Ray is imported where a cluster is wanted.
"""

import re
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import arts
from arts.protocols import Proposer, ScoreScale, StepScorer, Task
from arts.tree import LogPriorLaw

R = TypeVar("R")
Say = Callable[[str], None]

RAY_HINT = 'other machines are reached through Ray: pip install "arts-llm[ray]"'
_BLOCKS_AHEAD = 2  # a worker has: one that it does, and one that waits, so that it never waits for the driver
_MOST_RESTARTS = 16  # of one worker, so that a block that kills whoever does it ends the run
_SAY_EVERY_S = 20.0
_REACH_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Which cluster, and what of it."""

    address: str | None = None
    """`HOST:PORT` of the head. None: Ray's own rule, that is RAY_ADDRESS, else a cluster that runs on this machine,
    else one that is started here for this run."""
    num_workers: int | None = None
    "None: as many as fit on the nodes that are there now. More join the run when nodes do"
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    "0.5: two workers share a GPU"
    start_timeout_s: float = 600.0
    "how long the first worker may wait for its place"

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"there are to be {self.num_workers} workers; it must be at least 1")
        for name in ("cpus_per_worker", "gpus_per_worker"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not self.cpus_per_worker and not self.gpus_per_worker:
            raise ValueError("a worker needs a part of a CPU or of a GPU; else nothing bounds their number")

    @property
    def needs(self) -> dict[str, float]:
        """By Ray's names."""
        wanted = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}
        return {name: amount for name, amount in wanted.items() if amount}


class Tools(NamedTuple):
    """What a worker works with."""

    task: Task
    proposer: Proposer
    scorer: StepScorer | None = None
    verifier: str = ""
    "names the scorer's weights"

    @property
    def identity(self) -> "Identity":
        return Identity(
            arts.__version__,
            self.proposer.fingerprint,
            self.proposer.tokenizer_fingerprint,
            self.proposer.log_prior_law,
            self.verifier,
            None if self.scorer is None else self.scorer.scale,
        )


class Identity(NamedTuple):
    """What decides a worker's results; it must be the same on all."""

    version: str
    "of ARTS"
    fingerprint: str
    tokenizer_fingerprint: str | None
    log_prior_law: LogPriorLaw
    verifier: str
    scale: ScoreScale | None


class _Done(NamedTuple):
    """What a worker answers."""

    value: Any
    identity: Identity
    worker: str
    was_restarted: bool


class _Worker:
    """The actor. Its tools are built by its first call, as an exception there says more than one in a constructor."""

    def __init__(self, make: Callable[[], Tools]) -> None:
        self._make = make

    @cached_property
    def _tools(self) -> Tools:
        return self._make()

    def do(self, work: Callable[[Tools], Any]) -> _Done:
        import ray

        here = ray.get_runtime_context()
        try:
            value = work(self._tools)
        except (Exception, SystemExit) as error:
            raise portable(error, f"the worker on {ray.util.get_node_ip_address()}") from None
        return _Done(value, self._tools.identity, here.get_actor_id(), here.was_current_actor_reconstructed)


def portable(error: BaseException, worker: str = "a worker") -> Exception:
    """An error that can be sent: a mistake in its words, anything else with its traceback in words.

    A plain one, as subclasses may not survive the journey.
    """
    if isinstance(error, ValueError | ModuleNotFoundError):
        return ValueError(f"{worker} says: {error}")
    return RuntimeError(f"{worker} failed:\n" + "".join(traceback.format_exception(error)))


@contextmanager
def connected_workers(
    make: Callable[[], Tools], settings: ClusterSettings, *, say: Say = lambda line: None
) -> Iterator["Workers"]:
    """Workers that end with this context. A cluster that was there stays; so does the caller's own connection to it.

    Args:
        make: builds the tools; it is called once on every worker, and again where one was restarted.
        say: is told what the user should know.

    Raises:
        ValueError: Ray is not installed, the cluster cannot be reached, `make` cannot be sent, or no worker found its
            place in time.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError(RAY_HINT) from error
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(settings.address)
    try:
        yield Workers(make, settings, say)
    finally:
        if is_ours:
            ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    advice = (
        "give HOST:PORT as `ray start --head` printed it, or leave --address out to use the cluster that RAY_ADDRESS "
        "names, one that runs on this machine, or one that is started for this run"
    )
    host, _, port = (address or "").rpartition(":")
    try:
        if host and port.isdecimal() and "/" not in host:
            socket.create_connection((host, int(port)), timeout=_REACH_S).close()  # Ray itself would try for minutes
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"there is no Ray cluster at {address or 'hand'} ({reason}); {advice}") from error


class Workers:
    """Workers of a cluster that this process is connected to; they do one `run`.

    Attributes:
        restarted: those that died, or lost their node, and were started again.
    """

    def __init__(self, make: Callable[[], Tools], settings: ClusterSettings, say: Say) -> None:
        import ray

        self._settings, self._say = settings, say
        self._identity: Identity | None = None
        self.restarted: set[str] = set()
        actor = ray.remote(_Worker).options(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            max_restarts=_MOST_RESTARTS,
            max_task_retries=-1,  # until a node is known to be lost, each attempt to reach it counts as one
        )
        wanted = settings.num_workers or max(1, _num_fitting(settings.needs))
        try:
            workers = [actor.remote(make) for _ in range(wanted)]
        except TypeError as error:
            raise ValueError(
                f"the workers cannot be sent how to build their proposer ({str(error).splitlines()[0]}); give a "
                "function that builds it on the worker, of names and settings only"
            ) from error
        # What each worker is at; Ray ends a worker that is at nothing, as nobody knows of it any more.
        self._calls = {one.__ray_ready__.remote(): one for one in workers}

    def first(self, work: Callable[[Tools], R]) -> tuple[Identity, R]:
        """Have the first worker that found its place do this; with what decides the results of all."""
        import ray

        calls, started = list(self._calls), time.monotonic()
        while not (ready := ray.wait(calls, num_returns=1, timeout=_SAY_EVERY_S)[0]):
            seconds = time.monotonic() - started
            waited = f"no worker has started in {seconds:.0f} s: {_shortage(self._settings.needs)}"
            if seconds > self._settings.start_timeout_s:
                raise ValueError(f"{waited}; start such a node, or ask for less (--cpus-per-worker, --gpus-per-worker)")
            self._say(f"{waited}; what is not free is held by workers that are starting, or by others: waiting")
        self._take(ready[0])
        done: _Done = self._take(self._calls[ready[0]].do.remote(work))
        return done.identity, done.value

    def run(self, work: Iterable[Callable[[Tools], R]]) -> Iterator[R]:
        """Have all of this done, and give results as they come. Of `work` is taken what workers are free for.

        What went wrong at a worker, or in `work`, is raised when what the others were at is back; no more is taken.
        """
        import ray

        left, out = iter(work), set()
        error: Exception | None = None
        while self._calls:
            (call,), _ = ray.wait(list(self._calls), num_returns=1)
            worker = self._calls.pop(call)
            was_out = call in out
            out.discard(call)
            done = None
            try:
                done = self._take(call)
                for one in islice(left, 1 if was_out else _BLOCKS_AHEAD):
                    new = worker.do.remote(one)
                    self._calls[new] = worker
                    out.add(new)
            except Exception as reason:
                error, left = error or reason, iter(())
            del worker
            if was_out and done is not None:
                yield done.value
            if not out:  # those that did not find their place yet are not needed any more
                break
        if error:
            raise error

    def _take(self, call: Any) -> Any:
        """What a call gave, or what went wrong with it in words."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            done = ray.get(call)
        except RayTaskError as error:
            if isinstance(error.cause, ValueError | RuntimeError):  # from `portable`
                kind = ValueError if isinstance(error.cause, ValueError) else RuntimeError
                raise kind(str(error.cause)) from None
            raise
        except RayError as error:
            # It died; where Ray's memory monitor killed it, or its node went, this has other names.
            raise ValueError(_death(str(error))) from error
        if isinstance(done, _Done):
            self._check(done)
        return done

    def _check(self, done: _Done) -> None:
        if done.was_restarted:
            self.restarted.add(done.worker)
        self._identity = self._identity or done.identity
        for name, ours, other in zip(Identity._fields, self._identity, done.identity, strict=True):
            if ours != other:
                raise ValueError(
                    f"workers differ in {name}: {ours!r} and {other!r}; their results would not be those of one run. "
                    "Give all machines the same version of ARTS, the same model folders and the same server"
                )


def _num_fitting(needs: dict[str, float]) -> int:
    """Workers that the nodes have room for when nothing else runs there."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(node.get(name, 0) / amount + 1e-9) for name, amount in needs.items()) for node in nodes)


def _shortage(needs: dict[str, float]) -> str:
    import ray

    wanted = " and ".join(f"{amount:g} {name}" for name, amount in needs.items())
    free, total = ray.available_resources(), ray.cluster_resources()
    there = ", ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}" for name in needs)
    return f"each wants {wanted}, free are {there}{'' if _num_fitting(needs) else ', and no node is that large'}"


def _death(report: str) -> str:
    """What to say of a worker that Ray has given up."""
    if missing := re.search(r"No module named '[\w.]+'", report):
        return (
            f"a worker cannot start: {missing[0]}. Every machine of the cluster needs what this one has: pip install "
            f'"arts-llm[ray]=={arts.__version__}", and what your own functions import'
        )
    return (
        f"a worker died again and again, or Ray could not start it: {' '.join(report.split())[-600:]}. What was drawn "
        "is kept; a block that needs too much memory gets smaller with --block-size"
    )
