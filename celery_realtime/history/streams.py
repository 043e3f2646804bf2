"""Keep the streams of jobs on Redis: appended part by part, each once, and read from any position on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.encoding import legible
from celery_realtime.events import Outgoing, numbered_chunk
from celery_realtime.forks import after_fork
from celery_realtime.history.keys import Keys, recent_stream, stream_in
from celery_realtime.history.lua import OUTAGES, Command, Runner, Script, call, command
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.stream_parts import OPEN, TEXT, StreamPart

logger = logging.getLogger(__name__)

#: Writers of which a process remembers what it was told last.
REMEMBERED = 10000

_READ = Script("read_stream")
_APPEND = Script("append_stream", _READ)


class StreamLimits(NamedTuple):
    """What is kept of streams.

    Attributes:
        size: Bytes of each, its newest.
        most: Streams of each project; beyond them, those that were quiet longest are let go.
        most_of_job: Streams of each job; beyond them, those of earlier starts of its task are let go, and further ones
            are not stored.
    """

    size: int = 1024 * 1024
    most: int = 1000
    most_of_job: int = 100


class StreamReading(msgspec.Struct, frozen=True):
    """A stream, or a piece of it, as it was read.

    Attributes:
        stream: Its name.
        kind: ``text`` or ``json``.
        generation: Which start of the stream it is of.
        attempt: The attempt of the job that it is of.
        state: Of the stream, as its writer has left it.
        start: Where ``value`` begins.
        position: Where it ends.
        end: Where the stream ends; above ``position`` if there was more than was wanted.
        value: A text, or a list of items as JSON.
        task: The job's task, where that is known.
    """

    stream: str
    kind: str
    generation: int
    attempt: int
    state: str
    start: int
    position: int
    end: int
    value: str | list[msgspec.Raw]
    task: str | None = None


class _Told(NamedTuple):
    """What a writer was told last: up to where of what it has written that was, and its position in the stream."""

    generation: int
    end: int
    position: int


#: Whose a stream is, and its name: project, job, stream.
Place = tuple[str, str, str]


class Streams:
    """The streams of the jobs of a channel.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
        ttl: Seconds that a stream is kept to which nothing is added.
        limits: What is kept.
        where: What the log calls the Redis.
    """

    def __init__(self, keys: Keys, runner: Runner, ttl: float, *, limits: StreamLimits, where: str) -> None:
        self._keys = keys
        self._runner = runner
        self._ttl = max(1, int(ttl))
        self._limits = limits
        self._where = where
        self._log = RateLimitedLogger(logger)
        self._told: BoundedDict[tuple[Place, str], _Told] = BoundedDict(REMEMBERED)
        #: Of each stream, what any of its writers in this process was told last.
        self._highest: BoundedDict[Place, _Told] = BoundedDict(REMEMBERED)
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    # -- writing ------------------------------------------------------------------------------------------------

    def append(self, parts: Sequence[Outgoing]) -> list[Outgoing] | None:
        """Append parts, and return what to publish: each as an event with its position, those of a stream in order.

        Nothing is published for a part of a start of the job's task that another has followed.

        Args:
            parts: Made by :func:`~celery_realtime.events.outgoing_part`. The same again are stored once.

        Returns:
            The events, or None when Redis cannot be reached. Some parts may have been stored then. What Redis refuses
            to store (it is full, say) is published with the position that its writer counts by itself.
        """
        try:
            with self._lock:
                return self._append(parts)
        except OUTAGES as error:
            self._log.error(
                "cannot store streams at %s, so they wait; trying again until it answers: %s",
                self._where,
                describe(error),
            )
            return None

    def _append(self, parts: Sequence[Outgoing]) -> list[Outgoing]:
        groups: dict[Place, list[Outgoing]] = {}
        for part in parts:
            groups.setdefault(_place_of(part), []).append(part)
        replies = self._runner.run_all([self._append_command(place, group) for place, group in groups.items()])
        published, surplus = list[Outgoing](), dict[tuple[str, bytes], None]()
        for (place, group), reply in zip(groups.items(), replies, strict=True):
            if isinstance(reply, Exception):
                self._log.error(
                    "%s refused to store a stream, so whoever comes late will not see it all; see whether it is full: "
                    "%s",
                    *(self._where, describe(reply)),
                )
                published += [self._by_itself(place, part) for part in group]
            else:
                published += self._numbered(place, group, reply)
                surplus.update(dict.fromkeys((place[0], member) for member in reply[2]))
        self._let_go(surplus)
        return published

    def _append_command(self, place: Place, group: Sequence[Outgoing]) -> Command:
        project_id, job_id, name = place
        first = _part_of(group[0])
        generation = self._told_of(place, first).generation or first.generation
        execution, run = group[0].standing.execution, "".join(legible(group[0].standing.run).split())
        age = 0 if execution is None else max(0, round((time.time() - execution.started) * 1000))
        arguments: list[Any] = [name, first.kind, run or "-", group[0].attempt]
        arguments += ["-" if execution is None else execution.id or "-", age, generation]
        arguments += [self._limits.size, self._ttl, self._limits.most, self._limits.most_of_job]
        arguments.append(recent_stream(job_id, name))
        highest = self._highest.get(place)
        arguments.append(highest.position if highest is not None and highest.generation == generation else 0)
        for outgoing in group:
            part = _part_of(outgoing)
            told = self._told_of(place, part)
            arguments += [part.writer, part.begin, part.count, part.state, told.position, told.end, outgoing.payload]
        return call(_APPEND, self._keys.stream(project_id, job_id, name), arguments)

    def _told_of(self, place: Place, part: StreamPart) -> _Told:
        """Return what a part's writer was told last; 0 for nothing."""
        told = self._told.get((place, part.writer))
        return _Told(0, part.begin, 0) if told is None or told.end > part.begin else told

    def _note(self, place: Place, part: StreamPart, told: _Told) -> None:
        """Remember what a writer was told: of a part that came again, another one may have been told more since."""
        highest = self._highest.get(place)
        self._told[place, part.writer] = told
        if highest is None or (highest.generation, highest.position) < (told.generation, told.position):
            self._highest[place] = told

    def _numbered(self, place: Place, group: Sequence[Outgoing], reply: Any) -> list[Outgoing]:
        generation, answers, _ = reply
        events = []
        for outgoing, position, state in zip(group, answers[::2], answers[1::2], strict=True):
            part = _part_of(outgoing)
            if position >= 0:
                self._note(place, part, _Told(generation, part.end, position + part.count))
                events.append(numbered_chunk(outgoing, position, generation, state.decode(errors="replace")))
        return events

    def _by_itself(self, place: Place, outgoing: Outgoing) -> Outgoing:
        """Return a part that cannot be stored as an event, by what its writer knows."""
        part = _part_of(outgoing)
        told = self._told_of(place, part)
        position, generation = told.position + part.begin - told.end, told.generation or part.generation
        if told.generation == 0:
            position = part.begin
        self._note(place, part, _Told(generation, part.end, position + part.count))
        return numbered_chunk(outgoing, position, generation)

    def _let_go(self, surplus: Iterable[tuple[str, bytes]]) -> None:
        """Forget streams of projects that have too many; if that fails, the next part of any of them tries again."""
        all_forgotten = [self._forgetting(*one) for one in surplus]
        if not all_forgotten:
            return
        heads = [head for head, _ in all_forgotten]
        commands = [one for _, commands in all_forgotten for one in commands]
        still_open = sum(
            isinstance(head, bytes) and OPEN in head.decode().split() for head in self._runner.run_all(heads)
        )
        self._runner.run_all(commands)
        if still_open:
            self._log.warning(
                "streams that are open are let go, %d of them, so whoever comes late sees them from where they go on; "
                "write fewer, or raise realtime_streams_per_project (%d) or realtime_streams_per_job (%d)",
                *(still_open, self._limits.most, self._limits.most_of_job),
            )

    def _forgetting(self, project_id: str, member: bytes) -> tuple[Command, list[Command]]:
        """Return what reads the state of a stream, and what forgets it."""
        job_id, name = stream_in(member)
        streams, _, value, recent = self._keys.stream(project_id, job_id, name)
        forget = [command("HDEL", streams, name), command("DEL", value), command("ZREM", recent, member)]
        return command("HGET", streams, name), forget

    # -- reading ------------------------------------------------------------------------------------------------

    def names(self, project_id: str, job_id: str) -> list[str]:
        """Return the names of the streams of a job, in their order by name.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        key = self._keys.stream(project_id, job_id, "")[0]
        return sorted(name.decode(errors="replace") for name in self._runner.run(command("HKEYS", key)))

    def read(
        self, project_id: str, job_id: str, name: str, *, start: int = 0, generation: int = 0, most: int = 0
    ) -> StreamReading | None:
        """Return what is kept of a stream from a position on, or None if there is no such stream.

        Args:
            project_id: The project.
            job_id: The job.
            name: The stream.
            start: The position; 0 for all that is kept; below 0, so many characters or items before the end.
            generation: Which start of the stream the position is of: of another, all is returned. 0 for whichever.
            most: Bytes that are wanted, about; 0 for all. At least one character or item is returned.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        most = most or 2 * self._limits.size
        while True:
            reply = self._runner.run(self._read_command(project_id, job_id, name, start, generation, most))
            reading = _reading_of(name, reply, most)
            if reading is None or not reading.start == reading.position < reading.end or len(reply[-1]) < most:
                return reading
            # An item that is longer, perhaps of a writer that keeps more of each stream.
            most = max(2 * self._limits.size, 4 * most)

    def _read_command(self, project_id: str, job_id: str, name: str, start: int, generation: int, most: int) -> Command:
        keys = self._keys.stream(project_id, job_id, name)
        return call(_READ, [keys[0], keys[2]], [name, generation, start, most])

    def read_all(self, project_id: str, job_id: str, most: int, tail: int = 0) -> list[StreamReading]:
        """Return what is kept of all streams of a job, as far as it has so many bytes in all.

        Args:
            project_id: The project.
            job_id: The job.
            most: The bytes.
            tail: Characters or items of each that are wanted, its newest; 0 for all.

        Of those for which there is no room, the value is empty, and ``end`` is above ``position``.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        readings, left = list[StreamReading](), most
        for name in self.names(project_id, job_id):
            reading = self.read(project_id, job_id, name, start=-tail, most=max(left, 1))
            if reading is not None:
                left -= _size_of(reading)
                if left < 0 and readings:
                    reading = _emptied(reading)
                readings.append(reading)
        return readings


def _part_of(outgoing: Outgoing) -> StreamPart:
    assert outgoing.part is not None
    return outgoing.part


def _place_of(outgoing: Outgoing) -> Place:
    return outgoing.project_id, legible(outgoing.job_id or ""), _part_of(outgoing).stream


def _reading_of(name: str, reply: list[Any], most: int) -> StreamReading | None:
    if not reply:
        return None
    kind, generation, attempt, state, _, end, start, where, piece = reply
    kind = kind.decode()
    value = _text(where, piece, end - start, most) if kind == TEXT else _items(where, piece, end - start, most)
    return StreamReading(
        name, kind, generation, attempt, state.decode(), start, min(start + len(value), end), end, value
    )


def _text(where: bytes, piece: bytes, count: int, most: int) -> str:
    """Return the text that was read: whole characters, at most so many, and hardly more than ``most`` bytes."""
    text = piece.decode(errors="ignore")  # at the ends there may be parts of characters
    if where == b"head":
        return text[:count]
    text = text[-count:]
    return text if len(piece) <= most else text.encode()[:most].decode(errors="ignore")


def _items(where: bytes, piece: bytes, count: int, most: int) -> list[msgspec.Raw]:
    lines = piece.split(b"\n")
    lines.pop()  # nothing, or a part of an item
    items = lines if where == b"head" else lines[-count:]
    if where != b"head" and len(piece) > most:
        size = 0
        for number, item in enumerate(items):
            size += len(item)
            if size > most:
                items = items[:number]
                break
    return [msgspec.Raw(item) for item in items]


def _size_of(reading: StreamReading) -> int:
    value = reading.value
    return len(value.encode()) if isinstance(value, str) else sum(len(bytes(item)) + 1 for item in value)


def _emptied(reading: StreamReading) -> StreamReading:
    return msgspec.structs.replace(reading, position=reading.start, value="" if reading.kind == TEXT else [])
