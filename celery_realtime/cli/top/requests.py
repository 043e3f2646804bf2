"""What has been asked of the history and not been read yet; of each kind and project the latest request counts."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple


class Request(NamedTuple):
    """Something to read.

    Args:
        kind: ``snapshot``, ``page``, ``events`` or ``projects``.
        project_id: The project; empty where it is of all.
        number: Of the request, for a feed.
        data: What it says.
    """

    kind: str
    project_id: str = ""
    number: int = 0
    data: Any = None


class Requests:
    """A queue that never has two requests of one kind for one project. Safe over threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], Request] = {}

    def put(self, request: Request) -> None:
        """Add a request, in place of an earlier one of its kind."""
        with self._changed:
            self._waiting[request.kind, request.project_id] = request
            self._changed.notify()

    def take(self, timeout: float) -> Request | None:
        """Return the request that has waited longest, after at most ``timeout`` seconds; None if there is none."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, timeout):
                return None
            return self._waiting.pop(next(iter(self._waiting)))
