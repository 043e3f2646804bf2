"""Child processes of the tests: each in a session of its own, with a log, and gone at the end as a whole."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from tests.forks import CAN_FORK, fork_server
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
LOG_TAIL = 4000
GREEN = ("eventlet", "gevent")
LAUNCHER = Path(__file__).parent / "tools" / "with_parent.py"

if TYPE_CHECKING:
    from typing_extensions import Self


class ProcessError(RuntimeError):
    """A child process did not start, or ended when it should not have."""


class Started(Protocol):
    """What is used of a ``subprocess.Popen``."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return its exit code.

        Raises:
            subprocess.TimeoutExpired: It did not end within ``timeout`` seconds.
        """

    def send_signal(self, sig: int) -> None:
        """Send it a signal, if it runs."""


class ManagedProcess:
    """A command that can be started, stopped, killed, paused and started again.

    It ends with the process that started it, even if that one is killed (on Linux; elsewhere on ``stop`` only).
    There the kernel watches the *thread* that called ``start``: start from one that stays.

    Args:
        argv: The command.
        folder: Where its log goes; made if need be.
        name: What errors call it.
        env: Added to this process's environment.
        cwd: Its working folder; the repository by default.
        ready: Asked until it says yes; by default a running process is ready.
        start_timeout: Seconds until it must be ready.
        forks: The pool whose fork server starts it, see ``tests/forks.py``; by default it is an interpreter of its own.
    """

    #: Whether it is killed when its parent ends, and not asked to end.
    KILLED_WITH_PARENT = False

    def __init__(
        self,
        argv: Sequence[str],
        *,
        folder: Path,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        ready: Callable[[], bool] | None = None,
        start_timeout: float = PATIENCE,
        forks: str | None = None,
    ) -> None:
        self.argv = list(argv)
        self.folder = folder
        self.name = name
        self.env = dict(env or {})
        self.cwd = cwd
        self.start_timeout = start_timeout
        self._forks = forks if CAN_FORK and argv[0] == sys.executable else None
        self._ready = ready or (lambda: True)
        self.log_path = folder / f"{name}.log"
        self._log_start = 0
        self._process: Started | None = None
        self._group_is_gone = False
        #: How often it was paused, stopped or killed: what was made on it before is no longer as it was.
        self.disturbances = 0
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, *, wait: bool = True) -> Self:
        """Start it, and wait until it is ready."""
        if self.running:
            raise ProcessError(f"{self.name} is running already")
        if os.environ.get("CELERY_TEST_SERVICES") == "no":
            raise ProcessError(f"{self.name} is not started in this run: mark the test with pytest.mark.service")
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = self._spawn(log)
        self._group_is_gone = False
        if wait:
            self.wait_ready()
        return self

    @property
    def _whole_environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONUNBUFFERED": "1", **self.env}

    def _spawn(self, log: BinaryIO) -> Started:
        if self._forks is not None:
            server = fork_server(self._forks)
            return server.run(self.argv[1:], env=self._whole_environment, cwd=self.cwd, stdout=self.log_path)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), *(["--kill"] if self.KILLED_WITH_PARENT else []), *self.argv],
            cwd=self.cwd,
            env=self._whole_environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        """Wait until it is ready.

        Raises:
            ProcessError: With the end of the log, when it ended or is late. Nothing is left of it then.
        """
        try:
            wait_for(self._ready_or_ended, timeout=self.start_timeout, message=f"{self.name} is not ready")
        except AssertionError as error:
            self.kill()
            raise ProcessError(f"{error}\n{self.log_tail}") from None
        if not self.running:
            self.kill()
            raise ProcessError(f"{self.name} ended with {self.returncode}:\n{self.log_tail}")

    def stop(self, *, timeout: float = PATIENCE) -> int:
        """Ask it to end (SIGTERM), end what is left of its group after ``timeout`` seconds, return its exit code."""
        if self.running:
            self.resume()
            self.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._started.wait(timeout)
        return self.kill()

    def kill(self) -> int:
        """End its whole group at once (SIGKILL), and return the exit code."""
        self.disturbances += 1
        self._signal_group(signal.SIGKILL)
        self._group_is_gone = True
        return self._started.wait()

    def kill_main(self) -> None:
        """End the process itself at once and leave its children to themselves, as the OOM killer does."""
        self.disturbances += 1
        self.send_signal(signal.SIGKILL)
        self._started.wait()

    def pause(self) -> None:
        """Freeze its group (SIGSTOP): connections stay open, nobody answers."""
        self.disturbances += 1
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_group(signal.SIGCONT)

    def restart(self) -> Self:
        """Stop it if it runs, and start it again with the same command, so on the same port."""
        if self._process is not None:
            self.stop()
        return self.start()

    def ensure_running(self) -> None:
        """Undo what a test did to it: a pause, a stop or a kill."""
        if self.running:
            self.resume()
            self.wait_ready()
        else:
            self.restart()

    def send_signal(self, number: int) -> None:
        self._started.send_signal(number)

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._started.poll()

    @property
    def log(self) -> str:
        """All that it said since its first start."""
        return self._read_log(0)

    @property
    def current_log(self) -> str:
        """What it said since its last start."""
        return self._read_log(self._log_start)

    @property
    def log_tail(self) -> str:
        return self.current_log[-LOG_TAIL:]

    def wait_for_log(self, pattern: str, *, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait until a regular expression matches what it said since its last start."""
        try:
            return wait_for(lambda: re.search(pattern, self.current_log), timeout=timeout)
        except AssertionError:
            raise AssertionError(f"{self.name} did not log {pattern!r} in {timeout:g} s:\n{self.log_tail}") from None

    @property
    def _started(self) -> Started:
        if self._process is None:
            raise ProcessError(f"{self.name} was not started")
        return self._process

    def _ready_or_ended(self) -> bool:
        return not self.running or self._ready()

    def _signal_group(self, number: int) -> None:
        if self._group_is_gone:  # its number may be somebody else's by now
            return
        # macOS answers EPERM for a group in which only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._started.pid, number)

    def _read_log(self, offset: int) -> str:
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")


class Worker(ManagedProcess):
    """A ``celery worker``.

    Args:
        app: What follows ``celery -A``.
        folder: Where its log goes.
        pool: prefork, threads, solo, eventlet or gevent.
        concurrency: Tasks at a time.
        env: Added to this process's environment.
        options: More options of ``celery worker``.
        name: The first half of its host name; the second is unique.
        hostname: Its whole host name, if it is to be that of another worker.
        forks: Whether it begins as a fork, see ``tests/forks.py``; by default, unless its pool patches anything.
    """

    def __init__(
        self,
        app: str,
        *,
        folder: Path,
        pool: str = "prefork",
        concurrency: int = 2,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        name: str = "worker",
        hostname: str | None = None,
        forks: bool | None = None,
    ) -> None:
        self.hostname = hostname or f"{name}@{uuid.uuid4().hex[:12]}"
        # Mingle and gossip cost a second at the start, and talk to the workers of other tests.
        quick = ["--without-mingle", "--without-gossip"]
        if pool in GREEN and not {"-E", "--task-events"} & set(options):
            # With an event dispatcher, Celery 5.7 waits 0.1 s after each message of RabbitMQ (_quick_drain in
            # celery/worker/loops.py) in these pools.
            quick.append("--without-heartbeat")
        celery = [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "INFO"]
        choice = ["--pool", pool, "--concurrency", str(concurrency), "--hostname", self.hostname]
        super().__init__(
            [*celery, *choice, *quick, *options],
            folder=folder,
            name=self.hostname,
            env={**python_path(), **(env or {})},
            ready=lambda: f"{self.hostname} ready." in self.current_log,
            forks=(pool if pool in GREEN else "prefork") if forks or (forks is None and pool not in GREEN) else None,
        )


class WebServer(ManagedProcess):
    """``python -m module``: a web server that says ``Listening on http://...`` when it does.

    Args:
        module: The module that is run.
        folder: Where its log goes.
        env: Added to this process's environment; ``HOST`` and ``PORT`` are set.
        args: Its arguments.
    """

    def __init__(
        self, module: str, *, folder: Path, env: Mapping[str, str] | None = None, args: Sequence[str] = ()
    ) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        super().__init__(
            [sys.executable, "-m", module, *args],
            folder=folder,
            name=f"{module}-{port}",
            env={**python_path(), "HOST": HOST, "PORT": str(port), **(env or {})},
            # Some say so a moment before they do.
            ready=lambda: "Listening on http://" in self.current_log and accepts_connections(port),
            forks=None if (env or {}).get("ASYNC_MODE") in GREEN or ".hosts." in module else "prefork",
        )


FIRST_PORT = 10000
#: Those of servers that all processes of a test run share: no test is given one of them.
SHARED_PORTS = range(31800, 32000)
#: Those that this process has given away: whoever has one may close it for a while, and listen again.
_given_ports: set[int] = set()


def free_port(ports: range | None = None) -> int:
    """Find a port that nobody listens on, and that no other test of this run is given.

    It is below the range of outgoing connections: a client that keeps trying to reach a stopped server there cannot
    end up connected to itself, and so keep the server from coming back; nor can anybody else's connection have it.
    """
    ports = ports or _own_ports()
    # Hypothesis seeds the other generator: test runs beside this one would draw the same ports.
    for port in random.SystemRandom().sample(ports, len(ports)):
        if port in _given_ports:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            _given_ports.add(port)
            return port
    raise ProcessError("no free port found")


def _own_ports() -> range:
    """Return those of which this process of pytest-xdist may give some away."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (SHARED_PORTS.start - FIRST_PORT) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return range(FIRST_PORT + number * size, FIRST_PORT + (number + 1) * size)


def accepts_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def python_path() -> dict[str, str]:
    """Let a child import ``tests`` and ``example_project``, whatever its working folder is."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
