"""Give back Django's database connections: each thread has its own, and Django looks after those of its requests only.

A connection that stays open in a thread of this package is stale once the server has restarted, and keeps a test
database from being dropped. Django is looked up and never imported.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

#: What the names of this package's threads begin with.
OWN_THREADS = "celery-realtime-"


@contextlib.contextmanager
def in_own_thread() -> Iterator[None]:
    """Close the connections that are opened inside: in a thread of this package, which seldom needs one."""
    try:
        yield
    finally:
        database = _django()
        if database is not None:
            database.connections.close_all()


@contextlib.contextmanager
def in_any_thread() -> Iterator[None]:
    """Close old connections before and after, as Django does with each request; those in a transaction are left."""
    _close_old()
    try:
        yield
    finally:
        _close_old()


@contextlib.contextmanager
def unless_anybody_does() -> Iterator[None]:
    """Close old connections as :func:`in_any_thread` does, but in a thread of this package alone.

    In one of the application it is Celery that closes them, after a task, or Django, after a request, and in between
    they are in use: a cursor on the server would be gone with one.
    """
    with in_any_thread() if threading.current_thread().name.startswith(OWN_THREADS) else contextlib.nullcontext():
        yield


def connection_safe(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Return a rule around which stale database connections are closed, as Django does around a request.

    Where the process does not use Django the rule is called as it is.

    Args:
        rule: A plain function, called in a thread, or a coroutine function.
    """

    @functools.wraps(rule)
    def call(*args: Any) -> Any:
        with in_any_thread():
            outcome = rule(*args)
        return _awaited(outcome) if inspect.isawaitable(outcome) else outcome

    @functools.wraps(rule)
    async def call_async(*args: Any) -> Any:
        return await _awaited(rule(*args))

    return call_async if inspect.iscoroutinefunction(rule) else call


async def _awaited(outcome: Any) -> Any:
    if _django() is None:
        return await outcome
    from asgiref.sync import sync_to_async  # Django's own, and so there

    # In the thread in which Django's own asynchronous methods use their connections.
    close = sync_to_async(_close_old)
    await close()
    try:
        return await outcome
    finally:
        await close()


def _close_old() -> None:
    database = _django()
    if database is not None:
        database.close_old_connections()


def _django() -> Any:
    """Return ``django.db`` if this process uses it."""
    conf = sys.modules.get("django.conf")
    return sys.modules.get("django.db") if conf is not None and conf.settings.configured else None
