"""Metrics as a web server serves them, and the table of them in the docs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest
from werkzeug.test import Client

from celery_realtime.metrics import serving
from celery_realtime.metrics.catalogue import CATALOGUE, HISTOGRAM
from celery_realtime.metrics.instruments import Instruments
from celery_realtime.metrics.seams import observe_many
from celery_realtime.timings import Timing
from tests.metrics.conftest import Scrape, samples_of
from tests.processes import ROOT
from tests.recording import Studio


@pytest.fixture
def served(scrape: Scrape, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setattr(serving, "registry", lambda: scrape.registry)
    studio = Studio(metrics=True, history_url=None)
    studio.realtime.manager.emit_to_project("p", "line", {})
    assert studio.sent
    return studio


def test_a_wsgi_server_can_mount_them(served: Studio) -> None:
    answer = Client(serving.wsgi_app()).get("/")
    assert answer.status_code == 200
    assert samples_of(answer.text)["events_put_total"] == 1


def test_an_asgi_server_can_mount_them(served: Studio) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(b"accept", b"text/plain")]}
    asyncio.run(serving.asgi_app()(scope, None, send))
    assert sent[0]["status"] == 200
    assert samples_of(sent[1]["body"].decode())["events_put_total"] == 1
    assert dict(sent[0]["headers"])[b"content-length"] == str(len(sent[1]["body"])).encode()


def test_the_default_registry_is_that_of_the_application() -> None:
    """Whoever serves metrics of an application by now serves these too."""
    assert serving.registry() is prometheus_client.REGISTRY


def test_names_have_their_units_and_labels_are_few() -> None:
    for metric in CATALOGUE:
        assert metric.full_name.startswith("celery_realtime_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.name.endswith("_seconds") or metric.kind != HISTOGRAM
        assert set(metric.labels) <= {"reason", "event", "name", "outcome", "recovered", "code", "loop", "version"}
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


def test_every_metric_is_in_the_table_of_the_docs() -> None:
    page = (Path(ROOT) / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(celery_realtime_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    labels = {metric.full_name: ", ".join(f"`{label}`" for label in metric.labels) for metric in CATALOGUE}
    assert rows == [
        (metric.full_name, metric.kind, labels[metric.full_name], metric.meaning.removesuffix("."))
        for metric in CATALOGUE
    ]


def test_durations_are_counted_in_the_buckets_of_prometheus(scrape: Scrape) -> None:
    del scrape
    registry = prometheus_client.CollectorRegistry()
    expected = prometheus_client.Histogram("expected", "e", buckets=(0.1, 1.0), registry=registry)
    actual = prometheus_client.Histogram("actual", "a", buckets=(0.1, 1.0), registry=registry)
    timing = Timing((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.2, 1.0, 5.0):
        expected.observe(seconds)
        timing.observe(seconds)
    for bucket, (number, total) in enumerate(zip(timing.counts, timing.sums, strict=True)):
        observe_many(actual, bucket, number, total)
    samples = samples_of(prometheus_client.generate_latest(registry).decode())
    for sample in ("count", "sum", "bucket{le=0.1}", "bucket{le=1.0}", "bucket{le=+Inf}"):
        assert samples[f"actual_{sample}"] == pytest.approx(samples[f"expected_{sample}"])


def test_prometheus_client_has_what_many_durations_are_counted_by() -> None:
    """Else they are counted one by one, which costs as much as what is measured."""
    histogram = prometheus_client.Histogram("h", "h", buckets=(1.0,), registry=None)
    assert len(histogram._buckets) == 2
    assert histogram._sum.get() == 0


def test_without_it_they_are_counted_one_by_one() -> None:
    observed: list[float] = []
    observe_many(SimpleNamespace(observe=observed.append), 0, 4, 2.0)
    assert observed == [0.5] * 4


def test_metrics_of_one_process_can_be_registered_once() -> None:
    registry = prometheus_client.CollectorRegistry()
    Instruments("host", lambda: None, registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Instruments("host", lambda: None, registry)
