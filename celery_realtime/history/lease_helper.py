"""What runs in the process beside a gevent or eventlet worker, and renews its lease; see ``sending.green_lease``.

Loaded without the rest of the package, so this imports nothing that loads Celery.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import Any

import msgspec

from celery_realtime.history.connection import ERRORS, RedisConnection
from celery_realtime.history.lua import Runner, command
from celery_realtime.urls import RedisAddress

#: Where the helper hears whether its worker lives, and where it says what became of each renewal.
FROM_WORKER, TO_WORKER = 0, 1


class Renewal(msgspec.Struct, frozen=True):
    """What renews a lease.

    Attributes:
        address: Of the Redis.
        script: The text of a Lua script.
        keys: Its keys.
        arguments: Its arguments.
        pause: Seconds between two renewals.
    """

    address: RedisAddress
    script: str
    keys: list[str]
    arguments: list[Any]
    pause: float


class Renewer:
    """Renews a lease, over a connection of its own.

    Args:
        renewal: What it does.
    """

    def __init__(self, renewal: Renewal) -> None:
        self._renewal = renewal
        self._connection = RedisConnection(renewal.address)
        self._runner = Runner(self._connection.client, self._connection.cluster)

    def renew(self) -> str:
        """Renew the lease once, and return why that failed, in one line; empty when it did not."""
        keys = self._renewal.keys
        try:
            self._runner.run(command("EVAL", self._renewal.script, len(keys), *keys, *self._renewal.arguments))
        except ERRORS as error:
            return " ".join(f"{type(error).__name__}: {error}".split())
        return ""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def serve(renewal: Renewal, worker: int) -> None:
    """Renew a lease for as long as a worker lives, as its child.

    Args:
        renewal: What to do.
        worker: The worker's process id.
    """
    _leave_signals_to_worker()
    _close_inherited()
    os.set_blocking(TO_WORKER, False)
    renewer = Renewer(renewal)
    while os.getppid() == worker:
        _report(renewer.renew())
        if _worker_ends_within(renewal.pause):
            return


def _leave_signals_to_worker() -> None:
    """Take no notice of signals that terminals and supervisors send to all processes of a worker.

    A warm shutdown lets jobs go on, which need the lease; the helper ends when the worker does.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _close_inherited() -> None:
    """Close what a library of the worker has left open for children, such as a socket that listens."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 - the folder changes while it is read
            if int(name) > 2:
                with contextlib.suppress(OSError):
                    os.close(int(name))


def _report(failure: str) -> None:
    # A worker that computes does not read; one that has ended is noticed by its other pipe.
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        os.write(TO_WORKER, failure.encode(errors="replace") + b"\n")


def _worker_ends_within(seconds: float) -> bool:
    """Wait, and tell whether the worker has ended meanwhile, or has closed the pipe since it will."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([FROM_WORKER], [], [], left)
        if readable and not os.read(FROM_WORKER, 1024):
            return True
    return False
