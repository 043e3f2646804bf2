"""Store progress in Celery's result backend, for clients that poll, and never over a state that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from celery_realtime import databases
from celery_realtime.bounded import BoundedDict
from celery_realtime.encoding import encode
from celery_realtime.jobs.progress_stores import FindClient, no_client, store_of
from celery_realtime.jobs.seams import is_djangos_database, outages_of
from celery_realtime.loops import BackgroundLoop
from celery_realtime.sending.event_queue import Owner, owner_of
from celery_realtime.sending.outbox import Outbox

if TYPE_CHECKING:
    from celery_realtime.events import Job
    from celery_realtime.jobs.progress import Progress

#: Jobs that a process remembers.
REMEMBERED = 10000

#: Longest wait, in seconds, for the last progress to be stored when a process ends.
FLUSH_TIMEOUT = 1.0

#: Most reports that are stored before the thread looks for newer ones.
BATCH = 100


class MirroredProgress(msgspec.Struct, frozen=True):
    """Progress of a job that waits to be stored; encoded when it is, since most reports are replaced by newer ones.

    Attributes:
        project_id: The job's project; empty if it has none.
        job_id: Its id.
        report: What to store.
        rank: None, for the queue: it is not a status.
        progress: True, for the queue: a newer report of the same job replaces it.
    """

    project_id: str
    job_id: str
    report: Progress
    rank: int | None = None
    progress: bool = True


class _Target(NamedTuple):
    task: Any
    request: Any


class ProgressMirror:
    """Store PROGRESS states in the result backend of each job's task, from a thread of its own.

    Args:
        queue_size: Jobs whose progress may wait to be stored.
        client_at: See :func:`~celery_realtime.jobs.progress_stores.store_of`.
    """

    def __init__(self, *, queue_size: int, client_at: FindClient = no_client) -> None:
        self._client_at = client_at
        #: By job, where its progress is stored; None after its end.
        self._targets: BoundedDict[Owner, _Target | None] = BoundedDict(REMEMBERED)
        self._outbox: Outbox[MirroredProgress] = Outbox(
            self.store,
            queue_size=queue_size,
            batch_size=BATCH,
            linger=0.0,
            flush_timeout=FLUSH_TIMEOUT,
            destination="the result backend",
        )

    def expect(self, project_id: str | None, task: Any, request: Any) -> None:
        """Store the progress of a job from now on.

        Args:
            project_id: The job's project.
            task: Its task. Its backend is asked for in the thread that stores: the app's is one for each thread
                (celery/app/base.py, ``Celery.backend``).
            request: Its request.
        """
        self._targets[project_id or "", request.id] = _Target(task, request)

    def end(self, job: Job) -> None:
        """Store no more of a job: its final state is, or is about to be, in the backend."""
        name = owner_of(job)
        if self._targets.get(name) is not None:
            self._targets[name] = None

    def put(self, job: Job, report: Progress, due: float) -> None:
        """Store a report when it is due, unless a newer one replaces it, or nothing of the job is stored.

        Args:
            job: The job.
            report: The progress.
            due: The :func:`time.monotonic` time before which it is held back.
        """
        project_id, job_id = job.project_id or "", job.job_id
        if self._targets.get((project_id, job_id)) is not None:
            self._outbox.put(MirroredProgress(project_id, job_id, report), due)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all progress has been stored, at most ``timeout`` seconds; returns whether it has."""
        return self._outbox.flush(timeout)

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The loops that store, for health checks."""
        return self._outbox.loops

    def store(self, reports: list[MirroredProgress]) -> int:
        """Store the progress of jobs that have not ended; returns how many of the first reports are done with."""
        with databases.in_own_thread():
            for done, waiting in enumerate(reports):
                target = self._targets.get(owner_of(waiting))
                if target is not None and not self._store(target, waiting.report):
                    return done
        return len(reports)

    def _store(self, target: _Target, report: Progress) -> bool:
        """Store a report, if that cannot undo an end; returns whether the backend could be reached."""
        backend = target.task.backend
        if target.request.is_eager and is_djangos_database(backend):
            return True  # its caller may be in a transaction, as tests are, and this would be outside of it
        store = store_of(backend, self._client_at)
        try:
            if store is not None:
                store(backend, target.request, msgspec.json.decode(encode(report)))
        except outages_of(backend):
            return False
        return True
