"""Carry out the orders that an application gives to all its web servers: revoke access, disconnect a user."""

from __future__ import annotations

import threading
from typing import Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.web.answers import SENT_AWAY
from celery_realtime.web.decisions import Decision, Step
from celery_realtime.web.membership import Clients
from celery_realtime.web.revocations import Revocations

#: Orders that are remembered: the process that gives one carries it out at once, and receives it from the broker, too.
REMEMBERED = 10000


class Orders:
    """Carries out orders on the clients of this server, each order once.

    An order that comes a second time would take a client out of a project that it was let into again meanwhile.

    Args:
        clients: The clients of this server.
        revocations: Tokens that open a project no more.
    """

    def __init__(self, clients: Clients, revocations: Revocations) -> None:
        self._clients = clients
        self._revocations = revocations
        self._lock = threading.Lock()
        self._carried_out: BoundedDict[str, bool] = BoundedDict(REMEMBERED)

    def accept(self, order: dict[str, Any]) -> Decision[None] | None:
        """Note an order, from any thread, and return what is left to do; None for one that is malformed or repeated."""
        user, action, project_id, at = (order.get(name) for name in ("user", "action", "project", "at"))
        if not isinstance(user, str) or self._is_repeated(order.get("id")):
            return None
        if action == "disconnect":
            return self._disconnect(user)
        if action != "revoke" or not isinstance(project_id, str):
            return None
        if isinstance(at, float):
            self._revocations.note(user, project_id, at)
        return self._revoke(user, project_id)

    def _is_repeated(self, order_id: Any) -> bool:
        if not isinstance(order_id, str):
            return False
        with self._lock:
            is_repeated = self._carried_out.get(order_id) is not None
            self._carried_out[order_id] = True
        return is_repeated

    def _revoke(self, user: str, project_id: str) -> Decision[None]:
        """Take all clients out of the rooms first: sending to them may pause, and events may arrive meanwhile."""
        steps: list[Step] = []
        for session in self._clients.sessions.of_user(user):
            if (yield from self._clients.membership.revoke(session, project_id)):
                steps += self._clients.sender.report_lost_access(session.sid, project_id)
        yield from self._clients.sender.notify(steps)

    def _disconnect(self, user: str) -> Decision[None]:
        steps: list[Step] = []
        for session in self._clients.sessions.of_user(user):
            yield from self._clients.membership.silence(session)
            steps += self._clients.sender.disconnect(session.sid, dict(SENT_AWAY))
        yield from self._clients.sender.notify(steps)
