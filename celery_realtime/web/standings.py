"""How far this server has shown each job, for events that have no offset to be ordered by."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from celery_realtime.bounded import BoundedDict
from celery_realtime.channel.wire import Heard
from celery_realtime.events import PROGRESS_EVENT, RANK_OF_STATUS, STATUS_EVENT, TERMINAL_RANK

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
    """

    attempt: int
    rank: float
    is_lost: bool
    timestamp: str
    percent: float = -1
    worker: str = ""


class JobStandings:
    """Drops statuses and progress that are older than what was emitted of their job, by attempt and rank."""

    def __init__(self) -> None:
        self._standings: BoundedDict[tuple[str, str], Standing] = BoundedDict(MOST_JOBS)

    def __len__(self) -> int:
        return len(self._standings)

    def note(self, event: Heard) -> bool:
        """Note an event that is emitted whatever was before, since it has an offset; return whether it has."""
        if event.offset is None:
            return False
        if event.event == STATUS_EVENT and event.job_id is not None:
            standing = _standing_of(event.data)
            if standing is not None:
                self._standings[event.project_id, event.job_id] = standing
        return True

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
    is_lost, timestamp, worker = data.get("state") == "LOST", _text(data.get("timestamp")), _text(data.get("worker"))
    return Standing(attempt, rank, is_lost, timestamp, worker=worker)


def _progressed(before: Standing | None, data: Any) -> Standing | None:
    attempt, percent = data.get("attempt", 0), data.get("progress")
    if type(attempt) is not int or type(percent) not in (int, float):
        return None
    if before is None or attempt > before.attempt:
        return Standing(attempt, PROGRESSING, False, _text(data.get("timestamp")), percent)
    return before._replace(attempt=attempt, percent=percent)


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
