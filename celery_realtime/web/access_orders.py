"""Take access away: from a user's open connections on all web servers, and from tokens that were issued before."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from celery_realtime.lazy import Lazy
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.rooms import normalise_project_id, normalise_user_id
from celery_realtime.sending.manager import SocketIOManager
from celery_realtime.web.revocations import Revocations

logger = logging.getLogger(__name__)

Order = dict[str, Any]


class AccessOrders:
    """Orders to all web servers about what their users may see.

    Args:
        manager: Has the history, which keeps them, and the publisher, which publishes them.
    """

    def __init__(self, manager: SocketIOManager) -> None:
        self._manager = manager
        self._log = RateLimitedLogger(logger)
        self._servers: list[Callable[[Order], Any]] = []
        self._revocations = Lazy(self._open_revocations)

    @property
    def revocations(self) -> Revocations:
        """Which tokens no longer open which projects."""
        return self._revocations.get()

    def _open_revocations(self) -> Revocations:
        history = self._manager.history
        return Revocations(None if history is None else history.marks.revocations)

    def on_order(self, carry_out: Callable[[Order], Any]) -> None:
        """Call ``carry_out`` with each order of this process: a server of its own does not wait for the broker."""
        self._servers.append(carry_out)

    def revoke(self, user_id: object, project_id: object) -> bool:
        """Take a project away from a user; see :meth:`celery_realtime.Realtime.revoke_access`."""
        user, project, at = normalise_user_id(user_id), normalise_project_id(project_id), time.time()
        self.revocations.note(user, project, at)
        is_stored = self._store(user, project, at)
        return self._publish({"action": "revoke", "user": user, "project": project, "at": at}) and is_stored

    def _store(self, user: str, project: str, at: float) -> bool:
        history = self._manager.history
        if history is None:
            return True
        from celery_realtime.history.connection import ERRORS

        try:
            history.marks.revoke(user, project, at)
        except ERRORS as error:
            self._log.error(
                "cannot store that access was revoked; web servers that start later accept older tokens: %s",
                describe(error),
            )
            return False
        return True

    def disconnect(self, user_id: object) -> bool:
        """Disconnect a user's clients; see :meth:`celery_realtime.Realtime.disconnect_user`."""
        return self._publish({"action": "disconnect", "user": normalise_user_id(user_id)})

    def _publish(self, order: Order) -> bool:
        order = {"id": uuid.uuid4().hex, **order}  # each server carries it out once, however often it arrives
        for carry_out in self._servers:
            carry_out(order)
        return self._manager.publisher.order(order)
