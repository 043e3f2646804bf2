"""Tokens that open a project no more, although they have not expired."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from celery_realtime.auth import TokenUser

if TYPE_CHECKING:
    from celery_realtime.history.access import Taken

#: Seconds for which a revocation is remembered, as in the history.
RETENTION = 30 * 86400.0

#: Revocations are searched for old ones when there are twice as many as after the last search, and at least so many.
FEWEST_SEARCHED = 1000


class Clock(Protocol):
    """The clock that the times of a record are of."""

    @property
    def estimate(self) -> float | None:
        """The time, in seconds since the epoch; None as long as it is not known."""


class Record(Protocol):
    """When access was revoked, for all web servers."""

    @property
    def clock(self) -> Clock:
        """The clock that its times are of."""

    def revoked_at(self, user: str, project_id: str) -> float | None:
        """Return when a user's access to a project was revoked last, or None."""


class Revocations:
    """When each user's access to a project was revoked.

    A token that was made before that opens the project no more; one that is made later does. Rules of the application's
    own are asked at every subscription anyway, and not overruled.

    What is on record is read at each question, so that it does not matter what this server has heard.

    Args:
        record: Returns the record, or None where there is none.
    """

    def __init__(self, record: Callable[[], Record | None] = lambda: None) -> None:
        self._record = record
        self._revoked_at: dict[tuple[str, str], float] = {}
        self._search_beyond = FEWEST_SEARCHED
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._revoked_at)

    def note(self, user: str, project_id: str, at: float) -> None:
        """Note that access was revoked, at a time in seconds since the epoch."""
        with self._lock:
            self._revoked_at[user, project_id] = max(at, self._revoked_at.get((user, project_id), 0.0))
            if len(self._revoked_at) > self._search_beyond:
                self._forget_old()

    def _forget_old(self) -> None:
        oldest = time.time() - RETENTION
        self._revoked_at = {key: at for key, at in self._revoked_at.items() if at >= oldest}
        self._search_beyond = max(FEWEST_SEARCHED, 2 * len(self._revoked_at))

    def remembered(self) -> list[Taken]:
        """Return what was noted here."""
        from celery_realtime.history.access import Taken

        with self._lock:
            return [Taken(user, project, at) for (user, project), at in self._revoked_at.items()]

    def date(self, user: Any) -> Any:
        """Return a user whose token has just been shown: it cannot have been made later than now.

        A token may come from a host whose clock is ahead.
        """
        record = self._record()
        clock = None if record is None else record.clock.estimate
        if isinstance(user, TokenUser) and clock is not None:
            user.issued_at = min(user.issued_at, clock)
        return user

    def is_on_record(self, user: Any, project_id: str) -> bool:
        """Tell whether the record has to be read to know whether a user's token is too old for a project."""
        return self._record() is not None and _opens(user, project_id)

    def cover(self, user: Any, project_id: str) -> bool:
        """Tell whether a user's token is too old for a project.

        Raises:
            Exception: The record has to be read, and cannot be.
        """
        if not _opens(user, project_id):
            return False
        revoked_at = self._revoked_at.get((str(user), project_id), -1.0)
        record = self._record()
        if record is not None and user.issued_at > revoked_at:
            on_record = record.revoked_at(str(user), project_id)
            revoked_at = revoked_at if on_record is None else max(revoked_at, on_record)
        return bool(user.issued_at <= revoked_at)


def _opens(user: Any, project_id: str) -> bool:
    return getattr(user, "issued_at", None) is not None and project_id in getattr(user, "projects", ())
