"""The two servers that every method uses, and their own counters: vLLM with the proposer, vLLM with the verifier.

What a run cost is the difference of these counters before and after it, whatever a tool says about itself.
"""

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

START_S, REST_S = 300.0, 120.0
MODEL = "countdown"
_LINE = re.compile(r"^([\w:]+)(?:\{(.*?)\})? ([0-9.e+-]+)$", re.MULTILINE)
_ASKED = re.compile(r'handler="(?:/v1)?/(?:chat/completions|completions|pooling)"')
OPTIONS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "64"]
OPTIONS += ["--block-size", "32", "--disable-uvicorn-access-log"]  # 32 tokens: the smallest block of vLLM on a CPU


class Counters(NamedTuple):
    """What a server has counted since it started, or between two moments."""

    requests: int
    "over HTTP"
    sequences: int
    "choices of these, texts of a batch; with those that a client cut off"
    prompt_tokens: int
    cached_tokens: int
    "of the prompts, not computed: the server had them"
    generated_tokens: int

    def minus(self, earlier: "Counters") -> "Counters":
        return Counters(*(now - then for now, then in zip(self, earlier, strict=True)))


class Reading(NamedTuple):
    counters: Counters
    busy: bool
    "requests are running or waiting"


def read_metrics(text: str) -> Reading:
    """vLLM's /metrics.

    Raises:
        ValueError: a counter is missing.
    """
    totals: dict[str, float] = {}
    for name, labels, value in _LINE.findall(text):
        if name != "http_requests_total" or _ASKED.search(labels):
            totals[name] = totals.get(name, 0.0) + float(value)

    def total(name: str) -> int:
        if name not in totals:
            raise ValueError(f"the server's /metrics has no {name}; is it vLLM 0.32?")
        return round(totals[name])

    counters = Counters(
        requests=round(totals.get("http_requests_total", 0)),  # there from the first request on
        sequences=total("vllm:request_success_total"),
        prompt_tokens=total("vllm:prompt_tokens_total"),
        cached_tokens=total("vllm:prompt_tokens_cached_total"),
        generated_tokens=total("vllm:generation_tokens_total"),
    )
    return Reading(counters, bool(total("vllm:num_requests_running") + total("vllm:num_requests_waiting")))


class Server(NamedTuple):
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"  # by number: its_hub hangs on a host's name

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counters(self) -> Counters:
        """Once nothing is on its way any more."""
        deadline = time.monotonic() + REST_S
        while True:
            with urllib.request.urlopen(f"{self.root}/metrics", timeout=30) as answer:
                counters, busy = read_metrics(answer.read().decode())
            if not busy:
                return counters
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server at {self.root} has not come to rest in {REST_S:.0f} s")
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def serving(python: Path, folder: Path, log: Path, options: Sequence[str] = ()) -> Iterator[Server]:
    """vLLM with one model as long as it is needed; its processes are a group, which ends as a whole."""
    server = Server(free_port())
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(server.port), *OPTIONS, *options]
    settings = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | settings
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_S
        while not server.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"vLLM did not start; see {log}")
            time.sleep(0.5)
        yield server
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Also those that outlive their parent, which vLLM's workers may do."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(15)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
