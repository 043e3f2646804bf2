"""Follow a project over a client of python-socketio, in threads or in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypedDict

from celery_realtime.client.feed import Feed, FeedOptions, OnChange, OnEvent
from celery_realtime.client.hub import CHECK_INTERVAL, hub_of
from celery_realtime.client.lags import LagReports
from celery_realtime.client.seams import NotConnected
from celery_realtime.clocks import time
from celery_realtime.loops import BackgroundLoop

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

logger = logging.getLogger(__name__)

SUBSCRIBE = "subscribe_project"
UNSUBSCRIBE = "unsubscribe_project"
READ_JOBS = "read_jobs"
REPORT_LAG = "report_lag"

#: A subscription wakes up every second; without a turn for so many it stands still.
LONGEST_TURN = 30.0


class Options(TypedDict, total=False):
    """Where and how a subscription begins; see :class:`~celery_realtime.client.feed.FeedOptions`."""

    since: Mapping[str, Any] | None
    batch: bool
    max_jobs: int
    ack_timeout: float
    first_pause: float


class _Subscription(ABC):
    """All of a subscription that does not depend on how its client waits.

    Args:
        client: The client.
        project_id: The project.
        namespace: The Socket.IO namespace.
        options: What the feed does with its events.
    """

    def __init__(self, client: Any, project_id: object, *, namespace: str, options: FeedOptions) -> None:
        self.namespace = namespace
        self.topic = f"project {project_id}"
        self.feed = Feed(str(project_id), self._ask, options, ask_page=self._ask_page)
        self._lags = LagReports(str(project_id), self._report)
        #: The record of the background loop that watches the time and the connection.
        self.loop = BackgroundLoop("client-subscription", logger, LONGEST_TURN)
        self._client = client
        self._clock = options.clock
        self._closed = False
        self._hub = hub_of(client)

    @abstractmethod
    def _turn(self) -> AbstractContextManager[None]:
        """Guard a change of the feed, and see to its timers afterwards."""

    @abstractmethod
    def _send(self, event: str, request: dict[str, Any], answered: Callable[[Any], None]) -> None:
        """Send a request of the feed's."""

    def _ask(self, number: int, request: dict[str, Any]) -> None:
        def answered(answer: Any) -> None:
            self._lags.answered(answer)
            self.feed.answered(number, answer)

        self._send(SUBSCRIBE, request, answered)

    def _ask_page(self, number: int, request: dict[str, Any]) -> None:
        self._send(READ_JOBS, request, lambda answer: self.feed.page_answered(number, answer))

    @abstractmethod
    def _report(self, report: dict[str, Any], acknowledged: Callable[..., None]) -> None:
        """Send a report of the lag of events."""

    @property
    def _pause(self) -> float:
        """Seconds until the next turn of the background loop."""
        wakes_at = self.feed.wakes_at
        return CHECK_INTERVAL if wakes_at is None else min(max(0.0, wakes_at - self._clock()), CHECK_INTERVAL)

    def _join_hub(self) -> None:
        self._hub.add(self)
        if self.namespace in self._client.namespaces:
            self.connected()

    def _acknowledgement(self, answered: Callable[[Any], None]) -> Callable[..., None]:
        def acknowledged(*answer: Any) -> None:
            with self._turn():
                answered(answer[0] if answer else None)

        return acknowledged

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
            self._lags.heard(name, data)
            self.feed.heard(name, data)


class ProjectSubscription(_Subscription):
    """Follow a project over a :class:`socketio.Client`, now and after each reconnection.

    Callbacks are called in the client's threads, one at a time.

    Args:
        client: The client, connected or not.
        project_id: The project.
        on_event: ``(name, data)``, for each event, in order, each once.
        on_change: ``(feed, reason)``, when the state of the project has changed. ``reason`` is ``snapshot`` when all of
            it has been replaced, else ``jobs``, ``workflows`` or ``state``.
        namespace: The Socket.IO namespace.
        **options: ``since``, the position to begin at, of a :class:`~celery_realtime.jobs.handle.JobHandle`; ``batch``,
            whether events come as lists; ``max_jobs``, beyond which jobs that have ended are forgotten, 5000;
            ``ack_timeout``, seconds to wait for an answer, 5; ``first_pause``, seconds until the first retry, 0.5.

    Attributes:
        feed: The state of the project: ``state``, ``jobs``, ``workflows``, ``epoch``, ``offset``, ``error``.

    Raises:
        RealtimeError: This version of python-socketio does not let a client's events be observed.
    """

    def __init__(
        self,
        client: Any,
        project_id: object,
        on_event: OnEvent = lambda _name, _data: None,
        on_change: OnChange = lambda _feed, _reason: None,
        *,
        namespace: str = "/",
        **options: Unpack[Options],
    ) -> None:
        #: Reentrant, since a callback may use the subscription.
        self._condition = threading.Condition(threading.RLock())
        super().__init__(client, project_id, namespace=namespace, options=FeedOptions(on_event, on_change, **options))
        self._join_hub()
        client.start_background_task(self._keep_time)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._condition:
            yield
            self._condition.notify_all()

    def _send(self, event: str, request: dict[str, Any], answered: Callable[[Any], None]) -> None:
        with contextlib.suppress(NotConnected):  # if the connection has just ended, the next one asks again
            self._client.emit(event, request, self.namespace, callback=self._acknowledgement(answered))

    def _report(self, report: dict[str, Any], acknowledged: Callable[..., None]) -> None:
        with contextlib.suppress(NotConnected):
            self._client.emit(REPORT_LAG, report, self.namespace, callback=acknowledged)

    def _keep_time(self) -> None:
        while not self._closed:
            with self.loop.turn():
                self._hub.check(self._client)
                with self._turn():
                    self.feed.wake()
            with self._condition:
                if not self._closed:
                    self._condition.wait(self._pause)

    def wait_for(self, condition: Callable[[Feed], Any], timeout: float = 30.0) -> bool:
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
        """Leave the project, and call no callback any more."""
        with self._turn():
            if self._closed:
                return
            self._closed = True
            self.feed.close()
        if self._hub.remove(self):
            with contextlib.suppress(NotConnected):
                self._client.emit(UNSUBSCRIBE, {"project_id": self.feed.project_id}, self.namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncProjectSubscription(_Subscription):
    """Follow a project over a :class:`socketio.AsyncClient`; made inside its event loop.

    Takes the arguments of :class:`ProjectSubscription`, and has its ``feed``. Callbacks are plain functions.
    """

    def __init__(
        self,
        client: Any,
        project_id: object,
        on_event: OnEvent = lambda _name, _data: None,
        on_change: OnChange = lambda _feed, _reason: None,
        *,
        namespace: str = "/",
        **options: Unpack[Options],
    ) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        feed_options = FeedOptions(on_event, on_change, clock=self._event_loop.time, **options)
        super().__init__(client, project_id, namespace=namespace, options=feed_options)
        self._join_hub()
        self._set_timer()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        yield
        self._set_timer()

    def _send(self, event: str, request: dict[str, Any], answered: Callable[[Any], None]) -> None:
        self._start(self._emit(event, request, self._acknowledgement(answered)))

    def _report(self, report: dict[str, Any], acknowledged: Callable[..., None]) -> None:
        self._start(self._emit(REPORT_LAG, report, acknowledged))

    async def _emit(self, event: str, request: dict[str, Any], acknowledgement: Callable[..., None]) -> None:
        with contextlib.suppress(NotConnected):  # if the connection has just ended, the next one asks again
            await self._client.emit(event, request, self.namespace, callback=acknowledgement)

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
        """Leave the project, and call no callback any more."""
        if self._closed:
            return
        self._closed = True
        with self._turn():
            self.feed.close()
        if self._hub.remove(self):
            with contextlib.suppress(NotConnected):
                await self._client.emit(UNSUBSCRIBE, {"project_id": self.feed.project_id}, self.namespace)
