"""Tasks whose jobs the elements show: each waits where it is told to, so that a test can look at it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from celery import Celery, Task

from celery_realtime import Realtime

SECRET = "a secret of the tests of elements"

celery = Celery("elements")
celery.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1)
realtime = Realtime(celery, secret_key=SECRET, progress_interval=0.1, keep_messages=True)


def wait_for_file(path: str) -> None:
    """Wait until a test has made a file, or has been over for long."""
    end = time.monotonic() + 120
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.02)  # noqa: TID251


@celery.task(bind=True, label="Transcribe {recording}")
def transcribe(self: Task, recording: str, path: str) -> dict[str, Any]:
    """Go through two stages, and say a text and a log; wait in the second stage."""
    log = self.stream("log", kind="json")
    with self.stage("download", weight=1):
        log.write({"time": "2024-01-15T10:30:00.000Z", "level": "INFO", "logger": "studio", "message": "downloading"})
    with self.stage("transcribe", weight=3):
        self.update_progress(50, "Second part")
        self.metadata.set("speakers", 2)
        log.write({"time": "2024-01-15T10:30:01.000Z", "level": "ERROR", "logger": "studio", "message": "<b>loud</b>"})
        with self.stream("answer") as out:
            out.write("Good morning")
            wait_for_file(path)
            out.write(", <i>everybody</i>.")
    return {"words": 3}


@celery.task(bind=True, label="{name}")
def work(self: Task, name: str, path: str | None = None, *, fails: bool = False) -> str:
    """Report a half, wait, and return a name or fail with it."""
    self.update_progress(50, f"Working on {name}")
    if path is not None:
        wait_for_file(path)
    if fails:
        raise ValueError(name)
    return name


@celery.task
def write_much() -> str:
    """Return more than an event holds."""
    return "much " * 20_000


@celery.task(bind=True, cancellable=True)
def endless(self: Task) -> None:
    """Go on until it is cancelled."""
    for number in range(6000):
        self.update_progress(number % 100, "On and on")
        time.sleep(0.02)  # noqa: TID251
