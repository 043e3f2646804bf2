"""A registry for each test, and what a scrape of it says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from celery_realtime.metrics import measuring
from celery_realtime.metrics.exporter import Exporter
from tests.waiting import wait_for


class Scrape:
    """What Prometheus would read of a registry."""

    def __init__(self, registry: Any, exporter: Exporter) -> None:
        self.registry = registry
        self.exporter = exporter

    def samples(self) -> dict[str, float]:
        """Return all samples, by their name, and their labels but that of the host."""
        return samples_of(generate_latest(self.registry).decode())

    def value(self, name: str) -> float | None:
        """Return the value of a sample, such as ``events_dropped_total{reason=error}``; None if there is none."""
        return self.samples().get(name)

    def waits_for(self, name: str, value: float) -> None:
        """Wait until a sample has a value."""
        wait_for(lambda: self.value(name) == value, message=f"{name} is not {value}, but {self.value(name)}")


def samples_of(text: str) -> dict[str, float]:
    """Return the samples of a text in Prometheus's format; ours without the prefix and the name of the host."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "hostname" and value}
            more = "{" + ",".join(f"{name}={value}" for name, value in sorted(labels.items())) + "}" if labels else ""
            found[sample.name.removeprefix("celery_realtime_") + more] = sample.value
    return found


def in_fork(body: Callable[[], Any]) -> Any:
    """Return what a child of a fork returns."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(body()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return json.loads(text)


@pytest.fixture
def scrape(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scrape]:
    """Scrape a registry that has the metrics of all Realtimes of this test, and of no other."""
    registry = CollectorRegistry()
    exporter = Exporter(registry)
    monkeypatch.setattr(measuring, "exporter", lambda: exporter)
    yield Scrape(registry, exporter)
    exporter.end()
