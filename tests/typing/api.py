"""The public API's types, as a user sees them: checked by mypy --strict, never run.

Beside each allowed use stands a refused one; an ignore that is no longer needed is an error of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from celery import Celery
from typing_extensions import assert_type

import celery_realtime
from celery_realtime import (
    AsyncSocketIOEventHandlers,
    ImproperlyConfigured,
    ProgressTracker,
    Realtime,
    RealtimeError,
    RealtimeTask,
    SocketIOEventHandlers,
    SocketIOManager,
    SubscribeError,
    get_progress_tracker,
    get_socketio_manager,
)

assert_type(celery_realtime.__version__, str)

# -- in the worker ----------------------------------------------------------------------------------------------

celery = Celery("studio")
realtime = Realtime(celery, progress_interval=1.0, secret_key=["new", "old"])
later = Realtime()
assert_type(later.init_app(celery), None)
Realtime(celery, "redis://localhost")  # type: ignore[call-arg]

assert_type(realtime.project("project_456"), AbstractContextManager[None])
with realtime.project(456) as nothing:
    assert_type(nothing, None)
realtime.project()  # type: ignore[call-arg]

assert_type(realtime.manager, SocketIOManager)
assert_type(realtime.flush(), bool)
assert_type(realtime.health(), dict[str, Any])
assert_type(realtime.start_over(channel="studio"), None)
assert_type(realtime.flush(timeout=1.5), bool)
realtime.flush("1.5")  # type: ignore[arg-type]

assert_type(realtime.issue_token("alice", projects=["project_456"], expires_in=3600), str)
assert_type(realtime.issue_token(5), str)
realtime.issue_token("alice", expires_in="3600")  # type: ignore[arg-type]


@celery.task(bind=True)
def transcribe(self: RealtimeTask, chunks: list[str]) -> None:
    assert_type(self.update_progress(25, "Downloading audio file..."), None)
    assert_type(self.update_progress(current=3, total=12), None)
    assert_type(self.emit("transcript_line", {"text": "..."}), None)
    assert_type(list(self.track(chunks, "Transcribing", total=12)), list[str])
    raise self.retry(countdown=self.request.retries)


def report(task: RealtimeTask) -> None:
    task.update_progress(1, done=3)  # type: ignore[call-arg]
    task.track(5)  # type: ignore[arg-type]
    task.emit()  # type: ignore[call-arg]


tracker = get_progress_tracker("job_123")
assert_type(tracker, ProgressTracker)
assert_type(tracker.min_update_interval, float)
assert_type(tracker.set_progress(25, "Downloading audio file..."), None)
assert_type(tracker.increment_progress(12.5), None)
assert_type(tracker.mark_complete(), None)
tracker.min_update_interval = 1
tracker.min_update_interval = "1"  # type: ignore[assignment]
tracker.set_progress("25")  # type: ignore[arg-type]
tracker.set_progress(25, 5)  # type: ignore[arg-type]
get_progress_tracker(123)  # type: ignore[arg-type]

manager = get_socketio_manager()
assert_type(manager, SocketIOManager)
assert_type(manager.track_job_for_project("job_123", "project_456"), None)
assert_type(manager.register_client_for_project("project_456", "client_sid"), None)
assert_type(manager.unregister_client_for_project("project_456", "client_sid"), None)
assert_type(manager.emit_to_project("project_456", "custom_event", {"data": "value"}), None)
assert_type(manager.register_job_listeners(realtime.bridge), None)
manager.track_job_for_project(123, "project_456")  # type: ignore[arg-type]
manager.register_client_for_project("project_456", None)  # type: ignore[arg-type]
manager.emit_to_project("project_456", None, {})  # type: ignore[arg-type]
manager.emit_to_project("project_456", "custom_event")  # type: ignore[call-arg]
manager.register_job_listeners("bridge")  # type: ignore[arg-type]


async def emit() -> None:
    assert_type(await manager.emit_to_project_async("project_456", "custom_event", {"data": "value"}), None)
    manager.emit_to_project_async("project_456", "custom_event", {})  # type: ignore[unused-coroutine]


# -- in the web server ------------------------------------------------------------------------------------------


class Handlers(SocketIOEventHandlers):
    def _validate_token(self, token: Any) -> str | None:
        return "alice" if token == "open sesame" else None

    def _validate_project_access(self, user_id: Any, project_id: str) -> bool:
        return bool(user_id == "alice" and project_id == "project_456")


class AsyncHandlers(AsyncSocketIOEventHandlers):
    async def _validate_token(self, token: Any) -> str | None:
        return None

    async def _validate_project_access(self, user_id: Any, project_id: str) -> bool:
        return False


def authenticate(token: Any, environ: dict[str, Any]) -> str | None:
    return None


async def authorize(user_id: Any, project_id: str) -> bool:
    return False


server: Any = None
assert_type(
    realtime.init_socketio(server, authenticate=authenticate, authorize=authorize, handlers=Handlers),
    SocketIOEventHandlers,
)
realtime.init_socketio(server, authenticate=lambda token, environ: None, authorize=lambda user_id, project_id: True)
realtime.init_socketio(server, handlers=AsyncHandlers)
realtime.init_socketio(server, handlers=dict)  # type: ignore[arg-type]
realtime.init_socketio(server, authenticate="alice")  # type: ignore[arg-type]
realtime.init_socketio(server, authenticate)  # type: ignore[call-arg]

# -- what can go wrong ------------------------------------------------------------------------------------------

errors: tuple[type[RealtimeError], ...] = (ImproperlyConfigured, SubscribeError)
assert_type(SubscribeError("not yours", "forbidden").code, str)
SubscribeError("not yours", 403)  # type: ignore[arg-type]
handle: Callable[[RealtimeError], None] = print
