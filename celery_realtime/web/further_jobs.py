"""Decide requests for the jobs that a snapshot had no room for, page by page, and for single ones."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from celery_realtime.exceptions import SubscribeError
from celery_realtime.job_filters import JobFilter
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.web.access import MOST_QUESTIONS, Access
from celery_realtime.web.answers import NO_PROJECT, size_of
from celery_realtime.web.client_requests import Topic, filter_of, page_of, project_id_of
from celery_realtime.web.decisions import Blocking, Decision
from celery_realtime.web.filtering import filtered, narrow
from celery_realtime.web.membership import Clients
from celery_realtime.web.sessions import PendingSubscription, Session
from celery_realtime.web.shared_reads import Reading

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import ClientManager

logger = logging.getLogger(__name__)

#: The members of a snapshot that a page has.
_OF_PAGES = ("epoch", "offset", "jobs", "next")


class Wanted(NamedTuple):
    """What a client wants to read of a project.

    Attributes:
        project_id: The project.
        page: Where to read on, or the ids of jobs.
        filter: Which of the jobs are wanted; None for all.
    """

    project_id: str
    page: str | tuple[str, ...]
    filter: JobFilter | None


class FurtherJobs:
    """Answers the requests of clients for further jobs of a project.

    A page is of no use without the events since the first one, so only subscribers are given it.

    Args:
        clients: The clients of the server.
        access: Asks the application what a user may see.
        manager: The server's client manager.
        read_on: ``(project_id, page) -> Reading``, of a tuple of ids too, or None where there is no history.
    """

    def __init__(
        self,
        clients: Clients,
        *,
        access: Access,
        manager: ClientManager,
        read_on: Callable[[str, Any], Any] | None,
    ) -> None:
        self._clients = clients
        self._access = access
        self._manager = manager
        self._read_on = read_on
        self._log = RateLimitedLogger(logger)

    def read_jobs(self, sid: str, data: Any) -> Decision[dict[str, Any]]:
        """Answer a request for a page, or for some jobs.

        Raises:
            SubscribeError: The client may not see the project, is not subscribed to it, or cannot be answered.
        """
        session = self._clients.budget.asking(sid, data)
        project_id, wanted = project_id_of(data), _wanted_in(data)
        pending = self._clients.sessions.begin_subscription(session, Topic(project_id))
        try:
            for _ in range(MOST_QUESTIONS):
                pending.is_doubtful = False
                snapshot, size = yield from self._attempt(session, wanted)
                if self._is_current(session, pending):
                    self._clients.budget.reserve(session, size)
                    return {"ok": True, "project_id": project_id, **snapshot}
        finally:
            session.pending.remove(pending)
        raise SubscribeError(NO_PROJECT, "forbidden")

    def _attempt(self, session: Session, wanted: Wanted) -> Decision[tuple[dict[str, Any], int]]:
        project_id = wanted.project_id
        # What is on record is carried out with the reading of the page.
        allowed = yield from self._access.allows(session.user, project_id, is_read_later=True)
        if not allowed or Topic(project_id) not in session.rooms:
            raise SubscribeError(NO_PROJECT, "forbidden")
        audience = yield from self._access.audience_of(session.user, project_id)
        reading = yield from self._read(project_id, wanted.page)
        snapshot, size = msgspec.structs.asdict(reading.snapshot), reading.size
        if self._manager.filters or wanted.filter is not None:
            snapshot, size = yield Blocking(self._shown, wanted, snapshot, audience)
        unread = {"unread": snapshot["unread"]} if snapshot["unread"] else {}
        return {**{name: snapshot[name] for name in _OF_PAGES}, **unread}, size

    def _read(self, project_id: str, page: str | tuple[str, ...]) -> Decision[Reading]:
        reading: Reading | None = None
        if self._read_on is not None:
            with self._log.suppressing(
                "cannot read further jobs of a project, so requests for them are refused; clients ask again",
                project_id=project_id,
            ):
                reading = yield functools.partial(self._read_on, project_id, page)
        if reading is None:
            raise SubscribeError("the history cannot be read now; try again later", "unavailable")
        return reading

    def _shown(self, wanted: Wanted, snapshot: dict[str, Any], audience: str | None) -> tuple[dict[str, Any], int]:
        shown = self._manager.delivery.audiences.snapshot(wanted.project_id, snapshot, audience)
        if wanted.filter is not None:
            shown = filtered(shown, wanted.filter)
        return shown, size_of(shown)

    def _is_current(self, session: Session, pending: PendingSubscription) -> bool:
        """Tell whether the client may be given what was read; if not, it is asked again.

        Raises:
            SubscribeError: The client has gone, or has ended its subscription.
        """
        self._clients.sessions.get(session.sid)
        if pending.withdrawn is not None:
            raise pending.withdrawn
        return not pending.is_doubtful


def _wanted_in(data: dict[str, Any]) -> Wanted:
    """Return what a client wants to read.

    Raises:
        SubscribeError: It does not say, or that is nothing to be read.
    """
    page, wanted = page_of(data), filter_of(data)
    if wanted is not None and isinstance(page, str):
        page = narrow(page, wanted) or page
    return Wanted(project_id_of(data), page, wanted)
