"""End jobs that somebody has cancelled: before they start, by their pool, or when they look."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.forks import talking
from celery_realtime.logs import RateLimitedLogger

if TYPE_CHECKING:
    from celery_realtime.store import History

logger = logging.getLogger(__name__)

COMMAND = "realtime_cancel"

#: Seconds between two looks at which running jobs have been cancelled.
LOOK_INTERVAL = 0.5
REMEMBERED = 10000

#: Pools that can end a job that runs, by the module of Celery that has them.
TERMINATING = ("prefork", "eventlet", "gevent")


class Cancellations:
    """Which jobs of this process have been cancelled, for tasks that end by themselves when they hear of it.

    A child of a prefork pool hears nothing from its worker, so it asks the history while such a job runs.

    Args:
        history: Returns the history, or None.
    """

    def __init__(self, history: Callable[[], History | None]) -> None:
        self._history = history
        self._failures = RateLimitedLogger(logger)
        self._start_over()

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._cancelled: BoundedDict[str, bool] = BoundedDict(REMEMBERED)
        self._watched: set[str] = set()
        self._thread: threading.Thread | None = None

    def add(self, job_id: str) -> None:
        """Note that a job of this process is cancelled."""
        self._cancelled[job_id] = True

    def has(self, job_id: str) -> bool:
        """Tell whether a job that runs in this process has been cancelled; looks for it from now on."""
        if self._pid != os.getpid():
            self._start_over()
        if job_id not in self._watched:
            with self._lock:
                self._watched.add(job_id)
                self._look_on()
        return self._cancelled.get(job_id) is not None

    def forget(self, job_id: str) -> None:
        """Look for a job no more: it has ended."""
        self._watched.discard(job_id)

    def _look_on(self) -> None:
        if self._thread is None and self._history() is not None:
            self._thread = threading.Thread(target=self._look, name="celery-realtime-cancel", daemon=True)
            self._thread.start()

    def _look(self) -> None:
        pause = threading.Event()
        while True:
            with self._lock:
                watched = list(self._watched)
                if not watched:
                    self._thread = None
                    return
            history = self._history()
            try:
                with talking:
                    cancelled = history.marks.cancelled(watched) if history is not None else ()
                for job_id in cancelled:
                    self.add(job_id)
            except Exception as error:
                self._failures.error("it cannot be read which jobs were cancelled; trying again: %r", error)
            pause.wait(LOOK_INTERVAL)


def register_command() -> None:
    """Let workers take the command; Celery keeps commands for the whole process, and twice is no more than once."""
    from celery.worker.control import Panel, control_command

    if COMMAND not in Panel.data:
        control_command(name=COMMAND, args=[("job_id", str)], signature="<job id>")(_cancel_here)


def _cancel_here(state: Any, job_id: str, **_: Any) -> dict[str, Any]:
    """Cancel a job on this worker, and return how it will end: ``how`` is None when it cannot be made to."""
    from celery.worker import state as worker

    request = worker.requests.get(job_id)
    pool = type(state.consumer.pool).__module__.rpartition(".")[2]
    if request is None or not request.time_start:
        worker.revoked.add(job_id)
        return {"found": request is not None, "how": "before_start", "pool": pool}
    if getattr(request.task, "cancellable", False):
        state.app.realtime.cancellations.add(job_id)
        return {"found": True, "how": "cooperative", "pool": pool}
    if pool not in TERMINATING:
        return {"found": True, "how": None, "pool": pool}
    worker.revoked.add(job_id)
    request.terminate(state.consumer.pool, signal="SIGTERM")
    return {"found": True, "how": "terminate", "pool": pool}
