"""Know whether all jobs run where they are called, as in tests, where there may be no broker."""

from __future__ import annotations

from typing import Any

from celery import Celery


class EagerJobs:
    """Whether the jobs of this process are eager: run by ``task_always_eager``, or by ``task.apply()`` alone.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        #: Whether those that have run were: True, False, or both.
        self._kinds: set[bool] = set()
        self._is_any_published = False

    def begin(self, *, is_eager: bool) -> None:
        """Take notice of a job that begins to run in this process."""
        self._kinds.add(is_eager)

    def note_publication(self) -> None:
        """Take notice of a job that has been published."""
        self._is_any_published = True

    @property
    def are_all(self) -> bool:
        """Whether jobs are to be eager, or those so far were, and none was published."""
        is_set: Any = self._app.conf.task_always_eager
        return bool(is_set) or (self._kinds == {True} and not self._is_any_published)
