"""Say in the log what a Redis, or a limit, has refused to store."""

from __future__ import annotations

from celery_realtime.events import Outgoing
from celery_realtime.logs import RateLimitedLogger, describe


class Refusals:
    """Logs what is refused, and what follows from that.

    Args:
        log: Of the history.
        where: What the log calls the Redis: its URL without passwords.
    """

    def __init__(self, log: RateLimitedLogger, where: str) -> None:
        self._log = log
        self._where = where

    def events(self, error: Exception) -> None:
        """Log an error of Redis for events that are not stored."""
        self._log.error(
            "%s refused to store history, so events are sent without offsets and cannot be recovered; see whether "
            "it is full, and what its user may do: %s",
            self._where,
            describe(error),
        )

    def note(self, error: Exception) -> None:
        """Log an error of Redis for a note that comes with events."""
        self._log.error(
            "%s refused to note what jobs do, so lost, expired and stalled ones may not be reported; see whether it"
            " is full, and what its user may do: %s",
            self._where,
            describe(error),
        )

    def change(self, event: Outgoing, reason: str) -> None:
        """Log a change of metadata that could not be made, and why."""
        self._log.warning(
            "a change of metadata does not fit, so the job's metadata stays as it was; see what its task sets, and "
            "metadata_size: %s",
            reason,
            job_id=event.job_id,
            project_id=event.project_id,
        )
