"""A project whose jobs live as jobs do, for tests of what filtered clients show of it."""

from __future__ import annotations

import random
from typing import Any

from celery_realtime.events import METADATA_EVENT, PROGRESS_EVENT, STATUS_EVENT
from celery_realtime.job_filters import JobFilter

TASKS, LABELS = ("reports.build", "other"), ("customer 1", "customer 2", None)
#: Filters that leave something of it.
FILTERS = [
    JobFilter(("running",)),
    JobFilter(("success", "error")),
    JobFilter(("queued", "running"), ("reports.*",)),
    JobFilter((), (), ("customer 1",)),
    JobFilter((), ("other",)),
]
NO_PROGRESS: dict[str, Any] = {"progress": None, "message": None, "current": None, "total": None, "stalled": False}


class Project:
    """The history of a project: jobs that live as jobs do, and what is told of them."""

    def __init__(self, chances: random.Random, wanted: JobFilter, page_size: int) -> None:
        self._chances, self._wanted, self._page_size = chances, wanted, page_size
        self.jobs: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []

    @property
    def offset(self) -> int:
        return len(self.events)

    @property
    def matching(self) -> dict[str, dict[str, Any]]:
        return {name: job for name, job in self.jobs.items() if self._wanted.matches(job)}

    def tell(self) -> dict[str, Any]:
        choice, unended = self._chances, [job for job in self.jobs.values() if job["status"] in ("queued", "running")]
        running = [job for job in unended if job["status"] == "running"]
        dice = choice.random()
        if running and dice < 0.3:
            event = self._progress(choice.choice(running))
        elif unended and dice < 0.4:
            job = choice.choice(unended)
            job["metadata"] = {**job.get("metadata", {}), "value": self.offset}
            event = METADATA_EVENT, {**_names(job), "set": {"value": self.offset}, "deleted": []}
        else:
            event = STATUS_EVENT, self._status(choice.choice("abcdefgh"))
        name, data = event
        self.events.append({"event": name, "data": {**data, "epoch": "e", "offset": self.offset + 1}})
        return self.events[-1]

    def _progress(self, job: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        reached = {"progress": self.offset, "message": "on", "current": None, "total": None}
        job |= reached
        return PROGRESS_EVENT, {**_names(job), "attempt": job["attempt"], "task": job["task"], **reached}

    def _status(self, job_id: str) -> dict[str, Any]:
        job, choice = self.jobs.get(job_id), self._chances
        if job is None or job["status"] in ("success", "error"):
            label = choice.choice(LABELS)
            born = {"job_id": job_id, "project_id": "p", "task": choice.choice(TASKS), "attempt": 0, "worker": None}
            born |= {"status": "queued", "state": "PENDING"} | ({} if label is None else {"label": label})
            self.jobs[job_id] = {**born, **NO_PROGRESS}
            return {**born, **({} if job is None else {"new_run": True})}
        state = "STARTED" if job["status"] == "queued" else choice.choice(["RETRY", "SUCCESS", "FAILURE"])
        status = {"STARTED": "running", "RETRY": "queued", "SUCCESS": "success", "FAILURE": "error"}[state]
        more = {"attempt": job["attempt"] + 1, **NO_PROGRESS} if state == "RETRY" else {}
        self.jobs[job_id] = job = {**job, "status": status, "state": state, **more}
        return {name: value for name, value in job.items() if name not in (*NO_PROGRESS, "metadata")}

    def answer(self, since: int | None) -> dict[str, Any]:
        """Answer a subscription."""
        position = {"epoch": "e", "offset": self.offset, "recovered": since is not None}
        missed = [] if since is None else self.events[since:]
        page = {name: value for name, value in self.page(0).items() if value is not None}
        return {"ok": True, "project_id": "p", **position, **page, "jobs_total": 9, "workflows": [], "events": missed}

    def page(self, start: int) -> dict[str, Any]:
        ids = sorted(self.jobs)
        shown = [self.jobs[name] for name in ids[start : start + self._page_size]]
        end = start + self._page_size
        page = {"jobs": [dict(job) for job in shown if self._wanted.matches(job)]}
        return {**page, "next": str(end) if end < len(ids) else None}

    def some(self, ids: list[str]) -> dict[str, Any]:
        return {"jobs": [dict(self.jobs[name]) for name in ids if name in self.jobs], "next": None}


def _names(job: dict[str, Any]) -> dict[str, Any]:
    return {"job_id": job["job_id"], "project_id": "p"}
