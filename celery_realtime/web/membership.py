"""Which clients are in which rooms: entered and left so that no order to revoke access comes in between."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from celery_realtime.exceptions import SubscribeError
from celery_realtime.rooms import rooms_of
from celery_realtime.web.answers import AnswerBudget, Sender
from celery_realtime.web.client_requests import Topic
from celery_realtime.web.decisions import Decision
from celery_realtime.web.sessions import PendingSubscription, Session, Sessions

WITHDRAWN = "the subscription was withdrawn before it was answered"


class Membership:
    """Lets the clients of a server enter and leave rooms.

    Entering and leaving holds the lock of the sessions. An asyncio server does neither in more than one turn of its
    event loop: python-socketio's coroutines pause only for clients of other servers, for which neither is called.

    Args:
        server: The Socket.IO server, sync or asyncio.
        namespace: The namespace of the clients.
        sessions: The clients.
    """

    def __init__(self, server: Any, namespace: str, sessions: Sessions) -> None:
        self._server = server
        self._namespace = namespace
        self._sessions = sessions

    def enter(self, session: Session, pending: PendingSubscription, *rooms: str) -> Decision[bool]:
        """Enter the rooms of a pending subscription; return False if its access has to be decided again.

        Raises:
            SubscribeError: The subscription was withdrawn, or the client has disconnected.
        """
        with self._sessions.lock:
            if pending.withdrawn is not None:
                raise pending.withdrawn
            if pending.is_doubtful:
                return False
            if not self._is_here(session.sid):
                raise SubscribeError("the client has disconnected", "unauthorized")
            session.rooms[pending.topic] = list(rooms)
            for room in rooms:
                yield functools.partial(self._server.enter_room, session.sid, room, namespace=self._namespace)
        return True

    def leave_room(self, sid: str, room: str) -> Decision[None]:
        """Leave a room, unless the client is about to leave them all."""
        if self._is_here(sid):
            yield functools.partial(self._server.leave_room, sid, room, namespace=self._namespace)

    def _is_here(self, sid: str) -> bool:
        return bool(self._server.manager.is_connected(sid, self._namespace))

    def leave(self, session: Session, topic: Topic) -> Decision[None]:
        """Leave the rooms of a subscription."""
        with self._sessions.lock:
            for room in session.rooms.pop(topic, []):
                yield from self.leave_room(session.sid, room)

    def unsubscribe(self, session: Session, topics: list[Topic]) -> Decision[None]:
        """Leave the rooms of subscriptions, and withdraw those that are being decided."""
        for topic in topics:
            with self._sessions.lock:
                for pending in list(session.pending):
                    if pending.topic == topic:
                        pending.withdrawn = SubscribeError(WITHDRAWN, "bad_request")
                yield from self.leave(session, topic)

    def revoke(self, session: Session, project_id: str) -> Decision[bool]:
        """Leave all rooms of a project, and have subscriptions that are being decided ask for access again.

        Returns:
            Whether the client was subscribed to it.
        """
        with self._sessions.lock:
            for pending in list(session.pending):
                pending.is_doubtful |= pending.topic.project_id == project_id
            topics = [topic for topic in session.rooms if topic.project_id == project_id]
            for topic in topics:
                yield from self.leave(session, topic)
            for room in rooms_of(project_id):  # the application may have placed it there by itself
                yield from self.leave_room(session.sid, room)
        return bool(topics)

    def silence(self, session: Session) -> Decision[None]:
        """Forget a client and leave the rooms of all its subscriptions."""
        self._sessions.close(session.sid)
        for topic in list(session.rooms):
            yield from self.leave(session, topic)


class Clients(msgspec.Struct, frozen=True):
    """The clients of a server, and what is done with them.

    Attributes:
        sessions: What is remembered of each.
        membership: Lets them enter and leave rooms.
        sender: Sends answers to them.
        budget: Bounds what waits for each.
    """

    sessions: Sessions
    membership: Membership
    sender: Sender
    budget: AnswerBudget
