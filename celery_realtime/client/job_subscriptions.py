"""Follow a job and its streams over a client of python-socketio, in threads or in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from celery_realtime.client.hub import CHECK_INTERVAL, hub_of
from celery_realtime.client.job_feed import JobFeed, JobFeedOptions
from celery_realtime.client.seams import NotConnected
from celery_realtime.client.subscriptions import LONGEST_TURN
from celery_realtime.clocks import time
from celery_realtime.loops import BackgroundLoop

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

UNSUBSCRIBE = "unsubscribe_job"
CANCEL = "cancel_job"


class _JobSubscription(ABC):
    """All of a subscription to a job that does not depend on how its client waits.

    Args:
        client: The client.
        job_id: The job.
        project_id: Its project; None where the server knows it.
        namespace: The Socket.IO namespace.
        options: What the feed does with what it hears.
    """

    def __init__(
        self, client: Any, job_id: str, *, project_id: object, namespace: str, options: JobFeedOptions
    ) -> None:
        self.namespace = namespace
        self.topic = f"job {job_id}"
        self.feed = JobFeed(job_id, None if project_id is None else str(project_id), self._ask, options)
        #: The record of the background loop that watches the time and the connection.
        self.loop = BackgroundLoop("client-job-subscription", logger, LONGEST_TURN)
        self._named = {"job_id": job_id, **({} if project_id is None else {"project_id": str(project_id)})}
        self._client = client
        self._clock = options.clock
        self._closed = False
        self._hub = hub_of(client)

    @abstractmethod
    def _turn(self) -> AbstractContextManager[None]:
        """Guard a change of the feed, and see to its timers afterwards."""

    @abstractmethod
    def _send(self, event: str, request: dict[str, Any], answered: Callable[..., None]) -> None:
        """Send a request of the feed's."""

    def _ask(self, number: int, event: str, request: dict[str, Any]) -> None:
        def answered(*answer: Any) -> None:
            with self._turn():
                self.feed.answered(number, answer[0] if answer else None)

        self._send(event, request, answered)

    @property
    def _pause(self) -> float:
        """Seconds until the next turn of the background loop."""
        wakes_at = self.feed.wakes_at
        return CHECK_INTERVAL if wakes_at is None else min(max(0.0, wakes_at - self._clock()), CHECK_INTERVAL)

    def _join_hub(self) -> None:
        self._hub.add(self)
        if self.namespace in self._client.namespaces:
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


class JobSubscription(_JobSubscription):
    """Follow a job and its streams over a :class:`socketio.Client`, now and after each reconnection.

    Callbacks are called in the client's threads, one at a time.

    Args:
        client: The client, connected or not.
        job_id: The job.
        project_id: Its project: needed without a history, and for a job that was not published yet.
        namespace: The Socket.IO namespace.
        **options: ``on_chunk(stream, chunk)``, ``on_event(name, data)`` and ``on_change(feed)``; ``ack_timeout``,
            seconds to wait for an answer, 5; ``first_pause``, seconds until the first retry, 0.5.

    Attributes:
        feed: The state: ``state``, ``job``, ``streams``, ``has_ended``, ``live_only``, ``error``.

    Raises:
        RealtimeError: This version of python-socketio does not let a client's events be observed.
    """

    def __init__(
        self, client: Any, job_id: str, *, project_id: object = None, namespace: str = "/", **options: Any
    ) -> None:
        #: Reentrant, since a callback may use the subscription.
        self._condition = threading.Condition(threading.RLock())
        super().__init__(client, job_id, project_id=project_id, namespace=namespace, options=JobFeedOptions(**options))
        self._join_hub()
        client.start_background_task(self._keep_time)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._condition:
            yield
            self._condition.notify_all()

    def _send(self, event: str, request: dict[str, Any], answered: Callable[..., None]) -> None:
        with contextlib.suppress(NotConnected):  # if the connection has just ended, the next one asks again
            self._client.emit(event, request, self.namespace, callback=answered)

    def _keep_time(self) -> None:
        while not self._closed:
            with self.loop.turn():
                self._hub.check(self._client)
                with self._turn():
                    self.feed.wake()
            with self._condition:
                if not self._closed:
                    self._condition.wait(self._pause)

    def wait_for(self, condition: Callable[[JobFeed], Any], timeout: float = 30.0) -> bool:
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

    def cancel(self, timeout: float = 10.0) -> dict[str, Any]:
        """Cancel the job, if a rule of the server allows it, and return the server's answer.

        Raises:
            socketio.exceptions.SocketIOError: There is no connection, or no answer in time.
        """
        answer: dict[str, Any] = self._client.call(CANCEL, self._named, self.namespace, timeout)
        return answer

    def close(self) -> None:
        """Leave the job, which goes on, and call no callback any more."""
        with self._turn():
            if self._closed:
                return
            self._closed = True
            self.feed.close()
        if self._hub.remove(self):
            with contextlib.suppress(NotConnected):
                self._client.emit(UNSUBSCRIBE, self._named, self.namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncJobSubscription(_JobSubscription):
    """Follow a job and its streams over a :class:`socketio.AsyncClient`; made inside its event loop.

    Takes the arguments of :class:`JobSubscription`, and has its ``feed``. Callbacks are plain functions.
    """

    def __init__(
        self, client: Any, job_id: str, *, project_id: object = None, namespace: str = "/", **options: Any
    ) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        feed_options = JobFeedOptions(clock=self._event_loop.time, **options)
        super().__init__(client, job_id, project_id=project_id, namespace=namespace, options=feed_options)
        self._join_hub()
        self._set_timer()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        yield
        self._set_timer()

    def _send(self, event: str, request: dict[str, Any], answered: Callable[..., None]) -> None:
        self._start(self._emit(event, request, answered))

    async def _emit(self, event: str, request: dict[str, Any], answered: Callable[..., None]) -> None:
        with contextlib.suppress(NotConnected):  # if the connection has just ended, the next one asks again
            await self._client.emit(event, request, self.namespace, callback=answered)

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

    async def cancel(self, timeout: float = 10.0) -> dict[str, Any]:
        """Cancel the job; as :meth:`JobSubscription.cancel`."""
        answer: dict[str, Any] = await self._client.call(CANCEL, self._named, self.namespace, timeout)
        return answer

    async def close(self) -> None:
        """Leave the job, which goes on, and call no callback any more."""
        if self._closed:
            return
        self._closed = True
        with self._turn():
            self.feed.close()
        if self._hub.remove(self):
            with contextlib.suppress(NotConnected):
                await self._client.emit(UNSUBSCRIBE, self._named, self.namespace)
