"""Let ``transaction.on_commit`` take the project that surrounds it: the commit comes after the block."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.extension import current_realtime


def install() -> None:
    """Stand in front of what ``transaction.on_commit`` and Celery's ``delay_on_commit`` call, once in a process."""
    theirs = BaseDatabaseWrapper.on_commit
    if hasattr(theirs, "keeps_projects"):
        return

    @functools.wraps(theirs)
    def on_commit(connection: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        theirs(connection, _kept(func), *args, **kwargs)

    on_commit.keeps_projects = True  # type: ignore[attr-defined]
    BaseDatabaseWrapper.on_commit = on_commit


def _kept(func: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return current_realtime().in_project(func) if callable(func) else func
    except ImproperlyConfigured:  # there is none, or several
        return func
