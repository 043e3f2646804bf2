"""Subscribe to each job of a project while it runs: whoever begins to watch is given what it has said by then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery_realtime.bounded import BoundedDict

if TYPE_CHECKING:
    from celery_realtime.client import JobSubscription

#: Jobs that are followed at once: a server allows a client 200 subscriptions by default.
MOST_JOBS = 100

#: Beyond so many, no job is followed that only waits: it says nothing yet.
MOST_WAITING = MOST_JOBS // 2

#: Jobs that are remembered until there is room for them.
MOST_REMEMBERED = 10_000

ENDED = ("success", "error")


class RunningJobs:
    """The subscriptions to the jobs of a project that run, and to some of those that are about to.

    Args:
        subscribe: Subscribes to a job, given its id.
    """

    def __init__(self, subscribe: Callable[[str], JobSubscription]) -> None:
        self._subscribe = subscribe
        self._lock = threading.RLock()
        self._followed: dict[str, JobSubscription] = {}
        #: Jobs for which there was no room, by their id.
        self._later: BoundedDict[str, None] = BoundedDict(MOST_REMEMBERED)

    def note(self, job: Mapping[str, Any]) -> None:
        """Take an event, or an entry, of a job: it is followed from now on, unless it has ended."""
        job_id, status = job.get("job_id"), job.get("status", "running")
        if not isinstance(job_id, str) or status in ENDED:
            return
        with self._lock:
            if job_id in self._followed:
                return
            if len(self._followed) < (MOST_WAITING if status == "queued" else MOST_JOBS):
                self._later.pop(job_id)
                self._followed[job_id] = self._subscribe(job_id)
            elif status != "queued":
                self._later[job_id] = None

    def sweep(self) -> None:
        """Leave the jobs that have ended, with all that they have said, and follow those that have waited for that."""
        with self._lock:
            followed = list(self._followed.items())
        for job_id, subscription in followed:
            if subscription.wait_for(_is_over, timeout=0):
                subscription.close()
                with self._lock:
                    self._followed.pop(job_id, None)
        for job_id in self._later.names():
            self.note({"job_id": job_id})

    def close(self) -> None:
        """Leave all jobs."""
        with self._lock:
            for subscription in self._followed.values():
                subscription.close()
            self._followed.clear()


def _is_over(feed: Any) -> bool:
    return bool(feed.has_ended or feed.state == "refused")
