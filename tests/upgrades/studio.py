"""A project as users write one, for any version of the package: ``celery -A studio worker``.

It is copied to a folder of its own, in which neither ``tests`` nor the sources are found.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

import celery_realtime
from celery_realtime import Realtime

#: Where the package is that runs here: jobs return it.
HERE = str(Path(celery_realtime.__file__).parent)

celery = Celery("studio", set_as_current=True)
celery.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1)
realtime = Realtime(
    celery,
    secret_key=os.environ["SECRET"],
    progress_interval=0.0,
    lost_after=float(os.environ.get("LOST_AFTER", "30")),
)


def _wait_for(path: str) -> None:
    deadline = time.monotonic() + 120
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # noqa: TID251


@celery.task(bind=True)
def count(self: Any, steps: int = 5) -> str:
    for _ in self.track(range(steps), "Counting"):
        pass
    return HERE


@celery.task(bind=True)
def say(self: Any, lines: int) -> str:
    for number in range(lines):
        self.emit("line", {"number": number})
    return HERE


@celery.task(bind=True)
def write(self: Any) -> str:
    """Say something bit by bit; for versions that have streams."""
    with self.stream("answer") as out:
        for word in ("one ", "two"):
            out.write(word)
    return HERE


@celery.task
def fail() -> None:
    raise ValueError("nothing works")


@celery.task(bind=True)
def retry_when(self: Any, path: str) -> str:
    """Fail once; the second attempt begins when a file is there."""
    self.update_progress(20, "trying")
    if self.request.retries == 0:
        raise self.retry(countdown=0, max_retries=1, exc=ValueError("not yet"))
    _wait_for(path)
    return HERE


@celery.task(bind=True)
def hold(self: Any, path: str) -> str:
    """Run until a file is there."""
    return _hold(self, path)


@celery.task(bind=True, acks_late=True)
def hold_late(self: Any, path: str) -> str:
    """Hold, and be delivered again when the worker dies."""
    return _hold(self, path)


def _hold(task: Any, path: str) -> str:
    task.update_progress(10, "holding")
    _wait_for(path)
    task.update_progress(90, "let go")
    return HERE


@celery.task(bind=True, cancellable=True)
def patient(self: Any) -> str:
    """Look often enough to end by itself when it is cancelled."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        self.update_progress(10, "patient")
        time.sleep(0.02)  # noqa: TID251
    return HERE
