"""Turn what the history has stored of a project into what a subscriber receives."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from celery_realtime.events import NEW_RUN, STATE_EVENTS, Outgoing, stamp
from celery_realtime.history import entries as job_entries
from celery_realtime.history.entries import add_metadata, decode_jobs, unpack

#: What decoding raises for what somebody else has stored, or what is broken.
UNREADABLE = job_entries.UNREADABLE

#: The counts of a workflow, in the order in which append.lua stores them.
_COUNTS = ("total", "queued", "running", "done", "failed", "share", "progress", "updated")

#: Those that are not shown.
_HIDDEN_COUNTS = ("share", "updated")


#: As servers write it: Valkey writes a number of 17 digits with an exponent.
_Score = Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,20}(\.[0-9]{1,20})?(e\+[0-9]{1,2})?)?\Z")]
#: A score, and how many of how many members that have it; jobs are not named, since clients may not see all.
_Place = tuple[_Score, str]


class _Page(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where to read on, as ``read.lua`` has it: it comes back from clients, which may send anything."""

    section: Literal[1, 2, 3]
    place: _Place
    changed: _Place
    changed_ended: _Place


_page = msgspec.json.Decoder(_Page)


def check_page(text: str) -> bytes:
    """Return the place to read on at, if a text is one.

    Raises:
        ValueError: It is none.
    """
    return msgspec.json.encode(_decoded(text))


def _decoded(text: str) -> _Page:
    try:
        return _page.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:  # up to msgspec 0.19, its errors are no ValueError
        raise ValueError(f"this is no place to read on at: {error}") from None


#: Which jobs are read at a place: those that have not ended, those that have, or those that have changed, alone.
_LIVE, _ENDED, _CHANGED = 1, 2, 3
_BEGINNING = ("", "")


def narrowed(text: str, *, live: bool, ended: bool, is_first: bool) -> str | None:
    """Return where to read on for jobs of one kind: after those of the other kind that come next, or None at the end.

    Args:
        text: Where to read on for all.
        live: Whether jobs that have not ended are wanted.
        ended: Whether jobs that have ended are wanted.
        is_first: Whether it comes from a first answer: then all before it is as of the same time.

    Raises:
        ValueError: It is no place to read on at.
    """
    page = _decoded(text)
    if not live and page.section == _LIVE:
        page = msgspec.structs.replace(page, section=_ENDED, place=_BEGINNING)
    if not ended and page.section != _LIVE:
        if is_first:
            return None
        page = msgspec.structs.replace(page, section=_CHANGED, place=_BEGINNING)
    return msgspec.json.encode(page).decode()


def count_jobs(reply: list[Any]) -> int:
    """Return how many of the jobs that were asked for have had room in a reply of ``read.lua``, known or not."""
    return len(unpack(reply[7]))


class Snapshot(msgspec.Struct, frozen=True):
    """What a subscriber receives first.

    Attributes:
        epoch: Changes when history was lost.
        offset: Of the newest event.
        recovered: Whether ``events`` is all that came after the client's ``since``.
        jobs: The latest state of live and recently ended jobs.
        jobs_total: How many there are; when ``jobs`` has fewer, it has the live ones, and of them the latest, first.
        workflows: The counts of every workflow of more than one job.
        events: ``{event, data}`` of what was missed, in order; empty unless ``recovered``.
        next: Where to read on for the jobs that are not among these; None if there are no others.
        unread: Of jobs that were asked for by their ids, those that there was no room for.
    """

    epoch: str
    offset: int
    recovered: bool
    jobs: list[dict[str, Any]]
    jobs_total: int
    workflows: list[dict[str, Any]]
    events: list[dict[str, Any]]
    next: str | None = None
    unread: list[str] = []

    @classmethod
    def of_reply(cls, project_id: str, reply: list[Any]) -> Snapshot:
        """Return what the reply of ``read.lua`` says of a project; entries that cannot be read are left out."""
        epoch, offset, is_complete, missed, entries, jobs_total, flows, ids, next_page, metadata = reply
        word = epoch.decode(errors="replace")
        names = unpack(ids)[::-1]
        jobs = decode_jobs(unpack(entries)[::-1], names, project_id)
        if metadata:
            add_metadata(jobs, dict(zip(names, unpack(metadata)[::-1], strict=True)))
        events = _decode_all_events(missed, word)
        return cls(
            epoch=word,
            offset=offset,
            # A client that is given events with one left out would never ask for that one again.
            recovered=bool(is_complete) and events is not None,
            jobs=sorted(jobs, key=lambda job: str(job.get("timestamp"))),
            jobs_total=jobs_total,
            workflows=_decode_workflows(project_id, flows),
            events=events or [],
            next=next_page.decode(errors="replace") or None,
        )


def decode_event(entry: Any, epoch: str) -> dict[str, Any]:
    """Return ``{event, data}`` of an entry of the stream, with its epoch and offset where the event has them.

    Raises:
        One of :data:`UNREADABLE`: It is not an event of ours.
    """
    offset = int(entry[0].split(b"-")[0])
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
    return _decode_event(epoch, -offset if b"n" in fields else offset, fields[b"e"], fields[b"p"])


def _decode_event(epoch: str, offset: int, event_name: bytes, payload: bytes) -> dict[str, Any]:
    """Return an event by its offset, which is below 0 if it is the first of a newer run."""
    name = event_name.decode()
    is_custom = name not in STATE_EVENTS
    position: dict[str, Any] = {"epoch": epoch, "offset": abs(offset)}
    is_new_run = {NEW_RUN: True} if offset < 0 else {}
    stamped = stamp(Outgoing("", name, payload, rank=None if is_custom else 0), {**position, **is_new_run})
    event = {"event": name, "data": msgspec.json.decode(stamped.payload)}
    return event if stamped.mark is None else {**position, **event}


def _decode_all_events(parts: list[Any], epoch: str) -> list[dict[str, Any]] | None:
    try:
        return [_decode_event(epoch, *event) for event in zip(parts[::3], parts[1::3], parts[2::3], strict=True)]
    except UNREADABLE:
        return None


def _decode_workflows(project_id: str, flows: list[bytes]) -> list[dict[str, Any]]:
    workflows = []
    for root_id, entry in zip(flows[::2], flows[1::2], strict=True):
        try:
            counts = {name: int(float(word)) for name, word in zip(_COUNTS, entry.split(), strict=True)}
        except (ValueError, OverflowError):  # of another writer
            continue
        for name in _HIDDEN_COUNTS:
            del counts[name]
        if counts["total"] > 1:
            workflows.append({"root_id": root_id.decode(errors="replace"), "project_id": project_id, **counts})
    return workflows
