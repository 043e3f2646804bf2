"""What a type checker should know of a task: the methods that this package adds to Celery's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from celery_realtime.jobs import task
from celery_realtime.jobs.job_stages import Stage
from celery_realtime.jobs.metadata import Metadata
from celery_realtime.jobs.streams import Stream

T = TypeVar("T")


class RealtimeTask(Protocol):
    """A task of an app with :class:`~celery_realtime.Realtime`, to annotate the ``self`` of a bound task with.

    Each task has these methods, whatever its class. Of Celery's own, those are here that a task uses of itself, without
    types, since Celery has none. Where ``celery-types`` is installed, derive a class from Celery's and this one, and
    use it as ``task_cls`` of the app, or as the ``base`` of a task, and for ``self``::

        class StudioTask(Task[..., Any], RealtimeTask):
            abstract = True
    """

    name: Any
    app: Any
    request: Any
    retry: Any
    replace: Any
    update_state: Any

    def update_progress(
        self, progress: object = None, message: object = None, *, current: object = None, total: object = None
    ) -> None:
        """Report how far the job is; see :func:`celery_realtime.jobs.task.update_progress`."""
        task.update_progress(self, progress, message, current=current, total=total)

    def track(self, items: Iterable[T], message: object = None, *, total: int | None = None) -> Iterator[T]:
        """Iterate, and report; see :func:`celery_realtime.jobs.task.track`."""
        return task.track(self, items, message, total=total)

    def stage(self, name: str, weight: float | None = None) -> Stage:
        """Return a stage of the job; see :func:`celery_realtime.jobs.task.stage`."""
        return task.stage(self, name, weight)

    def plan_stages(self, stages: Mapping[str, float] | Iterable[str]) -> None:
        """Say which stages the job is going to have; see :func:`celery_realtime.jobs.task.plan_stages`."""
        task.plan_stages(self, stages)

    @property
    def metadata(self) -> Metadata:
        """Small structured state of the job; see :class:`celery_realtime.jobs.metadata.Metadata`."""
        return task.metadata(self)

    def emit(self, event: str, data: Any = None) -> None:
        """Send a custom event; see :func:`celery_realtime.jobs.task.emit`."""
        task.emit(self, event, data)

    def stream(self, name: str, kind: str = "text") -> Stream:
        """Return a stream of the job; see :func:`celery_realtime.jobs.task.stream`."""
        return task.stream(self, name, kind)
