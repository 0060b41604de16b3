"""What workers of tests/test_ray.py work with; they import it on their own, as they do ARTS."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arts.proposers.table import TableProposer
from arts.protocols import Reply, Request
from arts.scale.workers import Tools
from arts.tasks.toy import ToyTask
from arts.tree import Problem


class SlowTable(TableProposer):
    """The table, at a model's pace. It writes down what it begins and ends, where, and for which seeds."""

    def __init__(self, log: Path, seconds: float) -> None:
        super().__init__()
        self.log, self.seconds = log, seconds

    def propose(self, requests: Sequence[Request]) -> list[Reply]:
        self._note("begin", requests)
        time.sleep(self.seconds)
        replies = super().propose(requests)
        self._note("end", requests)
        return replies

    def _note(self, what: str, requests: Sequence[Request]) -> None:
        import ray

        row = {
            "what": what,
            "pid": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "seeds": [seed for request in requests for seed in request.seeds],
        }
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def slow_tools(log: str, seconds: float) -> Tools:
    return Tools(ToyTask(2, 3), SlowTable(Path(log), seconds))


def plain_tools(temperature: float = 1.0) -> Tools:
    return Tools(ToyTask(2, 3), TableProposer(temperature=temperature))


def tools_of_many_temperatures() -> Tools:
    """Every worker has weights of its own."""
    return plain_tools(1.0 + os.getpid() / 1e6)


def tools_without_a_library() -> Tools:
    import no_such_library  # type: ignore[import-not-found]  # noqa: F401

    raise AssertionError


def near_the_end(problem: Problem, steps: Sequence[str]) -> float:
    """A verifier: the later the last letter in the alphabet, the better."""
    return (ord(steps[-1][0]) - ord("a") + 1) / 5


def die(tools: Tools) -> Any:
    """Work that ends whoever does it, as too much memory would."""
    os._exit(1)


def leave(tools: Tools) -> Any:
    """Work that ends its process in good order, as no worker may."""
    sys.exit(3)


def answer(tools: Tools) -> int:
    return 7


def slow_answer(tools: Tools) -> int:
    """So slow that other workers have started before all of a run's are given."""
    time.sleep(0.5)
    return 7
