"""Hold the metrics of a process in prometheus_client's registry."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from celery_realtime.metrics.catalogue import CATALOGUE, COUNTER, GAUGE, PREFIX, Metric
from celery_realtime.metrics.seams import observe_many


class Instruments:
    """The metrics of this process, in prometheus_client's own objects; loads it.

    With ``PROMETHEUS_MULTIPROC_DIR`` their values are in files, which whichever process is scraped reads.

    Args:
        hostname: The label of that name.
        refresh: Called whenever the registry is scraped, before its values are read.
        registry: Where they are registered; prometheus_client's default one if None.
    """

    def __init__(self, hostname: str, refresh: Callable[[], None], registry: Any = None) -> None:
        import prometheus_client

        self._client = prometheus_client
        self._registry = prometheus_client.REGISTRY if registry is None else registry
        self._registry.register(Refresher(refresh))  # a registry asks its collectors in the order in which they came
        self._hostname = hostname
        self._metrics = {metric.name: self._new(metric) for metric in CATALOGUE}
        self._child = functools.cache(self._labelled)

    def _new(self, metric: Metric) -> Any:
        name, labels = PREFIX + metric.name.removesuffix("_total"), ("hostname", *metric.labels)
        options: dict[str, Any] = {"labelnames": labels, "registry": self._registry}
        if metric.kind == COUNTER:
            return self._client.Counter(name, metric.meaning, **options)
        if metric.kind == GAUGE:
            options["multiprocess_mode"] = f"live{metric.combined}"
            return self._client.Gauge(name, metric.meaning, **options)
        return self._client.Histogram(name, metric.meaning, buckets=metric.bounds, **options)

    def _labelled(self, name: str, labels: tuple[str, ...]) -> Any:
        return self._metrics[name].labels(self._hostname, *labels)

    def show(self, name: str, labels: tuple[str, ...]) -> None:
        """Have a metric in a scrape from now on, though nothing has been counted.

        What Prometheus has not seen at 0 it does not see rise to 1: an alert that counts would miss the first time.
        """
        self._child(name, labels)

    def advance(self, name: str, labels: tuple[str, ...], amount: float) -> None:
        """Count up a counter."""
        self._child(name, labels).inc(amount)

    def set(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""
        self._child(name, labels).set(value)

    def observe_many(self, name: str, bucket: int, number: int, total: float) -> None:
        """Count observations of one bucket of a histogram, which have this sum."""
        observe_many(self._child(name, ()), bucket, number, total)


class Refresher:
    """A collector without metrics of its own."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        self._refresh = refresh

    def describe(self) -> Iterable[Any]:
        """Return no metric, so that registering does not collect."""
        return []

    def collect(self) -> Iterator[Any]:
        """Refresh, and yield nothing."""
        self._refresh()
        yield from ()
