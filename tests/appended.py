"""Events as the history is given them, and what it says of them, for tests."""

from __future__ import annotations

from typing import Any

from celery_realtime import events
from celery_realtime.events import Job, Outgoing
from celery_realtime.history.store import History
from celery_realtime.jobs.progress import Progress, progress_update


def status(
    state: str, attempt: int = 0, job: str = "job", project: str = "p", incarnation: str = "", **more: Any
) -> Outgoing:
    """Return a status event of a job."""
    details = {name: more.pop(name) for name in ("error", "result", "timestamp") if name in more}
    times = {name: more.pop(name) for name in ("expires_at", "stall_after", "gate") if name in more}
    about = Job(job_id=job, project_id=project, attempt=attempt, **more)
    change = events.status_change(about, state, **details)
    return events.outgoing_status(change, incarnation=incarnation, job=about if about.run else None, **times)


def progress(
    percent: float,
    attempt: int = 0,
    job: str = "job",
    project: str = "p",
    stall_after: float | None = None,
    **more: Any,
) -> Outgoing:
    """Return a progress event of a job."""
    about = Job(job_id=job, project_id=project, attempt=attempt, **more)
    return events.outgoing_progress(progress_update(about, Progress(percent, f"at {percent}")), stall_after)


def custom(data: Any, project: str = "p") -> Outgoing:
    """Return a custom event of a job."""
    return events.outgoing_custom("line", data, project, "job", 65536)


def append(history: History, *batch: Outgoing) -> list[str]:
    """Append events, and return the names of those that are news."""
    answer = history.append(list(batch))
    assert answer is not None
    return [event.event for group in answer for event in group]
