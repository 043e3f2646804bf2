"""End jobs that were cancelled: before they start, by terminating them, or cooperatively."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.events import CANCEL_COMMAND
from celery_realtime.forks import talking
from celery_realtime.jobs.seams import WorkerRequests
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.loops import BackgroundLoop

if TYPE_CHECKING:
    from celery_realtime.history.store import History

logger = logging.getLogger(__name__)


#: Seconds between two looks at which running jobs have been cancelled.
LOOK_INTERVAL = 0.5

#: Seconds without a look after which the loop counts as standing still; one look waits for Redis a few seconds at most.
LONGEST_LOOK = 30.0

REMEMBERED = 10000

#: Pools that can end a running job, by the module of Celery that has them.
TERMINATING = ("prefork", "eventlet", "gevent")


class Cancellations:
    """Which jobs of this process have been cancelled, for tasks that end by themselves when they learn of it.

    A child of a prefork pool is told nothing by its worker, so it asks the history while such a job runs.

    Args:
        history: Returns the history, or None.
    """

    def __init__(self, history: Callable[[], History | None]) -> None:
        self._history = history
        self._log = RateLimitedLogger(logger)
        #: The loop that asks the history; it turns while a job that can be cancelled runs.
        self.loop = BackgroundLoop("cancellations", logger, LONGEST_LOOK)
        self._start_over()

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._cancelled: BoundedDict[str, bool] = BoundedDict(REMEMBERED)
        self._watched: set[str] = set()
        self._thread: threading.Thread | None = None

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The loop, while it has something to do in this process."""
        return [self.loop] if self._pid == os.getpid() and self._thread is not None else []

    def add(self, job_id: str) -> None:
        """Note that a job of this process is cancelled."""
        self._cancelled[job_id] = True

    def has(self, job_id: str) -> bool:
        """Tell whether a job that runs in this process has been cancelled; asks for it from now on."""
        if self._pid != os.getpid():
            self._start_over()
        if job_id not in self._watched:
            with self._lock:
                self._watched.add(job_id)
        if self._thread is None:
            self._start_asking()
        return self._cancelled.get(job_id) is not None

    def forget(self, job_id: str) -> None:
        """Ask for a job no more: it has ended."""
        self._watched.discard(job_id)

    def _start_asking(self) -> None:
        with self._lock:
            if self._thread is not None or self._history() is None:
                return
            thread = threading.Thread(target=self._run, name="celery-realtime-cancel", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # too many threads; the next call tries again
                self._log.error("no thread can be started, so running jobs cannot be cancelled for now: %s", error)
            else:
                self._thread = thread

    def _run(self) -> None:
        pause = threading.Event()
        while self._is_needed():
            with self.loop.turn():
                self._ask()
            pause.wait(LOOK_INTERVAL)

    def _is_needed(self) -> bool:
        with self._lock:
            if self._watched:
                return True
            self._thread = None
            return False

    def _ask(self) -> None:
        history = self._history()
        with self._lock:
            watched = list(self._watched)
        if history is not None and watched:
            with talking:
                cancelled = history.marks.cancelled(watched)
            for job_id in cancelled:
                self.add(job_id)


def register_command() -> None:
    """Let workers take the command; Celery keeps commands for the whole process, and twice is no more than once."""
    from celery.worker.control import control_command

    control_command(name=CANCEL_COMMAND, args=[("job_id", str)], signature="<job id>")(_cancel_here)


def _cancel_here(state: Any, job_id: str, **_: Any) -> dict[str, Any]:
    """Cancel a job on this worker, and return how it will end: ``how`` is None when it cannot be made to."""
    requests = WorkerRequests(state.consumer)
    request, pool = requests.get(job_id), requests.pool
    if request is None or not requests.is_running(request):
        requests.revoke(job_id)
        return {"found": request is not None, "how": "before_start", "pool": pool}
    if getattr(request.task, "cancellable", False):
        state.app.realtime.running_jobs.cancellations.add(job_id)
        return {"found": True, "how": "cooperative", "pool": pool}
    if pool not in TERMINATING:
        return {"found": True, "how": None, "pool": pool}
    requests.terminate(request)
    return {"found": True, "how": "terminate", "pool": pool}
