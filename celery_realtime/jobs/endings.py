"""How a job has ended, from what a pool said of it, or from what a result backend has of it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from celery_realtime.encoding import describe_error, encode_within, one_line
from celery_realtime.events import Ending
from celery_realtime.jobs.seams import PoolReport, ignores_result, is_unencodable, was_killed
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.settings import Settings
from celery_realtime.stored import is_older

logger = logging.getLogger(__name__)

#: The states in which a result backend has the end of a job.
ENDS = ("SUCCESS", "FAILURE", "REVOKED")

#: Seconds that a stored end may seem to be older than the start of the run that it is of.
CLOCK = 1.0

CUT_OFF = "WorkerShutdown: the job was cut off"
SHUTDOWN = "WorkerShutdown: the worker was shut down while the job ran"


#: The error of a job whose function has not run: it was only called.
NOT_RUN = "TypeError: the task is %s, which Celery calls and never runs: no line of it was executed"

_log = RateLimitedLogger(logger)


def returned(task: Any, request: Any, result: Any, settings: Settings) -> Ending:
    """Return the end of the job that a task runs, and that Celery takes for a success."""
    kind = _never_run(task, result)
    if kind is None and not inspect.isawaitable(result):
        return success(None if ignores_result(task, request) else result, settings)
    if request.is_eager:  # its caller may run it
        return success(None, settings)
    if kind is None:
        _log.warning(
            "task %s returned a %s, which nobody awaits, so it is not shown; await it in the task, as with asyncio.run",
            task.name,
            type(result).__name__,
            job_id=request.id,
        )
        return success(None, settings)
    _warn_of(task, kind, request.id)
    return Ending("FAILURE", NOT_RUN % kind)


def failed(task: Any, error: Any) -> str:
    """Return why the job that a task runs has failed, in one line."""
    if is_unencodable(error) and (kind := _never_runs(task)) is not None:
        _warn_of(task, kind, task.request.id)
        return NOT_RUN % kind
    return describe_error(error)


def _never_run(task: Any, result: Any) -> str | None:
    """Return what kind of function was called without running, to judge by what it has returned."""
    if inspect.iscoroutine(result):
        return "an async def function"
    if inspect.isasyncgen(result) or inspect.isgenerator(result):
        return _never_runs(task)
    return None


def _never_runs(task: Any) -> str | None:
    """Return of what kind a task's function is, if calling it does not run it."""
    run = inspect.unwrap(task.run)  # Celery's autoretry wraps it
    if inspect.iscoroutinefunction(run):
        return "an async def function"
    if inspect.isasyncgenfunction(run) or inspect.isgeneratorfunction(run):
        return "a generator function"
    return None


def _warn_of(task: Any, kind: str, job_id: str | None) -> None:
    _log.warning(
        "task %s is %s, which Celery calls and never runs, so its jobs end with an error here; use asyncio.run inside "
        "an ordinary function, or a pool that runs such tasks",
        *(task.name, kind),
        job_id=job_id,
    )


def success(result: Any, settings: Settings) -> Ending:
    """Return the end of a job that has returned something, as much of it as is to be shown."""
    if not settings.include_result:
        return Ending("SUCCESS")
    encoded = encode_within(result, int(settings.max_payload))
    return Ending("SUCCESS", result=encoded or b"null", truncated=encoded is None)


def of_meta(meta: Mapping[str, Any] | None, settings: Settings, *, since: float | None) -> Ending | None:
    """Return the end that a result backend has of a job, or None when it has none.

    Args:
        meta: What ``Backend.get_task_meta`` returns.
        settings: The settings.
        since: When the run began, in seconds since the epoch, by the clock of the host that ran it: what was stored
            before is of an earlier job of the same id. None if unknown.
    """
    state = None if meta is None else meta.get("status")
    if meta is None or state not in ENDS or is_older(meta.get("date_done"), None if since is None else since - CLOCK):
        return None
    result = meta.get("result")
    if state == "SUCCESS":
        return success(result, settings)
    error = describe_error(result) if isinstance(result, BaseException) else state
    return Ending(state, error, died=was_killed(result))


def rejection_error(rejection: Any) -> str:
    """Return why a job was rejected: its own words, or the error that kept Celery from publishing its retry."""
    reason = getattr(rejection, "reason", None)
    if isinstance(reason, Exception):
        return describe_error(reason)
    return "Reject" if reason is None else one_line(f"Reject: {reason}")


def is_known(report: PoolReport) -> bool:
    """Tell whether the pool itself says all that is to be shown of an end."""
    return report.kind in ("failed", "retried", "terminated", "rejected")


def of_report(report: PoolReport) -> Ending:
    """Return the end of which only the pool's word is known."""
    cause = report.cause
    if report.kind == "returned":
        return Ending("SUCCESS")
    if report.kind == "ignored":
        return Ending("IGNORED")
    if report.kind == "retried":
        return Ending("RETRY", describe_error(cause) if cause is not None else None)
    if report.kind == "terminated":
        return Ending("REVOKED", "TaskRevokedError: terminated")
    if report.kind == "rejected":
        return Ending("REJECTED", rejection_error(cause))
    if report.kind == "abandoned":
        return Ending("LOST", SHUTDOWN)
    if report.kind == "cut off":
        return Ending("LOST", CUT_OFF)
    return Ending("FAILURE", describe_error(cause), died=was_killed(cause))
