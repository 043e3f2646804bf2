"""Apply the user's ``event_filter``: one policy for what it leaves, what it drops, and what it fails on."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from celery_realtime import databases
from celery_realtime.events import IDENTITY, MARK, STATE_EVENTS, STATUS_EVENT, Outgoing, refilled
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.settings import Settings
from celery_realtime.stream_parts import CHUNK_IDENTITY, STREAM_EVENT

logger = logging.getLogger(__name__)


class EventFilter:
    """What may be seen of events.

    What a rule raises on may hold what must not be seen, so it is not shown. A rule for everybody leaves a status its
    identity then (job, project, status), since a job whose end is dropped would seem to run for ever. A rule for
    audiences leaves nothing: what an audience may know of a job is for the rule to say.

    Args:
        rule: The ``event_filter`` setting.
        by_audience: Whether it decides for each audience, in the web server, and not for everybody, where events come
            from.
        count: Called with ``filtered`` for each event that is dropped, with ``hidden`` for each status that is left its
            identity.
    """

    def __init__(
        self, rule: Callable[..., Any], *, by_audience: bool, count: Callable[[str], None] = lambda _: None
    ) -> None:
        self._rule = rule
        self._by_audience = by_audience
        self._count = count
        self._log = RateLimitedLogger(logger)

    @classmethod
    def for_everybody(cls, settings: Settings, count: Callable[[str], None] = lambda _: None) -> EventFilter | None:
        """Return the filter that decides for everybody, where events come from, or None."""
        if settings.event_filter is None or settings.filters_by_audience:
            return None
        return cls(settings.event_filter, by_audience=False, count=count)

    @classmethod
    def for_audiences(cls, settings: Settings) -> EventFilter | None:
        """Return the filter that decides for each audience, in the web server, or None."""
        if settings.event_filter is None or not settings.filters_by_audience:
            return None
        return cls(settings.event_filter, by_audience=True)

    def outgoing(self, event: Outgoing) -> Outgoing | None:
        """Return what may leave of an event, or None if it is dropped."""
        data = msgspec.json.decode(event.payload)
        visible = self.visible(event.event, event.project_id, data)
        if visible is None:
            self._count("filtered")
            return None
        allowed = event if data is None and visible == {} else refilled(event, visible)
        if event.change is not None and allowed.change is None:  # nothing is left of what was to be done
            self._count("filtered")
            return None
        return allowed

    def visible(self, event: str, project_id: str, data: Any, audience: str | None = None) -> Any:
        """Return what may be seen of an event's data, or None for nothing.

        Args:
            event: The Socket.IO event name.
            project_id: Its project.
            data: Its data. The rule gets a copy, and an empty object where there are none.
            audience: For whom it decides, where it decides for audiences.
        """
        more = (audience,) if self._by_audience else ()
        # One for audiences is never asked by a task: nobody but the web server's own threads, and its loop, do.
        connections = databases.in_any_thread if self._by_audience else databases.unless_anybody_does
        with (
            self._log.suppressing(
                "realtime_event_filter failed on %s, so its content is not shown; mend the filter",
                event,
                job_id=_job_of(data),
                project_id=project_id,
            ),
            connections(),
        ):
            visible = self._rule(event, project_id, copy.deepcopy({} if data is None else data), *more)
            return _with_identity(event, visible, data) if self._by_audience else visible
        if self._by_audience or event != STATUS_EVENT:
            return None
        self._count("hidden")
        return _identity(event, data)


def _job_of(data: Any) -> str | None:
    """Return the id of the job that an event's data name; custom data may have anything there."""
    job_id = data.get("job_id") if isinstance(data, dict) else None
    return job_id if isinstance(job_id, str) else None


def _identity(event: str, data: Any) -> dict[str, Any]:
    """Return the members of an event's data that name its job and project, its status, and its position."""
    names = CHUNK_IDENTITY if event == STREAM_EVENT else IDENTITY if event in STATE_EVENTS else (MARK,)
    return {name: data[name] for name in names if name in data} if isinstance(data, dict) else {}


def _with_identity(event: str, visible: Any, data: Any) -> Any:
    """Return what a rule left with the identity of the event: no secret to its subscribers, and clients need it."""
    return {**visible, **_identity(event, data)} if isinstance(visible, dict) else visible
