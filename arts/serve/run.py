"""Run the application until it is told to end, and then give those inside the time they need, within reason."""

import asyncio
import socket
import threading

import uvicorn

from arts.serve.service import Service

_LAST_S = 5  # to send what the searches had when they were ended


class GracefulServer(uvicorn.Server):
    """Takes no more requests once it is told to end (SIGTERM, SIGINT). Searches that run may go on for `shutdown_s`
    seconds; then they end with the best answer they have, which their clients still get.
    """

    def __init__(self, config: uvicorn.Config, service: Service, shutdown_s: int) -> None:
        config.timeout_graceful_shutdown = shutdown_s + _LAST_S
        super().__init__(config)
        self._service, self._shutdown_s = service, shutdown_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = threading.Thread(target=self._service.engine.close, name="arts-ending")
        timer = asyncio.get_running_loop().call_later(self._shutdown_s, ending.start)
        await super().shutdown(sockets)
        timer.cancel()
