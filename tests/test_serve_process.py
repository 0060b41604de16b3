"""`arts serve` as a process: when it says that it serves, how Ctrl-C ends it, what it says of a port that is taken."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import uvicorn
from conftest import ROOT
from servers import free_port
from serving import HTTP

from arts.serve import run
from arts.serve.service import Service

SLOW = "import time\ndef chance(problem, steps):\n    time.sleep(0.02)\n    return 0.5\n"
LONG = {
    "model": "arts-best-of-8",
    "messages": [{"role": "user", "content": "toy 4x6 seed 1"}],
    "arts": {"budget_tokens": 100_000},  # eight draws after another until they are spent
    "stream": True,
}


@contextmanager
def process(*arguments: str, port: int) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "arts", "serve", "--proposer", "table", "--task", "toy:4x6", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, *arguments], env=environment, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def searching(tmp_path: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """A process with a search in it that takes seconds, and what its client is told."""
    (tmp_path / "slow.py").write_text(SLOW)
    port, told = free_port(), []
    with process("--verifier", f"python:{tmp_path}/slow.py:chance", *arguments, port=port) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == f"serving table on http://127.0.0.1:{port}/v1\n"
        started = threading.Event()

        def ask() -> None:
            try:
                with HTTP.stream("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=LONG) as answer:
                    for line in filter(None, answer.iter_lines()):
                        told.append(line)
                        started.set()
            except httpx.TransportError:
                told.append("broken off")

        client = threading.Thread(target=ask)
        client.start()
        try:
            assert started.wait(10)
            yield running, told
        finally:
            running.kill()
            client.join(10)


def test_ctrl_c_lets_searches_end_and_says_so(tmp_path: Path) -> None:
    with searching(tmp_path, "--shutdown-s", "1") as (running, told):
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    assert running.returncode == 0, said
    assert "arts: ending: no new requests; those that run have 1 s left. Ctrl-C again ends at once\n" in said
    assert "Traceback" not in said and "interrupted" not in said
    about: dict[str, Any] = json.loads(told[-2].removeprefix("data: "))["arts"]
    assert (about["stopped"], about["cut_short"]) == ("closed", True) and told[-1] == "data: [DONE]"


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    with searching(tmp_path) as (running, told):
        running.send_signal(signal.SIGINT)
        assert running.stderr is not None and "ending" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        since = time.monotonic()
        _, said = running.communicate(timeout=20)
        assert time.monotonic() - since < 2
    assert (running.returncode, said) == (130, "arts: ended at once\n")
    assert told[-1] != "data: [DONE]"


def test_a_second_ctrl_c_may_come_while_the_first_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    server = run.GracefulServer(uvicorn.Config("nothing:app"), Mock(spec=Service), shutdown_s=3)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text.partition(":")[0])
        if len(said) == 1:
            server.handle_exit(signal.SIGINT, None)  # Python runs a handler within another one

    ended = Mock()
    monkeypatch.setattr(run, "_say", say)
    monkeypatch.setattr(os, "_exit", ended)
    server.handle_exit(signal.SIGINT, None)
    assert said == ["ending", "ended at once"]
    ended.assert_called_once_with(130)


def test_a_port_that_is_taken_is_named_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with process(port=port) as running:
            _, said = running.communicate(timeout=20)
    assert running.returncode == 2
    assert said == (
        f"arts: cannot listen on port {port} of 127.0.0.1 (Address already in use): another program listens there; "
        "end it, or give another --port\n"
    )


def test_a_port_may_be_lost_while_models_are_loaded() -> None:
    ours = run.bind("127.0.0.1", free_port())
    theirs = run.bind(*ours[0].getsockname())
    run.listen(theirs, 1)
    with pytest.raises(ValueError, match="another program listens there"):
        run.listen(ours, 1)
    for one in (*ours, *theirs):
        one.close()


def test_all_addresses_of_a_name_are_taken_that_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    rows = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("192.0.2.1", "127.0.0.1")
    ]  # the first is for documentation: no machine has it
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
    (one,) = run.bind("two-addresses", port)
    assert one.getsockname() == ("127.0.0.1", port)
    one.close()
    del rows[1]
    with pytest.raises(ValueError, match="this machine has no such address; give another --host"):
        run.bind("another-machine", port)


def test_a_port_of_the_system_asks_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ValueError, match=r"port 80 of 127\.0\.0\.1 .*give a --port above 1023"):
        run.bind("127.0.0.1", 80)
