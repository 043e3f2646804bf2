"""Sentry and OpenTelemetry see the same spans and errors with this package as without, whichever comes first."""

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

from tests.waiting import wait_for

pytestmark = [pytest.mark.long, pytest.mark.service]

PACKAGES = {"sentry": "sentry_sdk", "otel": "opentelemetry.instrumentation.celery"}
PIP = {"sentry": "sentry-sdk", "otel": "opentelemetry-sdk opentelemetry-instrumentation-celery"}


def start(tracer: str, us: str, file: Path, broker: str, *role: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TRACED_APP": " ".join([tracer, us, str(file), broker, *role])}
    return subprocess.Popen([sys.executable, "-m", "tests.integration.traced_app"], env=environment)


def entries(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def runs(file: Path) -> int:
    """Return how many jobs the worker has written down."""
    names = [entry["name"].removeprefix("run/") for entry in entries(file) if entry["role"] == "worker"]
    return sum(name in ("outer", "inner", "failing") for name in names)


def seen(tracer: str, us: str, folder: Path, broker: str) -> Counter[str]:
    """Return what a producer and a worker have written down, each line and how often."""
    file = folder / us
    worker = start(tracer, us, file, broker, "worker")
    try:
        assert start(tracer, us, file, broker).wait(90) == 0
        # Six jobs, and Sentry has the error of one as an event of its own.
        wait_for(lambda: runs(file) >= (7 if tracer == "sentry" else 6), timeout=60)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    return Counter(json.dumps(entry, sort_keys=True) for entry in entries(file))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tracer", PACKAGES)
def test_the_spans_are_those_without_us(tracer: str, tmp_path: Path, redis_url: str) -> None:
    pytest.importorskip(PACKAGES[tracer], reason=f"pip install {PIP[tracer]}")
    without = seen(tracer, "without", tmp_path, redis_url)
    assert without
    assert seen(tracer, "after", tmp_path, redis_url) == without
    assert seen(tracer, "before", tmp_path, redis_url) == without
