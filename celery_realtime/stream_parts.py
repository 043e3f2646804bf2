"""What travels of streams: parts as their writers put them, and chunks as readers get them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

STREAM_EVENT = "agent_stream"

#: What a stream consists of: a text of characters, or items of JSON.
TEXT, JSON = "text", "json"
KINDS = (TEXT, JSON)

#: States of a stream. Its writer may open it again, and go on where it was.
OPEN, CLOSED, FAILED, CANCELLED = "open", "closed", "failed", "cancelled"
STATES = (OPEN, CLOSED, FAILED, CANCELLED)

# For the description of the wire, as in events.py.
StreamKind = Annotated[str, Meta(extra_json_schema={"enum": list(KINDS)})]
StreamState = Annotated[str, Meta(extra_json_schema={"enum": list(STATES)})]
Content = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": ["string", "array"]})]
Number = Annotated[int, Meta(extra_json_schema={"minimum": 0})]

#: What the streams of a job are that nobody has closed, by the state in which it has ended; of others, failed.
STATE_BY_END = {"SUCCESS": CLOSED, "IGNORED": CLOSED, "REVOKED": CANCELLED}

MAX_STREAM_NAME = 128

#: What no filter takes from a chunk: whose it is, and its place.
CHUNK_IDENTITY = ("event", "job_id", "project_id", "stream", "kind", "attempt", "generation", "position", "state")


class StreamPart(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one process adds to a stream, or what it says of its state.

    Attributes:
        stream: The stream's name.
        kind: ``text`` or ``json``.
        writer: Tells the process, and its part in this stream, from all others.
        begin: How many characters, or items, the writer had written before.
        count: How many these are.
        state: The stream's state from then on; empty for as it is.
        generation: The number that this start of the stream has, unless another is on record: higher than those of
            earlier starts.
        task: The job's task.
    """

    stream: str
    kind: str
    writer: str
    begin: int
    count: int
    state: str
    generation: int
    task: str | None = None

    @property
    def end(self) -> int:
        """How much the writer has written by then."""
        return self.begin + self.count


class StreamChunk(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="event", tag="stream_chunk"):
    """A piece of a stream, on the wire as ``agent_stream``.

    Attributes:
        job_id: Celery's task id.
        project_id: The project.
        stream: The stream's name.
        kind: Whether it is a text, or items.
        attempt: The attempt of the job.
        generation: Which start of the stream it is of. A retry or a redelivery of the job starts it anew, from position
            0, with a higher number.
        position: How many characters (Unicode code points), or items, of the stream are before it.
        chunk: A text, or a list of items; either may be empty.
        state: The stream's state behind it.
        task: The task's name.
    """

    job_id: str
    project_id: str
    stream: str
    kind: StreamKind
    attempt: Number
    generation: Number
    position: Number
    chunk: Content
    state: StreamState
    task: str | None = None


def check_stream_name(name: object) -> str:
    """Return the name of a stream.

    Raises:
        TypeError: It is not a string.
        ValueError: It is empty, too long, or has characters that cannot be printed.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a stream must be a str, not {type(name).__name__}")
    if not 0 < len(name) <= MAX_STREAM_NAME:
        raise ValueError(f"the name of a stream must have 1 to {MAX_STREAM_NAME} characters, this one has {len(name)}")
    if not name.isprintable():
        raise ValueError(f"the name of a stream must hold printable characters only, not {name!r}")
    return str.__str__(name)


def check_stream_kind(kind: object) -> str:
    """Return the kind of a stream.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"the kind of a stream must be 'text' or 'json', not {kind!r}")
    return str(kind)


def content_of(kind: str, items: bytes) -> bytes:
    """Return the JSON of what is stored of a stream: a text, or items with line ends between and behind them."""
    if kind == TEXT:
        return msgspec.json.encode(items.decode(errors="replace"))
    return b"[" + b",".join(items.splitlines()) + b"]"
