"""Remember which jobs a worker has received, for signals that tell of a job by its request, or by its id alone."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from celery_realtime.bounded import BoundedDict
from celery_realtime.events import Job
from celery_realtime.jobs.job_reader import JobReader
from celery_realtime.jobs.lineage import run_of_request

#: Received jobs that a worker's main process remembers.
REMEMBERED = 10000


class ReceivedJobs:
    """The jobs that a worker's main process has received lately.

    Args:
        reader: Reads which job a request is of.
    """

    def __init__(self, reader: JobReader) -> None:
        self._reader = reader
        self._jobs: BoundedDict[str, Job] = BoundedDict(REMEMBERED)
        self._requests: WeakValueDictionary[str, Any] = WeakValueDictionary()
        #: Ids under which jobs of several projects have come.
        self._shared: BoundedDict[str, bool] = BoundedDict(REMEMBERED)

    def add(self, request: Any) -> Job:
        """Note a request that has been received, and return its job."""
        job = self._reader.of_request(request)
        before = self._jobs.get(request.id)
        if before is not None and before.project_id != job.project_id:
            self._shared[request.id] = True
        self._jobs[request.id] = job
        self._requests[request.id] = request
        return job

    def of(self, request: Any) -> Job:
        """Return the job of a request, which may be one that Celery makes of the one that was received."""
        job = self._jobs.get(request.id)
        is_of_it = job is not None and job.run is not None and job.run == run_of_request(request)
        return job if job is not None and is_of_it else self._reader.of_request(request)

    def by_id(self, job_id: str) -> Job | None:
        """Return the job that was received last under an id.

        Where jobs of several projects have the id, it may be any of them, and is none: their requests tell them apart
        when they leave the worker.
        """
        return None if job_id in self._shared else self._jobs.get(job_id)

    def of_task(self, task: Any, job_id: str) -> Job | None:
        """Return the job that a task runs or, in a worker's main process, one that was received."""
        return self._reader.running(task) if task.request.id == job_id else self.by_id(job_id)

    def request(self, job_id: str) -> Any:
        """Return the request that was received last under an id, or None if it is gone."""
        return self._requests.get(job_id)
