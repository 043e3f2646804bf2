"""What one connection may cost a server before it has shown a token, and after."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from celery_realtime.clocks import time

if TYPE_CHECKING:
    from celery_realtime.web.sessions import Limits

#: Longest message, in bytes, of a connection without a token, unless requests may be longer: tokens have to fit.
SHORT_MESSAGE = 64 * 1024

#: How long a connection may do more than its share, in seconds: pages begin with many requests.
BURST = 5.0

#: How often a connection may ask to enter a namespace: so often at once, and so often a second after that.
MOST_CONNECTS = 10
CONNECT_RATE = 1.0

#: Longest name of a namespace: python-socketio repeats it in its answer.
LONGEST_NAMESPACE = 200

#: Attachments that an event of the application's own namespaces may have. Ours takes none.
MOST_ATTACHMENTS = 16

#: Requests of one polling session at a time, of each method; browsers send one.
MOST_REQUESTS = 2


#: Longest pause, in seconds, before a request that asks what has come is answered.
LONGEST_PAUSE = 5.0


class Bucket:
    """An allowance that grows with time, up to a bound.

    Args:
        rate: By how much it grows a second.
        burst: The bound, which is there from the beginning.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._seen_at = time.monotonic()

    def take(self, amount: float = 1.0) -> bool:
        """Take an amount, and return whether there was as much."""
        now = time.monotonic()
        self._level = min(self._burst, self._level + (now - self._seen_at) * self._rate)
        self._seen_at = now
        if self._level < amount:
            return False
        self._level -= amount
        return True

    def reserve(self, amount: float = 1.0) -> float:
        """Take an amount in any case, and return in how many seconds there will have been as much."""
        if self.take(amount):
            return 0.0
        self._level -= amount
        return -self._level / self._rate

    def add(self, amount: float) -> None:
        """Add an amount."""
        self._level = min(self._burst, self._level + amount)


class Allowance(msgspec.Struct, frozen=True):
    """What a connection may send.

    Attributes:
        max_message: Bytes of one message, after inflating as before.
        byte_rate: Bytes a second, of which it may send those of ``BURST`` seconds at once.
        packet_rate: Packets of Engine.IO a second.
        frame_rate: Frames of WebSocket a second, or parts of them as they arrive.
    """

    max_message: int
    byte_rate: float
    packet_rate: float
    frame_rate: float

    @classmethod
    def before_token(cls, limits: Limits) -> Allowance:
        """Return what suffices to show a token."""
        longest = max(limits.max_request, SHORT_MESSAGE)
        return cls(longest, byte_rate=longest, packet_rate=10, frame_rate=20)

    @classmethod
    def after_token(cls, limits: Limits, max_message: int) -> Allowance:
        """Return what suffices for all requests that are allowed, and for messages of the application's own."""
        longest = max(max_message, limits.max_request)
        packet_rate = max(100, 2 * limits.request_rate)
        return cls(longest, byte_rate=2 * longest, packet_rate=packet_rate, frame_rate=2 * packet_rate)


#: What each new connection of a user adds to what all of them may send: so many bytes, packets and frames.
BYTES_TO_BEGIN, PACKETS_TO_BEGIN = 64 * 1024, 20


class Rates:
    """What may be sent a second.

    Args:
        allowance: How much.
    """

    def __init__(self, allowance: Allowance) -> None:
        self.bytes, self.packets, self.frames = (
            Bucket(rate, rate * BURST) for rate in (allowance.byte_rate, allowance.packet_rate, allowance.frame_rate)
        )
        #: Requests of HTTP that ask what has come; a client that asks more often waits, and then has more at once.
        self.polls = Bucket(allowance.packet_rate, allowance.packet_rate)

    def add_connection(self) -> None:
        """Allow for what a new connection has to say."""
        self.bytes.add(BYTES_TO_BEGIN)
        self.packets.add(PACKETS_TO_BEGIN)
        self.frames.add(PACKETS_TO_BEGIN)


#: Bytes of messages that have not come to their end which a server collects, of all connections together. Beyond, short
#: messages are still taken.
MOST_COLLECTED = 32 * 1024 * 1024


#: Bytes of a body of HTTP that is taken in any case.
SHORT_BODY = 8 * 1024


class Collected:
    """The bytes of unfinished messages that a server has collected, of all its connections.

    Attributes:
        size: How many there are.
    """

    def __init__(self) -> None:
        self.size = 0
        self._lock = threading.Lock()

    def change(self, difference: int) -> None:
        """Note that there are so many more, or fewer."""
        with self._lock:
            self.size += difference


class Budget:
    """What is left to one connection; what is over it ends the connection.

    Args:
        allowance: What it may send before it has shown a token.
        peer: The address that it comes from, or the network.
        on_exceeded: Called once, in the thread or loop that reads from the connection, when it sends more.
        collected: Shared by the connections of a server.

    Attributes:
        eio_sid: Its Engine.IO session id, once it has one.
        user: Its user, once it has shown a token.
        exceeded: What it has sent too much of; None while it has not.
        has_token: Whether it has entered a namespace.
        connects: How often it has asked to enter a namespace.
        is_connecting: Whether it is being decided if it may enter a namespace.
        has_left: Whether its client is known to have closed it.
        is_leaving: Whether it has the room to end that few have at once.
        pause: Seconds that its first request has to wait.
        max_message: Bytes that one message may have now.
        requests: The HTTP requests that are being answered, in which it may be cut.
    """

    def __init__(
        self,
        allowance: Allowance,
        peer: str,
        on_exceeded: Callable[[Budget], Any],
        collected: Collected | None = None,
    ) -> None:
        self.peer = peer
        self.eio_sid: str | None = None
        self.user: str | None = None
        self.exceeded: str | None = None
        self.has_token = False
        self.connects = 0
        self.is_connecting = False
        self.has_left = self.is_leaving = False
        self.pause = 0.0
        self.requests: list[tuple[str, Any]] = []
        self._began = time.monotonic()
        self._collected = collected or Collected()
        self._share = 0
        self._of_user: list[Rates] = []
        #: By request, the bytes of its body.
        self._bodies: dict[int, int] = {}
        self._on_exceeded = on_exceeded
        self._on_admitted: list[Callable[[], Any]] = []
        self._connects = Bucket(CONNECT_RATE, MOST_CONNECTS)
        self._allow(allowance)

    def _allow(self, allowance: Allowance) -> None:
        self.max_message = allowance.max_message
        self._rates = [Rates(allowance)]

    def belongs_to(self, user: str, rates: Rates) -> None:
        """Note whose it is: all connections of a user share these rates, beside their own."""
        self.user, self._of_user = user, [rates]
        rates.add_connection()

    def admit(self, allowance: Allowance) -> None:
        """Allow more, once: the connection has shown a token."""
        if not self.has_token:
            self.has_token = True
            self._allow(allowance)
            for admitted in self._on_admitted:
                admitted()

    def on_admitted(self, hook: Callable[[], Any]) -> None:
        """Call ``hook`` when more is allowed, and now if it is."""
        self._on_admitted.append(hook)
        if self.has_token:
            hook()

    def exceed(self, what: str) -> None:
        """Note that too much of something was sent, which ends the connection."""
        if self.exceeded is None:
            self.exceeded = what
            self._collect(0)
            self._on_exceeded(self)

    def is_idle(self, late: float) -> bool:
        """Tell whether it has shown no token since a time, and shows none now."""
        return self._began < late and not self.is_connecting and not self.has_token

    def _all_rates(self) -> list[Rates]:
        return self._rates + self._of_user

    # Each of these returns whether it may go on.

    def take_bytes(self, size: int) -> bool:
        """Take so many bytes, as they come from the network."""
        return self._within(all(rates.bytes.take(size) for rates in self._all_rates()), "bytes a second")

    def take_frame(self, share: float = 1.0) -> bool:
        """Take a frame, or a share of one."""
        return self._within(all(rates.frames.take(share) for rates in self._all_rates()), "frames a second")

    def take_packet(self) -> bool:
        """Take a packet of Engine.IO."""
        return self._within(all(rates.packets.take() for rates in self._all_rates()), "packets a second")

    def pause_before_poll(self) -> float:
        """Take a request that asks what has come, and return for how many seconds it has to wait."""
        return min(LONGEST_PAUSE, max(rates.polls.reserve() for rates in self._all_rates()))

    def take_message(self, size: int) -> bool:
        """Take a message, or what has come of it, that has so many bytes by now."""
        return self._within(size <= self.max_message, "bytes in one message")

    def take_part(self, size: int, *, is_last: bool = False) -> bool:
        """Take a part of a message, of which so many bytes have come by now, to be collected until it is whole."""
        self._collect(0 if is_last or self.exceeded is not None else size)
        has_room = size <= SHORT_MESSAGE or self._collected.size <= MOST_COLLECTED
        return self._within(has_room, "bytes in messages that do not end") and self.take_message(size)

    def take_body(self, size: int, request: Any) -> bool:
        """Take the body of an HTTP request, which is collected until that has been answered."""
        has_room = size <= SHORT_BODY or self._collected.size + size <= MOST_COLLECTED
        fits = self._within(has_room, "bytes in bodies that do not end") and self.take_message(size)
        if fits:
            self._bodies[id(request)] = size
            self._collected.change(size)
        return fits

    def release(self) -> None:
        """Give back what is collected: the connection has gone."""
        self._collect(0)
        self._on_admitted.clear()

    def _collect(self, size: int) -> None:
        self._collected.change(size - self._share)
        self._share = size

    def take_connect(self, namespace: str) -> bool:
        """Take an attempt to enter a namespace."""
        self.connects += 1
        fits = len(namespace) <= LONGEST_NAMESPACE
        return self._within(fits, "letters in a namespace") and self._within(
            self._connects.take(), "attempts to connect"
        )

    def begin_request(self, method: str, request: Any) -> bool:
        """Note an HTTP request that is being answered, unless as many as there may be are."""
        if self.exceeded is not None or sum(method == other for other, _ in self.requests) >= MOST_REQUESTS:
            return False
        self.requests.append((method, request))
        return True

    def end_request(self, method: str, request: Any) -> None:
        """Note that an HTTP request has been answered."""
        self._collected.change(-self._bodies.pop(id(request), 0))
        self.requests = [other for other in self.requests if other[0] != method or other[1] is not request]

    def _within(self, is_within: bool, what: str) -> bool:
        if self.exceeded is None and not is_within:
            self.exceed(what)
        return self.exceeded is None
