"""The clients that are connected to this server, what each has subscribed to, and how much each may ask for."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time as host_time
from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.client_requests import Topic, check_size

if TYPE_CHECKING:
    from celery_realtime.settings import Settings

#: A client may ask as much at once as otherwise in this time, in seconds: a page with many projects does.
BURST = 5.0

#: How long, in seconds, an answer may take from its making until it is in its client's queue, where it is counted.
IN_FLIGHT = 1.0

#: Users that were disconnected of which it is remembered when that was, while others are being let in.
MOST_SENT_AWAY = 10_000

EXPIRED = "the token has expired; connect with a new one"


class Limits(msgspec.Struct, frozen=True):
    """What one client, or one user, may ask of a server; see :class:`celery_realtime.settings.Settings`."""

    max_subscriptions: int
    max_connections: int
    request_rate: float
    max_request: int
    connect_timeout: float
    max_backlog_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Take the limits out of the settings."""
        return cls(**{name: getattr(settings, name) for name in cls.__struct_fields__})


class Arrival(msgspec.Struct, frozen=True):
    """When a client came, in what tells which orders it concerns that are carried out late.

    Attributes:
        departures: How many users had been disconnected here before its token was looked at; None to let it in
            whoever has been disconnected.
        position: Up to when all orders on record had been carried out here by then.
        generation: How many connections to the broker have been listened on since it was let in.
    """

    departures: int | None = None
    position: float = 0.0
    generation: int = 0


class PendingSubscription:
    """A subscription that is being decided.

    Attributes:
        topic: What it is for.
        withdrawn: Why it must not go on, or None.
        is_doubtful: Whether access was revoked since the application's rule was asked, which has to be asked again.
    """

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.withdrawn: SubscribeError | None = None
        self.is_doubtful = False


class Session:
    """One connected client.

    Attributes:
        sid: Its Socket.IO session id.
        user: Its user, as the authenticator named it.
        rooms: By topic, the rooms that it is in.
        pending: Subscriptions that are being decided.
        was_warned: Whether it has been sent a warning that its token expires.
        began: When its token was shown, in seconds since the epoch.
        arrival: When it came.
    """

    def __init__(self, sid: str, user: Any, allowance: float, arrival: Arrival = Arrival()) -> None:  # noqa: B008 - it is frozen
        self.sid = sid
        self.user = user
        self.arrival = arrival
        self.rooms: dict[Topic, list[str]] = {}
        self.pending: list[PendingSubscription] = []
        self.was_warned = False
        self.began = time.time()
        self._allowance = allowance
        self._asked_at = host_time.monotonic()
        self._in_flight = 0
        self._in_flight_since = -IN_FLIGHT

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of answers that are on their way to its queue, at most."""
        return self._in_flight if host_time.monotonic() - self._in_flight_since < IN_FLIGHT else 0

    def add_in_flight(self, size: int) -> None:
        """Note that an answer of so many bytes is on its way."""
        if not self.bytes_in_flight:
            self._in_flight, self._in_flight_since = 0, host_time.monotonic()
        self._in_flight += size

    def renew(self, user: Any) -> None:
        """Note that the user has shown a new token; subscriptions that are being decided are decided again."""
        self.user, self.was_warned, self.began = user, False, time.time()
        for pending in list(self.pending):
            pending.is_doubtful = True

    @property
    def expires_in(self) -> float | None:
        """Seconds until its token expires; None if it never does."""
        return None if self.expires_at == math.inf else round(self.expires_at - time.time(), 3)

    @property
    def expires_at(self) -> float:
        """When its token expires, in seconds since the epoch; infinity if it never does."""
        return float(getattr(self.user, "expires_at", math.inf))

    @property
    def has_expired(self) -> bool:
        """Whether its token has expired."""
        return self.expires_at <= time.time()

    def should_be_warned(self, before: float) -> bool:
        """Tell, once, whether its token expires within ``before`` seconds, or has a fifth of its life left."""
        if self.was_warned or self.expires_in is None:
            return False
        self.was_warned = self.expires_in <= min(before, (self.expires_at - self.began) / 5)
        return self.was_warned

    def topics(self) -> set[Topic]:
        """Return what it is subscribed to, or about to be."""
        return {*list(self.rooms), *(pending.topic for pending in list(self.pending))}

    def spend(self, rate: float) -> bool:
        """Take one request from its allowance, which grows by ``rate`` a second; return whether there was one."""
        clock = host_time.monotonic()
        self._allowance = min(rate * BURST, self._allowance + (clock - self._asked_at) * rate)
        self._asked_at = clock
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True


class Sessions:
    """All connected clients of a server.

    Args:
        limits: What each may ask for.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sessions: dict[str, Session] = {}
        self._connections: Counter[str] = Counter()
        #: How many users were disconnected here, and of the latest, which of these times it was last.
        self._departures = 0
        self._sent_away: BoundedDict[str, int] = BoundedDict(MOST_SENT_AWAY)
        #: Held while a client enters or leaves rooms, so that no order comes between the last check and the entry.
        self.lock = threading.RLock()

    @property
    def departures(self) -> int:
        """How often a user was disconnected on this server."""
        return self._departures

    def send_away(self, user: str) -> list[Session]:
        """Return the clients of a user, which are to be disconnected; those that are being let in are asked again."""
        with self.lock:
            self._departures += 1
            self._sent_away[user] = self._departures
            return self.of_user(user)

    def open(self, sid: str, user: Any, arrival: Arrival = Arrival()) -> bool:  # noqa: B008 - it is frozen
        """Add a client whose token is good; return False if its user was disconnected since that was found.

        Args:
            sid: The client.
            user: Its user.
            arrival: When it came.

        Raises:
            SubscribeError: Its user has too many connections.
        """
        with self.lock:
            if arrival.departures is not None and self._sent_away.get(str(user), 0) > arrival.departures:
                return False
            if self._connections[str(user)] >= self.limits.max_connections:
                raise SubscribeError("this user has too many connections", "too_many_requests")
            self._connections[str(user)] += 1
            self._sessions[sid] = Session(sid, user, self.limits.request_rate * BURST, arrival)
        return True

    def close(self, sid: str) -> None:
        """Forget a client, if it was there."""
        with self.lock:
            session = self._sessions.pop(sid, None)
            if session is None:
                return
            self._connections[str(session.user)] -= 1
            if not self._connections[str(session.user)]:
                del self._connections[str(session.user)]
            for pending in list(session.pending):
                pending.withdrawn = SubscribeError("the client has disconnected", "unauthorized")

    def get(self, sid: str) -> Session:
        """Return a client's session.

        Raises:
            SubscribeError: It has none, or its token has expired.
        """
        session = self._sessions.get(sid)
        if session is None:
            raise SubscribeError("connect with a token first", "unauthorized")
        if session.has_expired:
            raise SubscribeError(EXPIRED, "unauthorized")
        return session

    def user_of(self, sid: str) -> str | None:
        """Return the name of a client's user, or None if it has no session."""
        session = self._sessions.get(sid)
        return None if session is None else str(session.user)

    def asking(self, sid: str, data: Any) -> Session:
        """Return the session of a client that sends a request.

        Raises:
            SubscribeError: It has no session, asks too often, or its request is too long.
        """
        session = self.get(sid)
        if not session.spend(self.limits.request_rate):
            raise SubscribeError("too many requests; wait a moment", "too_many_requests")
        check_size(data, self.limits.max_request)
        return session

    def begin_subscription(self, session: Session, topic: Topic) -> PendingSubscription:
        """Add a subscription that is to be decided.

        Raises:
            SubscribeError: The client has too many subscriptions.
        """
        if len({*session.topics(), topic}) > self.limits.max_subscriptions:
            raise SubscribeError(
                f"a client has at most {self.limits.max_subscriptions} subscriptions; unsubscribe from others first",
                "too_many_requests",
            )
        pending = PendingSubscription(topic)
        session.pending.append(pending)
        return pending

    def renew(self, session: Session, user: Any, decided: Collection[str]) -> bool:
        """Let a client go on with a new token, unless it is in a project for which that has not been decided.

        Args:
            session: The client's.
            user: Its user, with what the new token says.
            decided: The projects for which that has been decided.

        Returns:
            Whether the new token is in force.
        """
        with self.lock:
            if any(topic.project_id not in decided for topic in session.topics()):
                return False
            session.renew(user)
        return True

    def users(self) -> dict[str, Any]:
        """Return the users that are connected, by session id."""
        return {session.sid: session.user for session in self.all()}

    def all(self) -> list[Session]:
        """Return all clients."""
        return list(self._sessions.values())

    def of_user(self, user: Any) -> list[Session]:
        """Return the clients of one user."""
        return [session for session in self.all() if is_same_user(session.user, user)]

    def topics(self) -> Iterator[Topic]:
        """Yield what clients are subscribed to, or about to be; some of it more than once."""
        for session in self.all():
            yield from session.topics()


def is_same_user(one: Any, other: Any) -> bool:
    """Tell whether two user ids name the same user; a number and its digits do."""
    return str(one) == str(other)
