"""Tokens that open a project no more, although they have not expired."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

Loaded = dict[tuple[str, str], float]

#: Seconds for which a revocation is remembered, as in the history.
RETENTION = 30 * 86400.0

#: Revocations are searched for old ones when there are twice as many as after the last search, and at least so many.
FEWEST_SEARCHED = 1000


class Revocations:
    """When each user's access to a project was revoked.

    A token that was made before that opens the project no more; one that is made later does. Rules of the application's
    own are asked at every subscription anyway, and not overruled.

    Args:
        load: Returns what is on record, for a server that was not there when it happened; None where nothing is.
    """

    def __init__(self, load: Callable[[], Loaded] | None = None) -> None:
        self._load = load
        self._revoked_at: Loaded = {}
        self._search_beyond = FEWEST_SEARCHED
        self._lock = threading.Lock()
        self.is_fresh = load is None

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

    def doubt(self) -> None:
        """Read the record again before the next answer: an order may have been missed."""
        self.is_fresh = self._load is None

    def cover(self, user: Any, project_id: str) -> bool:
        """Tell whether a user's token is too old for a project.

        Raises:
            Exception: The record has to be read, and cannot be.
        """
        issued_at = getattr(user, "issued_at", None)
        if issued_at is None or project_id not in getattr(user, "projects", ()):
            return False
        if not self.is_fresh and self._load is not None:
            for (name, project), at in self._load().items():
                self.note(name, project, at)
            self.is_fresh = True
        return bool(issued_at <= self._revoked_at.get((str(user), project_id), -1.0))
