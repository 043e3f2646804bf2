"""Know whose tokens open a project no more, although they have not ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

Loaded = dict[tuple[str, str], float]


class Revocations:
    """When each user's access to a project was taken back.

    A token that was made before that opens the project no more; one that is made later does. Rules of the application's
    own are asked at every subscription anyway, and not overruled.

    Args:
        load: Returns what is on record, for a server that was not there when it happened; None where nothing is.
    """

    def __init__(self, load: Callable[[], Loaded] | None = None) -> None:
        self._load = load
        self._taken_back: Loaded = {}
        self._lock = threading.Lock()
        self.is_fresh = load is None

    def note(self, user: str, project_id: str, at: float) -> None:
        """Note that access was taken back, at a time in seconds since the epoch."""
        with self._lock:
            self._taken_back[user, project_id] = max(at, self._taken_back.get((user, project_id), 0.0))

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
        return bool(issued_at <= self._taken_back.get((str(user), project_id), -1.0))
