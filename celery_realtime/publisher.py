"""Publish to the broker, and know what it took."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from celery_realtime.connections import hang_up
from celery_realtime.logs import RateLimitedLogger

logger = logging.getLogger(__name__)

ATTEMPTS = 2
CONFIRM_TIMEOUT = 2.0
COOLDOWN = 2.0
LOCK_TIMEOUT = 1.0
GLANCE = 0.05

#: Not the module's own generator: a task that seeds that one counts on its numbers.
_jitter = random.Random()

#: A child must not let go of its parent's connections: py-amqp shuts the shared socket down when collected.
_inherited: list[object] = []

Item = TypeVar("Item")
Pack = Callable[[list[Item]], Iterable[tuple[list[Item], bytes]]]


class Publisher:
    """One connection to publish on, for any number of threads.

    A message counts as taken when the broker has said so: Redis answers each one; RabbitMQ confirms them (its
    "publisher confirms" extension), and is asked to for a whole batch at a time, which costs one round trip.

    A RabbitMQ that is short of memory or disk space blocks its publishers. What they have written by then it reads
    when it goes on, so nothing more is written, and nothing again, until it has.

    Args:
        connect: Returns a new connection, given ``on_blocked`` and ``on_unblocked``.
        exchange: Returns the exchange.
        options: Further keyword arguments of :class:`kombu.Producer`.
        name: The broker's name in the log.
    """

    def __init__(self, connect: Callable[..., Any], exchange: Callable[[], Any], options: dict[str, Any], name: str):
        self._connect = connect
        self._exchange = exchange
        self._options = options
        self._name = name
        self._failures = RateLimitedLogger(logger)
        self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.Lock()
        self._broken_until = 0.0
        #: By ``id``, what the broker has taken and the caller not been told of yet.
        self._taken: dict[int, object] = {}
        self._new_connection()

    def _new_connection(self) -> None:
        self._producer: Any = None
        #: By delivery tag, what has been written and not been confirmed.
        self._unconfirmed: dict[int, list[Any]] = {}
        self._next_tag = 0
        self._refused = False
        self._blocked = False
        self._connection = self._connect(on_blocked=self._on_blocked, on_unblocked=self._on_unblocked)

    def after_fork(self) -> None:
        """Leave the connection to the parent."""
        _inherited.append((self._producer, self._connection))
        self._start_over()

    def preload(self) -> None:
        """Load kombu's transport for this broker."""
        self._connection.get_transport_cls()

    @property
    def has_current_locks(self) -> bool:
        """Whether locks are still of the kind that they were of when this was made; monkey patching changes it."""
        return type(self._lock) is type(threading.Lock())

    def send(self, items: list[Item], pack: Pack[Item]) -> int:
        """Publish items in order, in the messages that ``pack`` puts them in.

        Items that are passed again after a failure are not written again if the broker has taken them meanwhile, or
        still has them to read.

        Returns:
            How many of the first ones the broker took. Failures are logged at most once a minute.
        """
        with self._lock:
            return self._send(items, pack)

    def offer(self, body: bytes) -> bool:
        """Publish one message unless publishing has failed in the last seconds; returns whether the broker took it."""
        if time.monotonic() < self._broken_until or not self._lock.acquire(timeout=LOCK_TIMEOUT):
            return False
        try:
            # Who has waited for the lock may have waited for a failure.
            return time.monotonic() >= self._broken_until and self._send([body], _alone) == 1
        finally:
            self._lock.release()

    def _send(self, items: list[Item], pack: Pack[Item]) -> int:
        try:
            self._write_in_two_attempts(items, pack)
        except Exception as error:
            self._broken_until = time.monotonic() + COOLDOWN * _jitter.uniform(0.5, 1.0)
            self._failures.error("cannot publish to %s: %r", self._name, error)
        else:
            self._broken_until = 0.0
        return self._tell_taken(items)

    def _tell_taken(self, items: list[Item]) -> int:
        count = next((place for place, item in enumerate(items) if id(item) not in self._taken), len(items))
        self._taken = {id(item): item for item in items[count:] if id(item) in self._taken}
        return count

    def _write_in_two_attempts(self, items: list[Item], pack: Pack[Item]) -> None:
        for _ in range(ATTEMPTS - 1):
            try:
                return self._write(items, pack)
            except Exception as error:
                logger.debug("publishing to %s again, after %r", self._name, error)
                self._discard_connection()
        try:
            self._write(items, pack)
        except Exception:
            self._discard_connection()
            raise

    def _write(self, items: list[Item], pack: Pack[Item]) -> None:
        # Not through kombu's ensure(): it retries for ever once a connection has worked.
        if self._producer is None:
            self._producer = self._new_producer()
        self._await_confirms()
        rest = [item for item in items if id(item) not in self._taken]
        for packed, body in () if self._blocked else pack(rest):
            self._next_tag += 1
            self._unconfirmed[self._next_tag] = packed
            self._producer.publish(body, content_type="text/plain", content_encoding="utf-8")
            if not self._confirms:
                self._on_ack(self._next_tag, False)
        self._await_confirms()

    def _new_producer(self) -> Any:
        channel = self._connection.default_channel
        self._confirms = hasattr(channel, "confirm_select")
        producer = self._connection.Producer(channel, exchange=self._exchange(), **self._options)
        if self._confirms:
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
        return producer

    # -- what RabbitMQ says -------------------------------------------------------------------------------------

    def _await_confirms(self) -> None:
        """Read what the broker has to say until it has confirmed everything, or blocks.

        Raises:
            TimeoutError: It does neither in time.
        """
        if self._blocked:
            self._read(GLANCE)
        deadline = time.monotonic() + CONFIRM_TIMEOUT
        while self._unconfirmed and not self._blocked:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(self._unconfirmed)} messages are not confirmed")
            self._read(left)
            if self._refused:
                raise ConnectionError("a message was refused")
        if self._blocked:
            self._failures.error("%s takes no messages: it is short of memory or disk space", self._name)

    def _read(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=timeout)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        for confirmed in self._tags(tag, multiple):
            self._taken.update((id(item), item) for item in self._unconfirmed.pop(confirmed, ()))

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

    # -- parting ------------------------------------------------------------------------------------------------

    def _discard_connection(self) -> None:
        hang_up(self._connection)
        self._new_connection()

    def close(self) -> None:
        """Let go of the connection; the next message makes a new one. Does not wait for one that is being sent."""
        with self._locked() as free:
            if not free:
                return
            try:
                self._connection.release()
            except Exception as error:  # a broker that is away takes no leave
                logger.debug("parting from %s: %r", self._name, error)
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
