"""Decide whether a client may connect, and whether a new token lets it stay."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.access import Access, Identification
from celery_realtime.web.decisions import Decision
from celery_realtime.web.membership import Clients
from celery_realtime.web.sessions import is_same_user

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import ClientManager

#: Longest wait, in seconds, for the server's listener; python-socketio's clients give up after a second.
CONNECT_WAIT = 0.5


class Admission:
    """Admits clients, and renews their sessions.

    Args:
        clients: The clients of the server.
        identification: Says which user a token names.
        access: Says what a user may see.
    """

    def __init__(self, clients: Clients, identification: Identification, access: Access) -> None:
        self._clients = clients
        self._identification = identification
        self._access = access

    def connect(self, sid: str, environ: dict[str, Any], given: Any, manager: ClientManager) -> Decision[None]:
        """Let a client in whose token is good.

        Raises:
            socketio.exceptions.ConnectionRefusedError: It is not, with the code in its data.
        """
        try:
            user_id = yield from self._identification.of_connection(environ, given)
            # So that an application may place it in a project as soon as it is here.
            yield functools.partial(manager.wait_until_listening, CONNECT_WAIT)
            self._clients.sessions.open(sid, user_id)
        except Exception as error:  # noqa: BLE001 - rules of the application may raise anything
            self._clients.sessions.close(sid)
            raise self._clients.sender.refusal_to_connect(error) from None

    def refresh(
        self, sid: str, data: Any, environ_of: Callable[[str], dict[str, Any] | None]
    ) -> Decision[dict[str, Any]]:
        """Let a client stay that shows a new token, in the projects that it opens.

        Args:
            sid: The client.
            data: Its request.
            environ_of: Returns the request that a client connected with.

        Raises:
            SubscribeError: The token is missing, no good, or another user's.
        """
        session = self._clients.sessions.asking(sid, data)
        token = data.get("token") if isinstance(data, dict) else None
        if token is None:
            raise SubscribeError("send an object such as {token: ...}", "bad_request")
        user_id = yield from self._identification.of_token(token, environ_of(sid) or {})
        if not is_same_user(user_id, session.user):
            raise SubscribeError("this token is another user's; connect anew with it", "forbidden")
        session.renew(user_id)
        for project_id in {topic.project_id for topic in session.topics()}:
            allowed = yield from self._access.allows(user_id, project_id)
            if not allowed and (yield from self._clients.membership.revoke(session, project_id)):
                yield from self._clients.sender.notify(self._clients.sender.report_lost_access(sid, project_id))
        return {"ok": True, "expires_in": session.expires_in}
