"""Print what jobs say in their streams: a text as it comes, items of JSON a line each, those of a log as such lines."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from celery_realtime.bounded import BoundedDict
from celery_realtime.cli.output import Printer, legible_line, write
from celery_realtime.stream_parts import JSON, OPEN, STREAM_EVENT

if TYPE_CHECKING:
    from celery_realtime.client.stream_states import StreamState
    from celery_realtime.history.streams import StreamReading

#: The stream in which the log of a job is kept.
LOG = "log"

#: What an item of a log has in any case, in the order in which it is printed.
LOG_FIELDS = ("time", "level", "logger", "message")

#: Characters of a line that is not complete, beyond which it is printed as it is where nobody looks at a terminal.
LONGEST_LINE = 64 * 1024

#: Streams of which it is known up to where they have been printed.
REMEMBERED = 20_000


class Said(NamedTuple):
    """What is new of a stream.

    Attributes:
        project_id: The project.
        job_id: The job.
        stream: The stream, as it is now.
        chunk: What is new: a text, or a sequence of items.
        remark: What else is to be said of it first: that it begins anew, or that something was let go.
    """

    project_id: str
    job_id: str
    stream: StreamState
    chunk: Any
    remark: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Tells the stream from all others of the project."""
        return self.job_id, self.stream.name


class News:
    """Finds what has not been printed yet: who subscribes to a job again is given all of it again."""

    def __init__(self) -> None:
        self._printed: BoundedDict[tuple[str, str], tuple[int, int, str]] = BoundedDict(REMEMBERED)

    def of(self, project_id: str, job_id: str, stream: StreamState, chunk: Any) -> Said | None:
        """Return what is new of a stream; None if nothing is."""
        key = job_id, stream.name
        generation, position, state = self._printed.get(key, (0, 0, OPEN))
        if generation > stream.generation:
            return None
        remark = ""
        if generation != stream.generation:
            remark = f"begins anew, attempt {stream.attempt}" if generation else ""
            position, state = 0, OPEN
        begin = stream.position - len(chunk)
        rest = chunk[max(0, position - begin) :]
        if stream.start > position:
            remark = f"{stream.start - position} {_unit(stream)} were let go"
        if not rest and state == stream.state and stream.position <= position:
            return None
        self._printed[key] = stream.generation, max(position, stream.position), stream.state
        return Said(project_id, job_id, stream, rest, remark)


def _unit(stream: StreamState) -> str:
    return "items" if stream.kind == JSON else "characters"


class Speech(ABC):
    """Prints what is said; for each way in which it may be printed there is one."""

    @abstractmethod
    def say(self, said: Said) -> None:
        """Print what is new of a stream."""

    @abstractmethod
    def pause(self) -> None:
        """End a line that has begun: something else is about to be printed."""

    @abstractmethod
    def end(self) -> None:
        """Print what has been held back."""


class SpeechAsEvents(Speech):
    """Prints a line of JSON for each chunk, as events are printed.

    Args:
        show: Prints an event.
    """

    def __init__(self, show: Printer) -> None:
        self._show = show

    def say(self, said: Said) -> None:
        """Print what is new of a stream."""
        self._show(STREAM_EVENT, chunk_data(said))

    def pause(self) -> None:
        """Do nothing: each line is whole."""

    def end(self) -> None:
        """Do nothing: nothing is held back."""


def chunk_data(said: Said) -> dict[str, Any]:
    """Return what is said as the data of an event."""
    stream = said.stream
    return {
        "event": "stream_chunk",
        "job_id": said.job_id,
        "project_id": said.project_id,
        "stream": stream.name,
        "kind": stream.kind,
        "attempt": stream.attempt,
        "generation": stream.generation,
        "position": stream.position - len(said.chunk),
        "chunk": said.chunk if isinstance(said.chunk, str) else list(said.chunk),
        "state": stream.state,
    }


class SpeechAsLines(Speech):
    """Prints lines that begin with the job and the stream; a text on a terminal as it comes, else line by line.

    Args:
        is_terminal: Whether somebody sees a line grow.
        write: Writes a text; by default to the standard output.
    """

    def __init__(self, *, is_terminal: bool, write: Callable[[str], None] = write) -> None:
        self._is_terminal = is_terminal
        self._write = write
        #: The stream whose line is not complete, on a terminal.
        self._speaker: tuple[str, str] | None = None
        #: By stream, the beginning of a line that has not been printed, elsewhere.
        self._held: dict[tuple[str, str], str] = {}

    def say(self, said: Said) -> None:
        """Print what is new of a stream."""
        if said.remark:
            self._flush(said.key)
            self._line(said.key, f"({said.remark})")
        if said.stream.kind == JSON:
            for line in lines_of(said):
                self._line(said.key, line)
        elif self._is_terminal:
            self._grow(said.key, said.chunk)
        else:
            self._hold(said.key, said.chunk)
        if said.stream.state != OPEN:
            self._flush(said.key)
            self._line(said.key, f"({said.stream.state})")

    def _line(self, key: tuple[str, str], line: str) -> None:
        self.pause()
        self._write(f"{_prefix(key)}{legible_line(line)}\n")

    def _grow(self, key: tuple[str, str], text: str) -> None:
        if self._speaker != key:
            self.pause()
        *whole, rest = text.split("\n")
        for line in whole:
            self._write(f"{self._start(key)}{legible_line(line)}\n")
            self._speaker = None
        if rest:
            self._write(f"{self._start(key)}{legible_line(rest)}")
            self._speaker = key

    def _start(self, key: tuple[str, str]) -> str:
        return "" if self._speaker == key else _prefix(key)

    def _hold(self, key: tuple[str, str], text: str) -> None:
        *whole, rest = (self._held.pop(key, "") + text).split("\n")
        if len(rest) > LONGEST_LINE:
            whole, rest = [*whole, rest], ""
        for line in whole:
            self._line(key, line)
        if rest:
            self._held[key] = rest

    def _flush(self, key: tuple[str, str]) -> None:
        rest = self._held.pop(key, "")
        if rest:
            self._line(key, rest)

    def open_lines(self) -> list[str]:
        """Return the beginnings of lines that have not been printed."""
        return [f"{_prefix(key).lstrip()}{text}" for key, text in list(self._held.items())]

    def pause(self) -> None:
        """End a line that has begun: something else is about to be printed."""
        if self._speaker is not None:
            self._speaker = None
            self._write("\n")

    def end(self) -> None:
        """Print what has been held back."""
        for key in list(self._held):
            self._flush(key)
        self.pause()


def _prefix(key: tuple[str, str]) -> str:
    return f"{'':12}  {legible_line(key[0][:8])}  {legible_line(key[1])}  "


class SpeechAsIs(Speech):
    """Prints one stream alone, and nothing beside it: for a file, or another program, exactly what was said.

    Args:
        is_terminal: Whether it is printed on a terminal, which is to obey nothing of it.
        note: Says what is not part of the stream.
    """

    def __init__(self, *, is_terminal: bool, note: Callable[[str], None]) -> None:
        self._is_terminal = is_terminal
        self._note = note
        self._is_in_line = False

    def say(self, said: Said) -> None:
        """Print what is new of a stream."""
        if said.remark:
            self.pause()
            self._note(f"{said.stream.name}: {said.remark}")
        text = said.chunk if said.stream.kind != JSON else "".join(f"{line}\n" for line in lines_of(said))
        if text:
            write("\n".join(legible_line(line) for line in text.split("\n")) if self._is_terminal else text)
            self._is_in_line = not text.endswith("\n")

    def pause(self) -> None:
        """End a line that has begun, on a terminal."""
        if self._is_in_line and self._is_terminal:
            self._is_in_line = False
            write("\n")

    def end(self) -> None:
        """End a line that has begun, on a terminal."""
        self.pause()


# -- items ------------------------------------------------------------------------------------------------------


def state_of(reading: StreamReading) -> tuple[StreamState, Any]:
    """Return what was read of a stream as a client has it, and its content."""
    from celery_realtime.client.stream_states import StreamState  # which loads python-socketio

    value = reading.value
    chunk = value if isinstance(value, str) else tuple(msgspec.json.decode(item) for item in value)
    identity = reading.stream, reading.kind, reading.attempt, reading.generation
    state = reading.state if reading.position >= reading.end else OPEN
    return StreamState(*identity, reading.start, reading.position, chunk, state), chunk


def summary_of(place: Mapping[str, Any]) -> str:
    """Return in a line which stream it is, how it stands, and from where up to where it is kept."""
    unit = "items" if place["kind"] == JSON else "characters"
    kept = f"{unit} {place['start']} to {place['end']}" if place["start"] else f"{place['end']} {unit}"
    words = [legible_line(place["job_id"][:8]), legible_line(place["stream"]), place["kind"], place["state"], kept]
    return f"{'':12}  " + "  ".join([*words, *([f"retry {place['attempt']}"] if place["attempt"] else [])])


def lines_of(said: Said) -> Iterator[str]:
    """Yield a line for each item; a record of a log may have several."""
    for item in said.chunk:
        if said.stream.name == LOG and is_record(item):
            yield from _record_lines(item)
        else:
            yield json.dumps(item, ensure_ascii=False)


def is_record(item: Any) -> bool:
    """Return whether an item is a record of a log."""
    return isinstance(item, Mapping) and isinstance(item.get("message"), str)


def _record_lines(item: Mapping[str, Any]) -> list[str]:
    first, *further = item["message"].split("\n")
    words = [str(item.get("time") or "")[11:23], str(item.get("level") or ""), str(item.get("logger") or ""), first]
    words += [
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in item.items() if name not in LOG_FIELDS
    ]
    return ["  ".join(word for word in words if word), *(f"    {line}" for line in further)]
