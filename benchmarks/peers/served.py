"""What every adapter shares: its job, the verifier behind the server, the rows it hands back. Standard library only.

An adapter is a script that runs in its peer's own environment. It reads one job from standard input, says `ready` when
everything is imported and set up (the clock of the run starts there), and then writes one line a problem. It counts
nothing and judges nothing: tokens and requests are the servers' own counters, right and wrong is the driver's business.
"""

import json
import math
import sys
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, NamedTuple, TextIO

END_OF_TEXT = "<|end|>"  # what a finished solution ends with, as the shipped tokenizer writes it
RIGHT, WRONG = 10.0, 0.1  # rewards the flow verifier was trained with


@dataclass(frozen=True, kw_only=True)
class Job:
    """One method, one setting, all problems."""

    method: str
    options: dict[str, Any]
    problems: list[str]
    seed: int
    proposer_url: str
    verifier_url: str
    model: str
    separator: str
    "ends every step but the last"
    num_steps: int
    "of a right solution"
    max_new_tokens: int
    "of one solution"
    in_flight: int
    "requests at once, at most"
    places: dict[str, str] = field(default_factory=dict)
    "folders of the verifier, for the adapter that can run it by itself: `exported`, `trained`, `backbone`"
    temperature: float = 1.0


@dataclass(frozen=True)
class Verifier:
    """The flow verifier behind vLLM's pooling endpoint: it reads whole texts, and its word on the last token counts."""

    url: str
    model: str
    separator: str
    timeout_s: float = 300.0

    def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Log-odds that a solution that begins like this ends right, of (problem, text) pairs, all in one request.

        A text that ends with the separator is a solution still being written, any other one is finished.
        """
        body = {
            "model": self.model,
            "input": [self.prompt(problem, text) for problem, text in pairs],
            "task": "token_classify",
            "use_activation": False,
        }
        request = urllib.request.Request(
            f"{self.url}/pooling", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
            rows = json.load(answer)["data"]
        return [last_number(row["data"]) for row in sorted(rows, key=lambda row: row["index"])]

    def prompt(self, problem: str, text: str) -> str:
        """What the verifier reads: the problem under the shipped chat template, then the solution so far."""
        return f"{problem}\n{text}" + ("" if not text or text.endswith(self.separator) else END_OF_TEXT)


def last_number(data: list[Any]) -> float:
    last = data[-1]
    return float(last[0] if isinstance(last, list) else last)


def chance(logit: float) -> float:
    if logit < 0:
        return math.exp(logit) / (1 + math.exp(logit))
    return 1 / (1 + math.exp(-logit))


def flow(logit: float) -> float:
    """F, in [WRONG, RIGHT]."""
    return WRONG + (RIGHT - WRONG) * chance(logit)


def flow_as_score(logit: float) -> float:
    """A score in [0, 1] with odds F: for searches that weigh by the odds of a score."""
    return flow(logit) / (1 + flow(logit))


def read_job(file: TextIO = sys.stdin) -> Job:
    return Job(**json.load(file))


class Solved(NamedTuple):
    place: int
    "of the problem"
    text: str
    "that was chosen; empty where nothing was finished"
    bill: Mapping[str, int] = MappingProxyType({})
    "what a tool says of its own cost: beside the counters, never instead of them"


def run(job: Job, package: str, solve_all: Callable[[], Iterable[Solved]], file: TextIO = sys.stdout) -> None:
    """Say that everything is set up, and by which version; then write the solutions as they come."""

    def write(row: dict[str, Any]) -> None:
        file.write(json.dumps(row) + "\n")
        file.flush()

    write({"ready": True, "version": version(package)})
    for solved in solve_all():
        write({"problem": job.problems[solved.place], **solved._asdict(), "bill": dict(solved.bill)})
    write({"done": True})
