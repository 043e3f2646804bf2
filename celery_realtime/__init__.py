"""Show every Celery job in the browser, live: ``Realtime(app)``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_realtime.exceptions import (
        ImproperlyConfigured,
        JobCancelled,
        RealtimeError,
        RerunError,
        SubscribeError,
    )
    from celery_realtime.extension import Realtime, get_progress_tracker, get_socketio_manager
    from celery_realtime.jobs.trackers import ProgressTracker
    from celery_realtime.jobs.typed import RealtimeTask
    from celery_realtime.sending.manager import SocketIOManager
    from celery_realtime.web.asyncio_handlers import AsyncSocketIOEventHandlers
    from celery_realtime.web.handlers import SocketIOEventHandlers

__version__ = "0.1.0"

__all__ = [
    "AsyncSocketIOEventHandlers",
    "ImproperlyConfigured",
    "JobCancelled",
    "ProgressTracker",
    "Realtime",
    "RealtimeError",
    "RealtimeTask",
    "RerunError",
    "SocketIOEventHandlers",
    "SocketIOManager",
    "SubscribeError",
    "get_progress_tracker",
    "get_socketio_manager",
]

#: Where each name is, loaded when it is first asked for: the handlers load python-socketio, which workers have no use
#: for, and pytest loads the plugin in this package for tests that have no use for Celery.
_HOMES = {
    "AsyncSocketIOEventHandlers": "web.asyncio_handlers",
    "ImproperlyConfigured": "exceptions",
    "JobCancelled": "exceptions",
    "ProgressTracker": "jobs.trackers",
    "Realtime": "extension",
    "RealtimeError": "exceptions",
    "RealtimeTask": "jobs.typed",
    "RerunError": "exceptions",
    "SocketIOEventHandlers": "web.handlers",
    "SocketIOManager": "sending.manager",
    "SubscribeError": "exceptions",
    "get_progress_tracker": "extension",
    "get_socketio_manager": "extension",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
