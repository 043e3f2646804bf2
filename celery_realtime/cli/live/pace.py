"""Say when a job will be done, of those alone whose progress lets it be said."""

from __future__ import annotations

from collections import deque
from typing import Any

#: Reports of a job that are remembered: what it did longer ago says less about what is left.
REMEMBERED = 30

#: What there has to be before anything is said: reports, seconds between the first and the last, and percent.
LEAST_REPORTS, LEAST_SECONDS, LEAST_PERCENT = 4, 2.0, 2.0


class Paces:
    """How fast jobs progress, by when their reports came."""

    def __init__(self) -> None:
        self._reports: dict[tuple[str, Any], deque[tuple[float, float]]] = {}

    def note(self, key: tuple[str, Any], percent: Any, now: float) -> None:
        """Take a report.

        Args:
            key: The job, and its attempt.
            percent: What it says; progress that goes back, or is none, begins anew.
            now: Seconds, by a clock that does not jump.
        """
        if not isinstance(percent, (int, float)):
            self._reports.pop(key, None)
            return
        known = self._reports.setdefault(key, deque(maxlen=REMEMBERED))
        if known and percent < known[-1][1]:
            known.clear()
        known.append((now, percent))

    def left(self, key: tuple[str, Any], now: float) -> float | None:
        """Return the seconds that a job will still take at the pace of its latest reports.

        None if they are too few to tell, or if the next one is so late that the pace is no longer that.
        """
        reports = self._reports.get(key)
        if not reports or len(reports) < LEAST_REPORTS:
            return None
        (begin, first), (end, last) = reports[0], reports[-1]
        seconds, percent, silence = end - begin, last - first, now - end
        if seconds < LEAST_SECONDS or percent < LEAST_PERCENT or silence > 3 * seconds / (len(reports) - 1) + 1:
            return None
        return max(0.0, (100 - last) * seconds / percent - silence)

    def keep(self, keys: set[tuple[str, Any]]) -> None:
        """Forget all jobs but these."""
        for key in self._reports.keys() - keys:
            self._reports.pop(key, None)
