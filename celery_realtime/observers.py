"""Be told by a process what happens in it, for metrics and traces; by default nothing observes."""

from __future__ import annotations

from typing import Protocol

from celery_realtime.stages import UNOBSERVED, Stages


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
