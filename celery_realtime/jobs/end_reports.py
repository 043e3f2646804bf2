"""Report the ends of jobs, with as much of their results and errors as the settings say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from celery_realtime.encoding import describe_error, encode_lenient, one_line
from celery_realtime.events import DIED_GATE, Ending, Job
from celery_realtime.jobs import endings
from celery_realtime.jobs.seams import is_prefork_child, was_killed
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.settings import Settings


class EndReports:
    """Makes the last status of a job of what Celery says of its end.

    Args:
        reporter: Reports statuses.
        settings: Returns the settings.
    """

    def __init__(self, reporter: StatusReporter, settings: Callable[[], Settings]) -> None:
        self._reporter = reporter
        self._settings = settings

    def end(self, job: Job, ending: Ending) -> None:
        """Report how a job has ended."""
        self._reporter.report(job, ending.state, result=ending.result, error=ending.error, truncated=ending.truncated)

    def success(self, job: Job, result: Any) -> None:
        """Report a job that has returned a result."""
        self.end(job, endings.success(result, self._settings()))

    def failure(self, job: Job, exception: Any, einfo: Any, *, error: str | None = None) -> None:
        """Report a job that has failed.

        Args:
            job: The job.
            exception: What it has raised, or what a pool says of its death.
            einfo: Celery's description of that, with its traceback; None if there is none.
            error: Why it has failed, in one line, where the exception does not say it best.
        """
        traceback = str(einfo.traceback) if einfo is not None and self._settings().include_traceback else None
        gate = DIED_GATE if was_killed(exception) and not is_prefork_child() else ""
        self._reporter.report(job, "FAILURE", gate=gate, error=error or describe_error(exception), traceback=traceback)

    def ignored(self, job: Job, state: str, meta: Any) -> None:
        """Report a job that has raised ``Ignore``, with the state and the result that it has stored itself."""
        if state in ("FAILURE", "REVOKED"):
            self._reporter.report(job, state, error=_stored_error(meta) or f"Ignore: the job stored {state} itself")
        elif state == "SUCCESS":
            self.success(job, meta)
        else:
            self._reporter.report(job, "IGNORED")


def _stored_error(meta: Any) -> str | None:
    """Return the error in a result that a task has stored itself, in one line."""
    if isinstance(meta, BaseException):
        return describe_error(meta)
    if isinstance(meta, dict) and "exc_type" in meta:
        text = meta.get("exc_message")
        parts = text if isinstance(text, (list, tuple)) else [text]
        return one_line(f"{meta['exc_type']}: " + " ".join(str(part) for part in parts))
    return None if meta is None else one_line(str(msgspec.json.decode(encode_lenient(meta))))
