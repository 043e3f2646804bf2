"""Tell a server how late its events come, if it asks for that; no input or output."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from celery_realtime.client.messages import items_of
from celery_realtime.client.protocol import PROGRESS_EVENT, STATUS_EVENT
from celery_realtime.clocks import time

#: Of so many events a report says how late they came.
MOST_LAGS = 10

#: Seconds after which an acknowledgement says too little of when the server's clock was read.
LONGEST_TRIP = 5.0

#: ``(report, acknowledged)``: sends a report; ``acknowledged`` gets the server's acknowledgement.
Send = Callable[[dict[str, Any], Callable[..., None]], None]


class LagReports:
    """Measures by the server's clock, which each acknowledgement of a report says.

    Args:
        project_id: The project whose events are measured.
        send: Sends a report.
        clock: Returns the time, in seconds since the epoch.
    """

    def __init__(self, project_id: str, send: Send, clock: Callable[[], float] = time.time) -> None:
        self._project_id = project_id
        self._send = send
        self._clock = clock
        self._interval = math.inf
        self._reported_at = -math.inf
        #: By how much the server's clock is ahead, in seconds; None until that is known.
        self._ahead: float | None = None
        self._lags: list[int] = []

    def answered(self, answer: Any) -> None:
        """Take the answer to a subscription, which says how often to report, if at all."""
        interval = answer.get("report_lag") if isinstance(answer, dict) else None
        self._interval = interval if isinstance(interval, (int, float)) and interval > 0 else math.inf
        if self._interval < math.inf and self._ahead is None:
            self._report()

    def heard(self, name: str, data: Any) -> None:
        """Take an event that the client received, of whatever project."""
        if self._ahead is None or self._interval == math.inf:
            return
        now = self._clock()
        if len(self._lags) < MOST_LAGS:
            for item in items_of(name, data, self._project_id):
                if item.event in (STATUS_EVENT, PROGRESS_EVENT):
                    self._note(now + self._ahead, item.data.get("timestamp"))
        if self._lags and now - self._reported_at >= self._interval:
            self._report()

    def _note(self, now: float, timestamp: Any) -> None:
        try:
            said_at = datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
        except (AttributeError, ValueError, OverflowError):  # a server may say anything
            return
        self._lags.append(round((now - said_at) * 1000))

    def _report(self) -> None:
        lags, self._lags = self._lags[:MOST_LAGS], []
        sent_at = self._reported_at = self._clock()

        def acknowledged(*answer: Any) -> None:
            said, now = answer[0].get("time") if answer and isinstance(answer[0], dict) else None, self._clock()
            if isinstance(said, (int, float)) and now - sent_at < LONGEST_TRIP:
                self._ahead = said / 1000 - (sent_at + now) / 2

        self._send({"lags": lags}, acknowledged)
