"""The HTTPS listener of the mail process: auto-configuration and health, on the operator's own TLS certificate."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl

import uvicorn
from starlette.applications import Starlette


class WebServer:
    """uvicorn inside our loop, with our TLS context (None: in clear, for this machine only), and our signal handlers left alone."""

    def __init__(self, app: Starlette, context: ssl.SSLContext | None, *, host: str, port: int) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=200,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=16 * 1024,
        )
        config.load()
        config.ssl = context
        self._server = uvicorn.Server(config)
        self._address = (host, port)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        listener = socket.create_server(self._address)
        # serve() would take over SIGTERM, which belongs to the process around us.
        self._task = asyncio.create_task(self._server._serve(sockets=[listener]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Finish what is being answered, then stop."""
        self._server.should_exit = True
        if self._task:
            await self._task
