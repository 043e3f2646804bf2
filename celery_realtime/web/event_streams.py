"""Write what a subscriber gets as server-sent events: names, positions and JSON; no input or output, no clock.

The format is that of the HTML standard, section 9.2 ("Server-sent events").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from celery_realtime.events import (
    BATCH_EVENT,
    ERROR_EVENT,
    HIDDEN_EVENT,
    JOBS_EVENT,
    MARK,
    RESUMED_EVENT,
    RESYNC_EVENT,
    SNAPSHOT_EVENT,
    STATE_EVENTS,
)
from celery_realtime.exceptions import SubscribeError
from celery_realtime.stream_parts import STREAM_EVENT
from celery_realtime.web.answers import chunk_of
from celery_realtime.web.job_views import JobView
from celery_realtime.web.messages import MOST_JOBS

Position = tuple[str, int]

#: What a comment is: it keeps proxies from ending a silent connection, and finds clients that have gone.
KEEP_ALIVE = b":\n\n"

#: The members of an answer to a subscription that are for clients of sockets alone.
_OF_SOCKETS = ("ok", "events", "report_lag")

#: A name cannot have what ends a line.
_NO_LINES = {ord(character): " " for character in "\r\n\0"}


def block(event: str, data: Any, position: Position | None = None) -> bytes:
    """Return an event, with the position that a client which has it resumes from."""
    id_ = "" if position is None else f"id: {position[0]}:{position[1]}\n"
    return f"event: {event.translate(_NO_LINES)}\n{id_}data: ".encode() + msgspec.json.encode(data) + b"\n\n"


def place(position: Position) -> bytes:
    """Return a position by itself, of which a browser tells the page nothing."""
    return f"id: {position[0]}:{position[1]}\n\n".encode()


def retry(seconds: float) -> bytes:
    """Return what tells a client after how long it is to come back."""
    return b"retry: %d\n\n" % round(seconds * 1000)


class Rest(NamedTuple):
    """What is to be read of a stream: its name, which start of it, and from where on up to where."""

    stream: str
    generation: int
    position: int
    end: int


class Held(NamedTuple):
    """Further jobs that wait for the events that they have seen, and the ids that were asked for; none for a page."""

    page: dict[str, Any]
    asked: list[str]


class EventStream:
    """The events of one subscription, from its answer on.

    Args:
        job_id: The one job that it is of; None for all of a project.
        view: Which jobs of a project it shows; None for all.

    Attributes:
        job_id: As given.
        view: As given.
        project_id: The project; None before the answer.
        is_over: Whether the client has to come back: it has lost access, or events that it has not been given.
        unread: Of streams that the answer had no room for: where the rest of each begins, and where it ends.
        next: Where to read on for jobs that the snapshot had no room for; None if there are no others, or no more.
        held: Further jobs that have been read, and are to come between the events that they have seen and the others.
    """

    def __init__(self, job_id: str | None = None, view: JobView | None = None) -> None:
        self.project_id: str | None = None
        self.is_over = False
        self.next: str | None = None
        self.held: Held | None = None
        self.unread: list[Rest] = []
        self.job_id = job_id
        self.view = view
        #: The last event of each job since jobs were asked for, by its offset.
        self._latest: dict[str, int] = {}
        self._position: Position | None = None

    @property
    def offset(self) -> int:
        """The offset of the last event; 0 without a history."""
        return 0 if self._position is None else self._position[1]

    def begin(self, answer: dict[str, Any]) -> Iterator[bytes]:
        """Yield what an answer to the subscription says."""
        self.project_id = answer["project_id"]
        epoch, offset, streams = answer.get("epoch"), answer.get("offset"), answer.get("streams", ())
        end = (epoch, offset) if isinstance(epoch, str) and isinstance(offset, int) else None
        identity: dict[str, Any] = {name: answer[name] for name in ("project_id", "job_id") if name in answer}
        if answer["recovered"] and end is not None:
            missed = answer["events"]
            first = end[1] - len(missed) + 1
            resumed: dict[str, Any] = {**identity, "epoch": end[0], "offset": end[1], "recovered": True}
            yield block(RESUMED_EVENT, resumed, None if self.job_id else (end[0], first - 1))
            if self.view is not None:
                self.view.resume(answer["jobs"], has_more=answer.get("next") is not None)
            for number, item in enumerate(missed, first):
                known = _position_of(item["event"], item["data"], item)
                position = (end[0], number) if self.job_id is None else known
                if self._shows(item["event"], item["data"]):
                    yield block(item["event"], item["data"], None if self._lacks_jobs else position)
            if self.job_id is not None or (self.view is not None and not self._lacks_jobs):
                yield place(end)
        else:
            snapshot = {name: value for name, value in answer.items() if name not in (*_OF_SOCKETS, "streams")}
            self.next = answer.get("next")
            if self.view is not None:
                self.view.begin(answer["jobs"], has_more=self.next is not None)
            yield block(SNAPSHOT_EVENT, snapshot, None if self.next else end)
        for stream in streams:
            yield self.add_stream(answer, stream)
        self._position = end

    def add_stream(self, identity: dict[str, Any], stream: dict[str, Any], end: int | None = None) -> bytes:
        """Return what was said so far in a stream, or more of that.

        Args:
            identity: Has its job and project.
            stream: It, as an answer has it.
            end: Where what comes live begins; None for what the answer says.
        """
        end, position = stream["end"] if end is None else end, stream["position"]
        if position < end:
            self.unread.append(Rest(stream["stream"], stream["generation"], position, end))
        fitting = stream["value"][: max(0, end - stream["start"])]
        return block(*chunk_of(identity, {**stream, "value": fitting}))

    def release(self) -> Iterator[bytes]:
        """Yield the further jobs that are held, if there are any."""
        held, self.held = self.held, None
        if held is not None:
            yield self._add_found(held.asked, held.page) if held.asked else self._add_jobs(held.page)

    def _add_jobs(self, page: dict[str, Any]) -> bytes:
        """Return further jobs of the snapshot; with the last of them a client can resume."""
        self.next, jobs = page.get("next"), page["jobs"]
        if self.view is not None:
            jobs = self.view.begin(jobs, has_more=self.next is not None)
        return self._jobs_of(page, jobs)

    @property
    def unread_jobs(self) -> list[str]:
        """Jobs that the client is shown, and of which it has not been told all: they are to be read."""
        if self.view is None or self.next is not None or self._position is None:  # without a history nothing is known
            return []
        self._latest.clear()
        return [*self.view.unread][:MOST_JOBS]

    def _add_found(self, asked: list[str], page: dict[str, Any]) -> bytes:
        """Return jobs that were read since they were not known whole; those that have gone on since are read again."""
        assert self.view is not None
        late = {name for name, offset in self._latest.items() if offset > page["offset"]} | {*page.get("unread", ())}
        names = [name for name in asked if name not in late]
        jobs = self.view.found(names, [job for job in page["jobs"] if job["job_id"] not in late])
        return self._jobs_of(page, jobs)

    def _jobs_of(self, page: dict[str, Any], jobs: list[dict[str, Any]]) -> bytes:
        told = {"project_id": page["project_id"], "jobs": jobs, "complete": self.next is None}
        return block(JOBS_EVENT, told, None if self._lacks_jobs else self._position)

    @property
    def _lacks_jobs(self) -> bool:
        """Whether the client has not been told all jobs, so that it cannot resume from here."""
        return self.next is not None or (self.view is not None and bool(self.view.unread))

    def _shows(self, name: str, data: Any) -> bool:
        return self.view is None or self.view.passes(name, data)

    @property
    def is_behind(self) -> bool:
        """Whether the jobs that are held are newer than the last event: what comes next would take them back."""
        if self.held is None or self._position is None:
            return False
        page = self.held.page
        return bool(page["epoch"] == self._position[0] and page["offset"] > self.offset)

    def refuse(self, error: SubscribeError) -> Iterator[bytes]:
        """Yield why the stream ends, and end it."""
        if not self.is_over:
            yield from self.take("error", {"code": error.code, "message": str(error)})

    def take(self, name: str, data: Any) -> Iterator[bytes]:
        """Yield what one event that a subscriber gets says."""
        items = data if name == BATCH_EVENT else [{"event": name, "data": data}]
        before, is_placed = self._position, True
        for item in items:
            if not self.is_over:
                if not self.is_behind:  # jobs that came behind an event which they have not seen would take it back
                    yield from self.release()
                blocks = [*self._item(item["event"], item["data"], item)]
                is_placed = bool(blocks)
                yield from blocks
        position = self._position
        if self.view is not None and not is_placed and position not in (None, before) and not self._lacks_jobs:
            yield place(position)  # of what is not shown a client that comes back needs nothing

    def _item(self, name: str, data: Any, beside: dict[str, Any]) -> Iterator[bytes]:
        if name == "error" and isinstance(data, dict):
            self.is_over = True
            yield block(ERROR_EVENT, data)
        elif name == RESYNC_EVENT:
            self.is_over = True
        elif name == STREAM_EVENT:
            yield block(name, data)
        else:
            position = _position_of(name, data, beside)
            if position is None or self._follows(position):
                self._note(data, position)
                if self._shows(name, data):
                    yield block(name, data, None if self._lacks_jobs or position is None else self._position)

    def _note(self, data: Any, position: Position | None) -> None:
        job_id = data.get("job_id") if isinstance(data, dict) else None
        if self.view is not None and isinstance(job_id, str) and position is not None:
            self._latest[job_id] = position[1]

    def _follows(self, position: Position) -> bool:
        """Note a position, and return whether it is new; who would miss what is before it has to come back."""
        last = self._position
        if self.job_id is not None:  # events of other jobs have offsets, too
            self._position = max(position, last) if last is not None and last[0] == position[0] else position
            return True
        if last is not None and (last[0] != position[0] or position[1] > last[1] + 1):
            self.is_over = True
        if self.is_over or (last is not None and position[1] <= last[1]):
            return False
        self._position = position
        return True


def _position_of(name: str, data: Any, beside: dict[str, Any]) -> Position | None:
    """Return the position of an event; that of one whose data have no room for it stands beside them, in a list."""
    fields = data if isinstance(data, dict) else {}
    mark = fields if name in (*STATE_EVENTS, HIDDEN_EVENT) else fields.get(MARK) or beside
    epoch, offset = mark.get("epoch"), mark.get("offset")
    return (epoch, offset) if isinstance(epoch, str) and isinstance(offset, int) else None
