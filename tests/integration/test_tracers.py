"""Sentry, OpenTelemetry and New Relic see the same spans and errors with this package as without, whoever is first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from celery_realtime import Realtime
from tests.waiting import wait_for

pytestmark = [pytest.mark.long, pytest.mark.service]

PACKAGES = {
    "sentry": "sentry_sdk",
    "otel": "opentelemetry.instrumentation.celery",
    "newrelic": "newrelic",
}
PIP = {
    "sentry": "sentry-sdk",
    "otel": "opentelemetry-sdk opentelemetry-instrumentation-celery",
    "newrelic": "newrelic",
}
#: Of six jobs; Sentry has the error of one as an event of its own.
ENTRIES = {"sentry": 7, "otel": 6, "newrelic": 6}


def start(tracer: str, order: str, file: Path, broker: str, *pool: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TRACED_APP": " ".join([tracer, order, str(file), broker, *pool])}
    return subprocess.Popen([sys.executable, "-m", "tests.integration.traced_app"], env=environment)


def entries(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def runs(file: Path) -> int:
    """Return how often the worker has written down a job."""
    names = [entry["name"].rpartition("/")[2] for entry in entries(file) if entry["role"] == "worker"]
    return sum(name in ("outer", "inner", "failing") for name in names)


def seen(tracer: str, order: str, pool: str, folder: Path, broker: str) -> Counter[str]:
    """Return what a producer and a worker have written down, each line and how often."""
    file = folder / order
    worker = start(tracer, order, file, broker, pool)
    try:
        assert start(tracer, order, file, broker).wait(90) == 0
        wait_for(lambda: runs(file) >= ENTRIES[tracer], timeout=60)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    return Counter(json.dumps(entry, sort_keys=True) for entry in entries(file))


#: What browsers hear of the jobs: their tasks, how they end, and what one of them has reported.
JOBS = [
    ("failing", "error", "ValueError: no", None),
    *[("inner", "success", None, None)] * 4,
    ("outer", "success", None, 50),
]


def told(broker: str) -> list[tuple[Any, ...]]:
    """Return what the history has of the jobs, and forget it."""
    app = Celery("reader", broker=broker, backend=broker, set_as_current=False)
    history = Realtime(app).manager.history
    assert history is not None
    jobs = [tuple(job.get(name) for name in ("task", "status", "error", "progress")) for job in history.read("p").jobs]
    history.close()
    with redis.Redis.from_url(broker) as everything:
        everything.flushdb()
    return sorted(jobs)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("tracer", PACKAGES)
def test_the_spans_are_those_without_us(tracer: str, pool: str, tmp_path: Path, redis_url: str) -> None:
    pytest.importorskip(PACKAGES[tracer], reason=f"pip install {PIP[tracer]}")
    for order in ("tracer", "us"):
        without = seen(tracer, f"no-us-{order}", pool, tmp_path, redis_url)
        assert without
        assert seen(tracer, order, pool, tmp_path, redis_url) == without
        assert told(redis_url) == JOBS
