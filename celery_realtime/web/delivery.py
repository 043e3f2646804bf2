"""Emit the events of a project into all the rooms of this server in which a client waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import msgspec

from celery_realtime.channel.wire import Heard, hidden
from celery_realtime.events import (
    BATCH_EVENT,
    HIDDEN_EVENT,
    IDENTITY,
    PROGRESS_EVENT,
    PROGRESS_FIELDS,
    RESYNC_EVENT,
    STATE_EVENTS,
    STATUS_EVENT,
    WORKFLOW_EVENT,
)
from celery_realtime.rooms import rooms_of


class AudienceFilter(Protocol):
    """Decides what each audience sees."""

    def visible(self, event: str, project_id: str, data: Any, audience: str | None = None) -> Any:
        """Return what an audience sees of an event's data, or None for nothing; it does not raise."""


class Emit(msgspec.Struct, frozen=True):
    """What is emitted on this server.

    Attributes:
        event: The Socket.IO event name.
        data: Its one argument.
        namespace: The Socket.IO namespace.
        room: The room, one of ours, or the session id of one client.
        skip_sid: The client, or clients, that it is not emitted to.
        events: The events of a project that it consists of: one, or those of a batch; none for an answer.
    """

    event: str
    data: Any
    namespace: str
    room: str
    skip_sid: Any = None
    events: tuple[Heard, ...] = ()


class Delivery:
    """Names the rooms that each event goes to on this server.

    All clients of a project are in its room, unless a filter decides what each audience may see: then each audience
    has a room of its own. Single jobs, and clients that asked for batches, have further rooms.

    Args:
        is_occupied: ``(namespace, room) -> bool``, whether any client of this server is in a room.
        audience_filter: Decides what an audience sees; None where every audience sees everything.
    """

    def __init__(self, is_occupied: Callable[[str, str], bool], audience_filter: AudienceFilter | None) -> None:
        self._is_occupied = is_occupied
        self._filter = audience_filter
        # By project, the audiences and jobs that clients of this server have asked for. The sets are replaced, never
        # changed: the listening thread iterates over them while other threads expect more.
        self._audiences: dict[str, frozenset[str]] = {}
        self._jobs: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    @property
    def has_audience_filter(self) -> bool:
        """Whether audiences may see less than everything."""
        return self._filter is not None

    def expect(self, project_id: str, job_id: str | None, audience: str | None) -> None:
        """Prepare for a client that is about to enter a room.

        Args:
            project_id: The project.
            job_id: The one job of it that the client follows; None for all.
            audience: The audience that the client belongs to; None where there is no filter.
        """
        with self._lock:
            if audience is not None:
                self._audiences[project_id] = self._audiences.get(project_id, frozenset()) | {audience}
            if job_id is not None:
                self._jobs[project_id] = self._jobs.get(project_id, frozenset()) | {job_id}

    def is_watched(self, namespace: str, project_id: str) -> bool:
        """Return whether any client of this server is in a room of a project, an audience of it, or a job of it."""
        audiences = (None, *self._audiences.get(project_id, ()))
        return any(
            self._is_occupied(namespace, room)
            for audience in audiences
            for job_id in (None, *self._jobs.get(project_id, ()))
            for room in rooms_of(project_id, job_id, audience)
        )

    def forget_unwatched(self, watched: set[tuple[str, str | None]]) -> None:
        """Forget all audiences and jobs but those of these projects and jobs.

        Args:
            watched: ``(project_id, job_id)`` of all subscriptions of this server's clients.
        """
        projects = {project_id for project_id, _ in watched}
        with self._lock:
            self._audiences = {name: audiences for name, audiences in self._audiences.items() if name in projects}
            still = {
                project_id: frozenset(job_id for job_id in jobs if (project_id, job_id) in watched)
                for project_id, jobs in self._jobs.items()
            }
            self._jobs = {project_id: jobs for project_id, jobs in still.items() if jobs}

    # -- live ---------------------------------------------------------------------------------------------------

    def spread(self, events: list[Heard]) -> Iterator[Emit]:
        """Yield what to emit on this server for events that came together."""
        for audience, visible in self._by_audience(events):
            batches: dict[tuple[str, str], list[Any]] = {}
            for event in visible:
                for namespace, room, batch_room in self._rooms_for(event, audience):
                    yield Emit(event.event, event.data, namespace, room, event.skip_sid, (event,))
                    batches.setdefault((namespace, batch_room), []).append(event)
            for (namespace, batch_room), batched in batches.items():
                if self._is_occupied(namespace, batch_room):
                    items = [_batch_item(event) for event in batched]
                    yield Emit(BATCH_EVENT, items, namespace, batch_room, None, tuple(batched))

    def _rooms_for(self, event: Heard, audience: str | None) -> Iterator[tuple[str, str, str]]:
        """Yield the namespace, the room for single events, and the room for batches, of each place of an event."""
        yield event.namespace, *rooms_of(event.project_id, None, audience)
        # Right behind: a client that follows a job gets its events no later than one that follows its project.
        for job_id in self._followed_jobs(event):
            room, batch_room = rooms_of(event.project_id, job_id, audience)
            if self._is_occupied(event.namespace, room) or self._is_occupied(event.namespace, batch_room):
                yield event.namespace, room, batch_room

    def _followed_jobs(self, event: Heard) -> Iterable[str]:
        followed = self._jobs.get(event.project_id, frozenset())
        if event.event == RESYNC_EVENT:
            return followed
        return (event.job_id,) if event.job_id is not None and event.job_id in followed else ()

    def _by_audience(self, events: list[Heard]) -> Iterator[tuple[str | None, list[Heard]]]:
        if self._filter is None:
            yield None, events
            return
        for audience in (None, *dict.fromkeys(self._audiences_of(events))):
            addressed = [event for event in events if audience is None or self._expects(event.project_id, audience)]
            visible = (self._visible(event, audience) for event in addressed)
            yield audience, [event for event in visible if event is not None]

    def _audiences_of(self, events: list[Heard]) -> Iterator[str]:
        for event in events:
            yield from self._audiences.get(event.project_id, ())

    def _expects(self, project_id: str, audience: str) -> bool:
        return audience in self._audiences.get(project_id, ())

    def _visible(self, event: Heard, audience: str | None) -> Heard | None:
        """Return what an audience sees of an event: it, less of it, or that there was one; None for nothing at all."""
        if event.event in (RESYNC_EVENT, HIDDEN_EVENT):
            return event
        data = self.redacted(event.event, event.project_id, event.data, audience)
        if data is not None or (event.data is None and event.event not in STATE_EVENTS):
            return msgspec.structs.replace(event, data=data)
        if event.offset is None:
            return None
        return hidden(event)

    # -- what an audience sees ----------------------------------------------------------------------------------

    def redacted(self, event: str, project_id: str, data: Any, audience: str | None) -> Any:
        """Return what an audience sees of an event's data, or None for nothing."""
        return data if self._filter is None else self._filter.visible(event, project_id, data, audience)

    def redact_snapshot(self, project_id: str, snapshot: dict[str, Any], audience: str | None) -> dict[str, Any]:
        """Return a snapshot as an audience sees it."""
        if self._filter is None:
            return snapshot
        jobs = [self._redact_job(project_id, job, audience) for job in snapshot["jobs"]]
        flows = [self.redacted(WORKFLOW_EVENT, project_id, flow, audience) for flow in snapshot["workflows"]]
        first = snapshot["offset"] - len(snapshot["events"]) + 1
        place = {"project_id": project_id, "epoch": snapshot["epoch"]}
        return {
            **snapshot,
            "jobs": [job for job in jobs if job is not None],
            "workflows": [flow for flow in flows if flow is not None],
            "events": [
                self._redact_missed(entry, {**place, "offset": offset}, audience)
                for offset, entry in enumerate(snapshot["events"], first)
            ],
        }

    def _redact_job(self, project_id: str, job: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
        """A snapshot has a job's last status and its last progress in one: each is shown as it would be live."""
        status = {name: value for name, value in job.items() if name not in (*PROGRESS_FIELDS, "stalled")}
        visible = self.redacted(STATUS_EVENT, project_id, status, audience)
        if visible is None:
            return None
        progress = self._redact_progress(project_id, job, audience) if job["progress"] is not None else {}
        reached = {name: progress.get(name) for name in PROGRESS_FIELDS}
        return {**visible, **reached, "stalled": bool(progress) and job["stalled"]}

    def _redact_progress(self, project_id: str, job: dict[str, Any], audience: str | None) -> dict[str, Any]:
        identity = {name: job.get(name) for name in IDENTITY if name in job and name not in ("status", "state")}
        reached = {name: job.get(name) for name in PROGRESS_FIELDS}
        update = {**identity, "event": "progress_update", **reached}
        visible = self.redacted(PROGRESS_EVENT, project_id, update, audience)
        return visible if isinstance(visible, dict) else {}

    def _redact_missed(self, entry: dict[str, Any], place: dict[str, Any], audience: str | None) -> dict[str, Any]:
        if entry["event"] == HIDDEN_EVENT:
            return entry
        data = self.redacted(entry["event"], place["project_id"], entry["data"], audience)
        if data is not None or entry["data"] is None:
            return {**entry, "data": data}
        return {"event": HIDDEN_EVENT, "data": place}


def _batch_item(event: Heard) -> dict[str, Any]:
    return {**(event.mark or {}), "event": event.event, "data": event.data}
