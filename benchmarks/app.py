"""The Celery app of the workers that are measured, as plain as apps are."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

from celery import Celery

from benchmarks.figures import percentile
from benchmarks.speech import MESSAGE, payload, stock_emit, stock_manager
from celery_realtime import Realtime, get_progress_tracker

app = Celery("benchmarks")
app.conf.update(broker_connection_retry_on_startup=True, worker_send_task_events=os.environ.get("EVENTS") == "on")

if os.environ.get("EXTENSION") != "off":
    Realtime(app, progress_interval=0, **({"history_url": None} if os.environ.get("HISTORY") == "off" else {}))

stock = functools.cache(stock_manager)


def time_calls(call: Callable[[int], None], count: int, seconds: float = 0.0, pause: float = 0.0) -> dict[str, float]:
    """Call again and again, and return what a call takes, in seconds.

    Args:
        call: Given the number of the call.
        count: How many calls to make.
        seconds: Go on for so long instead.
        pause: Sleep between two calls, which is not counted.
    """
    spans: list[float] = []
    end = time.perf_counter() + seconds
    cpu = time.thread_time()
    while len(spans) < count or (seconds and time.perf_counter() < end):
        before = time.perf_counter()
        call(len(spans))
        spans.append(time.perf_counter() - before)
        if pause:
            time.sleep(pause)
    return {
        "mean": sum(spans) / len(spans),
        "median": percentile(spans, 50),
        "p99": percentile(spans, 99),
        "cpu": (time.thread_time() - cpu) / len(spans),
    }


@app.task(bind=True)
def ours(self: Any, start_at: float = 0.0, interval: float = 0.0, **how: Any) -> dict[str, float]:
    """Time ``self.update_progress``."""
    get_progress_tracker(self.request.id).min_update_interval = interval
    self.update_progress(0, MESSAGE)
    self.app.realtime.flush()
    time.sleep(max(0.0, start_at - time.time()))
    found = time_calls(lambda number: self.update_progress(number % 100, MESSAGE), **how)
    self.app.realtime.flush()
    return found


@app.task(bind=True)
def theirs(self: Any, start_at: float = 0.0, **how: Any) -> dict[str, float]:
    """Time the stock manager's ``emit``."""
    manager, data = stock(self.app.conf.broker_url), payload(1)
    stock_emit(manager, data)
    time.sleep(max(0.0, start_at - time.time()))
    return time_calls(lambda number: stock_emit(manager, {**data, "progress": number % 100}), **how)


@app.task(bind=True)
def say(self: Any, count: int) -> dict[str, float]:
    """Time ``write`` of a stream."""
    out = self.stream("answer")
    return time_calls(lambda _: out.write(" token"), count)


@app.task(bind=True)
def say_rows(self: Any, count: int) -> dict[str, float]:
    """Time ``write`` of a stream of items."""
    rows = self.stream("rows", kind="json")
    return time_calls(lambda number: rows.write({"row": number, "text": "some words", "missing": None}), count)


@app.task
def mark() -> float:
    """Return the time."""
    return time.time()


@app.task(ignore_result=True)
def noop() -> None:
    """Do nothing, and keep no result."""


@app.task
def noop_kept() -> None:
    """Do nothing, and keep the result."""


@app.task(bind=True)
def confess(self: Any, path: str) -> None:
    """Say something every two milliseconds, and write down when it was said: until the process is killed."""
    ledger = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for number in range(15000):
        self.emit("line", {"number": number})
        os.write(ledger, f"{os.getpid()} {time.monotonic()}\n".encode())
        time.sleep(0.002)
