"""Run the application until it is told to end, and then give those inside the time they need, within reason.

Knows nothing of what the application does: it opens the port, and it minds the signals.
"""

import asyncio
import errno
import os
import signal
import socket
import threading
from types import FrameType

import uvicorn

from arts.serve.service import Service

_LAST_S = 5  # to send what the searches had when they were ended
_BATCH_S = 25  # for a local model's batch, which cannot be interrupted
_INTERRUPTED = 128 + signal.SIGINT
_ADVICE = {
    errno.EADDRINUSE: "another program listens there; end it, or give another --port",
    errno.EACCES: "the system lets nobody else have it; give a --port above 1023",
    errno.EADDRNOTAVAIL: "this machine has no such address; give another --host",
}


def bind(host: str, port: int) -> list[socket.socket]:
    """Take a port on every address that a host's name stands for. Nobody can connect before `listen` of each.

    Raises:
        ValueError: it cannot be had.
    """
    sockets: list[socket.socket] = []
    refusal = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            try:
                one = socket.socket(family, kind, protocol)
            except OSError:  # the machine does not speak this family
                continue
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                one.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                refusal = error  # such as ::1 of `localhost` where only 127.0.0.1 is there
                sockets.pop().close()
        if not sockets:
            raise refusal
    except OSError as error:
        for one in sockets:
            one.close()
        raise _cannot_listen(host, port, error) from error
    return sockets


def listen(sockets: list[socket.socket], backlog: int) -> None:
    """Let clients connect from now on. Raises ValueError where another program came first since `bind`."""
    for one in sockets:
        host, port = one.getsockname()[:2]
        try:
            one.listen(backlog)
        except OSError as error:
            raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> ValueError:
    advice = _ADVICE.get(error.errno or 0, "give another --host or --port")
    return ValueError(f"cannot listen on port {port} of {host} ({error.strerror}): {advice}")


class GracefulServer(uvicorn.Server):
    """Takes no more requests once it is told to end (SIGTERM, SIGINT). Searches that run may go on for `shutdown_s`
    seconds; then they end with the best answer they have, which their clients still get. A second SIGINT ends the
    process at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service, shutdown_s: int) -> None:
        config.timeout_graceful_shutdown = shutdown_s + _LAST_S
        super().__init__(config)
        self._service, self._shutdown_s = service, shutdown_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = threading.Thread(target=self._service.engine.close, name="arts-ending")
        timer = asyncio.get_running_loop().call_later(self._shutdown_s, ending.start)
        if self._service.gate.num_inside:
            self.config.timeout_graceful_shutdown = self._shutdown_s + _BATCH_S + _LAST_S
        await super().shutdown(sockets)
        timer.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Instead of uvicorn's own, which raises the signal again once all is over: an end that was asked for and went
        well has status 0."""
        if not self.should_exit:
            self.should_exit = True  # before anything is said: whoever reads it may send the next signal into this call
            seconds = f"{self._shutdown_s} s" if self._shutdown_s else "no time"
            _say(f"ending: no new requests; those that run have {seconds} left. Ctrl-C again ends at once")
        elif sig == signal.SIGINT:
            _say("ended at once")
            # Threads of a model and of requests on their way wait for nothing that could be interrupted, and nothing
            # is on disk that would have to be finished.
            os._exit(_INTERRUPTED)


def _say(text: str) -> None:
    """From a signal's handler, which may have interrupted a `print`."""
    os.write(2, f"arts: {text}\n".encode())
