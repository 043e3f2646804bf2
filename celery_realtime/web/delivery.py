"""Emit the events of a project into all the rooms of this server in which a client waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from celery_realtime.channel.wire import Heard, hidden
from celery_realtime.events import (
    BATCH_EVENT,
    HIDDEN_EVENT,
    RESYNC_EVENT,
)
from celery_realtime.rooms import rooms_of, streams_rooms_of
from celery_realtime.stream_parts import STREAM_EVENT
from celery_realtime.web.audiences import AudienceFilter, Audiences, is_shown
from celery_realtime.web.several import Place, Rooms, SeveralRooms, Wanted, skipped_by


class Emit(msgspec.Struct, frozen=True):
    """What is emitted on this server.

    Attributes:
        event: The Socket.IO event name.
        data: Its one argument.
        namespace: The Socket.IO namespace.
        room: The room, one of ours, or the session id of one client.
        skip_sid: The client, or clients, that it is not emitted to.
        events: The events of a project that it consists of: one, or those of a batch; none for an answer.
        only: The one client that it is emitted to; None for all in the room.
        also: Further rooms in one of which that client may be instead.
    """

    event: str
    data: Any
    namespace: str
    room: str
    skip_sid: Any = None
    events: tuple[Heard, ...] = ()
    only: str | None = None
    also: tuple[str, ...] = ()

    @property
    def project_id(self) -> str | None:
        """The project of the events; None for an answer."""
        return self.events[0].project_id if self.events else None

    @property
    def rooms(self) -> tuple[str, ...]:
        """The rooms in one of which a client has to be to get it."""
        return self.room, *self.also

    def through(self, manager: Any) -> Any:
        """Have python-socketio's client manager emit it, on this server only; awaitable on an asyncio server."""
        return manager.emit(
            self.event,
            self.data,
            namespace=self.namespace,
            room=self.room,
            skip_sid=self.skip_sid,
            ignore_queue=True,
        )

    def is_for(self, sid: str) -> bool:
        """Return whether a client that is in one of the rooms gets it."""
        return self.only in (None, sid) and sid not in skipped_by(self.skip_sid)


class Delivery:
    """Names the rooms that each event goes to on this server.

    All clients of a project are in its room, unless a filter decides what each audience may see: then each audience
    has a room of its own. Single jobs, and clients that asked for batches, have further rooms.

    A client gets each event once, however many subscriptions it has in a project.

    Args:
        is_occupied: ``(namespace, room) -> bool``, whether any client of this server is in a room.
        audience_filter: Decides what an audience sees; None where every audience sees everything.
        rooms: Who is in which room of this server.

    Attributes:
        audiences: What each audience sees.
    """

    def __init__(
        self, is_occupied: Callable[[str, str], bool], audience_filter: AudienceFilter | None, rooms: Rooms
    ) -> None:
        self._is_occupied = is_occupied
        self._several = SeveralRooms(rooms)
        self.audiences = Audiences(audience_filter)
        # By project, the audiences and jobs that clients of this server have asked for. The sets are replaced, never
        # changed: the listening thread iterates over them while other threads expect more.
        self._audiences: dict[str, frozenset[str]] = {}
        self._jobs: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

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

    def is_read(self, namespace: str, project_id: str, job_id: str) -> bool:
        """Return whether any client of this server reads the streams of a job, or those of all jobs of its project."""
        follows_job = job_id in self._jobs.get(project_id, ())
        return any(
            self._is_occupied(namespace, room)
            for audience in (None, *self._audiences.get(project_id, ()))
            for room in (
                *streams_rooms_of(project_id, audience),
                *(rooms_of(project_id, job_id, audience) if follows_job else ()),
            )
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
            places = [(event, list(self._places_of(event, audience))) for event in visible]
            wanted = self._several.wanted(places) if any(len(of_event) > 1 for _, of_event in places) else []
            yield from self._to_rooms(places, list(dict.fromkeys(one.sid for one in wanted)))
            for one in wanted:
                yield from _to_client(one)

    def _to_rooms(self, places: list[tuple[Heard, list[Place]]], others: list[str]) -> Iterator[Emit]:
        """Yield what is emitted to all in a room but some, who get what they want by themselves."""
        batches: dict[tuple[str, str], list[Heard]] = {}
        for event, of_event in places:
            skipped = [*skipped_by(event.skip_sid), *others] if others else event.skip_sid
            for namespace, room, batch_room in of_event:
                yield Emit(event.event, event.data, namespace, room, skipped, (event,))
                batches.setdefault((namespace, batch_room), []).append(event)
        for (namespace, batch_room), batched in batches.items():
            if self._is_occupied(namespace, batch_room):
                yield _batch(batched, namespace, batch_room, others or None)

    def _places_of(self, event: Heard, audience: str | None) -> Iterator[Place]:
        """Yield the places of an event: that of its project first."""
        is_chunk = event.event == STREAM_EVENT
        of_project = (
            streams_rooms_of(event.project_id, audience) if is_chunk else rooms_of(event.project_id, None, audience)
        )
        yield Place(event.namespace, *of_project)
        # Right behind: a client that follows a job gets its events no later than one that follows its project.
        for job_id in self._followed_jobs(event):
            place = Place(event.namespace, *rooms_of(event.project_id, job_id, audience))
            if self._is_occupied(event.namespace, place.room) or self._is_occupied(event.namespace, place.batch_room):
                yield place

    def _followed_jobs(self, event: Heard) -> Iterable[str]:
        followed = self._jobs.get(event.project_id, frozenset())
        if event.event == RESYNC_EVENT:
            return followed
        return (event.job_id,) if event.job_id is not None and event.job_id in followed else ()

    def _by_audience(self, events: list[Heard]) -> Iterator[tuple[str | None, list[Heard]]]:
        if not self.audiences.has_filter:
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
        data = self.audiences.event(event.event, event.project_id, event.data, audience)
        if is_shown(event.event, event.data, data):
            return msgspec.structs.replace(event, data=_with_end(event, data))
        if event.offset is None:
            return None
        return hidden(event)


def _with_end(event: Heard, data: Any) -> Any:
    """Return what is shown of an event; of a chunk that is not shown as it is, with where it ends all the same.

    Whatever a rule has left of such a chunk, it is a text, or a list of items, as clients and what comes next expect.
    """
    if event.event != STREAM_EVENT or not isinstance(data, dict) or data.get("chunk") == event.data["chunk"]:
        return data
    whole, left = event.data["chunk"], data.get("chunk")
    shown = left if isinstance(left, type(whole)) else whole[:0]
    return {**data, "chunk": shown, "end": event.data["position"] + len(whole)}


def _batch(events: Iterable[Heard], namespace: str, room: str, skip_sid: Any = None) -> Emit:
    return Emit(BATCH_EVENT, [_batch_item(event) for event in events], namespace, room, skip_sid, tuple(events))


def _to_client(wanted: Wanted) -> Iterator[Emit]:
    room, *also = wanted.rooms
    if wanted.in_batch:
        whole = _batch(wanted.events, wanted.namespace, room)
        yield msgspec.structs.replace(whole, only=wanted.sid, also=tuple(also))
        return
    for event in wanted.events:
        yield Emit(event.event, event.data, wanted.namespace, room, events=(event,), only=wanted.sid, also=tuple(also))


def _batch_item(event: Heard) -> dict[str, Any]:
    return {**(event.mark or {}), "event": event.event, "data": event.data}
