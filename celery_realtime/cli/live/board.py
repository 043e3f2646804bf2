"""What the display has: which jobs are live, in which order, workflows folded; sums; and what has ended."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from celery_realtime.cli.live.pace import Paces
from celery_realtime.events import PROGRESS_EVENT, STATUS_EVENT

Job = Mapping[str, Any]

LIVE = ("running", "queued")
ENDED = ("success", "error")

#: Ends that wait to be printed; of more at once, the latest.
MOST_ENDED = 1000


class Entry(NamedTuple):
    """A line of the display.

    Attributes:
        job: The job; of a workflow the one of which most is to be said: the first that runs, or waits.
        left: Seconds that it will still take; None if that cannot be told.
        workflow: Of a workflow, its sums, as on the wire; else None.
        root: Of a workflow, the job that it is named after.
    """

    job: Job
    left: float | None = None
    workflow: Mapping[str, Any] | None = None
    root: Job | None = None


class View(NamedTuple):
    """All that is shown.

    Attributes:
        entries: The first lines.
        total: How many there are.
        sums: How many jobs are known of each status.
    """

    entries: Sequence[Entry]
    total: int
    sums: Mapping[str, int]


class Board:
    """What is known of the jobs, as of the latest event. Client's threads tell it, one at a time; another one looks."""

    def __init__(self) -> None:
        self._jobs: Mapping[str, Job] = {}
        self._workflows: Mapping[str, Mapping[str, Any]] = {}
        self._paces = Paces()
        self._lock = threading.Lock()
        #: The attempts of jobs that have been seen alive, and of which no end has been noted.
        self._alive: dict[str, Any] = {}
        self._ended: deque[Job] = deque(maxlen=MOST_ENDED)
        self._left_out = 0

    def show(self, jobs: Mapping[str, Job], workflows: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the jobs and workflows, by their ids, which may change afterwards."""
        self._jobs, self._workflows = jobs, workflows

    def load(self, jobs: Sequence[Job]) -> None:
        """Take a snapshot: an end is news of a job that was seen alive; what ended before anybody looked is counted."""
        for job in jobs:
            job_id, status = str(job.get("job_id")), job.get("status")
            with self._lock:
                if status in LIVE:
                    self._alive[job_id] = job.get("attempt")
                elif self._alive.pop(job_id, self) is not self:
                    self._note_end(job)

    def heard(self, event: str, data: Job, now: float) -> None:
        """Take a status or progress.

        Args:
            event: Its name.
            data: What it says.
            now: Seconds, by a clock that does not jump.
        """
        job_id, attempt = str(data.get("job_id")), data.get("attempt")
        with self._lock:
            if event == PROGRESS_EVENT:
                self._paces.note((job_id, attempt), data.get("progress"), now)
            if event == STATUS_EVENT and data.get("status") in ENDED:
                self._alive.pop(job_id, None)
                self._note_end(data)
            else:
                self._alive[job_id] = attempt

    def _note_end(self, job: Job) -> None:
        self._left_out += len(self._ended) == MOST_ENDED
        self._ended.append(job)

    def take_ended(self) -> tuple[list[Job], int]:
        """Return the jobs that have ended since the last call, and how many more there were."""
        with self._lock:
            ended, left_out = list(self._ended), self._left_out
            self._ended.clear()
            self._left_out = 0
        return ended, left_out

    def view(self, most: int, now: float) -> View:
        """Return what is to be shown: what runs first, in the order in which it began, then what waits.

        Args:
            most: Lines that there is room for.
            now: Seconds, by the clock of :meth:`heard`.
        """
        jobs = list(self._jobs.values())  # in one step, whatever the client's threads add meanwhile
        sums = Counter(str(job.get("status")) for job in jobs)
        live = sorted((job for job in jobs if job.get("status") in LIVE), key=_place)
        members = Counter(job.get("root_id") for job in jobs)
        with self._lock:
            self._paces.keep({(str(job.get("job_id")), job.get("attempt")) for job in live})
            entries = self._entries(live, members, now)
        return View(entries[:most], len(entries), sums)

    def _entries(self, live: Sequence[Job], members: Mapping[Any, int], now: float) -> list[Entry]:
        entries, folded = [], set()
        for job in live:
            root_id = job.get("root_id")
            workflow = self._workflows.get(str(root_id))
            if root_id is None or (workflow is None and members[root_id] < 2):
                entries.append(Entry(job, self._left(job, now)))
            elif root_id not in folded:
                folded.add(root_id)
                entries.append(Entry(job, None, workflow or {}, self._jobs.get(str(root_id))))
        return entries

    def _left(self, job: Job, now: float) -> float | None:
        is_going_on = job.get("status") == "running" and not job.get("stalled")
        return self._paces.left((str(job.get("job_id")), job.get("attempt")), now) if is_going_on else None


def _place(job: Job) -> tuple[bool, str, str]:
    is_waiting = job.get("status") != "running"
    began = job.get("queued_at" if is_waiting else "started_at") or job.get("timestamp")
    return is_waiting, str(began), str(job.get("job_id"))
