"""Decide whether a client may connect, and whether a new token lets it stay."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.access import Access, Identification
from celery_realtime.web.answers import SENT_AWAY
from celery_realtime.web.decisions import Decision, Step, caught
from celery_realtime.web.membership import Clients
from celery_realtime.web.revocations import Revocations
from celery_realtime.web.sessions import Arrival, Session, is_same_user

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import ClientManager

#: Longest wait, in seconds, for the server's listener; python-socketio's clients give up after a second.
CONNECT_WAIT = 0.5

#: How often a token is looked at for one connection, if orders to disconnect its user keep coming meanwhile.
MOST_QUESTIONS = 3


class Admission:
    """Admits clients, and renews their sessions.

    Args:
        clients: The clients of the server.
        identification: Says which user a token names.
        access: Says what a user may see.
        revocations: Says up to when all orders on record have been carried out here.
    """

    def __init__(
        self, clients: Clients, identification: Identification, access: Access, revocations: Revocations
    ) -> None:
        self._clients = clients
        self._revocations = revocations
        self._identification = identification
        self._access = access

    def connect(self, sid: str, environ: dict[str, Any], given: Any, manager: ClientManager) -> Decision[None]:
        """Let a client in whose token is good.

        Raises:
            socketio.exceptions.ConnectionRefusedError: It is not, with the code in its data.
        """
        error = yield from caught(self._identify(sid, environ, given, manager))
        if error is not None:
            self._clients.sessions.close(sid)
            raise self._clients.sender.refusal_to_connect(error) from None

    def _identify(self, sid: str, environ: dict[str, Any], given: Any, manager: ClientManager) -> Decision[None]:
        """Open a session for the user; look at the token again if the user was disconnected meanwhile."""
        sessions = self._clients.sessions
        for _ in range(MOST_QUESTIONS):
            departures, position = sessions.departures, self._revocations.position
            user_id = yield from self._identification.of_connection(environ, given)
            # So that an application may place it in a project as soon as it is here.
            yield functools.partial(manager.wait_until_listening, CONNECT_WAIT)
            if sessions.open(sid, user_id, Arrival(departures, position, manager.generation)):
                return
        raise SubscribeError(SENT_AWAY["message"], SENT_AWAY["code"])

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
        yield from self._renew(session, user_id)
        return {"ok": True, "expires_in": session.expires_in}

    def _renew(self, session: Session, user_id: Any) -> Decision[None]:
        """Decide what the new token opens, then take it for the old one, and the client out of all else.

        If something cannot be decided, the old one stays: nothing is open that the token in force does not open.
        """
        allowed: dict[str, bool] = {}
        while not self._clients.sessions.renew(session, user_id, decided=allowed.keys()):
            for project_id in {topic.project_id for topic in session.topics()} - allowed.keys():
                allowed[project_id] = yield from self._access.allows(user_id, project_id)
        steps: list[Step] = []
        for project_id in [name for name, is_open in allowed.items() if not is_open]:
            if (yield from self._clients.membership.revoke(session, project_id)):
                steps += self._clients.sender.report_lost_access(session.sid, project_id)
        yield from self._clients.sender.notify(steps)
