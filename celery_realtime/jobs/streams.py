"""Send what jobs say bit by bit: written at once, and sent as chunks from a thread of its own."""

from __future__ import annotations

import logging
import math
import secrets
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore

from celery_realtime import events
from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.encoding import encode_strict, text_of
from celery_realtime.events import Job, Outgoing
from celery_realtime.exceptions import JobCancelled
from celery_realtime.forks import after_fork, at_exit, before_fork
from celery_realtime.jobs.stream_buffers import ItemBuffer, TextBuffer
from celery_realtime.jobs.stream_rounds import StreamRounds
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.loops import BackgroundLoop
from celery_realtime.sending.event_queue import Batch
from celery_realtime.sending.manager import SocketIOManager
from celery_realtime.settings import Settings
from celery_realtime.stream_parts import (
    CANCELLED,
    CLOSED,
    FAILED,
    JSON,
    OPEN,
    STATE_BY_END,
    STREAM_EVENT,
    TEXT,
    StreamPart,
    check_stream_kind,
    check_stream_name,
)
from celery_realtime.values import is_text

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

#: Writes after which the writer itself makes chunks: the thread that does may not get a turn, as among greenlets.
MOST_WRITES = 10_000

#: Characters, or bytes, of one write from which on it is counted how much has been written since the last chunks:
#: beyond ``stream_size``, the writer itself makes chunks, so that a thread that gets no turn costs little memory.
LONG_WRITE = 4096

#: Parts of a stream that may wait to be sent; what is written meanwhile makes larger ones.
MOST_IN_FLIGHT = 32

#: How many times ``stream_size`` may wait to be sent in all streams of a process.
MOST_STREAMS_WAITING = 16

#: Longest wait, in seconds, for another thread that is making chunks of the same stream.
LOCK_TIMEOUT = 1.0

#: Jobs whose streams a process remembers.
REMEMBERED = 10_000


class Stream:
    """What a job says bit by bit: a text that grows.

    Used as a context manager, which closes it; an exception makes it ``failed``, or ``cancelled``. It ends with its job
    in any case. Any thread of the job may write, and any process that the job has forked: what one thread writes stays
    in its order, and the writes of several in that in which they came; the chunks of several processes come one after
    the other, in the order in which the history has had them.

    Args:
        job: The job.
        name: Of the stream.
        desk: Sends it; None where nothing is sent, as in a plain call of a task.
        check: Called now and then by whoever writes; raises ``JobCancelled`` if the job is to end.
    """

    kind = TEXT

    def __init__(
        self, job: Job, name: str, desk: StreamDesk | None = None, check: Callable[[], object] | None = None
    ) -> None:
        self.job = job
        self.name = name
        #: What messages call an item of it.
        self._what = f"an item of the stream {name!r}"
        self._desk = desk
        self._check = check
        started = time.time() if job.execution is None else job.execution.started
        self._generation = round(started * 1000)
        self._state, self._told_state = OPEN, ""
        #: Whether it was opened in the process that this one is a fork of.
        self.is_heir = False
        self.start_over()

    def start_over(self) -> None:
        """Forget what has not been sent: done in the child of a fork, whose parent sends it. It writes on by itself."""
        self._lock = threading.RLock()
        self._is_sending = False
        self._buffer = self._new_buffer()
        self._writes: deque[Any] = deque()
        self._append: Callable[[Any], object] = _ignore if self._desk is None else self._writes.append
        if self._state != OPEN:
            self._append = self._refuse
        #: Whether the desk is about to look at it: as long as it is, a write only appends.
        self._is_stirred = self._desk is None
        #: How much has been written in long writes since the last chunks were made.
        self._long = 0
        self.writer = secrets.token_hex(6)
        self._begin = 0
        #: How many of its parts were put into the outbox, and how many have left that; each is counted by one thread.
        self._parts_put = self.parts_settled = 0

    @property
    def in_flight(self) -> int:
        """How many of its parts wait in the outbox."""
        return self._parts_put - self.parts_settled

    def _new_buffer(self) -> TextBuffer | ItemBuffer:
        return TextBuffer()

    # -- for whoever writes -------------------------------------------------------------------------------------

    def write(self, text: str) -> None:
        """Add a text; returns at once, whatever the state of the broker.

        Args:
            text: Any text, an empty one too.

        Raises:
            TypeError: It is no text.
            ValueError: The stream was closed.
            JobCancelled: The job has been cancelled, and the task has ``cancellable=True``.
        """
        if text.__class__ is not str:
            text = _checked_text(text)
        self._append(text)
        if len(text) > LONG_WRITE:
            self._note_long(len(text))
        if not self._is_stirred or len(self._writes) > MOST_WRITES:
            self._stir()

    def _note_long(self, size: int) -> None:
        self._long += size
        if self._desk is not None and self._long > self._desk.size:
            self.send()

    def _stir(self) -> None:
        if self._desk is None:
            return
        if not self._is_stirred:
            self._is_stirred = True
            self._desk.stir(self)
        if len(self._writes) > MOST_WRITES:
            self.send()
        self._desk.after_write(self.job)
        if self._check is not None:
            self._check()

    @property
    def state(self) -> str:
        """``open``, ``closed``, ``failed`` or ``cancelled``."""
        return self._state

    def close(self, state: str = CLOSED) -> None:
        """Say that nothing more comes; to write on, open it again by its name.

        Args:
            state: ``closed``, ``failed`` or ``cancelled``.

        Raises:
            ValueError: There is no such state.
        """
        if state not in (CLOSED, FAILED, CANCELLED):
            raise ValueError(f"a stream is closed as 'closed', 'failed' or 'cancelled', not as {state!r}")
        self._end(state, self._refuse)

    def _end(self, state: str, append: Callable[[Any], object]) -> None:
        if self._state == OPEN:
            self._state = state
            self._append = append
            self._is_stirred = False  # it may have been looked at with the state that it had
            if self._desk is not None:
                self._is_stirred = True
                self._desk.stir(self)

    def _refuse(self, _written: Any) -> None:
        raise ValueError(f"the stream {self.name!r} is closed; open it again to write more")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _where: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self.send(most_in_flight=math.inf)  # the process is told to end: how its job has, others say
        elif isinstance(error, JobCancelled):
            self.close(CANCELLED)
        else:
            self.close(CLOSED if error is None or isinstance(error, Ignore) else FAILED)

    # -- for the desk -------------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """Go on with a stream that was closed."""
        if self._desk is not None:
            self._state, self._append = OPEN, self._writes.append

    def finish(self, state: str) -> None:
        """Say that the job has ended, and send all that there is."""
        self._end(state, _ignore)
        self._append = _ignore
        self.send(most_in_flight=math.inf)

    @property
    def waiting(self) -> int:
        """About how many bytes wait here."""
        return self._buffer.size

    @property
    def has_to_send(self) -> bool:
        """Whether something has been written, or said, that is not on its way."""
        return bool(self._writes or self._buffer.size or self._told_state not in ("", self._state))

    def drop_oldest(self, most: int) -> None:
        """Let go of what was written first, so that hardly more than ``most`` bytes wait; readers are told."""
        if self._lock.acquire(timeout=LOCK_TIMEOUT):
            try:
                dropped = 0 if self._is_sending else self._buffer.drop_oldest(most)
                self._begin += dropped
            finally:
                self._lock.release()
            if dropped and self._desk is not None:
                self._desk.note_dropped(self, dropped)

    def send(self, most_in_flight: float = MOST_IN_FLIGHT) -> None:
        """Put what was written into the outbox, in chunks, as long as no more than so many of them wait there."""
        desk = self._desk
        # Another thread does not take long, unless it waits for a lock that this one holds, in the middle of which a
        # signal has come.
        if desk is None or not self._lock.acquire(timeout=LOCK_TIMEOUT):
            return
        try:
            if self._is_sending:  # by this thread, in the middle of which a signal has come
                return
            self._is_sending = True
            try:
                self._send(desk, most_in_flight)
            finally:
                self._is_sending = False
        finally:
            self._lock.release()
        if self._buffer.size > desk.size:
            self.drop_oldest(desk.size)

    def _send(self, desk: StreamDesk, most_in_flight: float) -> None:
        self._is_stirred = False  # first: what is written from now on stirs again
        state = self._state
        writes, self._long = self._writes, 0
        self._buffer.add([writes.popleft() for _ in range(len(writes))])
        while self._buffer.size and self.in_flight < most_in_flight:
            piece = self._buffer.take(desk.chunk)
            self._put(desk, piece, state if not self._buffer.size else OPEN)
        if not self._buffer.size and state not in (OPEN, self._told_state):
            self._put(desk, self._buffer.nothing, state)

    def _put(self, desk: StreamDesk, piece: Any, state: str) -> None:
        if desk.has_filter:
            piece = self._visible(desk, piece, state)
            if piece is None:
                return
        told = "" if state == self._told_state else state
        place = self.writer, self._begin, len(piece)
        part = StreamPart(self.name, self.kind, *place, told, self._generation, self.job.task)
        self._begin, self._told_state = part.end, state
        self._parts_put += 1
        desk.put(self, events.outgoing_part(self.job, part, self._buffer.encoded(piece)))

    def _visible(self, desk: StreamDesk, piece: Any, state: str) -> Any:
        """Return what ``event_filter`` leaves of a chunk: if only the stream's end, that alone; None for nothing."""
        kind = self._buffer
        visible = desk.visible(self, kind.shown(piece), self._begin, state)
        if visible is not None:
            return kind.piece_of(visible)
        is_end = state not in (OPEN, self._told_state) and len(piece)
        return self._visible(desk, kind.nothing, state) if is_end else None


class ItemStream(Stream):
    """What a job says bit by bit: a list that grows, of items of JSON; else as :class:`Stream`."""

    kind = JSON

    def _new_buffer(self) -> TextBuffer | ItemBuffer:
        return ItemBuffer()

    def write(self, item: Any) -> None:
        """Add an item; returns at once, whatever the state of the broker.

        Args:
            item: Anything that has a JSON form, as of custom events.

        Raises:
            TypeError: It has none.
            ValueError: It holds NaN, refers to itself, or is larger than ``max_payload``; or the stream was closed.
            JobCancelled: The job has been cancelled, and the task has ``cancellable=True``.
        """
        limit = math.inf if self._desk is None else self._desk.max_item
        self.add(encode_strict(item, self._what, limit))  # type: ignore[arg-type]

    def add(self, encoded: bytes) -> None:
        """Add an item that is JSON already, in one line; else as :meth:`write`."""
        self._append(encoded)
        if len(encoded) > LONG_WRITE:
            self._note_long(len(encoded))
        if not self._is_stirred or len(self._writes) > MOST_WRITES:
            self._stir()


_CLASSES: dict[str, type[Stream]] = {TEXT: Stream, JSON: ItemStream}


def silent_stream(name: object, kind: object) -> Stream:
    """Return a stream of no job, for a plain call of a task: it only checks its arguments.

    Raises:
        TypeError, ValueError: An argument is wrong.
    """
    return _CLASSES[check_stream_kind(kind)](Job(job_id=""), check_stream_name(name))


class _OfJob:
    """The streams of one start of a job, by name."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.streams: dict[str, Stream] = {}


class StreamDesk:
    """All streams that this process writes, and the thread that sends what was written.

    The thread looks at a stream ``stream_interval`` after something was written. While the outbox does not get rid of
    what it has, chunks grow, up to ``stream_size`` of each stream; what is let go beyond that leaves a gap in the
    positions, of which readers are told. The thread starts with the first write, and ends when nothing is written.

    Args:
        manager: Where chunks go.
        settings: Returns the settings.
        after_write: Called with a job that has written something, in its thread.
    """

    def __init__(
        self, manager: SocketIOManager, settings: Callable[[], Settings], after_write: Callable[[Job], object]
    ) -> None:
        self.after_write = after_write
        self._manager = manager
        self._settings = settings
        self._log = RateLimitedLogger(logger)
        self._observed: Any = None
        self._rounds: StreamRounds[Stream] = StreamRounds(
            lambda: settings().stream_interval,
            lambda: MOST_STREAMS_WAITING * settings().stream_size,
            started=lambda: at_exit(self._end),
        )
        self._jobs: BoundedDict[tuple[str | None, str], _OfJob] = BoundedDict(REMEMBERED)
        self._start_over()
        before_fork(self.send_all)
        after_fork(self._start_over)
        manager.on_flush(self.send_all)

    def _start_over(self) -> None:
        self._lock = threading.RLock()
        self._rounds.start_over()
        #: By writer, the streams of which something waits in the outbox.
        self._in_flight: dict[str, Stream] = {}
        for stream in self._all():
            stream.is_heir = True
            stream.start_over()

    def _all(self) -> list[Stream]:
        jobs = (self._jobs.get(name) for name in self._jobs.names())
        return [stream for of_job in jobs if of_job is not None for stream in list(of_job.streams.values())]

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The background loop that sends, if it has something to do."""
        return self._rounds.loops

    # -- settings -----------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of a stream that may wait to be sent."""
        return self._settings().stream_size

    @property
    def chunk(self) -> int:
        """Bytes of a chunk, about."""
        return self._settings().stream_chunk

    @property
    def max_item(self) -> int:
        """Bytes that an item may have."""
        return self._settings().max_payload

    # -- jobs ---------------------------------------------------------------------------------------------------

    def open(self, job: Job, name: object, kind: object, check: Callable[[], object] | None = None) -> Stream:
        """Return a stream of a job, which goes on if it was closed.

        Args:
            job: The job, which must have a project.
            name: The stream's.
            kind: ``text`` or ``json``.
            check: Called now and then by whoever writes.

        Raises:
            TypeError: The name is no string.
            ValueError: It is no name, there is no such kind, the stream is of another, or the job has too many.
        """
        checked, stream_class = check_stream_name(name), _CLASSES[check_stream_kind(kind)]
        with self._lock:
            of_job = self._of(job)
            stream = of_job.streams.get(checked)
            if stream is None:
                most = self._settings().streams_per_job
                if len(of_job.streams) >= most:
                    raise ValueError(f"a job has at most realtime_streams_per_job={most} streams, this one has as many")
                stream = of_job.streams[checked] = stream_class(job, checked, self, check)
            elif stream.kind != kind:
                raise ValueError(f"the stream {checked!r} is of kind {stream.kind!r}, not {kind!r}")
            else:
                stream.reopen()
        return stream

    def _of(self, job: Job) -> _OfJob:
        key = job.project_id, job.job_id
        of_job = self._jobs.get(key)
        if of_job is None or are_two_starts(of_job.job, job):
            if of_job is not None:
                self._finish(of_job, FAILED)
            of_job = self._jobs[key] = _OfJob(job)
        return of_job

    def end(self, job: Job, state: str) -> None:
        """Send what a job has written, and end its streams: it has ended, or this attempt of it has.

        Args:
            job: The job.
            state: Celery's name of the state that it has come to.
        """
        of_job = self._jobs.get((job.project_id, job.job_id))
        if of_job is not None and not are_two_starts(of_job.job, job):
            self._jobs.pop((job.project_id, job.job_id))
            self._finish(of_job, STATE_BY_END.get(state, FAILED))

    def leave(self, job: Job, is_over: bool) -> None:
        """Send what a job has written, since its task has returned, or raised.

        Args:
            job: The job.
            is_over: Whether this attempt of it is, and another one follows. Else whoever reports its end says how its
                streams have ended.
        """
        of_job = self._jobs.get((job.project_id, job.job_id))
        if of_job is None or are_two_starts(of_job.job, job):
            return
        if is_over:
            self.end(job, "RETRY")
        for stream in list(of_job.streams.values()):
            stream.send(most_in_flight=math.inf)

    def _finish(self, of_job: _OfJob, state: str) -> None:
        for stream in list(of_job.streams.values()):
            stream.finish(state)

    # -- sending ------------------------------------------------------------------------------------------------

    def stir(self, stream: Stream) -> None:
        """Have a stream looked at soon."""
        self._rounds.stir(stream)

    def send_all(self) -> None:
        """Put all that was written into the outbox."""
        for stream in self._all():
            if stream.has_to_send:
                stream.send(most_in_flight=math.inf)

    def _end(self) -> None:
        self.send_all()
        self._manager.flush()

    @property
    def has_filter(self) -> bool:
        """Whether ``event_filter`` decides for everybody."""
        return self._manager.has_filter

    def visible(self, stream: Stream, chunk: Any, position: int, state: str) -> Any:
        """Return what ``event_filter`` leaves of a chunk; None for nothing."""
        job = stream.job
        data = {
            "event": "stream_chunk",
            "job_id": job.job_id,
            "project_id": job.project_id,
            "stream": stream.name,
            "kind": stream.kind,
            "attempt": job.attempt,
            "position": position,
            "chunk": chunk,
            "state": state,
            "task": job.task,
        }
        visible = self._manager.visible(STREAM_EVENT, job.project_id or "", data)
        return visible.get("chunk") if isinstance(visible, dict) else None

    def put(self, stream: Stream, part: Outgoing) -> None:
        """Put a part of a stream into the outbox."""
        if stream.is_heir and self._manager.history is None:
            stream.parts_settled += 1
            self._log.warning(
                "a forked process writes to the stream %r of task %s, and without a history nobody knows its place, so "
                "that is lost; set history_url, or write from the task itself",
                *(stream.name, stream.job.task),
                job_id=stream.job.job_id,
                project_id=stream.job.project_id,
            )
            return
        outbox = self._manager.outbox
        if outbox is not self._observed:
            self._observed = outbox
            outbox.on_settled(self._settle)
        self._in_flight[stream.writer] = stream
        self._manager.put_part(part)

    def _settle(self, batch: Batch[Outgoing]) -> None:
        in_flight = self._in_flight
        if not in_flight:
            return
        for _, item in batch:
            stream = None if item.part is None else in_flight.get(item.part.writer)
            if stream is not None:
                stream.parts_settled += 1
                if stream.in_flight <= 0:
                    in_flight.pop(stream.writer, None)
                    if stream.in_flight > 0:  # its writer has put another one meanwhile
                        in_flight[stream.writer] = stream

    def note_dropped(self, stream: Stream, count: int) -> None:
        """Note that something was let go for want of room; its readers are told by the positions."""
        self._manager.count("stream_dropped", count)
        self._log.error(
            "%d characters or items of streams are let go, since more than realtime_stream_size=%d bytes wait to be "
            "sent, so clients miss them; see whether the broker and the history answer (the stream %r of task %s is "
            "one of them)",
            *(count, self.size, stream.name, stream.job.task),
            job_id=stream.job.job_id,
            project_id=stream.job.project_id,
        )


def are_two_starts(job: Job, other: Job) -> bool:
    """Return whether two jobs of the same id are of two starts of its task, as far as both are known."""
    if job.attempt != other.attempt and None not in (job.execution, other.execution):
        return True
    return job.execution is not None and other.execution is not None and job.execution.id != other.execution.id


def _checked_text(text: object) -> str:
    if isinstance(text, str):
        return str.__str__(text)  # of a subclass the plain text
    if is_text(text):
        return text_of(text)  # as it is translated now
    raise TypeError(
        f"a stream of kind 'text' takes str, not {type(text).__name__}; open it with kind='json' for other data"
    )


def _ignore(_written: Any) -> None:
    """Take what nobody is to see any more."""
