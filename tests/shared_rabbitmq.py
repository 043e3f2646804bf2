"""One RabbitMQ for all processes of a test run: it takes seconds of CPU to start.

The main process of the run starts it when a test asks first, and ends it. Each test has a virtual host of its own.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import subprocess
import threading
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import psutil

from tests.processes import HOST, SHARED_PORTS, ProcessError
from tests.services import RabbitMQServer


class Address(NamedTuple):
    """Where processes of the run ask for the server."""

    port: int
    key: str


class Whereabouts(NamedTuple):
    """A server that another process has started."""

    port: int
    management_port: int
    pid: int
    log: Path


class SharedServer:
    """Starts a RabbitMQ in this process as soon as any process of the run asks for it."""

    def __init__(self) -> None:
        self._server: RabbitMQServer | None = None
        self._listener: Listener | None = None
        self._ended = False

    @functools.cached_property
    def address(self) -> Address:
        """Where to ask. From now on this process has a thread that answers."""
        key = secrets.token_hex()
        self._listener = Listener((HOST, 0), authkey=key.encode())
        threading.Thread(target=self._serve, args=(self._listener,), name="shared-rabbitmq", daemon=True).start()
        return Address(int(self._listener.address[1]), key)

    def end(self) -> None:
        """End the server, and answer nobody any more."""
        self._ended = True
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            with contextlib.suppress(ProcessError):  # it was not started
                self._server.kill()

    def _serve(self, listener: Listener) -> None:
        """Answer, and stay: the kernel ends a child when the thread that started it has ended."""
        while not self._ended:
            # Whoever asks may be killed at any time.
            with contextlib.suppress(OSError, EOFError, AuthenticationError), listener.accept() as connection:
                connection.send(self._answer(connection.recv()))

    def _answer(self, folder: Path) -> Whereabouts | str:
        try:
            server = self._running(folder)
        except ProcessError as error:
            return str(error)
        return Whereabouts(server.port, server.management_port, server.pid, server.log_path)

    def _running(self, folder: Path) -> RabbitMQServer:
        if self._ended:
            raise ProcessError("the test run has ended")
        if self._server is None or not self._server.running:
            self._server = RabbitMQServer(folder, ports=SHARED_PORTS)
            self._server.start()
        return self._server


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
        raise ProcessError(
            f"{name} would disturb the tests of other processes: this RabbitMQ is that of the whole run. Ask for "
            "own_rabbitmq_server or own_rabbitmq_broker, or mark a test with broker with pytest.mark.own_rabbitmq"
        )

    return refuse


class SharedRabbitMQ(RabbitMQServer):
    """The server of the run, for the tests of one process: they may use it, and not disturb it.

    Args:
        address: Of the main process.
        folder: Where its log and data go, if it does not run yet.
    """

    start: Any = _refused("start")
    stop: Any = _refused("stop")
    kill: Any = _refused("kill")
    kill_main: Any = _refused("kill_main")
    pause: Any = _refused("pause")
    resume: Any = _refused("resume")
    restart: Any = _refused("restart")
    send_signal: Any = _refused("send_signal")
    set_memory_alarm: Any = _refused("set_memory_alarm")
    close_connections: Any = _refused("close_connections")
    #: What may be changed is in virtual hosts.
    CHANGED = ("vhosts/", "permissions/", "users/", "queues/", "exchanges/", "bindings/")

    def __init__(self, address: Address, folder: Path) -> None:  # it has been made: nothing of a new one is wanted
        with Client((HOST, address.port), authkey=address.key.encode()) as connection:
            connection.send(folder)
            answer = connection.recv()
        if isinstance(answer, str):
            raise ProcessError(answer)
        self.name = "the RabbitMQ of the test run"
        self.port, self.management_port, pid, self.log_path = answer
        self.disturbances = 0
        self._log_start = 0
        self._process = _Foreign(psutil.Process(pid))

    def ensure_running(self) -> None:
        """Say so if it has ended, which is nobody's intention."""
        if not self.running:
            raise ProcessError(f"{self.name} has ended:\n{self.log_tail}")

    def manage(self, method: str, path: str, body: object = None) -> Any:
        if method != "GET" and not path.startswith(self.CHANGED):
            _refused(f"{method} {path}")()
        return super().manage(method, path, body)


class _Foreign:
    """A process that is no child of this one."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        """Return None while it runs; how it has ended, its parent alone knows."""
        return None if self._process.is_running() else -1

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        try:
            self._process.wait(timeout)
        except psutil.TimeoutExpired:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0) from None
        return -1

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""
        self._process.send_signal(sig)
