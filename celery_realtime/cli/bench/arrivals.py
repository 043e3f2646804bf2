"""When events arrive: how late each is, and what workers have measured."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from celery_realtime.clocks import time
from celery_realtime.jobs.measuring import MEASURED_EVENT, PROBE_EVENT, percentile


class Arrivals:
    """What has arrived at one place.

    Args:
        run: The measurement; events of others are ignored.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._changed = threading.Condition()
        #: By source, and number, the seconds between the call and the arrival, by the clocks of both.
        self._lags: dict[str, dict[int, float]] = {}
        #: What workers have measured themselves.
        self.measured: dict[str, dict[str, Any]] = {}

    def note(self, event: str, data: Any) -> None:
        """Note an event that has just arrived."""
        now = time.time()
        if not isinstance(data, dict) or data.get("run") != self._run:
            return
        with self._changed:
            if event == PROBE_EVENT:
                self._lags.setdefault(data["source"], {})[data["number"]] = now - data["sent_at"]
            elif event == MEASURED_EVENT:
                self.measured[data["source"]] = data
            self._changed.notify_all()

    def wait_for_all(self, source: str, sent: int, timeout: float) -> bool:
        """Wait until all events of a source have arrived, at most ``timeout`` seconds; returns whether they have."""
        return self.wait(lambda: len(self._lags.get(source, ())) >= sent, timeout)

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition holds, which what arrives may bring about; returns whether it does.

        Args:
            condition: Looked at whenever something has arrived.
            timeout: Longest wait in seconds.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def lag(self, source: str, sent: int, ahead: float = 0.0) -> dict[str, Any] | None:
        """Return how late the events of a source were; None if none has arrived.

        Args:
            source: Who has sent them.
            sent: How many.
            ahead: By how many seconds the clock of the source is ahead.
        """
        lags = sorted(lag + ahead for lag in self._lags.get(source, {}).values())
        if not lags:
            return None
        shown = {f"p{percent}_ms": round(percentile(lags, percent) * 1000, 2) for percent in (50, 99)}
        return {"events": len(lags), "lost": max(0, sent - len(lags)), **shown}
