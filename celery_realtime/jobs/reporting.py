"""Let ``celery realtime doctor`` ask workers where they send events, and have them send one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import celery_realtime
from celery_realtime import events
from celery_realtime.clocks import time
from celery_realtime.environments import name_in_history
from celery_realtime.jobs.seams import WorkerRequests
from celery_realtime.rooms import normalise_project_id
from celery_realtime.urls import redact

if TYPE_CHECKING:
    from celery_realtime.sending.manager import SocketIOManager
    from celery_realtime.settings import Settings

#: The remote control command.
REPORT_COMMAND = "celery_realtime_report"

#: The custom event that is sent round.
ECHO_EVENT = "celery_realtime_doctor"

#: The longest that what is sent round may be.
LONGEST_ECHO = 1024


def describe(settings: Settings) -> dict[str, Any]:
    """Return where a process sends events, fit for JSON; no password is in it.

    Args:
        settings: Of the process.
    """
    url = settings.url or ""
    return {
        "version": celery_realtime.__version__,
        "enabled": settings.enabled,
        "place": name_in_history(settings.channel, url, settings.connection_options, None),
        "url": redact(url),
        "namespace": settings.namespace,
        "wire": settings.wire,
        "shards": settings.shards,
        "history": None if settings.history_url is None else redact(settings.history_url),
        "time": time.time(),
    }


def send_echo(manager: SocketIOManager, project_id: str, echo: str) -> None:
    """Send an event that no ``event_filter`` sees.

    Args:
        manager: Sends it.
        project_id: Who sees it.
        echo: What it says.

    Raises:
        TypeError, ValueError: The project is none, or the text is too long.
    """
    project = normalise_project_id(project_id)
    manager.outbox.put(events.outgoing_custom(ECHO_EVENT, {"echo": echo}, project, None, LONGEST_ECHO))


def register_report() -> None:
    """Let workers take the command; Celery keeps commands for the whole process, and twice is no more than once."""
    from celery.worker.control import inspect_command

    inspect_command(name=REPORT_COMMAND)(_report_here)


def _report_here(state: Any, project_id: str | None = None, echo: str = "", **_: Any) -> dict[str, Any]:
    """Return where this worker sends events; and send one, if a project is named."""
    realtime, requests = state.app.realtime, WorkerRequests(state.consumer)
    if project_id is not None and realtime.settings.enabled:
        send_echo(realtime.manager, project_id, f"{echo}:{state.hostname}")
    return {**describe(realtime.settings), "pool": requests.pool, "can_cancel": requests.can_terminate}
