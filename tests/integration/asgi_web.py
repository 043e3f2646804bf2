"""An ``AsyncServer`` under uvicorn for the jobs of the tests: ``python -m tests.integration.asgi_web``."""

from __future__ import annotations

import os

import socketio
import uvicorn

from tests.integration.jobs import realtime

server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
realtime.init_socketio(server)
app = socketio.ASGIApp(server)


class Server(uvicorn.Server):
    """Says when it listens."""

    async def startup(self, sockets: object = None) -> None:
        await super().startup(sockets)  # type: ignore[arg-type]
        print(f"Listening on http://{self.config.host}:{self.config.port}", flush=True)  # noqa: T201


if __name__ == "__main__":
    Server(uvicorn.Config(app, host=os.environ["HOST"], port=int(os.environ["PORT"]), log_level="info")).run()
