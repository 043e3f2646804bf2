"""The latest state of a project's jobs and workflows, and the callbacks that are called when it changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_realtime.client.entries import Entries, Update
from celery_realtime.client.filtered_entries import FilteredEntries
from celery_realtime.client.messages import Answer, Item
from celery_realtime.client.protocol import ENTRY_EVENTS, HIDDEN_EVENT, WORKFLOW_EVENT
from celery_realtime.logs import RateLimitedLogger

if TYPE_CHECKING:
    from celery_realtime.client.feed import Feed, FeedOptions

logger = logging.getLogger(__name__)


class ProjectState:
    """What is shown of a project, and to whom.

    Args:
        feed: What ``on_change`` is called with.
        options: The callbacks, and how many entries there may be.

    Attributes:
        jobs: The jobs.
        workflows: The workflows.
    """

    def __init__(self, feed: Feed, options: FeedOptions) -> None:
        wanted = options.job_filter
        self.jobs = (
            Entries("job_id", options.max_jobs)
            if wanted is None
            else FilteredEntries("job_id", options.max_jobs, wanted)
        )
        self.workflows = Entries("root_id", options.max_jobs)
        self._feed = feed
        self._options = options
        self._closed = False
        self._log = RateLimitedLogger(logger)

    def load(self, answer: Answer, *, anew: bool) -> None:
        """Take the jobs and workflows of a snapshot."""
        self.jobs.replace(answer.jobs, anew=anew)
        self.workflows.replace(answer.workflows)
        self.changed("snapshot")

    def insert(self, jobs: Any, updates: list[Update], asked: list[str] | None) -> None:
        """Take further jobs, and what happened after these were read."""
        self.jobs.insert(jobs, updates, asked)
        self.changed("jobs")

    def deliver(self, item: Item, *, numbered: bool) -> None:
        """Merge an event into its entry, and pass it on, unless it is out of date."""
        name, data = item.event, item.data
        if name == HIDDEN_EVENT:
            return
        if name not in ENTRY_EVENTS:
            self._call(self._options.on_event, name, data)
            return
        kind, entries = ("workflows", self.workflows) if name == WORKFLOW_EVENT else ("jobs", self.jobs)
        if entries.update(name, data, numbered=numbered):
            self._call(self._options.on_event, name, data)
            self.changed(kind)

    def changed(self, reason: str) -> None:
        """Call ``on_change``."""
        self._call(self._options.on_change, self._feed, reason)

    def close(self) -> None:
        """Call no callback any more."""
        self._closed = True

    def _call(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call a user's function, whose failure must not cost it the next event."""
        if not self._closed:
            project_id = self._feed.project_id
            with self._log.suppressing(
                "a callback for project %s failed and misses this call, so what it keeps may be out of date; mend "
                "the callback",
                project_id,
                project_id=project_id,
            ):
                callback(*args)
