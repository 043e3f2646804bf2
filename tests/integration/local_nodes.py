"""pytest-celery's nodes as child processes of the test run, instead of Docker containers.

Each class has the surface of ``pytest_docker_tools.wrappers.Container`` that pytest-celery and its users call, and
inherits the vendor's half (``command()``, ``initial_env()``, ``initial_content()``, ``celeryconfig``) from
pytest-celery. So the tests that ask for ``celery_setup`` are the same ones on both.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_celery import CeleryTestContainer, CeleryWorkerContainer, RabbitMQContainer, RedisContainer

from tests.processes import HOST, ManagedProcess
from tests.services import RabbitMQServer, RedisServer


class LocalNode(CeleryTestContainer):
    """A process that looks like a container.

    Args:
        process: A started process.
    """

    def __init__(self, process: ManagedProcess) -> None:
        # No super().__init__(): there is no Docker object to wrap.
        self.process = process
        self._id = uuid.uuid4().hex

    @property
    def id(self) -> str:
        return self._id

    @property
    def name(self) -> str:
        return f"{self.process.name}-{self.id[:8]}"

    @property
    def attrs(self) -> dict[str, Any]:
        return {"Config": {"Hostname": HOST}, "State": {"Pid": self.process.pid}}

    @property
    def status(self) -> str:
        return "running" if self.process.running else "exited"

    def reload(self) -> None:
        """Do nothing: a Docker client caches what it knows of a container, a process has no such cache."""

    def ready(self) -> bool:
        if self.process.running:
            self.process.wait_ready()
        return self.process.running

    def logs(self) -> str:
        return self.process.log

    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal; SIGKILL, the default, ends the whole group, as it does in a container."""
        number = _signal_number(signal)
        if number == _signal_number(None):
            self.process.kill()
        else:
            self.process.send_signal(number)

    def restart(self, timeout: float = 60) -> None:
        self.process.restart()

    def exec_run(self, cmd: str | list[str], **_options: Any) -> tuple[int, bytes]:
        """Run a command beside it, as ``docker exec`` does; its ``python`` is this one."""
        program, *rest = shlex.split(cmd) if isinstance(cmd, str) else cmd
        done = subprocess.run(
            [sys.executable if program in ("python", "python3") else program, *rest],
            cwd=self.process.cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, done.stdout


class LocalServer(LocalNode):
    """A broker or backend: the worker and the test reach it at the same address."""

    def __init__(self, process: RedisServer | RabbitMQServer) -> None:
        super().__init__(process)
        self._port = process.port
        self._url = process.fresh_url()

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return self._url

    @property
    def host_url(self) -> str:
        return self._url

    @property
    def vhost(self) -> str:
        return urlsplit(self._url).path.lstrip("/")


class LocalRedis(LocalServer, RedisContainer):
    """A Redis server with an empty database."""


class LocalRabbitMQ(LocalServer, RabbitMQContainer):
    """A RabbitMQ node with a new virtual host."""


class LocalWorker(LocalNode, CeleryWorkerContainer):
    """A worker run from the very files that pytest-celery puts into a container's volume.

    Args:
        folder: The folder that stands for the volume.
        command: What a container would run.
        env: What its environment would be.
        content: The volume's files.
    """

    def __init__(self, folder: Path, command: list[str], env: dict[str, str], content: dict[str, bytes]) -> None:
        for name, text in content.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        process = ManagedProcess(
            [sys.executable, "-m", *command],
            folder=folder,
            name="worker",
            env={**env, "PYTHONPATH": str(folder)},
            cwd=folder,
            ready=lambda: str(self.ready_prompt) in process.current_log,
        )
        super().__init__(process)
        process.argv = [argument.replace("%h", self.id[:12]) for argument in process.argv]


def _signal_number(name: str | int | None) -> int:
    if name is None:
        return signal.SIGKILL
    return signal.Signals[name] if isinstance(name, str) else name
