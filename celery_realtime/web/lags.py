"""Take what clients report of their lag: the time from a task's report until they had it."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.exceptions import SubscribeError
from celery_realtime.timings import Timing
from celery_realtime.web.decisions import Decision
from celery_realtime.web.messages import MOST_LAGS
from celery_realtime.web.sessions import Sessions

#: Seconds between two reports of a client.
INTERVAL = 10.0

#: The longest lag that is counted, in seconds. Clocks that differ make lags negative: those count as none.
LONGEST_LAG = 3600.0

#: Users of which it is known when one of their clients reported last.
MOST_USERS = 10_000

#: Upper bounds of buckets, in seconds.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Lags:
    """What the clients of a server have reported.

    Of all clients of a user, one report in half an interval is counted, so that nobody can outweigh the others.

    Args:
        sessions: The clients.
        wanted: Whether clients are to report.

    Attributes:
        timing: The lags.
        invitation: What the answer to a subscription says of it.
    """

    def __init__(self, sessions: Sessions, *, wanted: bool) -> None:
        self._sessions = sessions
        self._wanted = wanted
        self._lock = threading.Lock()
        self._reported_at: BoundedDict[str, float] = BoundedDict(MOST_USERS)
        self.timing = Timing(BOUNDS)
        self.invitation: Mapping[str, Any] = {"report_lag": INTERVAL} if wanted else {}

    def take(self, sid: str, data: Any) -> Decision[dict[str, Any]]:
        """Take a client's report, and answer with this server's clock, which the client compares its own with.

        Args:
            sid: The client.
            data: ``{"lags": [...]}``, in milliseconds.

        Raises:
            SubscribeError: It has no session, asks too often, or this is no report.
        """
        session = self._sessions.asking(sid, data)
        lags = _lags_in(data)
        if lags and self._wanted and self._is_turn_of(str(session.user)):
            with self._lock:
                for lag in lags:
                    self.timing.observe(lag)
        return {"ok": True, "time": time.time_ns() // 1_000_000}
        yield

    def _is_turn_of(self, user: str) -> bool:
        clock = time.monotonic()
        if clock - self._reported_at.get(user, -math.inf) < INTERVAL / 2:
            return False
        self._reported_at[user] = clock
        return True


def _lags_in(data: Any) -> list[float]:
    """Return the lags of a report that may be true, in seconds.

    Raises:
        SubscribeError: It is no report.
    """
    lags = data.get("lags") if isinstance(data, dict) else None
    if not isinstance(lags, list) or len(lags) > MOST_LAGS or not all(type(lag) in (int, float) for lag in lags):
        raise SubscribeError(f"lags must be a list of at most {MOST_LAGS} numbers, in milliseconds", "bad_request")
    # A number that is none is in no range; and integers of JSON may have thousands of digits.
    return [max(0.0, lag / 1000) for lag in lags if abs(lag) <= LONGEST_LAG * 1000]
