"""Report the jobs of celery-batches, which runs many of them in one call of their task."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from celery_realtime.encoding import describe_error
from celery_realtime.events import DIED_GATE, STATUS_OF_STATE, Job
from celery_realtime.jobs.job_reader import JobReader
from celery_realtime.jobs.seams import TaskMessage, batch_of, dict_fields, follow_batches, stored_meta
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.logs import RateLimitedLogger

logger = logging.getLogger(__name__)

#: The error of a job whose batch raised an exception: celery-batches logs it, and does not hand it on.
FAILED = "BatchFailed: the call for all jobs of the batch raised an exception; see the worker's log"


class BatchedJobs:
    """Starts and ends the jobs of a batch: each ends as what its task has stored for it says, else as the batch does.

    Args:
        reader: Reads which job a request is.
        reporter: Reports their statuses.
        begin: Notes and reports that a job starts.
        report_success: Reports that a job has succeeded, with a result.
    """

    def __init__(
        self,
        reader: JobReader,
        reporter: StatusReporter,
        *,
        begin: Callable[[Job], None],
        report_success: Callable[[Job, Any], None],
    ) -> None:
        self._reader = reader
        self._reporter = reporter
        self._begin = begin
        self._report_success = report_success
        self._log = RateLimitedLogger(logger)

    def start(self, task: Any, args: Any) -> bool:
        """Report that the jobs of a batch run; returns whether a task runs a batch at all."""
        batch = batch_of(task, args)
        for request in batch or ():
            self._begin(self._job(request))
        return batch is not None

    def followed(self, request: Any) -> Any:
        """Return a request that a worker has received; the jobs of a batch whose process dies are reported then."""
        follow_batches(request.task, functools.partial(self._end_dead, request.task))
        return request

    def _end_dead(self, task: Any, batch: list[Any], error: BaseException) -> None:
        text = describe_error(error)
        self._end_all(task, batch, lambda job: self._reporter.report(job, "FAILURE", error=text, gate=DIED_GATE))

    def end(self, task: Any, args: Any, state: str) -> bool:
        """Report the ends of the jobs of a batch; returns whether a task runs a batch at all."""
        batch = batch_of(task, args)
        self._end_all(task, batch or [], self._succeed if state == "SUCCESS" else self._fail)
        return batch is not None

    def _succeed(self, job: Job) -> None:
        self._report_success(job, None)

    def _fail(self, job: Job) -> None:
        self._reporter.report(job, "FAILURE", error=FAILED)

    def _end_all(self, task: Any, batch: list[Any], end: Callable[[Job], None]) -> None:
        """Report each job as ended as what is stored for it says, else with ``end``."""
        for request in batch:
            stored: dict[str, Any] = {}
            with self._log.suppressing(
                "cannot read what a batch has stored for its jobs, so they end as the batch; see whether the result"
                " backend answers",
                job_id=request.id,
            ):
                stored = stored_meta(task.backend, request.id) or {}
            self._end(self._job(request), stored, end)

    def _end(self, job: Job, stored: dict[str, Any], end: Callable[[Job], None]) -> None:
        own = str(stored.get("status"))
        result = stored.get("result")
        ended = STATUS_OF_STATE.get(own)
        if ended == "error":
            self._reporter.report(job, own, error=describe_error(result))
        elif ended == "success":
            self._report_success(job, result)
        else:
            end(job)

    def _job(self, request: Any) -> Job:
        message = TaskMessage(request.id, dict_fields(request.request_dict), request.args, request.kwargs, {})
        job = self._reader.of_message(request.name, request.id, message)
        return msgspec.structs.replace(job, worker=request.hostname)
