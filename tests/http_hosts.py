"""Web servers with plain HTTP for the jobs of the tests, each kind started as users start it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.processes import HOST, ManagedProcess, accepts_connections, free_port, python_path

OWN = "-m tests.integration.http_web"
GUNICORN = "-m gunicorn tests.integration.http_web:application --bind {address} --graceful-timeout 90 --worker-class"
#: By name, the asynchronous mode and the command.
HOSTS = {
    "werkzeug": ("threading", OWN),
    "gunicorn-gthread": ("threading", f"{GUNICORN} gthread --threads 60"),
    "gunicorn-gevent": ("gevent", f"{GUNICORN} gevent"),
    "gunicorn-asgi": ("asgi", f"{GUNICORN} asgi"),
    "gevent": ("gevent", OWN),
    "eventlet": ("eventlet", OWN),
    "uvicorn": ("asgi", "-m uvicorn tests.integration.http_web:application --port {port}"),
    "hypercorn": ("asgi", "-m hypercorn tests.integration.http_web:application --bind {address}"),
}


class Host(ManagedProcess):
    """A web server.

    Args:
        name: Which of ``HOSTS``.
        folder: Where its log goes.
        env: Added to this process's environment.
    """

    def __init__(self, name: str, folder: Path, env: dict[str, str]) -> None:
        mode, command = HOSTS[name]
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        own = {**python_path(), "ASYNC_MODE": mode, "HOST": HOST, "PORT": str(port), "XDG_RUNTIME_DIR": str(folder)}
        super().__init__(
            [sys.executable, *command.format(address=f"{HOST}:{port}", port=port).split()],
            folder=folder,
            name=name,
            env={**own, **env},
            ready=lambda: accepts_connections(port),
        )
