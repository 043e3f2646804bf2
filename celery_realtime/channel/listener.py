"""Listen to the broker: receive every message of a channel, for as long as the process lives."""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

from celery_realtime.backoff import Backoff
from celery_realtime.channel.bindings import Binder, Bindings
from celery_realtime.channel.connections import (
    SOCKET_TIMEOUT,
    Preference,
    connection,
    errors_of,
    fanout_exchange,
    fanout_queue,
    hang_up,
    shards_exchange,
)
from celery_realtime.channel.seams import clients_of_redis, leave_compressed, read_buffered, shorten_farewell
from celery_realtime.channel.wire import PING, log_ignored
from celery_realtime.clocks import time
from celery_realtime.crowd import Crowd
from celery_realtime.forks import at_exit
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.urls import is_redis, redact

logger = logging.getLogger(__name__)

POLL_INTERVAL = 1.0
SHORTEST_POLL = 0.01
FIRST_POLL = 0.02
FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 2.0
ECHO_TIMEOUT = 2.5

#: The queue of all listeners on a Redis. Messages go to whoever is subscribed, and not to queues there. But kombu has
#: the name of each queue in a set, in which those of processes that were killed would stay.
QUEUE_OF_ALL = "celery-realtime"

#: Silence, in seconds, after which a listener counts as deaf: long enough for a ping to be sent and come back.
DEAF_AFTER = 5.0


class Listener:
    """Receives the messages of a channel, and goes on doing so when connections break.

    When nothing has come for a second it publishes a ping, which all listeners of the channel receive. If not even
    that comes back, the connection only looks alive, and is replaced.

    Args:
        url: Broker URL.
        channel: Name of the fan-out exchange, the same on every side.
        connection_options: Further keyword arguments of :class:`kombu.Connection`.
        exchange_options: Further keyword arguments of :class:`kombu.Exchange`.
        queue_options: Further keyword arguments of :class:`kombu.Queue`.

    Attributes:
        generation: How many connections have been listened on; when it changes, messages may have been missed.
        losses: How many of these have broken, or were given up because nothing was heard on them any more.
        last_heard: When the last message came, of :func:`time.monotonic`; None before the first.
        bindings: Which shards of the channel it listens to, beside the channel itself; all of those that are wanted
            are listened to before a new connection counts, and before any of its messages is yielded.
    """

    def __init__(
        self,
        url: str,
        channel: str,
        *,
        connection_options: dict[str, Any] | None = None,
        exchange_options: dict[str, Any] | None = None,
        queue_options: dict[str, Any] | None = None,
    ) -> None:
        self._connect = functools.partial(connection, url, connection_options or {}, reading=True)
        self._preference = Preference(url, connection_options or {})
        exchange = fanout_exchange(channel, exchange_options or {})
        self._shards_exchange = functools.partial(shards_exchange, url, channel, exchange_options or {})
        self._channel = channel
        self._has_name_in_broker = is_redis(url)
        name = QUEUE_OF_ALL if is_redis(url) else None
        self._make_queue = functools.partial(fanout_queue, exchange, queue_options or {}, name)
        self._shards_queue_options = queue_options or {}
        self._name = redact(url)
        self._failures = RateLimitedLogger(logger)
        self._echo = Echo()
        self.generation = self.losses = 0
        self._leaves_at_exit = False
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the parent's connection: the thread that listened is not in the child."""
        self._listening = threading.Event()
        self.bindings = Bindings()
        self._deaf_since: float | None = None
        self.last_heard: float | None = None

    def wait(self, timeout: float) -> bool:
        """Wait until messages are received, at most ``timeout`` seconds; returns whether they are."""
        return self._listening.wait(timeout)

    @property
    def is_hearing(self) -> bool:
        """Whether there is proof from the last five seconds that messages are received, such as an own ping."""
        if not self._listening.is_set() or not self._echo.is_possible:
            return self._listening.is_set()
        return self.last_heard is not None and time.monotonic() - self.last_heard < DEAF_AFTER

    def is_of_shard(self, message: Any) -> bool:
        """Return whether a message was published to a shard of the channel, and not to all of it."""
        where = message.delivery_info  # on a Redis it is the publisher's word
        return not isinstance(where, dict) or where.get("exchange") != self._channel

    def messages(self, patience: Callable[[], float] = lambda: POLL_INTERVAL) -> Generator[Any, None, None]:
        """Yield every message, for ever; None for each silence, each new connection and each failed one.

        Args:
            patience: Asked before each wait for how long a silence may be, in seconds; a second is the most.
        """
        backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        while True:
            broker = self._connect(on_blocked=self._echo.on_blocked, on_unblocked=self._echo.on_unblocked)
            try:
                for message in self._consume(broker, patience):
                    if message is not None:
                        backoff.reset()
                    yield message
            except errors_of(broker) as error:
                self._note_outage(error)
            yield None
            time.sleep(backoff.pause())

    def _note_outage(self, error: BaseException) -> None:
        forbidden = self.bindings.forbid_announced() if _is_forbidden(error) else ()
        if forbidden:
            logger.warning(
                "%s does not let this user listen to the shards of %s, which others have announced as their "
                "realtime_shards, so events of theirs are not heard live; give all processes one number, or this "
                "user the right to listen",
                self._name,
                ", ".join(map(str, sorted(forbidden))),
            )
        elif _is_forbidden(error) and not self._echo.forbidden:
            self._echo.forbidden = True
            logger.warning(
                "%s lets this user listen but not publish, so dead connections will be noticed late; allow it to "
                "write to the channel, too",
                self._name,
            )
        self._failures.error(
            "not hearing %s, so clients get no live events: %s; reconnecting until it is heard",
            self._name,
            describe(error),
        )

    def _queue_of_shards(self, exchange: Any) -> Any:
        """Return the queue of the shards' exchange where each exchange needs one: not on a RabbitMQ."""
        return fanout_queue(exchange, self._shards_queue_options, f"{QUEUE_OF_ALL}.{exchange.name}")

    def leave(self) -> None:
        """Remove from the broker what it has of a listener; what it has of others that use it, it has again soon.

        Nothing is delivered by it. This is done when the process ends, since the thread that listens does not end then.
        """
        if not self._listening.is_set():
            return
        broker = self._connect()
        try:
            of_shards = [self._queue_of_shards(self._shards_exchange(total)) for total in list(self.bindings.totals)]
            for queue in (self._make_queue(), *of_shards):
                bound = queue(broker.default_channel)
                bound.declare()  # a connection deletes what it has declared
                bound.delete()
            broker.release()
        except errors_of(broker) as error:
            logger.debug("cannot take leave of %s: %r", self._name, error)

    def _note_hearing(self) -> None:
        if self._has_name_in_broker and not self._leaves_at_exit:
            self._leaves_at_exit = True
            at_exit(self.leave)
        self.generation += 1
        self._listening.set()
        if self._deaf_since is not None:
            logger.info("hearing %s again after %.1f s", self._name, time.monotonic() - self._deaf_since)
            self._deaf_since = None

    def _note_deaf(self) -> None:
        self._listening.clear()
        self.bindings.note_deaf()
        if self._deaf_since is None:
            self._deaf_since = time.monotonic()

    def _consume(self, broker: Any, patience: Callable[[], float]) -> Iterator[Any]:
        self._echo.start_over()
        end: Callable[[Any], None] = hang_up
        try:
            yield from self._receive(broker, patience)
        except GeneratorExit:
            end = _release
            raise
        except errors_of(broker):
            self.losses += self._listening.is_set()
            raise
        finally:
            self._note_deaf()
            end(broker)

    def _receive(self, broker: Any, patience: Callable[[], float]) -> Iterator[Any]:
        inbox: collections.deque[Any] = collections.deque()
        leave_compressed(broker.default_channel)
        Crowd(clients_of_redis(broker.default_channel)).check()
        channel_queue = self._make_queue()
        consumer = broker.Consumer(
            channel_queue,
            on_message=inbox.append,
            on_decode_error=_ignore_message,
            no_ack=True,
            accept=["json", "text/plain"],
        )
        consumer.consume()
        _drain(broker, FIRST_POLL)  # kombu subscribes on Redis at the first poll only
        binder = Binder(self.bindings, consumer, self._queue_of_shards, self._shards_exchange)
        binder.wait(functools.partial(_drain, broker, FIRST_POLL), SOCKET_TIMEOUT)
        producer = broker.Producer(exchange=channel_queue.exchange, auto_declare=False)
        self._note_hearing()
        self._ping(producer)
        yield None
        pings_at = time.monotonic() + POLL_INTERVAL
        while True:
            if inbox:
                self.last_heard = time.monotonic()
                self._echo.received()
                pings_at = self.last_heard + POLL_INTERVAL
            while inbox:
                yield inbox.popleft()
            binder.turn()
            if self._preference.is_back(broker):
                raise ConnectionError("the first broker works again, where all others are going to be")
            _drain(broker, min(POLL_INTERVAL, max(SHORTEST_POLL, patience())))
            if not inbox:
                if time.monotonic() > pings_at - SHORTEST_POLL:
                    self._ping(producer)
                    pings_at = time.monotonic() + POLL_INTERVAL
                yield None

    def _ping(self, producer: Any) -> None:
        """Publish a ping, if that is possible.

        Raises:
            TimeoutError: An earlier one has not come back.
        """
        if self._echo.is_due():
            producer.publish(PING, content_type="text/plain", content_encoding="utf-8")


class Echo:
    """Whether what is published on a channel comes back.

    Attributes:
        forbidden: Whether the user may not publish; listening goes on without.
    """

    def __init__(self) -> None:
        self.forbidden = False
        self.start_over()

    def start_over(self) -> None:
        """Forget what belonged to an earlier connection."""
        self._pinged_at: float | None = None
        self._blocked = False

    @property
    def is_possible(self) -> bool:
        """Whether anything can be published."""
        return not (self.forbidden or self._blocked)

    def is_due(self) -> bool:
        """Note that a ping is about to be published, and return whether it can be.

        Raises:
            TimeoutError: An earlier one has not come back.
        """
        if not self.is_possible:
            return False
        clock = time.monotonic()
        if self._pinged_at is None:
            self._pinged_at = clock
        elif clock - self._pinged_at > ECHO_TIMEOUT:
            raise TimeoutError(f"no echo for {clock - self._pinged_at:.1f} s")
        return True

    def received(self) -> None:
        """Note that a message came."""
        self._pinged_at = None

    def on_blocked(self, _reason: str) -> None:
        """Note that the broker takes no messages for now, though it delivers those of others."""
        self._blocked = True

    def on_unblocked(self) -> None:
        """Note that the broker takes messages again."""
        self._blocked = False
        self._pinged_at = None


def _is_forbidden(error: BaseException) -> bool:
    # amqp.AccessRefused and redis.NoPermissionError, neither of which need be installed
    return getattr(error, "reply_code", None) == 403 or type(error).__name__ == "NoPermissionError"


def _release(broker: Any) -> None:
    """Take leave of the broker, which may be dead: py-amqp would wait for its answer for ever."""
    shorten_farewell(broker, SOCKET_TIMEOUT)
    try:
        broker.release()
    except errors_of(broker) as error:
        logger.debug("closing a connection that nobody listens to any more: %r", error)


def _drain(broker: Any, timeout: float) -> None:
    guard = functools.partial(_surviving_poison, broker)
    with guard(), contextlib.suppress(TimeoutError):
        broker.drain_events(timeout=timeout)
    read_buffered(broker.default_channel, guard)


@contextlib.contextmanager
def _surviving_poison(broker: Any) -> Iterator[None]:
    """Go on after a message that kombu cannot read: only a broken connection is a reason to make a new one."""
    try:
        yield
    except Exception as error:  # kombu raises whatever decoding a hostile message raises
        # Among kombu's connection errors for Redis is KeyError, which a message without an envelope raises.
        broken = isinstance(error, (*broker.connection_errors, *broker.channel_errors))
        if broken and not isinstance(error, (LookupError, TypeError, ValueError)):
            raise
        log_ignored(describe(error))


def _ignore_message(_message: Any, error: Exception) -> None:
    log_ignored(describe(error))
