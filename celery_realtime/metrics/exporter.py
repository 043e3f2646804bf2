"""Bring what is counted in a process to prometheus_client: now and then, and whenever it is scraped."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from celery_realtime.forks import after_fork, talking
from celery_realtime.loops import BackgroundLoop, PeriodicLoop, join, start_detached
from celery_realtime.metrics import processes
from celery_realtime.metrics.catalogue import CATALOGUE
from celery_realtime.metrics.instruments import Instruments
from celery_realtime.metrics.readings import Durations, Level, Reading, Source, Total

logger = logging.getLogger(__name__)

#: Seconds between two turns. What a process that is killed has counted since the last one is lost.
PAUSE = 1.0

#: Seconds without a turn after which the loop counts as standing still.
LONGEST_TURN = 30.0

_COMBINE: dict[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "min": min}
_COMBINED = {metric.name: metric.combined for metric in CATALOGUE}

Key = tuple[str, tuple[str, ...]]


class Exporter:
    """Adds what has been counted since the last time to the metrics of this process, and sets its gauges.

    Args:
        registry: Of prometheus_client; its default one if None.

    Attributes:
        loop: The record of the thread's loop.
    """

    def __init__(self, registry: Any = None) -> None:
        self.loop = BackgroundLoop("metrics", logger, LONGEST_TURN)
        self._periodic = PeriodicLoop(self.loop, self._turn, PAUSE)
        self._sources: weakref.WeakSet[Source] = weakref.WeakSet()
        self._levels: dict[Key, float] = {}
        self._renew()
        self._instruments = Instruments(socket.gethostname(), self.refresh, registry)
        after_fork(self._begin_again)

    def _renew(self) -> None:
        self._lock = threading.RLock()
        #: By what counts, how much of it has been brought over.
        self._totals: weakref.WeakKeyDictionary[Any, dict[Key, float]] = weakref.WeakKeyDictionary()
        self._timings: weakref.WeakKeyDictionary[Any, tuple[list[int], list[float]]] = weakref.WeakKeyDictionary()

    def _begin_again(self) -> None:
        """Take what a child of a fork has inherited for brought over: its parent does that."""
        self._renew()
        self._levels = {}
        for reading in self._read():
            self._gain(reading)

    def add(self, source: Source) -> None:
        """Read a source from now on, for as long as it lives."""
        self._sources.add(source)

    def begin(self) -> None:
        """Bring everything over every second from now on, in this process."""
        self._periodic.start()

    def end(self, timeout: float = PAUSE) -> None:
        """Do so no more, until :meth:`begin` is called again.

        Args:
            timeout: Longest wait for the present turn, in seconds.
        """
        self._periodic.stop(timeout)

    def finish(self, timeout: float) -> None:
        """Bring everything over before this process ends.

        In a thread, since Celery ends a worker in the handler of a signal, and the thread that was interrupted may hold
        prometheus_client's lock: of multiprocess mode there is one for all metrics, the application's included.

        Args:
            timeout: Longest wait in seconds.
        """
        thread = threading.Thread(target=self.refresh, name="celery-realtime-last-metrics", daemon=True)
        with contextlib.suppress(RuntimeError):  # there are too many threads, or the interpreter ends
            start_detached(thread)
            join(thread, timeout)

    def _turn(self) -> None:
        self.refresh()
        processes.bury_dead()

    def refresh(self) -> None:
        """Bring everything over now."""
        with talking, self._lock:
            levels: dict[Key, list[float]] = {}
            for reading in self._read():
                if isinstance(reading, Level):
                    levels.setdefault((reading.name, reading.labels), []).append(float(reading.value))
                else:
                    self._advance(reading)
            self._set(levels)

    def _read(self) -> Iterator[Reading]:
        for source in list(self._sources):
            yield from source.read()

    def _advance(self, reading: Total | Durations) -> None:
        self._instruments.show(reading.name, reading.labels if isinstance(reading, Total) else ())
        for place, number, total in self._gain(reading):
            if isinstance(reading, Total):
                self._instruments.advance(reading.name, reading.labels, number)
            else:
                self._instruments.observe_many(reading.name, place, int(number), total)

    def _gain(self, reading: Reading) -> list[tuple[int, float, float]]:
        """Return what has been counted since the last time: of durations, in each bucket, with their sum."""
        if isinstance(reading, Total):
            totals, key = self._totals.setdefault(reading.owner, {}), (reading.name, reading.labels)
            gain, totals[key] = reading.value - totals.get(key, 0), reading.value
            return [(0, gain, 0.0)] if gain > 0 else []
        if isinstance(reading, Level):
            return []
        timing = reading.timing
        none = [0] * len(timing.counts)
        counts, sums = self._timings.get(timing, (none, [0.0] * len(none)))
        now = list(timing.counts), list(timing.sums)
        self._timings[timing] = now
        gains = zip(now[0], counts, now[1], sums, strict=True)
        return [(place, n - m, s - t) for place, (n, m, s, t) in enumerate(gains) if n > m or s > t]

    def _set(self, levels: dict[Key, list[float]]) -> None:
        values = {key: _COMBINE[_COMBINED[key[0]]](several) for key, several in levels.items()}
        for name, labels in self._levels.keys() - values.keys():  # what had it is gone
            values[name, labels] = math.inf if _COMBINED[name] == "min" else 0.0
        for (name, labels), value in values.items():
            self._instruments.set(name, labels, 1.0 if value == math.inf else value)
        self._levels = values


@functools.cache
def exporter() -> Exporter:
    """Return the one of this process, which all Realtimes share; loads prometheus_client."""
    return Exporter()
