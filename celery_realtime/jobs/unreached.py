"""End the steps of a workflow that will never run, because a job before them did not succeed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_realtime.encoding import one_line
from celery_realtime.events import Job
from celery_realtime.jobs.lineage import attempt_of, later_steps
from celery_realtime.jobs.projects import HEADER, Projects
from celery_realtime.jobs.statuses import StatusReporter


class UnreachedSteps:
    """Report the end of the steps behind a job.

    Celery marks them as failed in the result backend, and sends no signal for them (celery/backends/base.py).

    Args:
        projects: Which project a job belongs to.
        reporter: Reports their ends.
    """

    def __init__(self, projects: Projects, reporter: StatusReporter) -> None:
        self._projects = projects
        self._reporter = reporter

    def end(self, job: Job, request: Any, reason: str) -> None:
        """End the steps that a job should have led to.

        Args:
            job: The job that did not succeed.
            request: Its request, whose ``chain`` and ``chord`` hold the steps.
            reason: One line that says why.
        """
        for signature in later_steps(getattr(request, "chain", None), getattr(request, "chord", None)):
            options = signature.get("options") or {}
            if options.get("task_id"):
                step = self._job(job, signature.get("task"), options)
                self._reporter.report(step, "FAILURE", error=one_line(f"not run: {reason}"))

    def _job(self, before: Job, task: str | None, options: Mapping[str, Any]) -> Job:
        headers = options.get("headers") or {}
        return Job(
            job_id=options["task_id"],
            project_id=self._projects.readable(headers.get(HEADER), task) or before.project_id,
            task=task,
            attempt=attempt_of(options["task_id"], headers),
            root_id=before.root_id,
            parent_id=before.job_id,
            group_id=options.get("group_id"),
        )
