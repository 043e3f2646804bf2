"""Store progress in a result backend, if the state that it replaces is ours: looking and storing are one step.

Nothing but progress, and what Celery stores on the way to it, may be replaced: not an end, and no state of the user's
own. Where a backend cannot compare and store in one step, no progress is stored.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from celery_realtime.jobs.seams import (
    conflicts,
    database_row,
    database_session,
    django_conflict,
    django_transaction,
    django_values,
    is_celerys_database,
    is_celerys_redis,
    is_djangos_database,
    result_meta,
    takes_new_rows,
)
from celery_realtime.logs import RateLimitedLogger

logger = logging.getLogger(__name__)

STATE = "PROGRESS"

#: The states that progress replaces. All others are ends, or states of the user's own, such as ABORTED.
REPLACEABLE = ("PENDING", "STARTED", "RETRY", STATE)

#: How often it is tried to store progress while others change what is stored of the job. The next report tries again.
TRIES = 3

#: Stores progress, given the backend, the job's request and what it is in JSON's types.
Store = Callable[[Any, Any, Any], None]

_log = RateLimitedLogger(logger)


#: Returns a client that has the data of another one, given the options of that one's connections, or None.
FindClient = Callable[[Mapping[str, Any]], Any]


def no_client(_options: Mapping[str, Any]) -> None:
    """Return none."""


def store_of(backend: Any, client_at: FindClient = no_client) -> Store | None:
    """Return how progress is stored in a backend, or None where it cannot be without the risk of undoing an end.

    Args:
        backend: The backend.
        client_at: Finds a client of the same Redis, whose connections are used instead of new ones of the backend: that
            is one for each thread (celery/app/base.py, ``Celery.backend``).
    """
    if is_celerys_redis(backend):
        return functools.partial(store_in_redis, client=client_at(backend.client.connection_pool.connection_kwargs))
    if is_celerys_database(backend):
        return store_in_database
    if is_djangos_database(backend):
        return store_in_django
    return None


def store_in_redis(backend: Any, request: Any, progress: Any, *, client: Any = None) -> None:
    """Store progress in Celery's Redis backend.

    Args:
        backend: The backend.
        request: The job's request.
        progress: What it is in JSON's types.
        client: Of the same Redis; None for the backend's own.

    Raises:
        redis.RedisError: Redis cannot be reached.
    """
    key = backend.get_key_for_task(request.id)
    value = backend.encode({**result_meta(backend, request, progress, STATE), "task_id": request.id})
    client = client or backend.client
    script = client.register_script(_script())
    for _ in range(TRIES):
        seen = client.get(key)
        if seen is not None and not _is_replaceable(backend, seen, request.id):
            return
        if script(keys=[key], args=["" if seen is None else seen, value, int(backend.expires or 0)]):
            return


def _is_replaceable(backend: Any, stored: Any, job_id: str) -> bool:
    """Tell whether what is stored of a job is progress, or on the way to it; what cannot be read is left alone."""
    with _log.suppressing(
        "cannot read what the result backend has of a job, so its progress is not stored there; pages that follow "
        "it see it all the same",
        job_id=job_id,
    ):
        meta = backend.decode(stored)
        return isinstance(meta, dict) and meta.get("status") in REPLACEABLE
    return False


@functools.cache
def _script() -> str:
    return resources.files(__package__).joinpath("scripts").joinpath("store_progress.lua").read_text(encoding="utf-8")


def store_in_database(backend: Any, request: Any, progress: Any) -> None:
    """Store progress in Celery's database backend.

    Each statement is a transaction of its own, so that it decides by what is stored then, at any level of isolation:
    the update looks at the state that it replaces, and of two that insert, the unique task id lets one in. A row is
    not updated unless it is there, since on MySQL that would lock the gap and hold up others that insert.

    Raises:
        sqlalchemy.exc.DBAPIError: The database cannot be reached.
    """
    kind, job_id = backend.task_cls, request.id
    for _ in range(TRIES):
        with database_session(backend) as session:
            seen = session.query(kind.status).filter(kind.task_id == job_id).first()
        if seen is None:
            if not takes_new_rows(backend) or _insert(backend, request, progress):
                return
        elif seen[0] not in REPLACEABLE or _update(backend, request, progress):
            return


def _insert(backend: Any, request: Any, progress: Any) -> bool:
    """Insert a row; returns whether there was none."""
    try:
        with database_session(backend) as session:
            session.add(database_row(backend, request, progress, STATE)[0])
    except conflicts():
        return False
    return True


def _update(backend: Any, request: Any, progress: Any) -> bool:
    """Update a row; returns whether its state was still replaceable."""
    kind = backend.task_cls
    _, values = database_row(backend, request, progress, STATE)
    with database_session(backend) as session:
        rows = session.query(kind).filter(kind.task_id == request.id, kind.status.in_(REPLACEABLE))
        return bool(rows.update(values, synchronize_session=False))


def store_in_django(backend: Any, request: Any, progress: Any) -> None:
    """Store progress in the database of django-celery-results; each statement decides by what is stored then.

    Raises:
        django.db.Error: The database cannot be reached.
    """
    rows, values = backend.TaskModel._default_manager, django_values(backend, progress, STATE)
    for _ in range(TRIES):
        of_job = rows.filter(task_id=request.id)
        if of_job.filter(status__in=REPLACEABLE).update(**values) or of_job.exists():
            return
        with contextlib.suppress(django_conflict()), django_transaction(backend):
            rows.create(task_id=request.id, **values)
            return
