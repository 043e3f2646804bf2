"""Give back Django's database connections: each thread has its own, and Django looks after those of its requests only.

A connection that stays open in a thread of this package is stale once the server has restarted, and keeps a test
database from being dropped. Django is looked up and never imported.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


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


def _close_old() -> None:
    database = _django()
    if database is not None:
        database.close_old_connections()


def _django() -> Any:
    """Return ``django.db`` if this process uses it."""
    conf = sys.modules.get("django.conf")
    return sys.modules.get("django.db") if conf is not None and conf.settings.configured else None
