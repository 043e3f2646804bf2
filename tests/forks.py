"""Start Python modules in forks of a server that has imported most of what they need (``tests/tools/fork_server.py``).

Eventlet and gevent have to patch the standard library before such imports: each has a server of its own.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

#: Coverage is measured from an interpreter's start on.
CAN_FORK = sys.platform == "linux" and not any(name.startswith("COVERAGE_") for name in os.environ)

ROOT = Path(__file__).parents[1]
POLL_INTERVAL = 0.01


class ForkServer:
    """A process that forks. It ends with this one.

    Args:
        pool: Of Celery, whose library patches the standard library there.
    """

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str]
        started = threading.Event()
        threading.Thread(target=self._start, args=(started,), name="fork-server", daemon=True).start()
        started.wait()

    def _start(self, started: threading.Event) -> None:
        """Start it, and stay: the kernel ends a child when the thread that started it has ended."""
        launcher = [sys.executable, "-I", "-S", str(ROOT / "tests" / "tools" / "with_parent.py")]
        try:
            self._process = subprocess.Popen(
                [*launcher, sys.executable, "-m", "tests.tools.fork_server", self._pool],
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        finally:
            started.set()
        threading.Event().wait()

    def run(
        self, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdout: Path, stderr: Path | None = None
    ) -> Forked:
        """Start ``python -m module ...`` or ``python -c program``, in a session of its own.

        Args:
            arguments: What follows ``python``.
            env: The whole environment.
            cwd: The working folder.
            stdout: The file to which the standard output is added.
            stderr: That of the standard error; by default the same.
        """
        streams = {"stdout": str(stdout), "stderr": str(stderr or stdout)}
        pid = self._ask({"arguments": [*arguments], "env": {**env}, "cwd": str(cwd), **streams})
        assert pid is not None
        return Forked(self, pid)

    def poll(self, pid: int) -> int | None:
        """Return how a process has ended; None while it runs."""
        return self._ask({"poll": pid})

    def _ask(self, request: object) -> int | None:
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer: int | None = json.loads(self._process.stdout.readline())
        return answer


class Forked:
    """A process that a fork server has started, with what is used of ``subprocess.Popen``."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how it has ended; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.poll(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return how.

        Raises:
            subprocess.TimeoutExpired: It still runs after ``timeout`` seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(POLL_INTERVAL)  # noqa: TID251  (there is nothing to wait for: it is no child of this process)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Ended(NamedTuple):
    """How a program has ended, and what it has printed."""

    returncode: int
    stdout: str
    stderr: str


def run_python(arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path = ROOT, timeout: float = 240.0) -> Ended:
    """Run ``python -m module ...`` to its end, in a fork where there are any."""
    if not CAN_FORK:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
        return Ended(done.returncode, done.stdout, done.stderr)
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        forked = fork_server().run(arguments, env=env, cwd=cwd, stdout=stdout, stderr=stderr)
        return Ended(forked.wait(timeout), stdout.read_text(), stderr.read_text())


@functools.cache
def fork_server(pool: str = "prefork") -> ForkServer:
    """Return the server of this process for a pool; those that patch nothing share one."""
    return ForkServer(pool)
