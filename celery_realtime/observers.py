"""Be told by a process what happens in it, for metrics and traces; by default nothing observes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from celery_realtime.stages import UNOBSERVED, Stages, both


class Observed(NamedTuple):
    """What of a Realtime is read.

    Attributes:
        manager: Sends events.
        reconciler: Establishes ends; None without a Celery app.
        keeper: Renews leases; None where nothing has needed it.
        serving: Handlers and client managers of this process.
        looping: All that has background loops.
    """

    manager: Any
    reconciler: Any
    keeper: Any
    serving: Iterable[Any]
    looping: Iterable[Any]


class Realtime(Protocol):
    """What is read."""

    @property
    def observed(self) -> Observed:
        """Its parts, as far as they have been made."""


class Observers(Protocol):
    """What observes a process."""

    stages: Stages

    def prepare(self) -> None:
        """Load what is needed, before a worker forks its children."""

    def start(self, *, has_children: bool) -> None:
        """Begin, in the main process of a worker; its pool has children, or not."""

    def end(self) -> None:
        """Pass on what has not been yet: this process ends."""


class Nothing:
    """Observes nothing."""

    stages = UNOBSERVED

    def prepare(self) -> None:
        """Load nothing."""

    def start(self, *, has_children: bool) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


class Several:
    """Several that observe the same.

    Args:
        observers: The first one is closest to what it observes.
    """

    def __init__(self, observers: list[Observers]) -> None:
        self._observers = observers
        self.stages = UNOBSERVED
        for each in observers:
            self.stages = both(self.stages, each.stages)

    def prepare(self) -> None:
        """Have each prepare."""
        for each in self._observers:
            each.prepare()

    def start(self, *, has_children: bool) -> None:
        """Have each start."""
        for each in self._observers:
            each.start(has_children=has_children)

    def end(self) -> None:
        """Have each end."""
        for each in self._observers:
            each.end()
