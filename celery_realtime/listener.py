"""Hear the broker: every message, for as long as the process lives."""

from __future__ import annotations

import collections
import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from celery_realtime.connections import hang_up
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.wire import PING, ignore

logger = logging.getLogger(__name__)

POLL_INTERVAL = 1.0
FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 2.0
ECHO_TIMEOUT = 2.5

#: Silence, in seconds, after which a listener counts as deaf: long enough for a ping to be sent and come back.
DEAF_AFTER = 5.0

#: Not the module's own generator: what a program seeds must give it the same numbers.
_jitter = random.Random()


class Listener:
    """Hears a channel, and goes on hearing it when connections break.

    When it has heard nothing for a second it says something itself, which all listeners of the channel hear. If not
    even that comes back, the connection only looks alive, and is replaced.

    Args:
        connect: Returns a new connection, given ``on_blocked`` and ``on_unblocked``.
        make_queue: Returns a queue, bound to the channel's exchange.
        name: The broker's name in the log.

    Attributes:
        generation: How many connections have been listened on; when it changes, messages may have been missed.
        last_heard: When the last message came, of :func:`time.monotonic`; None before the first.
    """

    def __init__(self, connect: Callable[..., Any], make_queue: Callable[[], Any], name: str) -> None:
        self._connect = connect
        self._make_queue = make_queue
        self._name = name
        self._failures = RateLimitedLogger(logger)
        self._deaf_since: float | None = None
        self._echo = Echo()
        self.generation = 0
        self.last_heard: float | None = None
        self._listening = threading.Event()

    def after_fork(self) -> None:
        """Forget the parent's connection: the thread that listened is not in the child."""
        self._listening = threading.Event()
        self.last_heard = None

    def wait(self, timeout: float) -> bool:
        """Wait until messages are heard, at most ``timeout`` seconds; returns whether they are."""
        return self._listening.wait(timeout)

    @property
    def is_hearing(self) -> bool:
        """Whether there is proof from the last seconds that messages are heard."""
        if not self._listening.is_set() or not self._echo.is_possible:
            return self._listening.is_set()
        return self.last_heard is not None and time.monotonic() - self.last_heard < DEAF_AFTER

    def messages(self) -> Iterator[Any]:
        """Yield every message, for ever; and None about every second, and whenever there is a new connection."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                for message in self._consume():
                    if message is not None:
                        backoff = FIRST_BACKOFF
                    yield message
            except Exception as error:
                self._note_outage(error)
                time.sleep(backoff * _jitter.uniform(0.5, 1.0))
                backoff = min(backoff * 2, LONGEST_BACKOFF)

    def _note_outage(self, error: Exception) -> None:
        self._listening.clear()
        if self._deaf_since is None:
            self._deaf_since = time.monotonic()
        if _is_forbidden(error) and not self._echo.forbidden:
            self._echo.forbidden = True
            logger.warning("%s lets us listen and not publish, so a dead connection is noticed late", self._name)
        self._failures.error("not hearing %s: %s; trying until it is heard", self._name, describe(error))

    def _note_hearing(self) -> None:
        self.generation += 1
        self._listening.set()
        if self._deaf_since is not None:
            logger.info("hearing %s again after %.1f s", self._name, time.monotonic() - self._deaf_since)
            self._deaf_since = None

    def _consume(self) -> Iterator[Any]:
        self._echo.start_over()
        connection = self._connect(on_blocked=self._echo.on_blocked, on_unblocked=self._echo.on_unblocked)
        try:
            yield from self._hear(connection)
        except GeneratorExit:
            connection.release()
            raise
        except Exception:
            hang_up(connection)
            raise

    def _hear(self, connection: Any) -> Iterator[Any]:
        inbox: collections.deque[Any] = collections.deque()
        channel_queue = self._make_queue()
        consumer = connection.Consumer(
            channel_queue,
            on_message=inbox.append,
            on_decode_error=_ignore_message,
            no_ack=True,
            accept=["json", "text/plain"],
        )
        consumer.consume()
        _drain(connection, 0.02)  # kombu subscribes on Redis at the first poll only
        producer = connection.Producer(exchange=channel_queue.exchange, auto_declare=False)
        self._note_hearing()
        self._ping(producer)
        yield None
        while True:
            if inbox:
                self.last_heard = time.monotonic()
                self._echo.heard()
            while inbox:
                yield inbox.popleft()
            _drain(connection, POLL_INTERVAL)
            if not inbox:
                self._ping(producer)
                yield None

    def _ping(self, producer: Any) -> None:
        """Say something to ourselves.

        Raises:
            TimeoutError: What was said before has not come back.
        """
        if self._echo.is_due():
            producer.publish(PING, content_type="text/plain", content_encoding="utf-8")


class Echo:
    """Whether what is said into a channel comes back.

    Attributes:
        forbidden: Whether the user may not publish; listening goes on without.
    """

    def __init__(self) -> None:
        self.forbidden = False
        self.start_over()

    def start_over(self) -> None:
        """Forget what belonged to an earlier connection."""
        self._said_at: float | None = None
        self._blocked = False

    @property
    def is_possible(self) -> bool:
        """Whether anything can be said."""
        return not (self.forbidden or self._blocked)

    def is_due(self) -> bool:
        """Note that something is going to be said, and return whether it can be.

        Raises:
            TimeoutError: What was said before has not come back.
        """
        if not self.is_possible:
            return False
        clock = time.monotonic()
        if self._said_at is None:
            self._said_at = clock
        elif clock - self._said_at > ECHO_TIMEOUT:
            raise TimeoutError(f"no echo for {clock - self._said_at:.1f} s")
        return True

    def heard(self) -> None:
        """Note that something came."""
        self._said_at = None

    def on_blocked(self, _reason: str) -> None:
        """Note that the broker takes no messages, of which it does give us others'."""
        self._blocked = True

    def on_unblocked(self) -> None:
        """Note that the broker takes messages again."""
        self._blocked = False
        self._said_at = None


def _is_forbidden(error: Exception) -> bool:
    # amqp.AccessRefused and redis.NoPermissionError, neither of which need be installed
    return getattr(error, "reply_code", None) == 403 or type(error).__name__ == "NoPermissionError"


def _drain(connection: Any, timeout: float) -> None:
    with _surviving_poison(connection), contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=timeout)
    # kombu leaves in redis-py's buffer what came in one packet behind a message that it cannot read.
    channel = connection.default_channel
    subclient = vars(channel).get("subclient")
    while subclient is not None and subclient.connection is not None and subclient.connection.can_read(timeout=0):
        with _surviving_poison(connection), contextlib.suppress(queue.Empty):
            channel._receive_one(subclient)


@contextlib.contextmanager
def _surviving_poison(connection: Any) -> Iterator[None]:
    """Go on after a message that kombu cannot read: only a broken connection is a reason to make a new one."""
    try:
        yield
    except Exception as error:
        # Among kombu's connection errors for Redis is KeyError, which a message without an envelope raises.
        broken = isinstance(error, (*connection.connection_errors, *connection.channel_errors))
        if broken and not isinstance(error, (LookupError, TypeError, ValueError)):
            raise
        ignore(repr(error))


def _ignore_message(_message: Any, error: Exception) -> None:
    ignore(repr(error))
