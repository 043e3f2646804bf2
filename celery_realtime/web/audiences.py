"""Decide what each audience sees: the one place that asks, wherever an event, a job or a result is shown."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from celery_realtime.events import (
    HIDDEN_EVENT,
    MARK,
    METADATA_EVENT,
    PROGRESS_EVENT,
    PROGRESS_FIELDS,
    STAGE_FIELDS,
    STATE_EVENTS,
    STATUS_EVENT,
    WORKFLOW_EVENT,
    ProgressUpdate,
    StatusChange,
    now,
)
from celery_realtime.stream_parts import STREAM_EVENT

#: Where an event stands among those of its project. The rule is not shown it: a job in a snapshot has none.
_POSITION = ("epoch", "offset", "replayed")

#: Members of a job in a snapshot that are not those of its latest status.
_NOT_OF_STATUS = (*PROGRESS_FIELDS, *STAGE_FIELDS, "stalled", "metadata")

#: Members that a workflow's update has, and its counts in a snapshot have not.
_OF_UPDATES = ("event", "timestamp")


class AudienceFilter(Protocol):
    """Decides what each audience sees."""

    def visible(self, event: str, project_id: str, data: Any, audience: str | None = None) -> Any:
        """Return what an audience sees of an event's data, or None for nothing; it does not raise."""


class Audiences:
    """What each audience sees of events, jobs, workflows and results.

    The rule is always given what was published, with the same members: so an event that it hides when it happens does
    not show in a snapshot, among missed events, in an answer about a single job, or by the job's being cancelled.

    Args:
        audience_filter: The rule; None where everybody sees everything.
    """

    def __init__(self, audience_filter: AudienceFilter | None) -> None:
        self._filter = audience_filter

    @property
    def has_filter(self) -> bool:
        """Whether audiences may see less than everything."""
        return self._filter is not None

    def event(self, event: str, project_id: str, data: Any, audience: str | None) -> Any:
        """Return what an audience sees of an event's data, or None for nothing."""
        if self._filter is None:
            return data
        visible = self._filter.visible(event, project_id, _as_published(event, data), audience)
        if event == METADATA_EVENT and not (isinstance(visible, dict) and isinstance(visible.get("set"), dict)):
            return None  # without these there is nothing that a client could do with it
        if event == STREAM_EVENT and not isinstance(visible, dict):
            return None  # nor without its place
        return _placed(event, visible, data)

    def job(self, project_id: str, job: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
        """Return what an audience sees of a job in a snapshot, or None for nothing.

        A snapshot has a job's last status and its last progress in one: each is shown as it was when it happened.
        """
        if self._filter is None:
            return job
        visible = self.event(STATUS_EVENT, project_id, status_of(job), audience)
        if visible is None:
            return None
        progress = self._progress(project_id, job, audience) if job["progress"] is not None else {}
        reached = {name: progress.get(name) for name in PROGRESS_FIELDS}
        reached |= {name: progress[name] for name in STAGE_FIELDS if name in progress}
        stalled = bool(progress) and job["stalled"]
        return {**visible, **reached, "stalled": stalled, **self._metadata(project_id, job, audience)}

    def _metadata(self, project_id: str, job: dict[str, Any], audience: str | None) -> dict[str, Any]:
        """Return the member of a job with its metadata as an audience sees it: as if all of it was set now."""
        if "metadata" not in job:
            return {}
        identity = {name: job.get(name) for name in ("job_id", "project_id", "timestamp")}
        update = {"event": "metadata_update", **identity, "set": job["metadata"], "deleted": []}
        visible = self.event(METADATA_EVENT, project_id, update, audience)
        metadata = visible.get("set") if isinstance(visible, dict) else None
        return {"metadata": metadata} if metadata else {}

    def _progress(self, project_id: str, job: dict[str, Any], audience: str | None) -> dict[str, Any]:
        visible = self.event(PROGRESS_EVENT, project_id, _progress_of(job), audience)
        return visible if isinstance(visible, dict) else {}

    def _workflow(self, project_id: str, flow: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
        update = {"event": "workflow_update", **flow, "timestamp": now()}
        visible = self.event(WORKFLOW_EVENT, project_id, update, audience)
        return None if visible is None else {name: visible[name] for name in visible if name not in _OF_UPDATES}

    def snapshot(self, project_id: str, snapshot: dict[str, Any], audience: str | None) -> dict[str, Any]:
        """Return a snapshot as an audience sees it."""
        if self._filter is None:
            return snapshot
        jobs = [self.job(project_id, job, audience) for job in snapshot["jobs"]]
        flows = [self._workflow(project_id, flow, audience) for flow in snapshot["workflows"]]
        first = snapshot["offset"] - len(snapshot["events"]) + 1
        place = {"project_id": project_id, "epoch": snapshot["epoch"]}
        return {
            **snapshot,
            "jobs": [job for job in jobs if job is not None],
            "jobs_total": snapshot["jobs_total"] - jobs.count(None),
            "workflows": [flow for flow in flows if flow is not None],
            "events": [
                self._missed(entry, {**place, "offset": offset}, audience)
                for offset, entry in enumerate(snapshot["events"], first)
            ],
        }

    def _missed(self, entry: dict[str, Any], place: dict[str, Any], audience: str | None) -> dict[str, Any]:
        if entry["event"] == HIDDEN_EVENT:
            return entry
        data = self.event(entry["event"], place["project_id"], entry["data"], audience)
        if is_shown(entry["event"], entry["data"], data):
            return {**entry, "data": data}
        return {"event": HIDDEN_EVENT, "data": place}


def is_shown(event: str, data: Any, visible: Any) -> bool:
    """Tell whether an audience sees an event of which the rule left ``visible``; a custom one may have no data."""
    return visible is not None or (data is None and event not in STATE_EVENTS)


def status_of(job: dict[str, Any]) -> dict[str, Any]:
    """Return the last status of a job in a snapshot with the members that it was published with."""
    status = {name: value for name, value in job.items() if name not in _NOT_OF_STATUS}
    return {**_members(StatusChange), **status}


def _progress_of(job: dict[str, Any]) -> dict[str, Any]:
    members = _members(ProgressUpdate)
    update = {**members, **{name: job[name] for name in (*members, *STAGE_FIELDS) if name in job}}
    update["event"] = "progress_update"
    return {**update, "stalled": True} if job["stalled"] else update


@functools.cache
def _members(event: type[msgspec.Struct]) -> Mapping[str, Any]:
    """Return the members that each event of a kind is published with, with their defaults, or None.

    Once: a snapshot has a thousand jobs, and msgspec reads all annotations of the class each time.
    """
    fields = {field.name: field.default for field in msgspec.structs.fields(event)}
    members = {
        name: None if default is msgspec.NODEFAULT else default
        for name, default in fields.items()
        if default is not msgspec.UNSET
    }
    return MappingProxyType({"event": event.__struct_config__.tag, **members})


def _as_published(event: str, data: Any) -> Any:
    """Return an event's data without its position."""
    if not isinstance(data, dict):
        return data
    if event in STATE_EVENTS:
        return {name: value for name, value in data.items() if name not in _POSITION}
    mark = data.get(MARK)
    if not isinstance(mark, dict):
        return data
    return {**data, MARK: {name: value for name, value in mark.items() if name not in _POSITION}}


def _placed(event: str, visible: Any, data: Any) -> Any:
    """Return what an audience sees of an event's data with its position."""
    if not isinstance(visible, dict) or not isinstance(data, dict):
        return visible
    names = _POSITION if event in STATE_EVENTS else (MARK,)
    return {**visible, **{name: data[name] for name in names if name in data}}
