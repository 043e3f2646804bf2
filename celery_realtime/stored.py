"""Tell what a result backend has of a job: one place for each id, in which whatever ran under that id has stored."""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime, timezone
from typing import Any


def is_older(done: Any, since: float | None) -> bool:
    """Tell whether a stored end is older than a time, and so that of an earlier job of the same id.

    Args:
        done: What backends have as ``date_done``; what is no time is not older.
        since: In seconds since the epoch; None if unknown.
    """
    with contextlib.suppress(TypeError, ValueError):
        at = done if isinstance(done, datetime) else datetime.fromisoformat(done)
        # Without a zone it is UTC, or, with Celery's enable_utc off, the host's time: the later one counts.
        readings = [at] if at.tzinfo else [at, at.replace(tzinfo=timezone.utc)]
        return since is not None and max(reading.timestamp() for reading in readings) < since
    return False


def backend_of(app: Any, task: Any) -> Any:
    """Return the result backend of the jobs of a task: its own, if this process knows it, else the app's.

    Args:
        app: The Celery app. Its backend is one for each thread (celery/app/base.py, ``Celery.backend``).
        task: The task's name, or None if it is unknown.
    """
    known = None if task is None else app.tasks.get(task)
    return app.backend if known is None else known.backend


def keeps_nothing(backend: Any) -> bool:
    """Tell whether a result backend has no results for others than the caller of a job.

    Results of ``rpc://``, and of backends made like it, are messages in a queue of the process that called the task:
    whoever reads one takes it away. Its module is looked up and not imported. ``destination_for``, which names that
    queue, is of such backends alone; seen in Celery 5.7. Without it, the application loses results.
    """
    base = sys.modules.get("celery.backends.base")
    is_disabled = base is not None and isinstance(backend, base.DisabledBackend)
    return is_disabled or is_consumed_by_reading(backend)


def is_consumed_by_reading(backend: Any) -> bool:
    """Tell whether reading a result takes it away from the process that called the task; see :func:`keeps_nothing`."""
    rpc = sys.modules.get("celery.backends.rpc")
    return (rpc is not None and isinstance(backend, rpc.RPCBackend)) or hasattr(type(backend), "destination_for")


def stores_results(task: Any) -> bool:
    """Tell whether Celery stores the result of the job that a task runs (celery/app/trace.py, ``build_tracer``)."""
    if task.ignore_result or task.request.ignore_result:
        return False
    return bool(task.store_eager_result or not task.request.is_eager)
