"""Say what travels: the events, their JSON, and the words that errors and times are put in."""

from __future__ import annotations

import json
import numbers
import time
from datetime import datetime, timezone
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

STATUS_EVENT = "agent_status"
PROGRESS_EVENT = "agent_progress"
WORKFLOW_EVENT = "agent_workflow"
BATCH_EVENT = "agent_batch"

#: A server has missed more than it can pass on: whoever hears it has to subscribe again.
RESYNC_EVENT = "agent_resync"

#: Stands where an event is that its hearer may not see, so that the offsets have no hole.
HIDDEN_EVENT = "agent_hidden"

#: A client's token ends soon.
EXPIRING_EVENT = "token_expiring"
MAX_EVENT_NAME = 128
MAX_TEXT = 500

#: The member in which a custom event says whose it is.
MARK = "_realtime"

#: Names that a custom event cannot have: socket.io-client raises them itself, or they are ours.
RESERVED_EVENTS = frozenset(
    [
        *("connect", "connect_error", "disconnect", "disconnecting", "error", "newListener", "removeListener"),
        *(STATUS_EVENT, PROGRESS_EVENT, WORKFLOW_EVENT, BATCH_EVENT, RESYNC_EVENT, HIDDEN_EVENT, EXPIRING_EVENT),
    ]
)

#: Members that no audience goes without: whose an event is, and where it stands.
IDENTITY = (
    *("event", "job_id", "project_id", "root_id", "status", "state", "timestamp", "attempt"),
    *("epoch", "offset", "replayed"),
)

PROGRESS_FIELDS = ("progress", "message", "current", "total")

#: The status that each Celery state is shown as.
STATUS_OF_STATE = {
    "PENDING": "queued",
    "RETRY": "queued",
    "STARTED": "running",
    "SUCCESS": "success",
    "IGNORED": "success",
    "FAILURE": "error",
    "REVOKED": "error",
    "REJECTED": "error",
    "LOST": "error",
}

#: Within one attempt a job only climbs: what ranks lower or equal comes too late.
RANK_OF_STATUS = {"queued": 0, "running": 1, "success": 2, "error": 2}
TERMINAL_RANK = 2

#: What a workflow counts a job as.
KIND_OF_STATUS = {"queued": "queued", "running": "running", "success": "done", "error": "failed"}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one task invocation that its events repeat.

    Attributes:
        job_id: The Celery task id.
        project_id: The project whose subscribers see it; None reaches nobody.
        attempt: 0 at first, one more for each retry (Celery's ``request.retries``).
        stall_after: Seconds without an update after which a running job counts as stalled; never when None.
    """

    job_id: str
    project_id: str | None = None
    task: str | None = None
    attempt: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    worker: str | None = None
    stall_after: float | None = None


class StatusChange(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="status_change"):
    """A job's new status, on the wire as ``agent_status``."""

    job_id: str
    project_id: str
    status: str
    state: str
    timestamp: str
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    task: str | None = None
    attempt: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    worker: str | None = None
    truncated: bool | UnsetType = UNSET
    traceback: str | UnsetType = UNSET


class ProgressUpdate(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="progress_update"):
    """How far a running job is, on the wire as ``agent_progress``."""

    job_id: str
    project_id: str
    progress: int | float
    message: str | None
    timestamp: str
    current: int | float | None = None
    total: int | float | None = None
    task: str | None = None
    attempt: int = 0
    stalled: bool | UnsetType = UNSET


class Outgoing(NamedTuple):
    """An encoded event on its way out.

    Attributes:
        event: The Socket.IO event name.
        payload: Its JSON.
        rank: 0 queued, 1 running, 2 ended; None for progress and custom events.
        progress: True for progress, which a newer update of the same job replaces.
        percent: Of progress, how far.
        worker: Of a status, the worker that it happened in.
        kind: What a workflow counts the job as: queued, running, done or failed.
        root_id: The first job of its workflow.
        gate: ``L`` for LOST, which ends only what runs, and which a redelivery may reopen; ``E`` for an expiry that
            nobody told, which ends only what is queued.
        stall_after: Seconds after which a running job counts as stalled if nothing more is heard of it.
        expires_at: When a queued job expires, in seconds since the epoch.
        report: Of progress that is to be stored in the result backend: what is stored, not encoded yet.
        mark: Of a custom event whose data are no object, and cannot say it: whose it is, its epoch and its offset.
    """

    project_id: str
    event: str
    payload: bytes
    job_id: str | None = None
    attempt: int = 0
    rank: int | None = None
    progress: bool = False
    percent: int | float = 0
    worker: str = ""
    kind: str = ""
    root_id: str | None = None
    gate: str = ""
    expires_at: float | None = None
    stall_after: float | None = None
    mark: dict[str, Any] | None = None
    report: Any = None


#: The second that was written out last, and its text: most events of a busy process share it.
_second = (0, "")


def now() -> str:
    """Return the time as it stands in events: UTC, ISO 8601, milliseconds, ``Z``."""
    global _second  # noqa: PLW0603 - one of a tuple, so that threads see both halves or neither
    second, fraction = divmod(time.time_ns() // 1_000_000, 1000)
    known = _second
    if known[0] != second:
        known = _second = second, datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{known[1]}.{fraction:03d}Z"


def legible(text: str) -> str:
    """Return a text that every encoder takes: half of a surrogate pair becomes ``�``.

    Python has such halves in the names of files that are no UTF-8 (PEP 383).
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def one_line(text: str) -> str:
    """Fold a text into one line of at most 500 characters."""
    line = " ".join(legible(text).split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def describe_error(error: object) -> str:
    """Put an exception into one line, ``"ValueError: message"``, whatever its ``__str__`` does."""
    name = _name_of(error)
    try:
        text = one_line(str(error))
    except Exception as broken:
        text = f"(its text cannot be read: {type(broken).__name__})"
    return one_line(f"{name}: {text}" if text else name)


def _name_of(error: object) -> str:
    try:
        name = getattr(error, "exc_cls_name", None)  # of an error that Celery could not pickle
    except Exception:
        name = None
    return name if name and isinstance(name, str) else type(error).__name__


def _plain(value: object) -> object:
    """Return the plain text or number that a subclass of ``str``, ``int`` or ``float`` holds.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"an object of type {type(value).__name__} has no JSON form")


def _stand_in(value: object) -> object:
    """Return what stands for a value that JSON has no form for."""
    if hasattr(value, "__json__"):
        return value.__json__()
    if isinstance(value, BaseException):
        return describe_error(value)
    return _plain(value) if isinstance(value, (str, numbers.Integral, float)) else str(value)


_encoder = msgspec.json.Encoder()
_lenient = msgspec.json.Encoder(enc_hook=_stand_in)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def encode(told: msgspec.Struct) -> bytes:
    """Return the JSON of an event or report; its texts become :func:`legible`."""
    try:
        return _encoder.encode(told)
    except UnicodeEncodeError:
        fields = msgspec.structs.asdict(told).items()
        mended = {name: legible(value) for name, value in fields if isinstance(value, str)}
        return _encoder.encode(msgspec.structs.replace(told, **mended))


def encode_lenient(value: object) -> bytes:
    """Return JSON for any value: what has no JSON form is replaced by its text, NaN by null."""
    try:
        encoded = _encode_legibly(value)
        msgspec.json.decode(encoded)
        return encoded
    except Exception:
        return _encoder.encode(one_line(_safe_repr(value)))


def _encode_legibly(value: object) -> bytes:
    try:
        return _lenient.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_mended(msgspec.to_builtins(value, str_keys=True, enc_hook=_stand_in)))


def _mended(value: Any) -> Any:
    """Return plain data whose texts are all :func:`legible`."""
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, dict):
        return {_mended(name): _mended(member) for name, member in value.items()}
    return [_mended(member) for member in value] if isinstance(value, (list, tuple)) else value


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def encode_strict(value: object, what: str, limit: int) -> bytes:
    """Return JSON for a value that its sender vouches for.

    Dates, UUIDs, decimals, sets, dataclasses and msgspec structs have a JSON form; bytes become base64, and texts
    :func:`legible`.

    Args:
        value: The value.
        what: Its name in error messages.
        limit: The largest size, in bytes.

    Raises:
        TypeError: A part has no JSON form.
        ValueError: It holds NaN or infinity, refers to itself, or is larger than ``limit``.
    """
    try:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)
        encoded = legible(json.dumps(plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"))).encode()
    except RecursionError:
        raise ValueError(f"{what} refers to itself or is nested too deeply to be sent as JSON") from None
    except (TypeError, ValueError) as error:
        raise type(error)(f"{what} cannot be sent as JSON: {error}") from error
    if len(encoded) > limit:
        raise ValueError(f"{what} has {len(encoded)} bytes of JSON, realtime_max_payload allows {limit}")
    return encoded


def check_event_name(name: object) -> str:
    """Return a custom event's name.

    Raises:
        TypeError: It is no string.
        ValueError: It is empty, too long, no Unicode text, or one that Socket.IO or this package uses itself.
    """
    if not isinstance(name, str):
        raise TypeError(f"an event name must be a str, not {type(name).__name__}")
    if not name or len(name) > MAX_EVENT_NAME:
        raise ValueError(f"an event name must have 1 to {MAX_EVENT_NAME} characters, this one has {len(name)}")
    if name in RESERVED_EVENTS:
        raise ValueError(f"the event name {name!r} is reserved; choose another")
    if legible(name) != name:
        raise ValueError(f"an event name must be text that UTF-8 can hold, not {name!r}")
    return str.__str__(name)


def status_change(
    job: Job,
    state: str,
    *,
    result: bytes = b"null",
    error: str | None = None,
    truncated: bool = False,
    traceback: str | None = None,
) -> StatusChange:
    """Build the event that tells a job's new state; the job must have a project."""
    assert job.project_id is not None
    return StatusChange(
        job_id=job.job_id,
        project_id=job.project_id,
        task=job.task,
        attempt=job.attempt,
        root_id=job.root_id,
        parent_id=job.parent_id,
        group_id=job.group_id,
        worker=job.worker,
        status=STATUS_OF_STATE[state],
        state=state,
        timestamp=now(),
        result=msgspec.Raw(result),
        error=error,
        truncated=True if truncated else UNSET,
        traceback=UNSET if traceback is None else traceback,
    )


def outgoing_status(
    change: StatusChange, expires_at: float | None = None, stall_after: float | None = None
) -> Outgoing:
    """Encode a status change."""
    return Outgoing(
        change.project_id,
        STATUS_EVENT,
        encode(change),
        change.job_id,
        change.attempt,
        RANK_OF_STATUS[change.status],
        worker=change.worker or "",
        kind=KIND_OF_STATUS[change.status],
        root_id=change.root_id,
        gate="L" if change.state == "LOST" else "",
        expires_at=expires_at,
        stall_after=stall_after,
    )


def outgoing_progress(update: ProgressUpdate, stall_after: float | None = None) -> Outgoing:
    """Encode a progress update."""
    return Outgoing(
        update.project_id,
        PROGRESS_EVENT,
        encode(update),
        update.job_id,
        update.attempt,
        progress=True,
        percent=update.progress,
        stall_after=stall_after,
    )


def outgoing_custom(name: object, data: object, project_id: str, job_id: str | None, limit: int) -> Outgoing:
    """Check and encode a custom event; see :func:`encode_strict` for what it raises."""
    event = check_event_name(name)
    payload = encode_strict(data, f"the data of event {event!r}", limit)
    return _marked(Outgoing(project_id, event, payload, job_id))


def refilled(outgoing: Outgoing, data: object) -> Outgoing:
    """Return an event with other data; a custom event says as before whose it is."""
    changed = outgoing._replace(payload=encode_lenient(data))
    return _marked(changed) if _is_custom(outgoing) else changed


def _is_custom(outgoing: Outgoing) -> bool:
    return outgoing.rank is None and not outgoing.progress


def _marked(custom: Outgoing) -> Outgoing:
    """Let a custom event's data, if it is an object, say whose it is, whatever they say about that themselves."""
    payload = custom.payload
    if not payload.startswith(b"{"):
        return custom
    if b'"_realtime"' in payload:
        payload = _encoder.encode({name: value for name, value in _members.decode(payload).items() if name != MARK})
    mark = _encode_legibly(_owner(custom))
    return custom._replace(payload=add_fields(payload, b'"_realtime":' + mark))


def _owner(custom: Outgoing) -> dict[str, Any]:
    return {"job_id": custom.job_id, "project_id": custom.project_id}


def add_fields(payload: bytes, fields: bytes) -> bytes:
    """Append encoded members to an encoded JSON object, without decoding it."""
    return payload[:-1] + (b"" if payload == b"{}" else b",") + fields + b"}"


def stamp(outgoing: Outgoing, fields: dict[str, Any]) -> Outgoing:
    """Return an event with fields (epoch, offset) added where the contract has them."""
    if not outgoing.payload.startswith(b"{"):
        return outgoing._replace(mark={**_owner(outgoing), **fields})
    if _is_custom(outgoing):
        return outgoing._replace(payload=_stamped_mark(outgoing.payload, fields))
    return outgoing._replace(payload=add_fields(outgoing.payload, _encoder.encode(fields)[1:-1]))


def _stamped_mark(payload: bytes, fields: dict[str, Any]) -> bytes:
    members: dict[str, Any] = _members.decode(payload)
    mark = msgspec.json.decode(members.pop(MARK, b"{}"))
    return _encoder.encode({**members, MARK: {**mark, **fields}})
