"""Merge events into the latest state of each job and workflow."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.client.protocol import (
    METADATA_EVENT,
    NEW_RUN,
    NOT_RUN,
    PROGRESS_EVENT,
    RANK_OF_STATUS,
    SOFT_STATES,
    STATUS_EVENT,
    TERMINAL_RANK,
    WORKFLOW_EVENT,
)

_PROGRESS_FIELDS = ("progress", "message", "current", "total")

#: What only progress of a job with stages has.
_STAGE_FIELDS = ("stage", "stages")

Entry = Mapping[str, Any]

#: An event, its data, and whether it came in the order of offsets.
Update = tuple[str, Any, bool]


class Entries:
    """The latest state of each job, or of each workflow, by its id.

    Args:
        key: The field that holds the id.
        limit: Beyond so many, the oldest that has ended is forgotten.

    Attributes:
        view: All entries, read-only.
    """

    def __init__(self, key: str, limit: int) -> None:
        self._key = key
        self._limit = limit
        self._entries: dict[str, Entry] = {}
        #: The ends that were shown before the history began anew, which may have lost them.
        self._ends: BoundedDict[str, Entry] = BoundedDict(limit)
        self.view: Mapping[str, Entry] = MappingProxyType(self._entries)

    def replace(self, entries: Any, *, anew: bool = False) -> None:
        """Take the entries of a snapshot, but for those that are older than an end that was shown.

        Args:
            entries: The entries; anything in the list that is none is left out.
            anew: The history has begun anew since the last snapshot.
        """
        for name, entry in self._entries.items():
            if anew and is_final(entry):
                self._ends[name] = entry
        self._entries.clear()
        self._entries.update(self._read(entries))

    def _read(self, entries: Any) -> dict[str, Entry]:
        by_name = {}
        for entry in entries if isinstance(entries, list) else []:
            key = entry.get(self._key) if isinstance(entry, dict) else None
            if isinstance(key, str) and not self._is_outlasted(key, entry):
                by_name[key] = entry
        return by_name

    @property
    def partial(self) -> list[str]:
        """Entries that are to be read, since not all is known of them."""
        return []

    def insert(self, entries: Any, updates: Iterable[Update], asked: Collection[str] | None = None) -> None:
        """Take further entries of a snapshot, which are older than those that are there.

        Args:
            entries: The entries; they replace those of the same name.
            updates: What came after these entries were read, in order.
            asked: Those that were asked for by their ids; None for a page.
        """
        page = self._page(entries, updates)
        merged = {**self._entries, **page} if asked is not None else {**page, **self._entries, **page}
        self._entries.clear()
        self._entries.update(merged)

    def _page(self, entries: Any, updates: Iterable[Update]) -> dict[str, Entry]:
        page = self._read(entries)
        for event, data, numbered in updates:
            if isinstance(data, dict) and data.get(self._key) in page:
                self._apply(page, event, data, numbered=numbered)
        return page

    def _is_outlasted(self, name: str, data: Entry) -> bool:
        end = self._ends.get(name)
        return end is not None and _is_before(end, data)

    def update(self, event: str, data: Any, *, numbered: bool) -> bool:
        """Merge an event into the entry that it names.

        Args:
            event: The event's name.
            data: Its data.
            numbered: It comes in the order of offsets, so that it can be out of date only if its history has begun
                anew. Without, attempt and rank decide.

        Returns:
            Whether it was merged; not if it names no entry, or is out of date.
        """
        name = data.get(self._key) if isinstance(data, dict) else None
        if not isinstance(name, str) or not self._apply(self._entries, event, data, numbered=numbered):
            return False
        self._forget_beyond_limit(name)
        return True

    def _apply(self, entries: dict[str, Entry], event: str, data: dict[str, Any], *, numbered: bool) -> bool:
        name = data[self._key]
        before = entries.get(name)
        if before is None and event == METADATA_EVENT:
            return False  # of a job that has been forgotten, or comes with a later page
        if before is not None and _is_of_new_run(before, event, data, numbered=numbered):
            before = None
        is_outdated = not numbered and before is not None and _is_outdated(before, event, data)
        if is_outdated or self._is_outlasted(name, data):
            return False
        entries[name] = _merge(before, event, _without_position(data))
        return True

    def _forget_beyond_limit(self, newest: str) -> None:
        if len(self._entries) > self._limit:
            oldest = next((name for name, entry in self._entries.items() if name != newest and _has_ended(entry)), None)
            if oldest is not None:
                del self._entries[oldest]


def _number(entry: Entry, name: str) -> int | float:
    """Return a number of an entry; 0 where a filter, or a server of another version, has left it out."""
    value = entry.get(name)
    return value if isinstance(value, (int, float)) else 0


def _rank(entry: Entry) -> int:
    return RANK_OF_STATUS.get(str(entry.get("status")), 0)


def _has_ended(entry: Entry) -> bool:
    if "status" in entry:
        return _rank(entry) == TERMINAL_RANK
    return _number(entry, "queued") == _number(entry, "running") == 0


def is_final(entry: Entry) -> bool:
    """Return whether a job has ended, and no report of the same attempt takes that back."""
    is_soft = entry.get("state") in SOFT_STATES or str(entry.get("error")).startswith(NOT_RUN)
    return _rank(entry) == TERMINAL_RANK and not is_soft


def _is_of_new_run(job: Entry, event: str, data: Entry, *, numbered: bool) -> bool:
    """Return whether an event is of a newer run of a job than what is shown, of which it keeps nothing.

    In the order of offsets, nothing else comes after an end that nothing takes back.
    """
    return event not in (WORKFLOW_EVENT, METADATA_EVENT) and (data.get(NEW_RUN) is True or (numbered and is_final(job)))


def _is_before(end: Entry, data: Entry) -> bool:
    """Return whether a job had not ended yet, by what is said of it; what says no time is not older."""
    is_of_its_time = "" < str(data.get("timestamp") or "") <= str(end.get("timestamp") or "")
    return _rank(data) < TERMINAL_RANK and _number(data, "attempt") <= _number(end, "attempt") and is_of_its_time


def _without_position(data: Entry) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in ("epoch", "offset", NEW_RUN)}


def _is_outdated(job: Entry, event: str, data: Entry) -> bool:
    """Return whether, without offsets, a job is already further than an event says."""
    if event in (WORKFLOW_EVENT, METADATA_EVENT):
        return False
    if _number(data, "attempt") != _number(job, "attempt"):
        return _number(data, "attempt") < _number(job, "attempt")
    if event == PROGRESS_EVENT:
        # That of a job with stages goes back where one begins that was not known before.
        is_behind = not data.get("stages") and _number(data, "progress") < _number(job, "progress")
        return _rank(job) == TERMINAL_RANK or is_behind
    if job.get("state") == "LOST" and data.get("state") != "LOST":
        return bool(data.get("status") == "queued")
    if _is_given_back(job, data):
        return False
    climb = _rank(data) - _rank(job)
    return climb < 0 or (climb == 0 and (data.get("status") != "running" or data.get("worker") == job.get("worker")))


def _is_given_back(job: Entry, data: Entry) -> bool:
    """Return whether the worker that runs a job says that its message went back to the broker."""
    is_same_worker = bool(data.get("worker")) and data.get("worker") == job.get("worker")
    return is_same_worker and (job.get("status"), data.get("status")) == ("running", "queued")


def _merge(before: Entry | None, event: str, data: dict[str, Any]) -> dict[str, Any]:
    if event == WORKFLOW_EVENT:
        return {field: value for field, value in data.items() if field not in ("event", "timestamp")}
    if event == METADATA_EVENT:
        return with_metadata(before or {}, data)
    return _with_status(before, data) if event == STATUS_EVENT else _with_progress(before, data)


def with_metadata(job: Entry, update: Entry) -> dict[str, Any]:
    """Return a job with what has changed of its metadata."""
    changed, deleted = update.get("set"), update.get("deleted")
    values = {**job.get("metadata", {}), **(changed if isinstance(changed, dict) else {})}
    for key in deleted if isinstance(deleted, list) else ():
        values.pop(key, None)
    return {**job, "metadata": values}


def _with_status(job: Entry | None, status: dict[str, Any]) -> dict[str, Any]:
    before: Entry = {} if job is None or _begins_anew(job, status) else job
    stalled = status.get("status") == "running" and bool(before.get("stalled"))
    metadata = {} if job is None or "metadata" not in job else {"metadata": job["metadata"]}
    return {**status, **_progress_in(before), "stalled": stalled, **metadata}


def _progress_in(data: Entry) -> dict[str, Any]:
    progress = {name: data.get(name) for name in _PROGRESS_FIELDS}
    return progress | {name: data.get(name) for name in _STAGE_FIELDS if data.get("stages")}


def _begins_anew(job: Entry, status: Entry) -> bool:
    """Return whether a job's progress is over: another attempt or run of it is queued, or its task starts again."""
    if _number(job, "attempt") != _number(status, "attempt") or status.get("status") == "queued":
        return True
    # A job whose progress came first has no worker yet.
    return status.get("status") == "running" and job.get("status") != "queued" and bool(job.get("worker"))


def _with_progress(job: Entry | None, update: dict[str, Any]) -> dict[str, Any]:
    if job is None or _number(job, "attempt") != _number(update, "attempt"):
        blank: dict[str, Any] = {"event": "status_change", "status": "running", "state": "STARTED"}
        blank |= dict.fromkeys(("result", "error", "worker"))
        job = {**(job or {}), **update, **blank}
    job = {name: value for name, value in job.items() if name not in _STAGE_FIELDS}
    stalled = job.get("status") == "running" and bool(update.get("stalled"))
    return {**job, **_progress_in(update), "stalled": stalled}
