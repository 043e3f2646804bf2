"""Know a job before it is published: its id, its project, and from where on to hear it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery.canvas import Signature
    from celery.result import AsyncResult


class JobHandle:
    """A job that is about to be published.

    A page that is rendered with it subscribes with ``since``, and is told all that happened after the handle was made:
    also of a job that started, or ended, before the page was there.

    Attributes:
        job_id: The Celery task id that it will have.
        project_id: Its project; None if nothing gives it one.
        since: ``{"epoch": str, "offset": int}``, where the project stands now; None without a history, or while that
            is away. The page is told the latest state of all jobs then.
    """

    def __init__(self, signature: Signature, project_id: str | None, since: dict[str, Any] | None) -> None:
        self.job_id: str = signature.options["task_id"]
        self.project_id = project_id
        self.since = since
        self._signature: Signature | None = signature

    def as_dict(self) -> dict[str, Any]:
        """Return ``job_id``, ``project_id`` and ``since``, fit for JSON."""
        return {"job_id": self.job_id, "project_id": self.project_id, "since": self.since}

    def publish(self) -> AsyncResult[Any]:
        """Publish the job, as ``apply_async`` does.

        Raises:
            RuntimeError: It has been published already.
        """
        signature, self._signature = self._signature, None
        if signature is None:
            raise RuntimeError(f"job {self.job_id} has been published already; make a new handle for another job")
        try:
            return signature.apply_async()
        except Exception:
            self._signature = signature  # the broker was away, say: it may be tried again
            raise

    def __repr__(self) -> str:
        return f"<JobHandle {self.job_id} of project {self.project_id!r}>"
