"""The latest state of one job, from what a server has answered and from the events since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_realtime.client.entries import with_metadata
from celery_realtime.client.protocol import METADATA_EVENT, PROGRESS_EVENT, STATUS_EVENT

_BLANK = {"progress": None, "message": None, "current": None, "total": None, "status": "running", "state": "STARTED"}


class JobRecord:
    """What is known of a job, and up to which place of its project's history.

    Attributes:
        job: The latest status and progress of the job; None before they are known.
    """

    def __init__(self) -> None:
        self.job: Mapping[str, Any] | None = None
        self._epoch: str | None = None
        self._offset = -1

    def load(self, answer: dict[str, Any]) -> None:
        """Take the job that an answer has, unless later events have been taken."""
        epoch, offset, jobs = answer.get("epoch"), answer.get("offset"), answer.get("jobs")
        if epoch != self._epoch or offset is None or offset >= self._offset:
            self._epoch, self._offset = epoch, -1 if offset is None else offset
            if isinstance(jobs, list) and jobs:
                self.job = jobs[0]

    def take(self, name: str, data: dict[str, Any]) -> bool:
        """Take an event; returns whether it says anything new of the job."""
        if name not in (STATUS_EVENT, PROGRESS_EVENT) and (name != METADATA_EVENT or self.job is None):
            return False
        epoch, offset = data.get("epoch"), data.get("offset", -1)
        if epoch is not None and epoch == self._epoch and offset <= self._offset:
            return False
        if epoch is not None:
            self._epoch, self._offset = epoch, offset
        self.job = self._merged(name, data)
        return True

    def _merged(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        """Return the job after an event; its metadata goes on over attempts, until it is published again."""
        job = self.job or {}
        if name == METADATA_EVENT:
            return with_metadata(job, data)
        is_same_run = not data.get("new_run")
        before = job if is_same_run and job.get("attempt") == data.get("attempt") else {}
        kept = {"metadata": job["metadata"]} if is_same_run and "metadata" in job else {}
        return {**_BLANK, **before, **data, **kept, "event": "status_change"}
