"""A web server that tells how its clients keep up: ``ASYNC_MODE=... python -m tests.integration.slow_web``."""
# ruff: noqa: E402

from __future__ import annotations

import os

MODE = os.environ.get("ASYNC_MODE", "threading")
if MODE == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif MODE == "gevent":
    from gevent import monkey

    monkey.patch_all()

import functools
import json
import socket
import threading
from typing import Any

import psutil
import socketio
from celery import Celery

from celery_realtime import Realtime

SECRET = "a secret of the slow"

# Eventlet's own sockets have one of these inside.
_Socket = eventlet.patcher.original("socket").socket if MODE == "eventlet" else socket.socket
_listen = _Socket.listen


def listen(self: socket.socket, *backlog: int) -> None:
    """Let the kernel keep 64 kB for a client that does not read; by itself it keeps four megabytes."""
    self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)  # Linux doubles it
    _listen(self, *backlog)


_Socket.listen = listen

realtime = Realtime(
    Celery("slow", broker=os.environ.get("CELERY_BROKER_URL", "memory://"), set_as_current=False),
    history_url=os.environ.get("HISTORY_URL"),
    history_size=20000,
    secret_key=SECRET,
    max_backlog=int(os.environ.get("MAX_BACKLOG", "200")),
    max_backlog_bytes=int(os.environ.get("MAX_BACKLOG_BYTES", str(16 * 1024 * 1024))),
)


class Watch:
    """What the server's clients have waiting for them, looked at after every event.

    Args:
        server: The Socket.IO server.
        handlers: What ``init_socketio`` returned.
    """

    def __init__(self, server: Any, handlers: Any) -> None:
        self._server = server
        self._handlers = handlers
        self._process = psutil.Process()
        self.longest = 0
        manager = server.manager
        wrap = self._looking_async if MODE == "asgi" else self._looking
        manager._handle_emit = wrap(manager._handle_emit)

    def _looking(self, emit: Any) -> Any:
        @functools.wraps(emit)
        def look_after(message: Any) -> None:
            emit(message)
            self._look()

        return look_after

    def _looking_async(self, emit: Any) -> Any:
        @functools.wraps(emit)
        async def look_after(message: Any) -> None:
            await emit(message)
            self._look()

        return look_after

    def _look(self) -> int:
        """Return how much the slowest client has waiting for it now."""
        waiting = max((held.queue.qsize() for held in list(self._server.eio.sockets.values())), default=0)
        self.longest = max(self.longest, waiting)
        return waiting

    def state(self) -> str:
        port = int(os.environ["PORT"])
        connections = [one for one in self._process.net_connections("tcp") if one.laddr and one.laddr.port == port]
        told = {
            "sockets": len(self._server.eio.sockets),
            "users": len(self._handlers.clients()),
            "connections": sum(one.status == psutil.CONN_ESTABLISHED for one in connections),
            "threads": self._process.num_threads() - _count_passing_threads(),
            "waiting": self._look(),
            "longest": self.longest,
            "rss": self._process.memory_info().rss,
            "files": self._process.num_fds(),
        }
        return json.dumps(told)


def _count_passing_threads() -> int:
    """Count the threads that serve no connection: ours, and those that wait to ping a client, though it has gone."""
    if MODE in ("eventlet", "gevent"):
        return 0  # there they are greenlets
    return sum(
        thread.name.startswith("celery-realtime-") or "_send_ping" in thread.name for thread in threading.enumerate()
    )


def serve_wsgi(host: str, port: int) -> None:
    from flask import Flask
    from flask_socketio import SocketIO

    app = Flask("slow")
    served = SocketIO(app, client_manager=realtime.client_manager(), async_mode=MODE)
    watch = Watch(served.server, realtime.init_socketio(served))
    app.get("/state")(watch.state)
    print(f"Listening on http://{host}:{port}", flush=True)  # noqa: T201
    served.run(app, host=host, port=port, **({"allow_unsafe_werkzeug": True} if MODE == "threading" else {}))


def serve_asgi(host: str, port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
    watch = Watch(server, realtime.init_socketio(server))

    async def state(_request: Any) -> Response:
        return Response(watch.state())

    class Server(uvicorn.Server):
        """Says when it listens."""

        async def startup(self, sockets: object = None) -> None:
            await super().startup(sockets)  # type: ignore[arg-type]
            print(f"Listening on http://{host}:{port}", flush=True)  # noqa: T201

    app = socketio.ASGIApp(server, Starlette(routes=[Route("/state", state)]))
    Server(uvicorn.Config(app, host=host, port=port, log_level="warning")).run()


if __name__ == "__main__":
    (serve_asgi if MODE == "asgi" else serve_wsgi)(os.environ["HOST"], int(os.environ["PORT"]))
