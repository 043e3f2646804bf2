"""The web servers that are attacked, each in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import sys
from pathlib import Path

import psutil
from celery import Celery

from celery_realtime import Realtime
from tests.processes import HOST, ManagedProcess, free_port, python_path

MB = 1024 * 1024
KINDS = (
    "threading",
    "gthread",
    "gevent",
    "ggevent",
    "eventlet",
    "wsproto",
    "websockets",
    "hypercorn",
    "granian",
    "daphne",
)
#: Hosts that are no dependency of the tests.
OPTIONAL = ("websockets", "hypercorn", "granian", "daphne")
SECRET = "a long and random string of the attacked"
PROJECT = "alpha"


def token_of(user: str = "ada") -> str:
    """Return a good token of a user."""
    issuer = Realtime(Celery("issuer", broker="memory://", set_as_current=False), secret_key=SECRET)
    return issuer.issue_token(user, projects=[PROJECT])


def is_missing(kind: str) -> bool:
    """Tell whether a host is not installed."""
    return kind in OPTIONAL and importlib.util.find_spec(kind) is None


def _answers(port: int) -> bool:
    """Tell whether a server answers: one of gunicorn's accepts connections before it has any workers."""
    request = b"GET /socket.io/?EIO=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1) as connection:
        connection.sendall(request)
        return b"HTTP" in connection.recv(100)
    return False


class Attacked(ManagedProcess):
    """A web server in a process of its own.

    Args:
        kind: Which of ``KINDS``.
        folder: Where its log goes.
        env: Added to this process's environment.
    """

    def __init__(self, kind: str, folder: Path, env: dict[str, str]) -> None:
        port, self.kind = free_port(), kind
        self.url = f"http://{HOST}:{port}"
        where = f"{HOST}:{port}"
        commands = {
            "gthread": [
                "gunicorn",
                "--worker-class",
                "gthread",
                "--threads",
                env.get("HOST_THREADS", "300"),
                "--bind",
                where,
            ],
            "ggevent": ["gunicorn", "--worker-class", "gevent", "--bind", where],
            "hypercorn": ["hypercorn", "--bind", where],
            "daphne": ["daphne", "--bind", HOST, "--port", str(port)],
            "granian": ["granian", "--interface", "asgi", "--host", HOST, "--port", str(port)],
        }
        command = [*commands[kind], "tests.attacks.host:application"] if kind in commands else ["tests.attacks.host"]
        own = {**python_path(), "HOST_KIND": kind, "HOST": HOST, "PORT": str(port), "XDG_RUNTIME_DIR": str(folder)}
        super().__init__(
            [sys.executable, "-m", *command],
            folder=folder,
            name=f"{kind}-{port}",
            env={**own, **env},
            ready=lambda: _answers(port),
            start_timeout=60,
        )

    def memory(self) -> float:
        """Return what it and its children have, in MB."""
        return sum(process.memory_info().rss for process in self._processes()) / MB

    def threads(self) -> int:
        """Return how many threads it and its children have."""
        return sum(process.num_threads() for process in self._processes())

    def _processes(self) -> list[psutil.Process]:
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]
