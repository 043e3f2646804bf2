"""Decide requests to have a job run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.access import Access
from celery_realtime.web.answers import NO_JOB
from celery_realtime.web.client_requests import Topic, job_id_of
from celery_realtime.web.decisions import Blocking, Decision
from celery_realtime.web.job_requests import SingleJobs
from celery_realtime.web.membership import Clients
from celery_realtime.web.sessions import PendingSubscription, Session

#: Given a project and a job of it, returns what publishes that job once more, and that returns the new job's id.
Prepare = Callable[[str, str], Callable[[], str]]

NOT_KEPT = "the messages of jobs are not kept here, so none can be run again"


class RerunRequests:
    """Decides what a client may have run again.

    Args:
        jobs: Knows of single jobs.
        prepare: Reads what is kept of a job; None where nothing can be.
        clients: The clients of the server.
        access: Asks the application what a user may see.
        authorize: ``(user_id, project_id, job_id) -> bool``.
    """

    def __init__(
        self,
        jobs: SingleJobs,
        prepare: Prepare | None,
        *,
        clients: Clients,
        access: Access,
        authorize: Callable[..., Any],
    ) -> None:
        self._jobs = jobs
        self._prepare = prepare
        self._clients = clients
        self._access = access
        self._authorize = authorize

    def rerun(self, sid: str, data: Any) -> Decision[dict[str, Any]]:
        """Have a job run again, and answer with the id of the new one.

        A client that leaves, or whose project is taken from it, before the new job is published has none published.

        Raises:
            SubscribeError: The user may not, or it cannot be done.
        """
        session, job_id = self._clients.sessions.asking(sid, data), job_id_of(data)
        project_id = yield from self._jobs.project_of(session, data)
        pending = PendingSubscription(Topic(project_id, job_id))
        session.pending.append(pending)
        pending.is_doubtful = self._access.is_revoked(session.user, project_id)  # since the rule was asked
        try:
            yield from self._check(session, project_id, job_id)
            publish = yield Blocking(self._prepared, project_id, job_id)
            if pending.is_doubtful:
                pending.is_doubtful = False
                if not (yield from self._access.allows(session.user, project_id)):
                    raise SubscribeError(NO_JOB, "forbidden")
                yield from self._check(session, project_id, job_id)
            self._clients.sessions.get(sid)
            if pending.is_doubtful:
                raise SubscribeError(NO_JOB, "forbidden")
            new_id = yield Blocking(publish)
            if pending.is_doubtful and not (yield from self._access.allows(session.user, project_id)):
                raise SubscribeError(NO_JOB, "forbidden")
        finally:
            session.pending.remove(pending)
        return {"ok": True, "job_id": new_id, "project_id": project_id, "rerun_of": job_id}

    def _check(self, session: Session, project_id: str, job_id: str) -> Decision[None]:
        """Refuse what the user does not see, or may not have run again."""
        if not (yield from self._jobs.shows(session, project_id, job_id)):
            raise SubscribeError(NO_JOB, "forbidden")
        if (yield Blocking(self._authorize, session.user, project_id, job_id)) is not True:
            raise SubscribeError("you may not run this job again", "forbidden")

    def _prepared(self, project_id: str, job_id: str) -> Callable[[], str]:
        if self._prepare is None:
            raise SubscribeError(NOT_KEPT, "unavailable")
        return self._prepare(project_id, job_id)
