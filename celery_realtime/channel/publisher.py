"""Publish to the broker, and know what it has accepted."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from celery_realtime.backoff import Backoff
from celery_realtime.channel.audience import Audience
from celery_realtime.channel.connections import Preference, errors_of, hang_up
from celery_realtime.channel.seams import clients_of_redis, close_reading_connection, keep_client, on_confirms
from celery_realtime.clocks import time
from celery_realtime.crowd import Crowd, turnstile
from celery_realtime.logs import RateLimitedLogger, describe

logger = logging.getLogger(__name__)

#: Seconds that the broker has to confirm what was written.
CONFIRM_TIMEOUT = 2.0

#: The longest time after a failure, in seconds, during which single messages are not tried.
COOLDOWN = 2.0

#: Seconds that a single message waits for those of other threads.
LOCK_TIMEOUT = 1.0

#: Seconds for which a broker that blocks is asked whether it still does.
GLANCE = 0.05

#: What a child of a fork must not release: py-amqp shuts the socket down, which it shares with the parent, when a
#: connection is collected. One entry for each used connection of each process that this one descends from, so in
#: practice one or two; children that a process forks do not add to the process's own.
_inherited: list[object] = []

Item = TypeVar("Item")
Pack = Callable[[list[Item]], Iterable[tuple[list[Item], bytes]]]

#: Which routing key of the further exchange a message with these items has; None for a message to everybody.
Route = Callable[[list[Any]], str | None]


def to_everybody(_items: list[Any]) -> None:
    """Address a message to every listener of the channel."""


class Publisher:
    """One connection to publish on, for any number of threads.

    A message counts as accepted when the broker has answered: Redis answers each one; RabbitMQ confirms them (its
    "publisher confirms" extension), and is asked to for a whole batch at a time, which costs one round trip.

    A RabbitMQ that is short of memory or disk space blocks its publishers. It reads what they have written by then
    when it goes on, so until then nothing is written, neither more nor again.

    Args:
        connect: Returns a new connection, given ``on_blocked`` and ``on_unblocked``.
        exchange: Returns the exchange.
        options: Further keyword arguments of :class:`kombu.Producer`.
        name: The broker's name in the log.
        preference: Which of several brokers to be connected to.
        further: Returns a further exchange, for what has a routing key; None for none.
    """

    def __init__(
        self,
        connect: Callable[..., Any],
        exchange: Callable[[], Any],
        options: dict[str, Any],
        name: str,
        preference: Preference,
        further: Callable[[], Any] | None = None,
    ) -> None:
        self._further = further
        self._preference = preference
        self._connect = connect
        self._exchange = exchange
        self._options = options
        self._name = name
        self._failures = RateLimitedLogger(logger)
        self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.Lock()
        self._backoff = Backoff(COOLDOWN, COOLDOWN)
        self._broken_until = 0.0
        #: By ``id``, items that the broker has accepted, and that have not been counted in an answer yet.
        self._accepted: dict[int, object] = {}
        self._new_connection()

    def _new_connection(self) -> None:
        self._producer: Any = None
        #: By delivery tag, what has been written and not been confirmed.
        self._unconfirmed: dict[int, list[Any]] = {}
        self._next_tag = 0
        self._refused = False
        self._blocked = False
        #: Whether this is one connection too many to stay, and whether it is the turn of this process.
        self._is_guest = self._has_turn = False
        self._connection = self._connect(on_blocked=self._on_blocked, on_unblocked=self._on_unblocked)

    def after_fork(self) -> None:
        """Leave the connection to the parent."""
        if self._producer is not None:
            _inherited.append((self._producer, self._connection))
        self._start_over()

    def preload(self) -> None:
        """Load kombu's transport for this broker."""
        self._connection.get_transport_cls()

    @property
    def has_current_locks(self) -> bool:
        """Whether locks are still of the kind that they were of when this was made; monkey patching changes it."""
        return type(self._lock) is type(threading.Lock())

    def send(self, items: list[Item], pack: Pack[Item], route: Route = to_everybody) -> int:
        """Publish items in order, in the messages that ``pack`` puts them in.

        Messages to different routing keys may overtake each other.

        Items that are passed again after a failure are not written again if the broker has accepted them meanwhile, or
        still has them to read. Whatever ``pack`` raises is raised.

        Returns:
            How many of the first ones the broker accepted. Failures are logged at most once a minute.
        """
        with self._lock:
            return self._send(items, pack, route)

    def offer(self, body: bytes) -> bool:
        """Publish one message unless publishing has just failed; returns whether the broker accepted it."""
        if time.monotonic() < self._broken_until or not self._lock.acquire(timeout=LOCK_TIMEOUT):
            return False
        try:
            # Another thread may have failed while this one waited for the lock.
            return time.monotonic() >= self._broken_until and self._send([body], _alone, to_everybody) == 1
        finally:
            self._lock.release()

    def _send(self, items: list[Item], pack: Pack[Item], route: Route) -> int:
        try:
            self._write_in_two_attempts(items, pack, route)
        except errors_of(self._connection) as error:
            self._broken_until = time.monotonic() + self._backoff.pause()
            self._failures.error(
                "cannot publish to %s, so events wait or are lost; trying again: %s", self._name, describe(error)
            )
        else:
            self._broken_until = 0.0
            if self._is_guest:
                self._hang_up()
        return self._count_accepted(items)

    def _count_accepted(self, items: list[Item]) -> int:
        count = next((place for place, item in enumerate(items) if id(item) not in self._accepted), len(items))
        self._accepted = {id(item): item for item in items[count:] if id(item) in self._accepted}
        return count

    def _write_in_two_attempts(self, items: list[Item], pack: Pack[Item], route: Route) -> None:
        """Write items, and once more over a new connection: the old one may have been dead for long."""
        try:
            self._write_or_hang_up(items, pack, route)
        except errors_of(self._connection) as error:
            logger.debug("publishing to %s again, after %r", self._name, error)
            self._write_or_hang_up(items, pack, route)

    def _write_or_hang_up(self, items: list[Item], pack: Pack[Item], route: Route) -> None:
        try:
            self._write(items, pack, route)
        except BaseException:  # whatever it was, the connection may be in the middle of a message
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        hang_up(self._connection)
        self._end_turn()
        self._new_connection()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            turnstile.leave()

    def _write(self, items: list[Item], pack: Pack[Item], route: Route) -> None:
        # Not through kombu's ensure(), which tries again for ever once a connection has worked.
        if self._producer is not None and not self._unconfirmed and self._preference.is_back(self._connection):
            self._hang_up()
        if self._producer is None:
            self._producer = self._new_producer()
        self._await_confirms()
        rest = [item for item in items if id(item) not in self._accepted]
        for packed, body in () if self._blocked else pack(rest):
            self._next_tag += 1
            self._unconfirmed[self._next_tag] = packed
            key = route(packed)
            if key is None or self._audience.is_there(key):
                to = {} if key is None else self._audience.address(key)
                self._producer.publish(body, content_type="text/plain", content_encoding="utf-8", **to)
            if not self._confirms:
                self._on_ack(self._next_tag, False)
        self._await_confirms()

    def _new_producer(self) -> Any:
        self._has_turn = turnstile.enter()
        channel = self._connection.default_channel
        crowd = Crowd(clients_of_redis(channel))
        crowd.check()
        self._is_guest = crowd.is_dense
        if not self._is_guest:
            self._end_turn()
        close_reading_connection(channel)
        keep_client(channel)
        producer = self._connection.Producer(channel, exchange=self._exchange(), **self._options)
        if self._further is not None:
            further = self._further()(channel)
            further.declare()
            self._audience = Audience(channel, further.name)
        self._confirms = on_confirms(channel, self._on_ack, self._on_nack)
        return producer

    # -- RabbitMQ's answers -------------------------------------------------------------------------------------

    def _await_confirms(self) -> None:
        """Read the broker's answers until it has confirmed everything, or blocks.

        Raises:
            TimeoutError: It does neither in time.
        """
        if self._blocked:
            self._read(GLANCE)
        deadline = time.monotonic() + CONFIRM_TIMEOUT
        while self._unconfirmed and not self._blocked:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(self._unconfirmed)} messages were not confirmed in {CONFIRM_TIMEOUT:.0f} s")
            self._read(left)
            if self._refused:
                raise ConnectionError("the broker refused a message")
        if self._blocked:
            self._failures.error(
                "%s accepts no messages, because it is short of memory or disk space, so events wait; they are sent"
                " when there is room again",
                self._name,
            )

    def _read(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=timeout)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        for confirmed in self._tags(tag, multiple):
            self._accepted.update((id(item), item) for item in self._unconfirmed.pop(confirmed, ()))

    def _on_nack(self, tag: int, multiple: bool) -> None:
        for refused in self._tags(tag, multiple):
            self._unconfirmed.pop(refused, None)
        self._refused = True

    def _tags(self, tag: int, multiple: bool) -> list[int]:
        return [written for written in self._unconfirmed if written <= tag] if multiple else [tag]

    def _on_blocked(self, _reason: str) -> None:
        self._blocked = True

    def _on_unblocked(self) -> None:
        self._blocked = False

    # -- closing ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection; the next message makes a new one. Does not wait for one that is being sent."""
        with self._locked() as free:
            if not free:
                return
            try:
                self._connection.release()
            except errors_of(self._connection) as error:
                logger.debug("closing the connection to %s: %r", self._name, error)
            self._new_connection()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        free = self._lock.acquire(timeout=LOCK_TIMEOUT)
        try:
            yield free
        finally:
            if free:
                self._lock.release()


def _alone(bodies: list[bytes]) -> Iterator[tuple[list[bytes], bytes]]:
    yield from (([body], body) for body in bodies)
