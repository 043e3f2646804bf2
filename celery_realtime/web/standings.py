"""How far this server has shown each job, for what offsets say nothing of: events without one, and another epoch."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from celery_realtime.bounded import BoundedDict
from celery_realtime.channel.wire import Heard, hidden
from celery_realtime.events import (
    HIDDEN_EVENT,
    NOT_RUN,
    PROGRESS_EVENT,
    RANK_OF_STATUS,
    SOFT_STATES,
    STATUS_EVENT,
    TERMINAL_RANK,
)

#: Jobs that are remembered.
MOST_JOBS = 10_000

#: Seconds after its end from which on a job that is queued again was published again: clocks of hosts differ by less.
NEW_RUN_AFTER = 5.0

QUEUED, RUNNING = RANK_OF_STATUS["queued"], RANK_OF_STATUS["running"]

#: Of a job that has reported progress in its attempt, but not that it runs.
PROGRESSING = 0.5


class Standing(NamedTuple):
    """How far a job was shown.

    Attributes:
        attempt: Its attempt.
        rank: Of its status in that attempt; between queued and running if there was only progress.
        is_lost: Whether it ended by LOST, which what it does later takes back.
        timestamp: Of its status.
        percent: Of its progress since then; -1 for none.
        worker: The worker that its status is of; of a job that is queued, the one that has given it back.
        epoch: Of the status; None where it had none.
        is_final: Whether it has ended, and nothing of the same attempt takes that back.
    """

    attempt: int
    rank: float
    is_lost: bool
    timestamp: str
    percent: float = -1
    worker: str = ""
    epoch: str | None = None
    is_final: bool = False


class JobStandings:
    """Drops statuses and progress that are older than what was emitted of their job.

    What has no offset is judged by attempt and rank. What has one comes in order, and is judged only where the history
    has begun anew, and may know less than it did: what comes of before an end that has been shown is hidden.
    """

    def __init__(self) -> None:
        self._standings: BoundedDict[tuple[str, str], Standing] = BoundedDict(MOST_JOBS)
        #: The ends that were in snapshots, and need not have been emitted on this server.
        self._read: BoundedDict[tuple[str, str], Standing] = BoundedDict(MOST_JOBS)

    def __len__(self) -> int:
        return len(self._standings) + len(self._read)

    def shown(self, event: Heard) -> Heard | None:
        """Note an event that is due, and return what is to be emitted of it; None for nothing."""
        if event.offset is None:
            return event if self.is_news(event) else None
        if event.job_id is None or event.event not in (STATUS_EVENT, PROGRESS_EVENT):
            return event
        if self._is_outlasted(event.project_id, event.job_id, event.epoch, event.data):
            return hidden(event)
        if event.event == STATUS_EVENT:
            standing = _standing_of(event.data)
            if standing is not None:
                self._standings[event.project_id, event.job_id] = standing._replace(epoch=event.epoch)
                self._read.pop((event.project_id, event.job_id))
        return event

    # -- what the history says ----------------------------------------------------------------------------------

    def review(self, project_id: str, snapshot: Any) -> Any:
        """Note a snapshot, and return it without what is older than the ends that have been shown."""
        for job in snapshot.jobs:
            standing = _standing_of(job)
            if standing is not None and standing.is_final:
                self._read[project_id, job["job_id"]] = standing._replace(epoch=snapshot.epoch)
        jobs = [job for job in snapshot.jobs if self.review_job(project_id, snapshot.epoch, job) is not None]
        first = snapshot.offset - len(snapshot.events) + 1
        events = [
            self._review_event(project_id, snapshot.epoch, offset, entry)
            for offset, entry in enumerate(snapshot.events, first)
        ]
        return msgspec.structs.replace(snapshot, jobs=jobs, events=events)

    def review_job(self, project_id: str, epoch: str, job: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return a job as the history has it; None if it is older than an end that has been shown."""
        is_outlasted = job is not None and self._is_outlasted(project_id, job.get("job_id"), epoch, job)
        return None if is_outlasted else job

    def _review_event(self, project_id: str, epoch: str, offset: int, entry: dict[str, Any]) -> dict[str, Any]:
        data = entry["data"]
        is_of_job = entry["event"] in (STATUS_EVENT, PROGRESS_EVENT) and isinstance(data, dict)
        if not is_of_job or not self._is_outlasted(project_id, data.get("job_id"), epoch, data):
            return entry
        return {"event": HIDDEN_EVENT, "data": {"project_id": project_id, "epoch": epoch, "offset": offset}}

    def _is_outlasted(self, project_id: str, job_id: Any, epoch: str | None, data: Any) -> bool:
        """Tell whether a status or progress is of before the job's end, which was shown in another epoch."""
        if not isinstance(job_id, str):
            return False
        for standings in (self._standings, self._read):
            before = standings.get((project_id, job_id))
            if before is not None and before.epoch != epoch and before.is_final and _is_older(before, data):
                return True
        return False

    # -- without an offset --------------------------------------------------------------------------------------

    def is_news(self, event: Heard) -> bool:
        """Note an event without an offset, and return whether it is to be emitted."""
        if event.job_id is None or event.event not in (STATUS_EVENT, PROGRESS_EVENT):
            return True
        key = (event.project_id, event.job_id)
        before = self._standings.get(key)
        after = _standing_of(event.data) if event.event == STATUS_EVENT else _progressed(before, event.data)
        if after is None:
            return True  # of another writer, or without what it could be judged by
        is_news = before is None or _is_newer(before, after)
        if is_news and before is not None and before[:2] == (after.attempt, PROGRESSING) and after.rank == RUNNING:
            after = after._replace(percent=before.percent)
        if is_news:
            self._standings[key] = after
        return is_news


def _standing_of(data: Any) -> Standing | None:
    rank, attempt = RANK_OF_STATUS.get(_text(data.get("status"))), data.get("attempt", 0)
    if rank is None or type(attempt) is not int:
        return None
    state, timestamp, worker = data.get("state"), _text(data.get("timestamp")), _text(data.get("worker"))
    is_final = rank == TERMINAL_RANK and state not in SOFT_STATES and not _text(data.get("error")).startswith(NOT_RUN)
    return Standing(attempt, rank, state == "LOST", timestamp, worker=worker, is_final=is_final)


def _progressed(before: Standing | None, data: Any) -> Standing | None:
    attempt, percent = data.get("attempt", 0), data.get("progress")
    if type(attempt) is not int or type(percent) not in (int, float):
        return None
    if before is not None and attempt == before.attempt and data.get("stages"):
        percent = max(percent, before.percent)  # it goes back where a stage begins that was not known before
    if before is None or attempt > before.attempt:
        return Standing(attempt, PROGRESSING, False, _text(data.get("timestamp")), percent)
    return before._replace(attempt=attempt, percent=percent)


def _is_older(end: Standing, data: Any) -> bool:
    """Tell whether a job had not ended yet, by what is said of it; what says no time is not older.

    That it is lost is said by somebody who has not heard of its end.
    """
    rank, attempt = RANK_OF_STATUS.get(_text(data.get("status")), RUNNING), data.get("attempt", 0)
    is_of_its_time = "" < _text(data.get("timestamp")) <= end.timestamp
    has_not_ended = data.get("state") == "LOST" or (rank < TERMINAL_RANK and is_of_its_time)
    return has_not_ended and type(attempt) is int and attempt <= end.attempt


def _is_newer(before: Standing, after: Standing) -> bool:
    if after.attempt != before.attempt:
        return after.attempt > before.attempt or _is_new_run(before, after)
    was_given_back = before.rank == QUEUED and before.worker != ""
    if after.percent >= 0:
        return before.rank < TERMINAL_RANK and after.percent >= before.percent and not was_given_back
    if before.is_lost and after.rank > 0:
        return True
    if after.rank == QUEUED and after.worker:
        return before.rank == RUNNING and before.worker == after.worker and before.timestamp <= after.timestamp
    if was_given_back and after.rank == RUNNING and before.worker == after.worker:
        return before.timestamp < after.timestamp  # both by the clock of that worker
    # Running a second time in the same attempt: the message was delivered again.
    is_redelivered = before.rank == after.rank == RUNNING and after.timestamp > before.timestamp
    return after.rank > before.rank or is_redelivered or _is_new_run(before, after)


def _is_new_run(before: Standing, after: Standing) -> bool:
    """Return whether a job that has ended was published a second time under its old id."""
    if before.rank < TERMINAL_RANK or after.percent >= 0:
        return False
    try:
        ended, began = (datetime.fromisoformat(one.timestamp.replace("Z", "+00:00")) for one in (before, after))
        return (began - ended).total_seconds() > NEW_RUN_AFTER
    except (ValueError, TypeError):
        return False


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
