"""End jobs that were cancelled: before they start, by terminating them, or cooperatively."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.events import CANCEL_COMMAND, LATEST_RUN, Cancellation, job_name
from celery_realtime.forks import talking
from celery_realtime.jobs.lineage import run_of_request
from celery_realtime.jobs.seams import WorkerRequests
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.loops import BackgroundLoop, PeriodicLoop, start_detached

if TYPE_CHECKING:
    from celery_realtime.history.store import History

logger = logging.getLogger(__name__)


#: Seconds between two looks at which running jobs have been cancelled.
LOOK_INTERVAL = 0.5

#: Seconds without a look after which the loop counts as standing still; one look waits for Redis a few seconds at most.
LONGEST_LOOK = 30.0

#: Most seconds that the start of a worker waits for the first look.
LONGEST_FIRST_LOOK = 1.0

REMEMBERED = 10000


class Cancellations:
    """Which jobs of this process have been cancelled, for tasks that end by themselves when they learn of it.

    A child of a prefork pool is told nothing by its worker, so it asks the history while such a job runs. A job goes by
    what :func:`~celery_realtime.events.job_name` returns: other projects may have jobs of the same id.

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
        self._lock = threading.RLock()  # a signal's handler may end jobs
        self._cancelled: BoundedDict[str, Cancellation] = BoundedDict(REMEMBERED)
        #: The runs of the jobs that are asked for.
        self._watched: dict[str, str | None] = {}
        self._thread: threading.Thread | None = None

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The loop, while it has something to do in this process."""
        return [self.loop] if self._pid == os.getpid() and self._thread is not None else []

    def add(self, job_id: str, cancellation: Cancellation) -> None:
        """Note that runs of a job are cancelled."""
        self._cancelled[job_id] = cancellation

    def has(self, job_id: str, run: str | None) -> bool:
        """Tell whether a job that runs in this process has been cancelled in this run; asks for it from now on."""
        if self._pid != os.getpid():
            self._start_over()
        if job_id not in self._watched or self._watched[job_id] != run:
            with self._lock:
                self._watched[job_id] = run
        if self._thread is None:
            self._start_asking()
        cancellation = self._cancelled.get(job_id)
        return cancellation is not None and cancellation.concerns(run)

    def forget(self, job_id: str) -> None:
        """Ask for a job no more: it has ended."""
        self._watched.pop(job_id, None)

    def _start_asking(self) -> None:
        with self._lock:
            if self._thread is not None or self._history() is None:
                return
            thread = threading.Thread(target=self._run, name="celery-realtime-cancel", daemon=True)
            try:
                start_detached(thread)
            except RuntimeError as error:  # too many threads; the next call tries again
                self._log.error(
                    "no thread can be started, so running jobs cannot be cancelled for now; the next one to report "
                    "tries again: %s",
                    error,
                )
            else:
                self._thread = thread

    def _run(self) -> None:
        pause = threading.Event()
        while self._is_needed():
            with self.loop.turn():
                self._ask()
            pause.wait(LOOK_INTERVAL)
        self.loop.rest()

    def _is_needed(self) -> bool:
        with self._lock:
            if self._watched:
                return True
            self._thread = None
            return False

    def _ask(self) -> None:
        history = self._history()
        with self._lock:
            watched = dict(self._watched)
        if history is None or not watched:
            return
        with talking:
            cancelled = history.marks.cancelled(list(watched))
        for job_id, cancellation in cancelled.items():
            if self._cancelled.get(job_id) != cancellation and cancellation.concerns(watched[job_id]):
                self.add(job_id, cancellation)
                with talking:
                    history.marks.answer(job_id, {"found": True, "how": "cooperative"})


def register_command() -> None:
    """Let workers take the command; Celery keeps commands for the whole process, and twice is no more than once."""
    from celery.worker.control import control_command

    control_command(name=CANCEL_COMMAND, args=[("job_id", str)], signature="<job id>")(_cancel_here)


def _cancel_here(
    state: Any, job_id: str, project_id: str | None = None, until: str = LATEST_RUN, unmarked: bool = True, **_: Any
) -> dict[str, Any]:
    """Cancel runs of a project's job here, and return how it will end; ``found`` tells whether this worker has it."""
    requests, realtime = WorkerRequests(state.consumer), state.app.realtime
    cancellation, target = Cancellation(until, unmarked), job_name(job_id, project_id)
    realtime.worker.note_cancelled(target, cancellation)
    for request in requests.reserved():
        is_named = request.id == job_id and cancellation.concerns(run_of_request(request))
        if is_named and realtime.worker.project_of(request) == project_id:
            return cancel_request(requests, request, realtime.running_jobs.cancellations, target)
    return {"found": False, "how": "before_start", "pool": requests.pool}


def cancel_request(
    requests: WorkerRequests, request: Any, cancellations: Cancellations, target: str | None = None
) -> dict[str, Any]:
    """Cancel a job that a worker has.

    Args:
        requests: The worker's.
        request: The job's.
        cancellations: Where tasks of the worker's process look.
        target: What they look for; None for a job without a project.

    Returns:
        ``how`` it will end, None when it cannot be made to, and in which ``pool``. One that is about to start is
        cancelled both ways, if the worker knows that it is cancelled.
    """
    pool, is_running = requests.pool, requests.is_running(request)
    how: str | None = "before_start"
    if getattr(request.task, "cancellable", False):
        cancellations.add(target or request.id, Cancellation.of(run_of_request(request)))
        how = "cooperative" if is_running or requests.is_in_pool(request) else how
    elif requests.can_terminate:
        requests.terminate(request)
        how = "terminate" if is_running else how
    elif is_running or requests.is_in_pool(request):
        how = None
    return {"found": True, "how": how, "pool": pool}


class CancelOrders:
    """Cancels what the history says was cancelled, in the main process of the worker that has it.

    A cancellation concerns the runs that were there when it was asked for. Celery's own list of revoked tasks goes by
    the id alone, and would drop later publications too. The broker's command reaches a worker by its node name. Of two
    workers of one name it may reach the other, and on RabbitMQ each command reaches one of them only. A worker that
    starts later has not heard it at all.

    Args:
        history: Returns the history.
        cancel: Cancels a job that the worker has, given its request, and returns how.
        project_of: Returns the project of a job, given its request, or None.
    """

    def __init__(
        self,
        history: Callable[[], History | None],
        cancel: Callable[[Any], dict[str, Any]],
        project_of: Callable[[Any], str | None] = lambda _: None,
    ) -> None:
        self._history = history
        self._cancel = cancel
        self._project_of = project_of
        self._since = 0.0
        self._jobs: BoundedDict[str, _Order] = BoundedDict(REMEMBERED)
        #: The ids of the jobs, of whatever project.
        self._job_ids: BoundedDict[str, bool] = BoundedDict(REMEMBERED)
        self.loop = BackgroundLoop("cancel orders", logger, LONGEST_LOOK)
        self._periodic = PeriodicLoop(self.loop, self.look, LOOK_INTERVAL)

    def start(self) -> None:
        """Look until :meth:`stop`, and return when it has looked once, or that takes long."""
        self._periodic.start(LONGEST_FIRST_LOOK)

    def stop(self) -> None:
        """Look no more."""
        self._periodic.stop()

    def look(self) -> None:
        """Cancel what was cancelled since the last look, and what has been received since.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        history = self._history()
        if history is None:
            return
        with talking:
            cancelled, self._since = history.marks.cancelled_since(self._since)
        for target, cancellation in cancelled.items():
            self._add(target, cancellation)
        for request in WorkerRequests().reserved():
            order = self._order_for(request)
            if order is not None and order.has_to_cancel(request):
                order.answer = self._cancel(request)
                with talking:
                    history.marks.answer(order.target, order.answer)

    def _add(self, target: str, cancellation: Cancellation) -> None:
        self._jobs[target] = _Order(target, cancellation)
        self._job_ids[target.rpartition("\n")[2]] = True

    def note(self, target: str, cancellation: Cancellation) -> None:
        """Note that runs of a job are cancelled, which the history says too."""
        order = self._jobs.get(target)
        if order is None or order.cancellation != cancellation:
            self._add(target, cancellation)

    def concerns(self, request: Any) -> bool:
        """Tell whether the job of a request is cancelled, in the run that it is of."""
        return self._order_for(request) is not None

    def _order_for(self, request: Any) -> _Order | None:
        if self._job_ids.get(request.id) is None:  # which project it is of may take long to find out
            return None
        order = self._jobs.get(job_name(request.id, self._project_of(request)))
        return order if order is not None and order.cancellation.concerns(run_of_request(request)) else None


class _Order:
    """A cancelled job.

    Args:
        target: What it is cancelled as.
        cancellation: Of which runs.

    Attributes:
        answer: How this worker has cancelled it; None if it has not.
    """

    def __init__(self, target: str, cancellation: Cancellation) -> None:
        self.target = target
        self.cancellation = cancellation
        self.answer: dict[str, Any] | None = None

    def has_to_cancel(self, request: Any) -> bool:
        """Tell whether its request is not cancelled yet, or has started all the same."""
        answer = self.answer
        return answer is None or (answer["how"] == "before_start" and WorkerRequests.is_running(request))
