"""Say how often progress of a job leaves: more often while somebody watches its project."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from celery_realtime.events import Job
from celery_realtime.sending.manager import SocketIOManager
from celery_realtime.settings import Settings

if TYPE_CHECKING:
    from celery_realtime.jobs.trackers import ProgressTracker


class Paces:
    """The paces of the jobs of a process.

    Args:
        manager: Knows which projects are watched, and has what is held back.
        settings: Returns the settings.
        trackers: Returns the trackers of the process's jobs.
    """

    def __init__(
        self,
        manager: SocketIOManager,
        settings: Callable[[], Settings],
        trackers: Callable[[], Iterable[ProgressTracker]],
    ) -> None:
        self._manager = manager
        self._settings = settings
        self._trackers = trackers

    def interval(self, job: Job) -> float:
        """Return the seconds between two updates of a job, as of now."""
        settings, project_id = self._settings(), self._project_of(job)
        usual = settings.progress_interval
        if project_id is None or not self._manager.watched.has(project_id):
            return usual
        return min(usual, settings.progress_interval_watched)

    def _project_of(self, job: Job) -> str | None:
        return job.project_id or self._manager.project_of(job.job_id)

    def projects(self) -> Collection[str]:
        """Return the projects of which progress is held back that would leave earlier if somebody watched."""
        settings = self._settings()
        if settings.progress_interval <= settings.progress_interval_watched:
            return ()
        held = {self._project_of(tracker.job) for tracker in self._trackers() if tracker.holds_by_pace}
        return {project_id for project_id in held if project_id and not self._manager.watched.has(project_id)}

    def hasten(self, project_ids: Collection[str]) -> None:
        """Let leave what would have left by now if somebody had watched these projects all along."""
        hastened = frozenset(project_ids)
        for tracker in self._trackers() if hastened else ():
            project_id = self._project_of(tracker.job)
            due = tracker.hasten() if project_id in hastened else None
            if due is not None:
                self._manager.outbox.hasten((project_id or "", tracker.job.job_id), due)
