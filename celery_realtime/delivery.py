"""Put what a project is told into all the rooms of this server in which somebody waits for it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

from celery_realtime import wire
from celery_realtime.events import (
    HIDDEN_EVENT,
    IDENTITY,
    MARK,
    PROGRESS_EVENT,
    PROGRESS_FIELDS,
    RESYNC_EVENT,
    STATUS_EVENT,
    WORKFLOW_EVENT,
)
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.rooms import project_of_room, project_room, rooms_of

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Redact = Callable[[str, str, Any, "str | None"], Any]

_OURS = (STATUS_EVENT, PROGRESS_EVENT, WORKFLOW_EVENT)


class Delivery:
    """Where each message from the broker goes on this server.

    Everybody hears a project in its room, unless a rule says what each audience may see: then each audience has a
    room of its own. Single jobs, and those who want batches, have further rooms.

    Args:
        is_occupied: ``(namespace, room) -> bool``, whether any client of this server is in a room.
    """

    def __init__(self, is_occupied: Callable[[str, str], bool]) -> None:
        self._is_occupied = is_occupied
        self._redact: Redact | None = None
        self._failures = RateLimitedLogger(logger)
        #: By project, the audiences and jobs that clients of this server have asked for.
        self._audiences: dict[str, set[str | None]] = {}
        self._jobs: dict[str, set[str]] = {}

    def redact_with(self, redact: Redact) -> None:
        """Let a rule decide what an audience sees: ``(event, project_id, payload, audience) -> payload or None``."""
        self._redact = redact

    def expect(self, project_id: str, job_id: str | None, audience: str | None) -> None:
        """Take note that a client is about to enter a room."""
        if audience is not None:
            self._audiences.setdefault(project_id, set()).add(audience)
        if job_id is not None:
            self._jobs.setdefault(project_id, set()).add(job_id)

    def is_watched(self, namespace: str, project_id: str) -> bool:
        """Tell whether any client of this server hears a project, or a job of it, elsewhere than in its own room."""
        audiences = {None, *self._audiences.get(project_id, ())}
        return any(
            self._is_occupied(namespace, room)
            for audience in audiences
            for job_id in (None, *self._jobs.get(project_id, ()))
            for room in rooms_of(project_id, job_id, audience)
        )

    # -- live ---------------------------------------------------------------------------------------------------

    def spread(self, messages: list[Message]) -> Iterator[Message]:
        """Yield what to emit on this server for the messages that came together."""
        for audience, shown in self._by_audience(messages):
            single: list[Message] = []
            for message in shown:
                yield message
                # Right behind it: who hears a job is not to hear it later than who hears its project.
                about = list(self._of_single_jobs([message], audience)) if self._jobs else []
                yield from about
                single += about
            yield from wire.batches(shown, self._is_occupied)
            yield from wire.batches(single, self._is_occupied)

    def _by_audience(self, messages: list[Message]) -> Iterator[tuple[str | None, list[Message]]]:
        if self._redact is None:
            yield None, messages
            return
        yield None, [shown for message in messages for shown in self._shown(message, None)]
        told: dict[str, list[Message]] = {}
        for message in messages:
            for audience in self._audiences.get(_project(message) or "", ()):
                if audience is not None:
                    told.setdefault(audience, []).extend(self._shown(message, audience))
        yield from told.items()

    def _shown(self, message: Message, audience: str | None) -> Iterator[Message]:
        """Yield what an audience sees of a message: it, less of it, or that there was something."""
        project_id = _project(message)
        if project_id is None:
            yield message
            return
        room, _ = rooms_of(project_id, None, audience)
        event, data = str(message["event"]), message["data"][0]
        if event == RESYNC_EVENT:
            yield {**message, "room": room}
            return
        kept = self.redacted(event, project_id, data, audience)
        if kept is not None or (data is None and event not in _OURS):
            yield {**message, "room": room, "data": [kept]}
            return
        place = wire.place_of(message)
        if place is not None:
            hidden = {"project_id": project_id, "epoch": place[0], "offset": place[1]}
            yield {**message, "room": room, "event": HIDDEN_EVENT, "data": [hidden]}

    def _of_single_jobs(self, messages: list[Message], audience: str | None) -> Iterator[Message]:
        for message in messages:
            project_id = _project(message) or _project_of_audience(message, audience)
            if project_id is None:
                continue
            job_id = _job_of(message)
            known = self._jobs.get(project_id, ())
            about_all = message["event"] == RESYNC_EVENT
            for one in list(known) if about_all else [job_id] if job_id in known else []:
                room, batched = rooms_of(project_id, one, audience)
                namespace = message.get("namespace") or "/"
                if self._is_occupied(namespace, room) or self._is_occupied(namespace, batched):
                    yield {**message, "room": room}

    # -- what an audience sees ----------------------------------------------------------------------------------

    def redacted(self, event: str, project_id: str, data: Any, audience: str | None) -> Any:
        """Return what an audience sees of an event's data, or None for nothing; a rule that fails shows nothing."""
        if self._redact is None:
            return data
        try:
            kept = self._redact(event, project_id, copy.deepcopy({} if data is None else data), audience)
        except Exception as error:
            self._failures.error("realtime_event_filter failed on %s, which is not shown: %r", event, error)
            return None
        if not isinstance(data, dict) or not isinstance(kept, dict):
            return kept
        # Whose it is, and where it stands, is no secret to who may see the project, and clients cannot do without.
        own = (MARK,) if event not in _OURS else IDENTITY
        return {**kept, **{name: data[name] for name in own if name in data}}

    def redact_snapshot(self, project_id: str, snapshot: dict[str, Any], audience: str | None) -> dict[str, Any]:
        """Return a snapshot as an audience sees it."""
        if self._redact is None:
            return snapshot
        jobs = [self._redact_job(project_id, job, audience) for job in snapshot["jobs"]]
        flows = [self.redacted(WORKFLOW_EVENT, project_id, flow, audience) for flow in snapshot["workflows"]]
        return {
            **snapshot,
            "jobs": [job for job in jobs if job is not None],
            "workflows": [flow for flow in flows if flow is not None],
            "events": [
                self._redact_missed(project_id, snapshot, index, audience) for index in range(len(snapshot["events"]))
            ],
        }

    def _redact_job(self, project_id: str, job: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
        """A snapshot tells a job's last status and its last progress in one: each is shown as it would be live."""
        status = {name: value for name, value in job.items() if name not in (*PROGRESS_FIELDS, "stalled")}
        shown = self.redacted(STATUS_EVENT, project_id, status, audience)
        if shown is None:
            return None
        identity = {name: job.get(name) for name in IDENTITY if name in job and name not in ("status", "state")}
        done = {**identity, "event": "progress_update", **{name: job.get(name) for name in PROGRESS_FIELDS}}
        told = (self.redacted(PROGRESS_EVENT, project_id, done, audience) or {}) if job["progress"] is not None else {}
        reached = {name: told.get(name) for name in PROGRESS_FIELDS}
        return {**shown, **reached, "stalled": bool(told) and job["stalled"]}

    def _redact_missed(
        self, project_id: str, snapshot: dict[str, Any], index: int, audience: str | None
    ) -> dict[str, Any]:
        missed = snapshot["events"][index]
        kept = self.redacted(missed["event"], project_id, missed["data"], audience)
        if kept is not None or missed["data"] is None:
            return {**missed, "data": kept}
        offset = snapshot["offset"] - len(snapshot["events"]) + 1 + index
        return {
            "event": HIDDEN_EVENT,
            "data": {"project_id": project_id, "epoch": snapshot["epoch"], "offset": offset},
        }

    # -- forgetting ---------------------------------------------------------------------------------------------

    def forget_unwatched(self, watched: set[tuple[str, str | None]]) -> None:
        """Forget all but these projects and jobs, which are all that clients of this server ask for."""
        projects = {project_id for project_id, _ in watched}
        for project_id in [known for known in self._audiences if known not in projects]:
            self._audiences.pop(project_id, None)
        for project_id, jobs in list(self._jobs.items()):
            jobs.intersection_update({job_id for job_id in jobs if (project_id, job_id) in watched})
            if not jobs:
                self._jobs.pop(project_id, None)


def _is_told(message: Message) -> bool:
    """Tell whether a message has the shape of ours: an event with one datum."""
    data = message.get("data")
    return message.get("method") == "emit" and not message.get("binary") and isinstance(data, list) and len(data) == 1


def _project(message: Message) -> str | None:
    """Return the project that a message tells something, if it is one that has the shape of ours."""
    return project_of_room(message.get("room")) if _is_told(message) else None


def _project_of_audience(message: Message, audience: str | None) -> str | None:
    if audience is None or not _is_told(message) or not isinstance(message.get("room"), str):
        return None
    return project_of_room(message["room"].removeprefix(rooms_of("", None, audience)[0].removesuffix(project_room(""))))


def _job_of(message: Message) -> str | None:
    data = message["data"][0]
    told = data if message["event"] in _OURS else message.get("mark") or (isinstance(data, dict) and data.get(MARK))
    job_id = told.get("job_id") if isinstance(told, dict) else None
    return job_id if isinstance(job_id, str) else None
