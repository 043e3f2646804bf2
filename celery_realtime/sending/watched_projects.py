"""Know which projects somebody watches, whose progress leaves more often, without a question for each report."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.forks import after_fork, talking
from celery_realtime.logs import RateLimitedLogger, describe

if TYPE_CHECKING:
    from celery_realtime.history.store import History

logger = logging.getLogger(__name__)

#: Seconds for which an answer of the history counts. The next event of the project brings another one.
ANSWER_LIFE = 15.0

#: Projects that are remembered.
REMEMBERED = 10_000

#: Seconds between two questions about progress that is held back, and how many projects they are about in a second, at
#: most.
LOOK_PAUSE = 1.0
LOOK_RATE = 100


class HeldProgress(Protocol):
    """The progress of a process that is held back."""

    def projects(self) -> Collection[str]:
        """Return the projects of what would leave earlier if somebody watched."""

    def hasten(self, project_ids: Collection[str]) -> None:
        """Let leave what would have left by now if somebody had watched these projects all along."""


class _Nothing:
    def projects(self) -> Collection[str]:
        return ()

    def hasten(self, project_ids: Collection[str]) -> None: ...


class WatchedProjects:
    """The projects that somebody watches, as far as the history has said so.

    Each answer to events that were appended says it. Progress that is held back does not wait for the next one: while
    there is any, :meth:`look` asks about it now and then. What may leave earlier is let out there too, and not while a
    batch is on its way.

    Args:
        history: Returns the history; None where there is none.
    """

    def __init__(self, history: Callable[[], History | None]) -> None:
        self._history = history
        self._held: HeldProgress = _Nothing()
        self._log = RateLimitedLogger(logger)
        self.forget()
        after_fork(self.forget)

    def forget(self) -> None:
        """Forget what the history has said."""
        #: By project, until when it counts as watched, of :func:`time.monotonic`.
        self._until: BoundedDict[str, float] = BoundedDict(REMEMBERED)
        #: Those that somebody has begun to watch since the last look.
        self._fresh: BoundedDict[str, bool] = BoundedDict(REMEMBERED)
        #: Whether the history has answered since: where nothing is stored, as without any server, nothing is asked.
        self._has_answered = False
        self._looks_at: float | None = None

    def serve(self, held: HeldProgress) -> None:
        """Let held-back progress leave earlier from when on its project is watched."""
        self._held = held

    def has(self, project_id: str) -> bool:
        """Return whether somebody watches a project."""
        return self._until.get(project_id, 0.0) > time.monotonic()

    def note(self, project_id: str, is_watched: bool) -> None:
        """Note whether somebody watches a project; the next look has what is held of it leave."""
        self._has_answered = True
        if not is_watched:
            self._until.pop(project_id)
            return
        if not self.has(project_id):
            self._fresh[project_id] = True
        self._until[project_id] = time.monotonic() + ANSWER_LIFE

    def look(self, holds: bool) -> float:
        """Let progress leave that is held back of projects that are watched by now; in the thread that sends.

        Args:
            holds: Whether any is held back: then it is asked now and then.

        Returns:
            The seconds until the next question; infinity for never.
        """
        self._hasten_fresh()
        clock = time.monotonic()
        if not holds:
            self._looks_at = None
            return math.inf
        if self._looks_at is None:
            self._looks_at = clock + LOOK_PAUSE
        if clock < self._looks_at:
            return self._looks_at - clock
        held = list(self._held.projects()) if self._has_answered else []
        self._ask(held)
        pause = max(LOOK_PAUSE, len(held) / LOOK_RATE)
        self._looks_at = time.monotonic() + pause
        return pause

    def _hasten_fresh(self) -> None:
        fresh = self._fresh.names()
        if fresh:
            self._fresh = BoundedDict(REMEMBERED)
            self._held.hasten(fresh)

    def _ask(self, project_ids: list[str]) -> None:
        """Ask which of some projects are watched, and let leave what is held of those."""
        history = self._history()
        if not project_ids or history is None:
            return
        from celery_realtime.history.connection import ERRORS

        try:
            with talking:
                watched = history.watches.of(project_ids)
        except ERRORS as error:
            self.forget()
            self._log.warning(
                "cannot ask the history who watches, so progress waits as if nobody did; asking again in a second: %s",
                describe(error),
            )
            return
        for project_id in project_ids:
            self.note(project_id, project_id in watched)
        # Not the new ones alone: a job may have begun to hold progress just when its project became known.
        self._held.hasten(watched)
