"""Starts servers for tests, and stops them."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fake_server import Server, Settings


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Running:
    """A fake server in a thread of this process."""

    def __init__(self, settings: Settings) -> None:
        self.app = Server(settings)
        self.port = free_port()
        config = uvicorn.Config(
            self.app, port=self.port, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def until_started(server: uvicorn.Server) -> None:
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)


@contextmanager
def fake_server(settings: Settings | None = None) -> Iterator[Running]:
    running = Running(settings or Settings())
    running.thread.start()
    until_started(running.server)
    try:
        yield running
    finally:
        running.server.should_exit = True
        running.thread.join(10)
