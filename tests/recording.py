"""Jobs in this process and their events on a recorder: real tasks, a real outbox, no broker."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from celery import Celery, _state

from celery_realtime import Realtime
from celery_realtime.events import Outgoing


class Sent(NamedTuple):
    """An event that left."""

    event: str
    project_id: str
    data: Any


class Wire:
    """Stands where the broker is: takes every event, or none while it is ``down``."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.outgoing: list[Outgoing] = []
        self.down = False
        self.calls = 0
        self.preloaded = False
        self._lock = threading.Lock()

    def publish_events(self, events: list[Outgoing]) -> int:
        with self._lock:
            self.calls += 1
            if self.down:
                return 0
            self.outgoing += events
            self.sent += [Sent(event.event, event.project_id, json.loads(event.payload)) for event in events]
            return len(events)

    def preload(self) -> None:
        """Note that it was asked to load what it needs."""
        self.preloaded = True

    def close(self) -> None:
        """Let go of nothing."""

    def named(self, event: str) -> list[Any]:
        """Return the data of all events of a name."""
        return [sent.data for sent in list(self.sent) if sent.event == event]


def record(realtime: Realtime) -> Wire:
    """Let the events of a Realtime go to a recorder."""
    wire = Wire()
    realtime.manager.start_over(lambda: wire)  # type: ignore[arg-type,return-value]
    return wire


class Studio:
    """A Celery app with a Realtime whose events are recorded.

    Args:
        app: The app; one of its own by default.
        **settings: Of the Realtime; progress is not throttled unless they say so.
    """

    def __init__(self, app: Celery | None = None, **settings: Any) -> None:
        self.app = app if app is not None else new_app()
        self.realtime = Realtime(self.app, **{"progress_interval": 0, **settings})
        self.wire = record(self.realtime)

    @property
    def sent(self) -> list[Sent]:
        """All events so far, in order."""
        assert self.realtime.flush(60), "the events did not leave"
        return list(self.wire.sent)

    def told(self, project_id: str | None = None) -> list[str]:
        """Return all events so far, a word each: the Celery state, the percentage or the custom event's name.

        Args:
            project_id: Those of one project alone.
        """
        return [_word(sent) for sent in self.sent if project_id in (None, sent.project_id)]


def _word(sent: Sent) -> str:
    if sent.event == "agent_status":
        return str(sent.data["state"])
    return str(sent.data["progress"]) if sent.event == "agent_progress" else sent.event


def new_app(name: str = "studio", **options: Any) -> Celery:
    """Return a Celery app with a broker in memory, which is nobody's current app."""
    return Celery(name, **{"broker": "memory://", "set_as_current": False, **options})


@contextmanager
def current(app: Celery | None) -> Iterator[None]:
    """Make an app the current one for a while."""
    before = _state._tls.current_app
    _state._tls.current_app = app
    try:
        yield
    finally:
        _state._tls.current_app = before
