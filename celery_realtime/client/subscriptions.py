"""Follow a project over a client of python-socketio, in threads or in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from celery_realtime.client.feed import Feed, FeedOptions, OnChange, OnEvent
from celery_realtime.client.hub import Topic
from celery_realtime.client.lags import LagReports
from celery_realtime.client.subscription_base import AsyncSubscription, Subscription, ThreadedSubscription

if TYPE_CHECKING:
    from typing_extensions import Unpack

SUBSCRIBE = "subscribe_project"
UNSUBSCRIBE = "unsubscribe_project"
READ_JOBS = "read_jobs"
REPORT_LAG = "report_lag"


class Options(TypedDict, total=False):
    """Where and how a subscription begins; see :class:`~celery_realtime.client.feed.FeedOptions`."""

    since: Mapping[str, Any] | None
    batch: bool
    max_jobs: int
    ack_timeout: float
    first_pause: float
    filter: Mapping[str, Any] | None


class _OfProject(Subscription[Feed]):
    """All of a subscription to a project that does not depend on how its client waits.

    Args:
        client: The client.
        project_id: The project.
        namespace: The Socket.IO namespace.
        options: What the feed does with its events.
    """

    def __init__(self, client: Any, project_id: object, *, namespace: str, options: FeedOptions) -> None:
        name = str(project_id)
        self._lags = LagReports(name, lambda report, acknowledged: self._emit(REPORT_LAG, report, acknowledged))
        feed = Feed(name, self._ask, options, ask_page=self._ask_page)
        super().__init__(client, feed, loop="client-subscription", namespace=namespace, clock=options.clock)

    @property
    def topic(self) -> Topic:
        """What it is subscribed to."""
        return "project", self.feed.project_id

    @property
    def _farewell(self) -> tuple[str, dict[str, Any]]:
        return UNSUBSCRIBE, {"project_id": self.feed.project_id}

    def _ask(self, number: int, request: dict[str, Any]) -> None:
        def answered(answer: Any) -> None:
            self._lags.answered(answer)
            self.feed.answered(number, answer)

        self._send(SUBSCRIBE, request, answered)

    def _ask_page(self, number: int, request: dict[str, Any]) -> None:
        self._send(READ_JOBS, request, lambda answer: self.feed.page_answered(number, answer))

    def heard(self, name: str, data: Any) -> None:
        """Take an event that the client received."""
        with self._turn():
            self._lags.heard(name, data)
            self.feed.heard(name, data)


class ProjectSubscription(_OfProject, ThreadedSubscription[Feed]):
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
            ``ack_timeout``, seconds to wait for an answer, 5; ``first_pause``, seconds until the first retry, 0.5;
            ``filter``, which jobs are shown, such as ``{"status": ["running"], "task": ["reports.*"]}``.

    Attributes:
        feed: The state of the project: ``state``, ``jobs``, ``workflows``, ``epoch``, ``offset``, ``error``.

    Raises:
        RealtimeError: This version of python-socketio does not let a client's events be observed.
        ValueError: ``filter`` is none.
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
        super().__init__(client, project_id, namespace=namespace, options=FeedOptions(on_event, on_change, **options))


class AsyncProjectSubscription(_OfProject, AsyncSubscription[Feed]):
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
        clock = asyncio.get_running_loop().time
        feed_options = FeedOptions(on_event, on_change, clock=clock, **options)
        super().__init__(client, project_id, namespace=namespace, options=feed_options)
