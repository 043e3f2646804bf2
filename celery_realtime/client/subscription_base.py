"""What subscriptions of all kinds have in common: turns, timers and requests, in threads or in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from celery_realtime.client.hub import CHECK_INTERVAL, Topic, hub_of
from celery_realtime.client.seams import NotConnected
from celery_realtime.clocks import time
from celery_realtime.loops import BackgroundLoop

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

#: A subscription wakes up every second; without a turn for so many it stands still.
LONGEST_TURN = 30.0


class Following(Protocol):
    """What a subscription keeps up to date: a feed."""

    @property
    def wakes_at(self) -> float | None:
        """When :meth:`wake` has to be called, by its clock; None for not at all."""

    def wake(self) -> None:
        """Do what is due."""

    def connected(self) -> None:
        """Note that the client has connected."""

    def disconnected(self) -> None:
        """Note that the client has lost its connection."""

    def refused(self, error: dict[str, Any] | None) -> None:
        """Note that the server has refused the connection."""

    def heard(self, name: str, data: Any) -> None:
        """Take an event."""

    def close(self) -> None:
        """Call no callback any more."""


F = TypeVar("F", bound=Following)


class Subscription(ABC, Generic[F]):
    """All of a subscription that does not depend on how its client waits.

    Args:
        client: The client.
        feed: What is kept up to date.
        loop: What health checks call its loop.
        namespace: The Socket.IO namespace.
        clock: The feed's: returns the time in seconds.
    """

    def __init__(self, client: Any, feed: F, *, loop: str, namespace: str, clock: Callable[[], float]) -> None:
        self.namespace = namespace
        self.feed = feed
        #: The record of the background loop that watches the time and the connection.
        self.loop = BackgroundLoop(loop, logger, LONGEST_TURN)
        self._client = client
        self._clock = clock
        self._closed = False
        self._hub = hub_of(client)

    @property
    @abstractmethod
    def topic(self) -> Topic:
        """What it is subscribed to, as far as is known."""

    @property
    @abstractmethod
    def _farewell(self) -> tuple[str, dict[str, Any]]:
        """The event by which a client leaves the topic, and its data."""

    @abstractmethod
    def _turn(self) -> AbstractContextManager[None]:
        """Guard a change of the feed, and see to its timers afterwards."""

    @abstractmethod
    def _emit(self, event: str, data: dict[str, Any], acknowledged: Callable[..., None]) -> None:
        """Send an event, if there is a connection; if it has just ended, the next one asks again."""

    def _send(self, event: str, request: dict[str, Any], answered: Callable[[Any], None]) -> None:
        """Send a request of the feed's, which is told the answer in a turn of its own."""

        def acknowledged(*answer: Any) -> None:
            with self._turn():
                answered(answer[0] if answer else None)

        self._emit(event, request, acknowledged)

    @property
    def _pause(self) -> float:
        """Seconds until the next turn of the background loop."""
        wakes_at = self.feed.wakes_at
        return CHECK_INTERVAL if wakes_at is None else min(max(0.0, wakes_at - self._clock()), CHECK_INTERVAL)

    def _join_hub(self) -> None:
        if self._hub.add(self) and self.namespace in self._client.namespaces:
            self.connected()

    def connected(self) -> None:
        """Note that the client has connected."""
        with self._turn():
            self.feed.connected()

    def disconnected(self) -> None:
        """Note that the client has lost its connection."""
        with self._turn():
            self.feed.disconnected()

    def refused(self, error: dict[str, Any]) -> None:
        """Note that the server has refused the connection."""
        with self._turn():
            self.feed.refused(error)

    def heard(self, name: str, data: Any) -> None:
        """Take an event that the client received."""
        with self._turn():
            self.feed.heard(name, data)


class ThreadedSubscription(Subscription[F]):
    """A subscription of a :class:`socketio.Client`, with a thread that watches the time."""

    def __init__(self, client: Any, feed: F, **how: Any) -> None:
        #: Reentrant, since a callback may use the subscription.
        self._condition = threading.Condition(threading.RLock())
        super().__init__(client, feed, **how)
        self._join_hub()
        client.start_background_task(self._keep_time)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._condition:
            yield
            self._condition.notify_all()

    def _emit(self, event: str, data: dict[str, Any], acknowledged: Callable[..., None]) -> None:
        with contextlib.suppress(NotConnected):
            self._client.emit(event, data, self.namespace, callback=acknowledged)

    def _keep_time(self) -> None:
        while not self._closed:
            with self.loop.turn():
                self._hub.check(self._client)
                with self._turn():
                    self.feed.wake()
            with self._condition:
                if not self._closed:
                    self._condition.wait(self._pause)

    def wait_for(self, condition: Callable[[F], Any], timeout: float = 30.0) -> bool:
        """Wait until a condition holds for the feed; returns whether it does.

        Args:
            condition: Gets the feed.
            timeout: Longest wait, in seconds.
        """
        deadline = time.monotonic() + timeout
        with self._condition:
            while not condition(self.feed):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._condition.wait(min(left, 0.05))  # it may depend on more than the feed
        return True

    def close(self) -> None:
        """Leave what is followed, which goes on, and call no callback any more."""
        with self._turn():
            if self._closed:
                return
            self._closed = True
            self.feed.close()
        left = self._hub.remove(self)
        if left is not None:
            try:
                self._client.emit(*self._farewell, self.namespace, callback=left)
            except NotConnected:
                left()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSubscription(Subscription[F]):
    """A subscription of a :class:`socketio.AsyncClient`, made inside its event loop, with a timer there."""

    def __init__(self, client: Any, feed: F, **how: Any) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        super().__init__(client, feed, **how)
        self._join_hub()
        self._set_timer()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        yield
        self._set_timer()

    def _emit(self, event: str, data: dict[str, Any], acknowledged: Callable[..., None]) -> None:
        self._start(self._emit_now(event, data, acknowledged))

    async def _emit_now(self, event: str, data: dict[str, Any], acknowledged: Callable[..., None]) -> None:
        with contextlib.suppress(NotConnected):
            await self._client.emit(event, data, self.namespace, callback=acknowledged)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._event_loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            self._timer = self._event_loop.call_later(self._pause, self._wake)

    def _wake(self) -> None:
        with self.loop.turn():
            self._hub.check(self._client)
            self.feed.wake()
        self._set_timer()

    async def close(self) -> None:
        """Leave what is followed, which goes on, and call no callback any more."""
        if self._closed:
            return
        self._closed = True
        with self._turn():
            self.feed.close()
        left = self._hub.remove(self)
        if left is not None:
            try:
                await self._client.emit(*self._farewell, self.namespace, callback=left)
            except NotConnected:
                left()
