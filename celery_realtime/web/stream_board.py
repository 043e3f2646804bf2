"""Have a web server emit the streams that its clients read in order, and read what it has missed from the history."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from celery_realtime.channel.wire import Heard
from celery_realtime.clocks import time
from celery_realtime.events import STATUS_EVENT
from celery_realtime.loops import BackgroundLoop
from celery_realtime.stream_parts import OPEN, STREAM_EVENT
from celery_realtime.web.history_reader import HistoryReader, Missing
from celery_realtime.web.stream_order import StreamOrder, chunk_of
from celery_realtime.web.stream_source import MOST_MISSING, end_of, event_of

if TYPE_CHECKING:
    from celery_realtime.history.streams import StreamReading

#: Seconds between two turns when nothing is missing, while something is read, and while nothing can be.
IDLE_INTERVAL, BUSY_INTERVAL, FAILING_INTERVAL = 1.0, 0.02, 0.25

#: Seconds of silence after which it is looked whether an open stream has gone on: the loss of what came last leaves no
#: hole. And how many streams are looked at in a turn.
LOOK_AFTER = 3.0
MOST_LOOKED_AT = 50

#: Seconds that chunks wait for a history that answers, but has much to read.
LONGEST_WAIT = 5.0

#: Streams that are followed.
MOST_STREAMS = 20_000


class Source(Protocol):
    """Where streams are read."""

    def read(
        self, project_id: str, job_id: str, name: str, *, start: int, generation: int, most: int
    ) -> StreamReading | None:
        """Return a stream from a position on, or None if there is none."""


class _Followed:
    """A stream that clients of this server read.

    Attributes:
        order: How far it has been emitted.
        quiet_since: When something of it came last, or was looked for.
        asked_at: When the history was first asked for what is missing; None if nothing is.
        behind_since: How many times the history had been asked when something was last missed: only what is read later
            has it.
        sample: An event of it, for what is emitted of it without one.
    """

    def __init__(self, order: StreamOrder, clock: float) -> None:
        self.order = order
        self.quiet_since = clock
        self.asked_at: float | None = None
        self.behind_since = 0
        self.sample: Heard | None = None


Key = tuple[str, str, str]


class StreamBoard:
    """The streams that clients of this server read: of which job, how far they have been emitted, and what is missing.

    Args:
        source: Reads the history; None where there is none.
        is_read: ``(namespace, project_id, job_id) -> bool``, whether any client of this server reads streams of a job.
        namespace: The namespace of the projects.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        source: Source | None,
        is_read: Callable[[str, str, str], bool],
        namespace: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._is_read = is_read
        self._namespace = namespace
        self._clock = clock
        self._reader = None if source is None else HistoryReader(self._read_missing)
        self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[Key, _Followed] = {}
        #: Jobs of which a client was given all streams that there were, by project and id.
        self._seeded: set[tuple[str, str]] = set()
        #: By project and job, the names of its streams that are followed.
        self._by_job: dict[tuple[str, str], set[str]] = {}
        self._requests = 0
        self._turns_at = 0.0

    def after_fork(self) -> None:
        """Start over in a child process, which has no clients and not the thread that read."""
        self._start_over()
        if self._reader is not None:
            self._reader.after_fork()

    def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.close()

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The background loop that reads the history; none where there is no history."""
        return [] if self._reader is None else [self._reader.loop]

    def _read_missing(self, name: str, generation: str, position: int, _most_jobs: int) -> StreamReading | None:
        assert self._source is not None
        project_id, stream, job_id = name.split("\n", 2)
        return self._source.read(
            project_id, job_id, stream, start=position, generation=int(generation), most=MOST_MISSING
        )

    # -- clients ------------------------------------------------------------------------------------------------

    def seed(self, project_id: str, job_id: str, readings: Iterable[StreamReading], *, are_all: bool = True) -> None:
        """Note what a client was given of streams of a job: what comes next of each is expected to follow that.

        Of a stream that was not among all that there were then, all is expected; also when another client is given
        what has come of it since.

        Args:
            project_id: The project.
            job_id: The job.
            readings: What it was given.
            are_all: Whether these are all streams of the job.
        """
        clock = self._clock()
        with self._lock:
            is_seeded = (project_id, job_id) in self._seeded
            if are_all:
                self._seeded.add((project_id, job_id))
            for reading in readings:
                key = project_id, job_id, reading.stream
                if key not in self._streams and len(self._streams) < MOST_STREAMS:
                    given = StreamOrder(reading.generation, reading.end, reading.state)
                    self._follow(key, StreamOrder(reading.generation, 0) if is_seeded else given, clock)

    def _follow(self, key: Key, order: StreamOrder, clock: float) -> _Followed:
        followed = self._streams[key] = _Followed(order, clock)
        self._by_job.setdefault(key[:2], set()).add(key[2])
        return followed

    # -- the channel --------------------------------------------------------------------------------------------

    def sort(self, events: Iterable[Heard]) -> list[Heard]:
        """Return, in order, what has to be emitted now that chunks have come from the channel."""
        clock = self._clock()
        with self._lock:
            return [due for event in events for due in self._sorted(event, clock)]

    def _sorted(self, event: Heard, clock: float) -> list[Heard]:
        chunk = chunk_of(event)
        if chunk is None or event.job_id is None or event.namespace != self._namespace:
            return []
        key = event.project_id, event.job_id, chunk.stream
        followed = self._streams.get(key)
        if followed is None:
            if not self._is_read(self._namespace, *key[:2]):
                return []
            if len(self._streams) >= MOST_STREAMS:
                return [event]
            # What a client was not given of a job that it follows has begun since.
            position = 0 if self._reader is not None and key[:2] in self._seeded else chunk.position
            followed = self._follow(key, StreamOrder(chunk.generation, position), clock)
        followed.quiet_since, followed.sample = clock, event
        due = followed.order.take(chunk)
        if followed.order.is_behind:
            if self._reader is None:
                return [*due, *followed.order.give_up()]
            self._turns_at = min(self._turns_at, clock)
        return due

    def note(self, events: Iterable[Heard]) -> list[Heard]:
        """Note what is about to be emitted, and return what has to be before: the end of a job ends its streams."""
        if not self._by_job:
            return []
        due: list[Heard] = []
        for event in events:
            names = self._by_job.get((event.project_id, event.job_id or "")) if event.event == STATUS_EVENT else None
            state = end_of(event.data) if names else OPEN
            if names and state != OPEN:
                with self._lock:
                    due += self._end(event, names, state)
        return due

    def _end(self, event: Heard, names: Iterable[str], state: str) -> list[Heard]:
        due: list[Heard] = []
        for name in names:
            followed = self._streams[event.project_id, event.job_id or "", name]
            if followed.order.state != OPEN:
                continue
            if self._reader is not None:  # which has all that was written, and says the state
                followed.order.is_behind, followed.behind_since = True, self._requests
                self._turns_at = min(self._turns_at, self._clock())
            elif followed.sample is not None:
                due += self._closed(followed, state)
        return due

    def _closed(self, followed: _Followed, state: str) -> list[Heard]:
        assert followed.sample is not None
        chunk = chunk_of(followed.sample)
        assert chunk is not None
        last = chunk.behind(chunk.end)._replace(position=followed.order.position, state=state)
        data = {**last.event.data, "position": last.position, "chunk": last.content, "state": state}
        return followed.order.take(
            last._replace(
                event=Heard(last.event.project_id, last.event.job_id, STREAM_EVENT, data, namespace=self._namespace)
            )
        )

    def fall_behind(self, project_ids: Iterable[str] | None = None) -> None:
        """Note that chunks may have been missed: of all streams, or of those of some projects."""
        with self._lock:
            projects = None if project_ids is None else set(project_ids)
            for key, followed in self._streams.items():
                if self._reader is not None and (projects is None or key[0] in projects):
                    followed.order.is_behind, followed.behind_since = True, self._requests
            self._turns_at = self._clock()

    # -- what was missed ----------------------------------------------------------------------------------------

    @property
    def turns_in(self) -> float:
        """Seconds until :meth:`missed` has to be called; not above zero when it has to be now."""
        return self._turns_at - self._clock() if self._streams or self._seeded else IDLE_INTERVAL

    def missed(self) -> Iterator[list[Heard]]:
        """Yield, stream by stream, what has been read by now of what was missed, or is to wait no longer."""
        clock = self._clock()
        if self._reader is None:
            self._forget_unread()
            self._turns_at = clock + IDLE_INTERVAL
            return
        for missing, reading in self._reader.answers():
            yield self._answered(missing, reading, clock)
        yield self._pursued(self._reader, clock)

    def _answered(self, missing: Missing, reading: StreamReading | None, clock: float) -> list[Heard]:
        project_id, stream, job_id = missing.project_id.split("\n", 2)
        with self._lock:
            followed = self._streams.get((project_id, job_id, stream))
            if followed is None:  # every reader has left
                return []
            followed.asked_at, followed.quiet_since = None, clock
            event = None if reading is None else event_of(project_id, job_id, reading, self._namespace)
            chunk = None if event is None else chunk_of(event)
            due = followed.order.answer(chunk, 0 if reading is None else reading.end)
            followed.order.is_behind |= missing.serial <= followed.behind_since
            return due

    def _pursued(self, reader: HistoryReader, clock: float) -> list[Heard]:
        """Ask the history for what is missing, and go on without where it does not answer."""
        due: list[Heard] = []
        self._forget_unread()
        is_behind, looks = False, 0
        with self._lock:
            for key, followed in self._streams.items():
                order = followed.order
                if not order.is_behind and (order.state != OPEN or clock - followed.quiet_since < LOOK_AFTER):
                    continue
                if not order.is_behind:
                    looks += 1
                    if looks > MOST_LOOKED_AT:
                        continue
                    followed.quiet_since = clock
                is_behind |= order.is_behind
                self._ask(reader, key, followed, clock)
                if order.is_waiting and self._gives_up(reader, followed, clock):
                    due += order.give_up()
        busy = BUSY_INTERVAL if reader.is_prompt else FAILING_INTERVAL
        self._turns_at = clock + (busy if is_behind else IDLE_INTERVAL)
        return due

    def _ask(self, reader: HistoryReader, key: Key, followed: _Followed, clock: float) -> None:
        project_id, job_id, stream = key
        self._requests += 1
        order = followed.order
        if followed.asked_at is None:
            followed.asked_at = clock
        name = f"{project_id}\n{stream}\n{job_id}"
        reader.request(Missing(name, str(order.generation), order.position, self._requests))

    def _gives_up(self, reader: HistoryReader, followed: _Followed, clock: float) -> bool:
        asked_at = clock if followed.asked_at is None else followed.asked_at
        return not reader.is_prompt or clock - asked_at > LONGEST_WAIT

    def _forget_unread(self) -> None:
        with self._lock:
            for job in [job for job in {*self._by_job, *self._seeded} if not self._is_read(self._namespace, *job)]:
                self._seeded.discard(job)
                for stream in self._by_job.pop(job, ()):
                    self._streams.pop((*job, stream), None)


def only_chunks(events: Iterable[Any]) -> tuple[list[Heard], list[Heard]]:
    """Return, of what was decoded, the chunks of streams, and the other events."""
    heard = [event for event in events if isinstance(event, Heard)]
    return (
        [event for event in heard if event.event == STREAM_EVENT],
        [event for event in heard if event.event != STREAM_EVENT],
    )
