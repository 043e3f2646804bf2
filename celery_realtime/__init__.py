"""Show every Celery job in the browser, live: ``Realtime(app)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_realtime.exceptions import ImproperlyConfigured, JobCancelled, RealtimeError, SubscribeError
from celery_realtime.extension import Realtime, get_progress_tracker, get_socketio_manager
from celery_realtime.jobs.trackers import ProgressTracker
from celery_realtime.sending.manager import SocketIOManager

if TYPE_CHECKING:
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
    "SocketIOEventHandlers",
    "SocketIOManager",
    "SubscribeError",
    "get_progress_tracker",
    "get_socketio_manager",
]


def __getattr__(name: str) -> Any:
    # The handlers load python-socketio, which workers and `celery` commands have no use for at import.
    if name == "SocketIOEventHandlers":
        from celery_realtime.web.handlers import SocketIOEventHandlers

        return SocketIOEventHandlers
    if name == "AsyncSocketIOEventHandlers":
        from celery_realtime.web.asyncio_handlers import AsyncSocketIOEventHandlers

        return AsyncSocketIOEventHandlers
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
