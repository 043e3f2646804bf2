"""Put events into broker messages, and read such messages: frames of ours, and python-socketio's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from celery_realtime.events import BATCH_EVENT, MARK, PROGRESS_EVENT, STATUS_EVENT, WORKFLOW_EVENT, Outgoing
from celery_realtime.rooms import batch_room_beside, project_room

logger = logging.getLogger(__name__)

FRAME_METHOD = "celery_realtime"
FRAME_VERSION = 1

#: The method of a message that has every web server of the channel do something.
ORDER_METHOD = "celery_realtime_order"
MAX_FRAME = 262144
MAX_MESSAGE = 16 * 1024 * 1024
CONTENT_TYPES = (None, "", "text/plain", "application/json", "application/data")

#: python-socketio's servers take it for the acknowledgement of somebody else's callback, and do nothing.
PING_HOST = "celery-realtime-ping"
PING = msgspec.json.encode({"method": "callback", "host_id": PING_HOST})

_OURS = (STATUS_EVENT, PROGRESS_EVENT, WORKFLOW_EVENT)

Parcel = tuple[list[Outgoing], bytes]
Members = Callable[[str, str], bool]


def frames(events: Iterable[Outgoing], host_id: str, namespace: str) -> Iterator[Parcel]:
    """Pack events into frames of at most 256 KiB, or of one event if that is larger."""
    head = {"method": FRAME_METHOD, "v": FRAME_VERSION, "host_id": host_id, "namespace": namespace}
    start = msgspec.json.encode(head)[:-1] + b',"events":['
    packed: list[Outgoing] = []
    entries: list[bytes] = []
    size = 0
    for event in events:
        entry = _frame_entry(event)
        if packed and size + len(entry) > MAX_FRAME:
            yield packed, start + b",".join(entries) + b"]}"
            packed, entries, size = [], [], 0
        packed.append(event)
        entries.append(entry)
        size += len(entry)
    if packed:
        yield packed, start + b",".join(entries) + b"]}"


def _frame_entry(event: Outgoing) -> bytes:
    entry = [event.event, project_room(event.project_id), msgspec.Raw(event.payload)]
    return msgspec.json.encode(entry if event.mark is None else [*entry, event.mark])


def stock_messages(events: Iterable[Outgoing], host_id: str, namespace: str) -> Iterator[Parcel]:
    """Put each event into a message of its own, as python-socketio's managers do."""
    for event in events:
        message = {
            "method": "emit",
            "event": event.event,
            "data": [msgspec.Raw(event.payload)],
            "binary": False,
            "namespace": namespace,
            "room": project_room(event.project_id),
            "skip_sid": None,
            "callback": None,
            "host_id": host_id,
        }
        yield [event], msgspec.json.encode(message)


def decode_message(body: str | bytes, content_type: str | None = None) -> list[dict[str, Any]]:
    """Return what a broker message says, as python-socketio's own messages.

    Only JSON is ever decoded. Whatever has another type or shape is logged and says nothing, so that one hostile or
    broken message cannot stop the listener.
    """
    if not isinstance(body, (str, bytes)):
        return ignore(f"its body is no text but a {type(body).__name__}")
    if content_type not in CONTENT_TYPES or len(body) > MAX_MESSAGE:
        return ignore(f"content type {content_type!r}, {len(body)} bytes")
    try:
        message = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return ignore(repr(error))
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        return ignore("no message of python-socketio's")
    if message["method"] == FRAME_METHOD:
        return _expand_frame(message)
    if message["method"] == "emit" and not _is_emit(message):
        return ignore("an emit of another shape than python-socketio's")
    if message["method"] == "emit" and not isinstance(message["data"], list):
        message["data"] = [message["data"]]  # as python-socketio before 5.16 has it
    return [] if message.get("host_id") == PING_HOST else [message]


def _is_emit(message: dict[str, Any]) -> bool:
    return (
        isinstance(message.get("event"), str)
        and "data" in message
        and isinstance(message.get("namespace") or "/", str)
        and isinstance(message.get("mark", {}), dict)
    )


def _expand_frame(frame: dict[str, Any]) -> list[dict[str, Any]]:
    events = frame.get("events")
    if frame.get("v") != FRAME_VERSION or not isinstance(events, list):
        return ignore(f"a frame of version {frame.get('v')!r}")
    if not isinstance(frame.get("namespace") or "/", str):
        return ignore("a frame for no namespace")
    return [_expand_entry(frame, entry) for entry in events if _is_entry(entry)]


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) in (3, 4)
        and all(isinstance(text, str) and text != "" for text in entry[:2])
        and all(isinstance(mark, dict) for mark in entry[3:])
    )


def _expand_entry(frame: dict[str, Any], entry: list[Any]) -> dict[str, Any]:
    message = {
        "method": "emit",
        "event": entry[0],
        "room": entry[1],
        "data": [entry[2]],
        "namespace": frame.get("namespace") or "/",
        "host_id": frame.get("host_id"),
    }
    return message if len(entry) == 3 else {**message, "mark": entry[3]}


def batches(messages: list[dict[str, Any]], has_members: Members) -> list[dict[str, Any]]:
    """Return the emits that tell these emits, as one list a project, to clients that asked for batches.

    Args:
        messages: What one broker message said.
        has_members: ``(namespace, room) -> bool``, whether any client of this server is in a room.
    """
    gathered: dict[tuple[str, str], dict[str, Any] | None] = {}
    for message in messages:
        place = _place(message)
        if place is None:
            continue
        if place not in gathered:
            gathered[place] = _new_batch(message, place, has_members)
        batch = gathered[place]
        if batch is not None:
            item = {"event": message["event"], "data": message["data"][0]}
            batch["data"][0].append({**message.get("mark", {}), **item})
    return [batch for batch in gathered.values() if batch is not None]


def _place(message: dict[str, Any]) -> tuple[str, str] | None:
    """Return the namespace of an emit to a project, and the room of those who hear that project in batches."""
    room, data = message.get("room"), message.get("data")
    if message["method"] != "emit" or message.get("binary") or not isinstance(data, list) or len(data) != 1:
        return None
    beside = batch_room_beside(room) if isinstance(room, str) else None
    namespace = message.get("namespace") or "/"
    return None if beside is None or not isinstance(namespace, str) else (namespace, beside)


def _new_batch(message: dict[str, Any], place: tuple[str, str], has_members: Members) -> dict[str, Any] | None:
    if not has_members(*place):
        return None
    namespace, room = place
    host_id = message.get("host_id")
    return {
        "method": "emit",
        "event": BATCH_EVENT,
        "room": room,
        "data": [[]],
        "namespace": namespace,
        "host_id": host_id,
    }


def ignore(reason: str) -> list[dict[str, Any]]:
    """Log that a message says nothing to us, and return that nothing."""
    logger.warning("ignored a message on the channel: %s", reason)
    return []


def place_of(message: dict[str, Any]) -> tuple[str, int] | None:
    """Return the epoch and offset of an event, or None if it has none."""
    data = message.get("data")
    payload = data[0] if isinstance(data, list) and len(data) == 1 else None
    told = payload if message.get("event") in _OURS else message.get("mark") or _mark_in(payload)
    epoch, offset = (told.get("epoch"), told.get("offset")) if isinstance(told, dict) else (None, None)
    if not isinstance(epoch, str) or not isinstance(offset, int) or isinstance(offset, bool):
        return None
    return epoch, offset


def _mark_in(payload: Any) -> Any:
    return payload.get(MARK) if isinstance(payload, dict) else None
