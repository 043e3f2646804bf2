"""The jobs of the tests, and some that speak until their worker ends: ``celery -A tests.integration.farewell_jobs``."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

from tests.integration.jobs import celery, hold

celery.conf.update(
    realtime_flush_timeout=float(os.environ.get("FLUSH_TIMEOUT", "5")),
    worker_soft_shutdown_timeout=float(os.environ.get("SOFT_SHUTDOWN", "0")),
)


def recite(task: Any, lines: int) -> None:
    """Say much at once, so that some of it waits when the task returns; the progress is held back anyway."""
    for number in range(lines):
        task.emit("line", {"number": number})
    task.update_progress(99, "last words")


@celery.task(bind=True)
def speak(self: Any, lines: int) -> int:
    """Speak, and return where."""
    self.update_progress(1, "first words")
    recite(self, lines)
    return os.getpid()


@celery.task(bind=True)
def speak_late(self: Any, path: str, lines: int) -> str:
    """Wait for a file before speaking."""
    self.update_progress(1, "first words")
    hold.run(path)
    recite(self, lines)
    return "spoken"


def speak_on(task: Any, path: str) -> None:
    """Speak until the process is ended, and note in a file what has been accepted."""
    ledger = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in itertools.count():
        task.emit("line", {"number": number})
        os.write(ledger, f"{number}\n".encode())
        time.sleep(0.002)  # noqa: TID251


@celery.task(bind=True)
def speak_for_ever(self: Any, path: str) -> None:
    speak_on(self, path)


@celery.task(bind=True, acks_late=True)
def speak_again(self: Any, path: str) -> str:
    """Speak for ever at first, and end at once when delivered again."""
    if not Path(path).exists():
        speak_on(self, path)
    return "heard enough"
