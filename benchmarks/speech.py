"""What both sides say: the same progress of the same job."""

from __future__ import annotations

from typing import Any

import msgspec
import socketio
from celery import Celery

from celery_realtime import Realtime, events
from celery_realtime.events import Job, Outgoing, ProgressUpdate
from celery_realtime.jobs.progress import Progress, progress_update

PROJECT = "p"
ROOM = "project:p"
MESSAGE = "Transcribing"
TASK = "benchmarks.app.transcribe"


def job(number: int, project: str = PROJECT) -> Job:
    """Return the job of that number."""
    job_id = f"5e0d1b7c-6d0f-4a3b-9a54-{number:012d}"
    return Job(job_id=job_id, project_id=project, task=TASK, root_id=job_id, worker="worker@host")


def update(number: int, message: str = MESSAGE, project: str = PROJECT) -> ProgressUpdate:
    """Return the progress of the job of that number."""
    return progress_update(job(number, project), Progress(number % 101, message))


def payload(number: int, message: str = MESSAGE) -> dict[str, Any]:
    """Return what goes to the browser, for the stock way."""
    found: dict[str, Any] = msgspec.to_builtins(update(number, message))
    return found


def outgoing(number: int, message: str = MESSAGE, project: str = PROJECT) -> Outgoing:
    """Return what our manager is given for the same."""
    return events.outgoing_progress(update(number, message, project))


def realtime(url: str, **settings: Any) -> Realtime:
    """Return a ``Realtime`` of its own on a broker; without a history unless ``history_url`` is given."""
    return Realtime(Celery("benchmarks", broker=url, set_as_current=False), **{"history_url": None, **settings})


def stock_manager(url: str, **options: Any) -> Any:
    """Return python-socketio's own manager, to emit with."""
    return socketio.KombuManager(url, write_only=True, **options)


def stock_emit(manager: Any, data: dict[str, Any]) -> None:
    """Tell the project in the stock way."""
    manager.emit(events.PROGRESS_EVENT, data, room=ROOM)
