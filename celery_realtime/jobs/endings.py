"""How a job has ended, from what a pool said of it, or from what a result backend has of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_realtime.encoding import describe_error, encode_lenient, one_line
from celery_realtime.events import Ending
from celery_realtime.jobs.seams import PoolReport
from celery_realtime.settings import Settings
from celery_realtime.stored import is_older

#: The states in which a result backend has the end of a job.
ENDS = ("SUCCESS", "FAILURE", "REVOKED")

#: Seconds that a stored end may seem to be older than the start of the run that it is of.
CLOCK = 1.0

CUT_OFF = "WorkerShutdown: the job was cut off"
SHUTDOWN = "WorkerShutdown: the worker was shut down while the job ran"


def success(result: Any, settings: Settings) -> Ending:
    """Return the end of a job that has returned something, as much of it as is to be shown."""
    encoded = encode_lenient(result) if settings.include_result else b"null"
    truncated = len(encoded) > settings.max_payload
    return Ending("SUCCESS", result=b"null" if truncated else encoded, truncated=truncated)


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
    return Ending(state, describe_error(result) if isinstance(result, BaseException) else state)


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
    return Ending("FAILURE", describe_error(cause))
