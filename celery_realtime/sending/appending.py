"""Append batches of events to the history, and return what is to be published for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from celery_realtime import events
from celery_realtime.clocks import time
from celery_realtime.events import Outgoing
from celery_realtime.sending.ledger import Counts
from celery_realtime.sending.outbox import Outbox
from celery_realtime.sending.watched_projects import WatchedProjects

if TYPE_CHECKING:
    from celery_realtime.history.leases import StepsBehind
    from celery_realtime.history.store import History


class HistoryAppender:
    """The way of events into the history.

    Args:
        history: Returns the history.
        outbox: Returns the outbox, for looks at workflows whose updates are due later.
        counts: Counts the events that the history knew better as ``stale``, those that it has accepted or added as
            ``stored``, and those that it has refused, which are published without an offset, as ``unstored``.
        behind: Returns what waits for a job that starts.
        watched: Is to know which projects are watched.
    """

    def __init__(
        self,
        history: Callable[[], History | None],
        outbox: Callable[[], Outbox[Outgoing]],
        counts: Counts,
        behind: StepsBehind,
        watched: WatchedProjects,
    ) -> None:
        self._history = history
        self._outbox = outbox
        self._counts = counts
        self._behind = behind
        self._watched = watched

    def append(self, batch: list[Outgoing]) -> list[Outgoing] | None:
        """Append events to the history, and return what to publish for them; None when Redis is away."""
        history = self._history()
        assert history is not None
        parts = [event for event in batch if event.part is not None]
        if not parts:
            return self._append_events(history, batch)
        # Of a job that has ended in this batch, all that it has said is there by then. Parts that are appended again,
        # since the events could not be, are known.
        chunks = history.streams.append(parts)
        events_of_projects = [event for event in batch if event.part is None]
        rest = None if chunks is None else self._append_events(history, events_of_projects)
        return None if chunks is None or rest is None else [*chunks, *rest]

    def _append_events(self, history: History, batch: list[Outgoing]) -> list[Outgoing] | None:
        if not batch:
            return []
        answers = history.append(batch, self._behind)
        if answers is None:
            self._watched.forget()
            return None
        pairs = list(zip(batch, answers, strict=True))
        appended = [event for answer in answers for event in answer]
        refused = sum(bool(answer) and answer[0] is event for event, answer in pairs)  # they come back as they are
        self._counts.add("stale", sum(not answer and not events.is_note(event) for event, answer in pairs))
        self._counts.add("stored", len(appended) - refused)
        self._counts.add("unstored", refused)
        return appended

    def look_later(self, project_id: str, pause: float) -> None:
        """Have the history look for due updates of a project's workflows, should nothing else be appended to it.

        Args:
            project_id: The project.
            pause: Seconds until the look.
        """
        self._outbox().put(events.workflow_look(project_id), time.monotonic() + pause)
