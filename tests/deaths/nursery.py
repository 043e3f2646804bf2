"""Workers that begin as forks: most of a worker's start is imports, a second of a core each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tests.processes import LAUNCHER, ROOT, Started, Worker, python_path
from tests.waiting import WaitTimeout, wait_for

#: Which process forks the workers of a pool: what a green pool patches is patched before all imports.
ZYGOTES = {"prefork": "prefork", "threads": "prefork", "solo": "prefork", "gevent": "gevent", "eventlet": "eventlet"}
#: Longest time, in seconds, that a killed process takes to end.
LONGEST_END = 60.0


class Zygote:
    """A process that has imported everything, and forks workers. They end with it, and it with this one.

    Args:
        pool: Whose library is patched in.
        folder: For its log.
    """

    def __init__(self, pool: str, folder: Path) -> None:
        self._lock = threading.Lock()
        with (folder / f"zygote-{pool}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), sys.executable, "-m", "tests.deaths.zygote", pool],
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **python_path()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._answer()

    def start(self, args: list[str], *, log: Path, env: Mapping[str, str]) -> Forked:
        """Start ``celery`` with these arguments."""
        return Forked(self, self._ask({"start": {"args": args, "log": str(log), "env": dict(env)}}))

    def reap(self, pid: int) -> int | None:
        """Return the exit code of a child, for the last time; None while it runs."""
        code: int | None = self._ask({"reap": pid})
        return code

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Forked:
    """A process that a zygote has started, used as a ``subprocess.Popen`` is.

    Args:
        zygote: Its parent.
        pid: Its number, which stays its own until it is reaped.
    """

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self._zygote = zygote
        self._code: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self._code is None:
                self._code = self._zygote.reap(self.pid)
            return self._code

    def wait(self, timeout: float | None = None) -> int:
        try:
            wait_for(lambda: self.poll() is not None, timeout=LONGEST_END if timeout is None else timeout)
        except WaitTimeout:
            raise subprocess.TimeoutExpired("celery", timeout or LONGEST_END) from None
        assert self._code is not None
        return self._code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)


class ForkedWorker(Worker):
    """A ``celery worker`` that begins as a fork of a zygote.

    Args:
        zygote: Which one.
        app: What follows ``celery -A``.
        **more: See :class:`~tests.processes.Worker`.
    """

    def __init__(self, zygote: Zygote, app: str, **more: Any) -> None:
        super().__init__(app, **more)
        self._zygote = zygote

    def _spawn(self, log: BinaryIO) -> Started:
        _python, _dash_m, _celery, *args = self.argv
        return self._zygote.start(args, log=Path(log.name), env=self.env)


class Nursery:
    """Makes workers, and the zygotes that they need.

    Args:
        folder: For the zygotes' logs.
        forks: Whether workers begin as forks; each begins as an interpreter of its own if not.
    """

    def __init__(self, folder: Path, *, forks: bool) -> None:
        self._folder = folder
        self._forks = forks and hasattr(os, "fork")
        self._zygotes: dict[str, Zygote] = {}

    def worker(self, app: str, *, pool: str, **more: Any) -> Worker:
        """Make a worker that is not started yet; call it in a thread that stays."""
        if not self._forks:
            return Worker(app, pool=pool, **more)
        return ForkedWorker(self._zygote(ZYGOTES[pool]), app, pool=pool, **more)

    def _zygote(self, name: str) -> Zygote:
        if name not in self._zygotes:
            self._zygotes[name] = Zygote(name, self._folder)
        return self._zygotes[name]

    def close(self) -> None:
        for zygote in self._zygotes.values():
            zygote.close()
        self._zygotes.clear()
