"""Know whether all jobs run where they are called, as in tests, where there may be no broker."""

from __future__ import annotations

from typing import Any

from celery import Celery, signals


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

    def watch(self) -> None:
        """Take notice of what is published from now on."""
        signals.after_task_publish.connect(self._on_publish, dispatch_uid=f"celery_realtime.{id(self)}.published")

    def begin(self, task: Any) -> None:
        """Take notice of the job that a task begins to run in this thread; None where a worker runs a batch."""
        self._kinds.add(task is not None and bool(task.request.is_eager))

    def _on_publish(self, **_: Any) -> None:
        self._is_any_published = True

    @property
    def are_all(self) -> bool:
        """Whether jobs are to be eager, or those so far were, and none was published."""
        is_set: Any = self._app.conf.task_always_eager
        return bool(is_set) or (self._kinds == {True} and not self._is_any_published)
