"""Tokens that open a project no more, although they have not expired."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

from celery_realtime.auth import TokenUser
from celery_realtime.clocks import time

if TYPE_CHECKING:
    from celery_realtime.history.access import Taken

#: Seconds for which a revocation is remembered, as in the history.
RETENTION = 30 * 86400.0

#: Revocations are searched for old ones when there are twice as many as after the last search, and at least so many.
FEWEST_SEARCHED = 1000


class Record(Protocol):
    """What access was taken back, for all web servers."""

    @property
    def is_there(self) -> bool:
        """Whether there is a record."""

    @property
    def has_been_read(self) -> bool:
        """Whether what is on it has been noted here, but for what has come since."""

    @property
    def time(self) -> float | None:
        """The time by its clock, in seconds since the epoch; None as long as that is not known."""

    @property
    def position(self) -> float:
        """Up to when all that is on it has been carried out here."""

    def catch_up(self) -> None:
        """Note, and carry out, what has come since it was read last."""

    def note_heard(self) -> None:
        """Note on it soon that what was heard has been carried out."""


class Revocations:
    """When each user's access to a project was revoked.

    A token that was made before that opens the project no more; one that is made later does. Rules of the application's
    own are asked at every subscription anyway, and not overruled.

    Args:
        record: What is on record; None where nothing is.
    """

    def __init__(self, record: Record | None = None) -> None:
        self._record = record
        self._revoked_at: dict[tuple[str, str], float] = {}
        #: Tokens that were made before open nothing: it is not known what was revoked until then.
        self._unknown_until = -1.0
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

    def note_unknown(self, until: float) -> bool:
        """Note that it is not known what was revoked before a time, if that is news; -1.0 if all is known.

        Returns:
            Whether fewer tokens are good than before.
        """
        before, self._unknown_until = self._unknown_until, until
        return until > before

    def date(self, user: Any) -> Any:
        """Return a user whose token has just been shown: it cannot have been made later than now.

        A token may come from a host whose clock is ahead.
        """
        clock = None if self._record is None else self._record.time
        if isinstance(user, TokenUser) and clock is not None:
            user.issued_at = min(user.issued_at, clock)
        return user

    def has_to_read(self, user: Any, project_id: str, *, is_read_later: bool) -> bool:
        """Tell whether the record has to be read to know whether a user's token is too old for a project.

        Args:
            user: The user.
            project_id: The project.
            is_read_later: Whether it is read anyway before the user is shown anything.
        """
        if self._record is None or not self._record.is_there or not _opens(user, project_id):
            return False
        return not (is_read_later and self._record.has_been_read)

    @property
    def position(self) -> float:
        """Up to when all that is on record has been carried out here, by its clock."""
        return 0.0 if self._record is None else self._record.position

    def note_heard(self) -> None:
        """Note on the record soon that what was heard has been carried out."""
        if self._record is not None:
            self._record.note_heard()

    def read(self) -> None:
        """Read what has come on record.

        Raises:
            Exception: It cannot be read.
        """
        if self._record is not None:
            self._record.catch_up()

    def cover(self, user: Any, project_id: str) -> bool:
        """Tell whether a user's token is too old for a project, as far as that is known here."""
        if not _opens(user, project_id):
            return False
        revoked_at = self._revoked_at.get((str(user), project_id), -1.0)
        return bool(user.issued_at <= max(revoked_at, self._unknown_until))


def _opens(user: Any, project_id: str) -> bool:
    return getattr(user, "issued_at", None) is not None and project_id in getattr(user, "projects", ())
