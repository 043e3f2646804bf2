"""Know who is connected to this server, what each has subscribed to, and how much of it is too much."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from celery_realtime.exceptions import SubscribeError
from celery_realtime.requests import Topic

#: A client may ask as much at once as otherwise in this time, in seconds: a page with many projects does.
BURST = 5.0

#: How long, in seconds, an answer may take from its making until it waits for its client, where it is seen.
UNDER_WAY = 1.0


class Limits(msgspec.Struct, frozen=True):
    """What one client, or one user, may ask of a server; see :class:`celery_realtime.settings.Settings`."""

    max_subscriptions: int = 200
    max_connections: int = 2000
    request_rate: float = 200.0
    max_request: int = 16384
    connect_timeout: float = 10.0


class Wish:
    """A subscription that is being decided on; what happens meanwhile may withdraw it."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.withdrawn: SubscribeError | None = None


class Session:
    """One connected client.

    Attributes:
        user: Who it is, as the authenticator said.
        rooms: By topic, the rooms that it is in.
        wishes: Subscriptions that are being decided on.
        warned: Whether it has been told that its token ends.
    """

    def __init__(self, user: Any, allowance: float) -> None:
        self.user = user
        self.rooms: dict[Topic, list[str]] = {}
        self.wishes: list[Wish] = []
        self.warned = False
        self.began = time.time()
        self._allowance = allowance
        self._asked_at = time.monotonic()
        self._promised = 0
        self._promised_at = -UNDER_WAY

    @property
    def promised(self) -> int:
        """Bytes of answers that are under way to it, at most."""
        return self._promised if time.monotonic() - self._promised_at < UNDER_WAY else 0

    def promise(self, size: int) -> None:
        """Note that an answer of so many bytes is under way."""
        if not self.promised:
            self._promised, self._promised_at = 0, time.monotonic()
        self._promised += size

    def renew(self, user: Any) -> None:
        """Note that the user has shown a new token."""
        self.user, self.warned, self.began = user, False, time.time()

    @property
    def expires_in(self) -> float | None:
        """Seconds until its token ends; None if it never does."""
        return None if self.expires_at == math.inf else round(self.expires_at - time.time(), 3)

    def should_be_warned(self, before: float) -> bool:
        """Tell, once, whether its token ends within a time, in seconds, or has a fifth of its life left."""
        if self.warned or self.expires_in is None:
            return False
        self.warned = self.expires_in <= min(before, (self.expires_at - self.began) / 5)
        return self.warned

    @property
    def expires_at(self) -> float:
        """When its token ends, in seconds since the epoch; infinity if it never does."""
        return float(getattr(self.user, "expires_at", math.inf))

    def spend(self, rate: float) -> bool:
        """Take one request from its allowance, which grows at a rate; returns whether there was one."""
        clock = time.monotonic()
        self._allowance = min(rate * BURST, self._allowance + (clock - self._asked_at) * rate)
        self._asked_at = clock
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True


class Sessions:
    """All connected clients of a server.

    Args:
        limits: What each may do.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sessions: dict[str, Session] = {}
        self._connections: Counter[str] = Counter()
        #: Held while a client enters rooms, so that no access is taken back between the last look and the entry.
        self.entering = threading.RLock()

    def open(self, sid: str, user: Any) -> None:
        """Note a client whose token is good.

        Raises:
            SubscribeError: Its user has too many connections.
        """
        with self.entering:
            if self._connections[str(user)] >= self.limits.max_connections:
                raise SubscribeError("this user has too many connections", "too_many_requests")
            self._connections[str(user)] += 1
            self._sessions[sid] = Session(user, self.limits.request_rate * BURST)

    def close(self, sid: str) -> None:
        """Forget a client."""
        with self.entering:
            session = self._sessions.pop(sid, None)
            if session is None:
                return
            self._connections[str(session.user)] -= 1
            if not self._connections[str(session.user)]:
                del self._connections[str(session.user)]
            for wish in list(session.wishes):
                wish.withdrawn = SubscribeError("the client has gone", "unauthorized")

    def get(self, sid: str) -> Session:
        """Return a client's session.

        Raises:
            SubscribeError: It has none, or its token has ended.
        """
        session = self._sessions.get(sid)
        if session is None:
            raise SubscribeError("connect with a token first", "unauthorized")
        if session.expires_at <= time.time():
            raise SubscribeError("the token has ended; connect with a new one", "unauthorized")
        return session

    def asking(self, sid: str) -> Session:
        """Return the session of a client that asks for something.

        Raises:
            SubscribeError: It has none, or asks too often.
        """
        session = self.get(sid)
        if not session.spend(self.limits.request_rate):
            raise SubscribeError("too many requests; wait a moment", "too_many_requests")
        return session

    def wish(self, session: Session, topic: Topic) -> Wish:
        """Note that a client wants to subscribe.

        Raises:
            SubscribeError: It has too many subscriptions.
        """
        topics = {*session.rooms, *(wish.topic for wish in session.wishes), topic}
        if len(topics) > self.limits.max_subscriptions:
            raise SubscribeError(
                f"a client has at most {self.limits.max_subscriptions} subscriptions; unsubscribe from others first",
                "too_many_requests",
            )
        wish = Wish(topic)
        session.wishes.append(wish)
        return wish

    def users(self) -> dict[str, Any]:
        """Return who is connected, by session id."""
        return {sid: session.user for sid, session in list(self._sessions.items())}

    def all(self) -> list[tuple[str, Session]]:
        """Return all clients."""
        return list(self._sessions.items())

    def of_user(self, user: Any) -> list[tuple[str, Session]]:
        """Return the clients of one user."""
        return [(sid, session) for sid, session in self.all() if is_same_user(session.user, user)]

    def topics(self) -> Iterator[Topic]:
        """Yield what is subscribed to, or about to be; some of it more than once."""
        for _, session in self.all():
            yield from list(session.rooms)
            yield from [wish.topic for wish in session.wishes]


def is_same_user(one: Any, other: Any) -> bool:
    """Tell whether two user ids name the same user; a number and its digits do."""
    return str(one) == str(other)


def withdraw(session: Session, project_id: str | None, why: SubscribeError, topic: Topic | None = None) -> list[Topic]:
    """Withdraw a client's wishes for a project, or one topic, and return what it is subscribed to of it."""
    for wish in list(session.wishes):  # another thread may end one meanwhile
        if wish.topic == topic or (topic is None and wish.topic.project_id == project_id):
            wish.withdrawn = why
    return [one for one in session.rooms if one == topic or (topic is None and one.project_id == project_id)]
