"""Which jobs a filtered stream of events shows: what it passes on, and of which jobs it does not know all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.events import METADATA_EVENT, NEW_RUN, PROGRESS_EVENT, STATUS_EVENT
from celery_realtime.job_filters import JobFilter

#: Jobs that are not shown of which something is remembered.
MOST_REMEMBERED = 5000

#: Jobs that are shown which are remembered as such; of one beyond, a client may be told once more, whole or as leaving.
MOST_SHOWN = 20_000

#: What only progress has been heard of runs.
_RUNNING = {"status": "running"}


class JobView:
    """The jobs that one stream shows.

    A status says by itself whether its job matches, and so enters or leaves. Other events of a job say nothing of that.

    Args:
        wanted: Which jobs are to be shown.

    Attributes:
        unread: Jobs that are shown, or may have to be, and of which the stream has not told all.
    """

    def __init__(self, wanted: JobFilter) -> None:
        self.unread: dict[str, None] = {}
        self._wanted = wanted
        self._shown: BoundedDict[str, bool] = BoundedDict(MOST_SHOWN)
        self._has_forgotten = False
        #: Jobs that do not match, by whether the stream knows of them that nothing but statuses has been heard.
        self._out: BoundedDict[str, bool] = BoundedDict(MOST_REMEMBERED)
        #: Of a stream that goes on where another has ended, the jobs that match now: those may have been shown there.
        self._resumed: frozenset[str] | None = None
        self._has_more = False

    def begin(self, jobs: Iterable[dict[str, Any]], *, has_more: bool) -> list[dict[str, Any]]:
        """Take jobs of a snapshot, or further ones; return those that still match.

        Args:
            jobs: The jobs.
            has_more: Whether further ones are to come.
        """
        self._has_more = has_more
        fitting = [job for job in jobs if self._out.get(job["job_id"]) is None]
        self._note_shown(job["job_id"] for job in fitting)
        return fitting

    def resume(self, jobs: Iterable[dict[str, Any]], *, has_more: bool) -> None:
        """Note that a client comes back, and which jobs match now; of what it has been shown nothing is known.

        Args:
            jobs: The jobs.
            has_more: Whether these may not be all.
        """
        self._resumed, self._has_more = frozenset(job["job_id"] for job in jobs), has_more

    def found(self, job_ids: Iterable[str], jobs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Take jobs that were read because they were unread; return those that are to be told.

        Args:
            job_ids: What was read.
            jobs: What is known of them.
        """
        matching = [job for job in jobs if self._wanted.matches(job) and self._out.get(job["job_id"]) is None]
        self._note_shown(job["job_id"] for job in matching)
        told = {job["job_id"] for job in matching}
        for name in job_ids:
            self.unread.pop(name, None)
            if name not in told and name not in self._shown:
                self._out[name] = False
        return matching

    def passes(self, name: str, data: Any) -> bool:
        """Tell whether an event is passed on, and note what it says."""
        job_id = data.get("job_id") if isinstance(data, dict) else None
        if name not in (STATUS_EVENT, PROGRESS_EVENT, METADATA_EVENT) or not isinstance(job_id, str):
            return True
        return self._take_status(job_id, data) if name == STATUS_EVENT else self._take(job_id, name, data)

    def _note_shown(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            self._has_forgotten |= len(self._shown) == MOST_SHOWN and job_id not in self._shown
            self._shown[job_id] = True

    def _take_status(self, job_id: str, status: dict[str, Any]) -> bool:
        is_birth = _is_birth(status)
        if not self._wanted.matches(status):
            may_be_shown = self._has_forgotten or self._resumed is not None
            was_shown = job_id in self._shown or (may_be_shown and self._out.get(job_id) is None)
            self._out[job_id] = is_birth or (not was_shown and bool(self._out.get(job_id)))
            self._shown.pop(job_id)
            self.unread.pop(job_id, None)
            return was_shown
        if job_id not in self._shown and not is_birth and not self._out.get(job_id):
            self.unread[job_id] = None
        self._note_shown([job_id])
        self._out.pop(job_id)
        return True

    def _take(self, job_id: str, name: str, data: dict[str, Any]) -> bool:
        """Take an event that does not say whether its job matches."""
        if job_id in self._shown:
            return True
        if self._out.get(job_id) is not None:
            self._out[job_id] = False
            return False
        if self._resumed is not None and job_id in self._resumed:
            return True
        is_first = name == PROGRESS_EVENT and self._wanted.matches({**_RUNNING, "task": data.get("task")})
        if is_first or self._has_more or self._has_forgotten:  # its state says whether it matches
            self.unread[job_id] = None
        return False


def _is_birth(status: Mapping[str, Any]) -> bool:
    """Tell whether a status is all that there is of its job."""
    is_new = status.get("status") == "queued" and not status.get("attempt") and not status.get("worker")
    return status.get(NEW_RUN) is True or is_new
