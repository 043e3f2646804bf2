"""The events of the one job that somebody looks at."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

from celery_realtime.client.protocol import MARK

#: Beyond so many events, the oldest are forgotten.
MOST_EVENTS = 5000

Event = tuple[str, Any]


class Followed:
    """The events of one job: those of the past as the history has them, and what has come since.

    Args:
        key: Its project and its id.

    Attributes:
        version: Changes with the events.
    """

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.version = 0
        self._past: list[Event] = []
        self._live: collections.deque[Event] = collections.deque(maxlen=MOST_EVENTS)

    def add(self, project: str, name: str, data: Any) -> None:
        """Take an event of any job."""
        if project == self.key[0] and _mark_of(data).get("job_id") == self.key[1]:
            self._live.append((name, data))
            self.version += 1

    def load(self, events: Iterable[Event]) -> None:
        """Take the events of the project that the history has."""
        past = [(name, data) for name, data in events if _mark_of(data).get("job_id") == self.key[1]]
        self._past = past[-MOST_EVENTS:]
        self.version += 1

    @property
    def events(self) -> list[Event]:
        """All of them, in order, each once."""
        seen = {_place(data) for _, data in self._past} - {None}
        return [*self._past, *((name, data) for name, data in list(self._live) if _place(data) not in seen)]


def _mark_of(data: Any) -> dict[str, Any]:
    """Return what says of an event which job and which place it has: its data, or a part of these."""
    if not isinstance(data, dict):
        return {}
    mark = data.get(MARK)
    return mark if isinstance(mark, dict) else data


def _place(data: Any) -> tuple[Any, Any] | None:
    mark = _mark_of(data)
    return None if mark.get("offset") is None else (mark.get("epoch"), mark["offset"])
