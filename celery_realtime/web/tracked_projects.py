"""Of which projects a web server keeps the order of events, and for how long."""

from __future__ import annotations

import math
from collections.abc import Callable

from celery_realtime.web.ordering import ProjectOrder

#: Seconds that events wait for a history that answers, but has much to read, and for a first snapshot.
LONGEST_WAIT = 5.0


class TrackedProjects:
    """The projects that clients of this server follow, or are about to follow.

    Args:
        is_watched: ``(namespace, project_id) -> bool``, whether any client of this server follows a project.
        namespace: The namespace of the projects.

    Attributes:
        orders: The order of the events of each.
        restless: Those of the orders that may lack something.
    """

    def __init__(self, is_watched: Callable[[str, str], bool], namespace: str) -> None:
        self._is_watched = is_watched
        self._namespace = namespace
        self.orders: dict[str, ProjectOrder] = {}
        self.restless: dict[str, ProjectOrder] = {}
        #: When somebody was last about to read a first snapshot, by project.
        self._expected: dict[str, float] = {}
        #: The number of the last request for a project that nobody follows any more.
        self._requests = 0

    @property
    def begun(self) -> list[str]:
        """Those of which it is known where they stand."""
        return [name for name, order in self.orders.items() if order.epoch is not None]

    def track(self, project_id: str) -> ProjectOrder:
        """Track a project from now on, unless it is tracked already; returns the order of its events."""
        order = self.orders.get(project_id)
        if order is None:
            order = self.orders[project_id] = ProjectOrder(project_id, self._namespace, self._requests)
        return order

    def expect(self, project_id: str, clock: float) -> None:
        """Track a project of which somebody is about to read a first snapshot."""
        self.track(project_id)
        self._expected[project_id] = clock

    def arrived(self, project_id: str) -> ProjectOrder:
        """Note that a snapshot of a project has been read; returns the order of its events."""
        self._expected.pop(project_id, None)
        return self.track(project_id)

    def is_expected(self, project_id: str) -> bool:
        """Tell whether a first snapshot of a project has been announced, and has not come."""
        return project_id in self._expected

    def is_expected_soon(self, project_id: str, clock: float) -> bool:
        """Tell whether a first snapshot of a project is still worth waiting for."""
        return clock - self._expected.get(project_id, -math.inf) <= LONGEST_WAIT

    def forget_unwatched(self, clock: float) -> None:
        """Forget the projects that nobody follows, or is about to follow."""
        for project_id in [name for name in self.orders if self._is_forgettable(name, clock)]:
            self._requests = max(self._requests, self.orders[project_id].requests)
            for by_project in (self.orders, self.restless, self._expected):
                by_project.pop(project_id, None)

    def _is_forgettable(self, project_id: str, clock: float) -> bool:
        return not self.is_expected_soon(project_id, clock) and not self._is_watched(self._namespace, project_id)
