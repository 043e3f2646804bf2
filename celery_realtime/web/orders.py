"""Carry out the orders that an application gives to all its web servers: revoke access, disconnect a user."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.web.answers import SENT_AWAY
from celery_realtime.web.decisions import Decision, Step
from celery_realtime.web.doubts import Doubts
from celery_realtime.web.membership import Clients
from celery_realtime.web.revocations import Revocations
from celery_realtime.web.sessions import Session

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import SlowClients

Order = dict[str, Any]

#: Orders that are remembered: the process that gives one carries it out at once, and receives it from the broker, too.
REMEMBERED = 10000


class Orders:
    """Carries out orders on the clients of this server, each order once.

    An order that comes a second time would take a client out of a project that it was let into again meanwhile.

    Args:
        clients: The clients of this server.
        revocations: Tokens that open a project no more.
        doubts: Decides again what orders concern that come late.
        slow_clients: Holds back the progress of clients that read slowly.
    """

    def __init__(self, clients: Clients, revocations: Revocations, doubts: Doubts, slow_clients: SlowClients) -> None:
        self._clients = clients
        self._revocations = revocations
        self._doubts = doubts
        self._slow_clients = slow_clients
        self._lock = threading.Lock()
        self._carried_out: BoundedDict[str, bool] = BoundedDict(REMEMBERED)

    def accept(self, order: Order) -> Decision[None] | None:
        """Note an order, from any thread, and return what is left to do; None for one that is malformed or repeated."""
        user, action, project_id, at = (order.get(name) for name in ("user", "action", "project", "at"))
        if not isinstance(user, str) or self._is_repeated(order.get("id")):
            return None
        if action == "disconnect":
            return self._disconnect(self._clients.sessions.send_away(user))
        if action != "revoke" or not isinstance(project_id, str):
            return None
        if isinstance(at, float):
            self._revocations.note(user, project_id, at)
        return self._revoke(user, project_id)

    def accept_missed(self, orders: list[Order]) -> Decision[None]:
        """Return what is to be done about orders that are on record and may not have been heard.

        Who has been let in, or has subscribed, since such an order was given is not to lose that again. So access is
        decided anew, and only those are disconnected who had come before.
        """
        for order in orders:
            if self._is_repeated(order["id"]):
                continue
            user, project_id = order["user"], order.get("project")
            if project_id is not None:
                self._doubts.doubt([(session, project_id) for session in self._clients.sessions.of_user(user)])
            else:
                present = self._clients.sessions.send_away(user)
                yield from self._disconnect([one for one in present if one.arrival.position < order["at"]])

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
            self._slow_clients.drop_progress(session.sid, project_id)
        yield from self._clients.sender.notify(steps)

    def _disconnect(self, sessions: list[Session]) -> Decision[None]:
        steps: list[Step] = []
        for session in sessions:
            yield from self._clients.membership.silence(session)
            steps += self._clients.sender.disconnect(session.sid, dict(SENT_AWAY))
        yield from self._clients.sender.notify(steps)
