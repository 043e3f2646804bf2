"""Put events into broker messages, and read such messages: frames of ours, and python-socketio's own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

import msgspec

from celery_realtime.encoding import encode
from celery_realtime.events import HIDDEN_EVENT, MARK, STATE_EVENTS, Outgoing
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.rooms import project_of_room, project_of_streams_room, project_room, streams_room
from celery_realtime.stream_parts import STREAM_EVENT

FRAME_METHOD = "celery_realtime"
FRAME_VERSION = 1

#: The method of a message that has every web server of the channel do something.
ORDER_METHOD = "celery_realtime_order"

#: The method of a message that says into how many shards its sender divides the projects.
SHARDS_METHOD = "celery_realtime_shards"
MAX_FRAME = 262144

#: Bytes within which a frame says what it is of: each of its projects is in the room of an event, too.
MAX_HEAD = 2 * MAX_FRAME
MAX_MESSAGE = 16 * 1024 * 1024
CONTENT_TYPES = (None, "", "text/plain", "application/json", "application/data")

#: python-socketio's servers take it for the acknowledgement of somebody else's callback, and do nothing.
PING_HOST = "celery-realtime-ping"
PING = msgspec.json.encode({"method": "callback", "host_id": PING_HOST})

_FRAME_START = b'{"method":"%s",' % FRAME_METHOD.encode()

#: Within a text of JSON the quotes would be escaped.
_HEAD_END = b',"events":['

#: What says of an event which job and which place in its project's history it has.
_OWNER_FIELDS = ("job_id", "epoch", "offset")

#: Of python-socketio's own messages.
Message = dict[str, Any]
Parcel = tuple[list[Outgoing], bytes]

_log = RateLimitedLogger(logging.getLogger(__name__))


class Heard(msgspec.Struct, frozen=True):
    """An event of a project, as it came from the channel or from the history.

    Attributes:
        project_id: The project whose subscribers see it.
        job_id: The job that it is about; None where it says none.
        event: The Socket.IO event name.
        data: Its data, decoded.
        epoch: Of the offset; None where there is no history.
        offset: Its place in the project's history; None together with ``epoch``.
        mark: Of a custom event whose data is no object: whose it is, its epoch and its offset.
        namespace: The Socket.IO namespace to emit it in.
        host_id: The manager that published it; None from the history.
        skip_sid: The client, or clients, that it is not emitted to.
    """

    project_id: str
    job_id: str | None
    event: str
    data: Any
    epoch: str | None = None
    offset: int | None = None
    mark: dict[str, Any] | None = None
    namespace: str = "/"
    host_id: Any = None
    skip_sid: Any = None


def hidden(event: Heard) -> Heard:
    """Return what stands for an event with an offset that is not shown, so that its offset leaves no hole."""
    place = {"project_id": event.project_id, "epoch": event.epoch, "offset": event.offset}
    return msgspec.structs.replace(event, event=HIDDEN_EVENT, data=place, job_id=None, mark=None)


def frames(events: Iterable[Outgoing], host_id: str, namespace: str) -> Iterator[Parcel]:
    """Pack events into frames of at most 256 KiB, or of one event if that is larger.

    Chunks of streams come in frames of their own, before all else: a server on which nobody reads them need not look
    into those, and what a job has said comes before its end.
    """
    head = {"method": FRAME_METHOD, "v": FRAME_VERSION, "host_id": host_id, "namespace": namespace}
    events = list(events)
    chunks = [event for event in events if event.event == STREAM_EVENT]
    if not chunks:
        yield from _frames(events, head)
        return
    yield from _frames(chunks, {**head, "streams": list(dict.fromkeys(map(_job_of, chunks)))})
    yield from _frames([event for event in events if event.event != STREAM_EVENT], head)


def _job_of(chunk: Outgoing) -> tuple[str, str]:
    return chunk.project_id, chunk.job_id or ""


def _frames(events: Iterable[Outgoing], head: dict[str, Any]) -> Iterator[Parcel]:
    packed: list[Outgoing] = []
    entries: list[bytes] = []
    size = 0
    for event in events:
        entry = _frame_entry(event)
        if packed and size + len(entry) > MAX_FRAME:
            yield packed, _frame(head, packed, entries)
            packed, entries, size = [], [], 0
        packed.append(event)
        entries.append(entry)
        size += len(entry)
    if packed:
        yield packed, _frame(head, packed, entries)


def _frame(head: dict[str, Any], packed: list[Outgoing], entries: list[bytes]) -> bytes:
    """Return a frame, which begins with the projects that it is of: so much is read by servers that need no more."""
    projects = list(dict.fromkeys([event.project_id for event in packed]))
    start = encode({**head, "projects": projects})
    return b"".join((start[:-1], _HEAD_END, b",".join(entries), b"]}"))


def _frame_entry(event: Outgoing) -> bytes:
    entry = [event.event, room_of(event), msgspec.Raw(event.payload)]
    return msgspec.json.encode(entry if event.mark is None else [*entry, event.mark])


def room_of(event: Outgoing) -> str:
    """Return the room that an event is addressed to: that of a stream's chunk is one that nobody is in by default."""
    return streams_room(event.project_id) if event.event == STREAM_EVENT else project_room(event.project_id)


class FrameHead(msgspec.Struct, frozen=True):
    """What a frame begins with.

    Attributes:
        projects: The projects of its events.
        namespace: The Socket.IO namespace to emit them in.
        streams: Of chunks of streams, the projects and jobs whose streams they are of; None of other events.
    """

    projects: list[str]
    namespace: str | None = None
    streams: list[tuple[str, str]] | None = None


_decode_head = msgspec.json.Decoder(FrameHead).decode


def head_of_frame(body: object) -> FrameHead | None:
    """Read of a frame what it is of, without the events; None if that does not say it, or it is no frame.

    Args:
        body: The body of a broker message.
    """
    if not isinstance(body, (str, bytes)):
        return None
    start = body[:MAX_HEAD]
    head = start.encode("utf-8", "surrogatepass") if isinstance(start, str) else start
    end = head.find(_HEAD_END) if head.startswith(_FRAME_START) else -1
    try:
        return _decode_head(head[:end] + b"}") if end > 0 else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def announcement(shards: int, host_id: str) -> bytes:
    """Return the message by which a publisher says to all servers into how many shards it divides the projects."""
    return msgspec.json.encode({"method": SHARDS_METHOD, "host_id": host_id, "shards": shards})


def is_announcement(item: Heard | Message) -> TypeGuard[Message]:
    """Return whether a message says into how many shards its sender divides the projects."""
    return isinstance(item, dict) and item["method"] == SHARDS_METHOD


def stock_messages(events: Iterable[Outgoing], host_id: str, namespace: str) -> Iterator[Parcel]:
    """Put each event into a message of its own, as python-socketio's managers do."""
    for event in events:
        message = {
            "method": "emit",
            "event": event.event,
            "data": [msgspec.Raw(event.payload)],
            "binary": False,
            "namespace": namespace,
            "room": room_of(event),
            "skip_sid": None,
            "callback": None,
            "host_id": host_id,
        }
        yield [event], msgspec.json.encode(message)


def heard(
    project_id: str,
    event: str,
    data: Any,
    *,
    mark: dict[str, Any] | None = None,
    namespace: str = "/",
    host_id: Any = None,
    skip_sid: Any = None,
) -> Heard:
    """Make the event of a project; whose it is, its epoch and its offset are read from its data, or from its mark.

    Args:
        project_id: The project.
        event: Its Socket.IO name.
        data: Its data, decoded.
        mark: Of a custom event whose data is no object: what its data cannot say.
        namespace: The Socket.IO namespace to emit it in.
        host_id: The manager that published it.
        skip_sid: The client, or clients, that it is not emitted to.
    """
    is_ours = event in STATE_EVENTS or event == STREAM_EVENT
    owner = data if is_ours else mark or (data.get(MARK) if isinstance(data, dict) else None)
    job_id, epoch, offset = map(owner.get, _OWNER_FIELDS) if isinstance(owner, dict) else (None, None, None)
    if not isinstance(epoch, str) or type(offset) is not int:
        epoch = offset = None
    job_id = job_id if isinstance(job_id, str) else None
    return Heard(project_id, job_id, event, data, epoch, offset, mark, namespace, host_id, skip_sid)


def decode_message(body: str | bytes, content_type: str | None = None) -> list[Heard | Message]:
    """Return the events of projects that a broker message holds, or the one message of python-socketio's that it is.

    Only JSON is ever decoded. A message of another type or shape is logged and ignored, so that one hostile or
    broken message cannot stop the listener.

    Args:
        body: The message's body.
        content_type: Its content type, as the broker has it.
    """
    if not isinstance(body, (str, bytes)):
        return _ignored(f"its body is a {type(body).__name__}, not text")
    if content_type not in CONTENT_TYPES or len(body) > MAX_MESSAGE:
        return _ignored(f"content type {content_type!r}, {len(body)} bytes")
    try:
        message = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return _ignored(describe(error))
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        return _ignored("it has no method, so it is not one of python-socketio's")
    if message["method"] == FRAME_METHOD:
        return _events_of_frame(message)
    if message["method"] == "emit":
        return _events_of_emit(message)
    return [] if message.get("host_id") == PING_HOST else [message]


def _events_of_emit(message: Message) -> list[Heard | Message]:
    if not _is_emit(message):
        return _ignored("an emit in another shape than python-socketio's")
    if not isinstance(message["data"], list):
        message["data"] = [message["data"]]  # as python-socketio before 5.16 has it
    project_id = _project_of(message["event"], message.get("room"))
    if project_id is None or message.get("binary") or len(message["data"]) != 1:
        return [message]
    event = heard(
        project_id,
        message["event"],
        message["data"][0],
        mark=message.get("mark"),
        namespace=message.get("namespace") or "/",
        host_id=message.get("host_id"),
        skip_sid=message.get("skip_sid"),
    )
    return [event]


def _is_emit(message: Message) -> bool:
    return (
        isinstance(message.get("event"), str)
        and "data" in message
        and isinstance(message.get("namespace") or "/", str)
        and isinstance(message.get("mark", {}), dict)
    )


def _events_of_frame(frame: Message) -> list[Heard | Message]:
    entries = frame.get("events")
    if frame.get("v") != FRAME_VERSION or not isinstance(entries, list):
        return _ignored(f"a frame of version {frame.get('v')!r}")
    if not isinstance(frame.get("namespace") or "/", str):
        return _ignored("a frame whose namespace is no text")
    return [_event_of_entry(frame, entry) for entry in entries if _is_entry(entry)]


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) in (3, 4)
        and all(isinstance(text, str) and text != "" for text in entry[:2])
        and all(isinstance(mark, dict) for mark in entry[3:])
    )


def _project_of(event: str, room: Any) -> str | None:
    """Return the project of which an event in a room is; None if it is none of a project's."""
    return project_of_streams_room(room) if event == STREAM_EVENT else project_of_room(room)


def _event_of_entry(frame: Message, entry: list[Any]) -> Heard | Message:
    namespace, host_id = frame.get("namespace") or "/", frame.get("host_id")
    project_id = _project_of(entry[0], entry[1])
    if project_id is not None:
        mark = entry[3] if len(entry) == 4 else None
        return heard(project_id, entry[0], entry[2], mark=mark, namespace=namespace, host_id=host_id)
    return {
        "method": "emit",
        "event": entry[0],
        "room": entry[1],
        "data": [entry[2]],
        "namespace": namespace,
        "host_id": host_id,
    }


def log_ignored(reason: str) -> None:
    """Log, once a minute, that a message of the channel is ignored: any stranger on the broker may send such."""
    _log.warning(
        "ignored a message on the channel, so what it says reaches nobody; see what else publishes there, or "
        "upgrade this process: %s",
        reason,
    )


def _ignored(reason: str) -> list[Heard | Message]:
    log_ignored(reason)
    return []
