"""`arts serve` in a thread of this process, and searches behind the fake server, for tests."""

import asyncio
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx
import openai
import uvicorn
from fake_server import Settings
from servers import Running, fake_server, free_port, until_started
from starlette.types import ASGIApp

from arts.build import build_proposer
from arts.proposers.sampling import Sampling
from arts.proposers.table import TableProposer
from arts.protocols import Proposer, Reply, Request, ScoreScale, StepScorer, Task
from arts.score_function import FunctionScorer
from arts.search.whole_path import WholePathScorer
from arts.serve.app import build_app
from arts.serve.limits import Limits
from arts.serve.plan import Offer
from arts.serve.run import GracefulServer
from arts.serve.service import Service
from arts.tasks.toy import ToyTask, toy_tree
from arts.tree import Problem

TASK = ToyTask(3, 3)
HTTP = httpx.Client(timeout=30, verify=False)  # one for all: each reads the certificates of all the world


@contextmanager
def running(app: ASGIApp, service: Service, *, servers: list[uvicorn.Server] | None = None) -> Iterator[str]:
    """The address of an application that runs until the block ends, or until its server is told to."""
    port = free_port()
    server = GracefulServer(uvicorn.Config(app, port=port, log_level="critical"), service, shutdown_s=1)
    if servers is not None:
        servers.append(server)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until_started(server)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def exact_scorer() -> StepScorer:
    """The exact chance of toy paths to end right."""

    def chance(problem: Problem, steps: Sequence[str]) -> float:
        tree = toy_tree(problem)
        return min(1.0, float(tree.success_probabilities[tree.find("".join(steps)) or 0]))  # rounded sums exceed 1

    return WholePathScorer(FunctionScorer(chance, scale=ScoreScale(kind="log_value", inner_is_value=True)))


def sums_scorer() -> StepScorer:
    """Half the chance for every line of a sum that is wrong."""

    def chance(problem: Problem, steps: Sequence[str]) -> float:
        lines = re.findall(r"(-?\d+) ([-+]) (\d+) = (-?\d+)", "".join(steps))
        wrong = sum(int(a) + (int(b) if sign == "+" else -int(b)) != int(c) for a, sign, b, c in lines)
        return float(0.5**wrong)

    return WholePathScorer(FunctionScorer(chance, scale=ScoreScale(kind="log_value", inner_is_value=True)))


def upstream_service(
    upstream: Running, task: Task = TASK, scorer: StepScorer | None = None, options: str = "", **limits: Any
) -> Service:
    """Searches behind a fake server."""
    name = upstream.app.settings.model
    proposer = build_proposer(f"{upstream.url}#{name}?max_attempts=4{options}", task)
    upstream.app.rows.clear()
    offer = Offer(
        task=task,
        base_model=name,
        upstream=True,
        sampling=Sampling(),
        scored=scorer is not None,
        limits=Limits(**limits),
    )
    return Service(offer, proposer, scorer)


class SlowTable(TableProposer):
    """Toy steps, a moment later."""

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self.delay_s = delay_s

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(self.delay_s)
        return super().propose(requests)


def local_service(proposer: Proposer, task: Task = TASK, scorer: StepScorer | None = None, **limits: Any) -> Service:
    """Searches with a proposer of this process."""
    offer = Offer(
        task=task,
        base_model="local",
        upstream=False,
        sampling=Sampling(),
        scored=scorer is not None,
        limits=Limits(**limits),
    )
    return Service(offer, proposer, scorer)


@contextmanager
def served(
    settings: Settings | None = None,
    *,
    then: dict[str, Any] | None = None,
    app: dict[str, Any] | None = None,
    servers: list[uvicorn.Server] | None = None,
    **parts: Any,
) -> Iterator[tuple[Running, Service, str]]:
    """The fake server, the service before it, and its address.

    Args:
        then: how the fake server behaves once it was asked what it can do.
        app: options of `build_app`.
        parts: of `upstream_service`.
    """
    with fake_server(settings) as upstream:
        parts = {"scorer": exact_scorer()} | parts
        service = upstream_service(upstream, **parts)
        for name, value in (then or {}).items():
            setattr(upstream.app.settings, name, value)
        with running(build_app(service, **(app or {})), service, servers=servers) as url:
            yield upstream, service, url


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@cache
def client(url: str, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)


def toy_message(seed: int = 1) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"toy 3x3 seed {seed}"}]


def exact_value(prompt: str, text: str) -> float:
    tree = toy_tree(TASK.parse(prompt))
    place = tree.find(text)
    assert place is not None, text
    return math.exp(math.log(float(tree.success_probabilities[place]) or 1e-300))
