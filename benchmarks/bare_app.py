"""A Celery app that loads nothing which its worker or producer does not need, with the extension or without."""

from __future__ import annotations

import gc
import os
import re
import time
from pathlib import Path
from typing import Any

from celery import Celery

app = Celery("benchmarks")
app.conf.update(broker_connection_retry_on_startup=True)

EXTENSION = os.environ.get("EXTENSION") != "off"

if EXTENSION:
    from celery_realtime import Realtime

    Realtime(app, progress_interval=0)


@app.task(bind=True)
def remember(self: Any, count: int) -> dict[str, int]:
    """Send events, with the extension, and return what memory this process has: now, and after a full collection."""
    for number in range(count if EXTENSION else 0):
        self.update_progress(number % 100, "Transcribing")
        self.emit("line", {"text": "and so it goes on", "number": number})
        self.app.realtime.flush()
    now = memory()
    gc.collect()
    return {**now, "collected": memory()["private"]}


@app.task
def publish(count: int) -> float:
    """Publish jobs from a task, and return what one takes, in seconds."""
    began = time.perf_counter()
    for _ in range(count):
        noop_kept.apply_async(queue="benchmarks")
    return (time.perf_counter() - began) / count


@app.task(ignore_result=True)
def noop() -> None:
    """Do nothing, and keep no result."""


@app.task
def noop_kept() -> None:
    """Do nothing, and keep the result."""


def memory() -> dict[str, int]:
    """Return this process's private memory, and its share of all memory, in bytes (proc(5), ``smaps_rollup``)."""
    sizes = dict(re.findall(r"^(\w+): +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE))
    private = int(sizes["Private_Clean"]) + int(sizes["Private_Dirty"])
    return {"private": private * 1024, "share": int(sizes["Pss"]) * 1024}
