"""Follow a project by ``async for``: over a client of its own, or one that is connected already."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from celery_realtime.client.feed import Feed
from celery_realtime.client.seams import NoConnection, is_connected_or_reconnecting, new_async_client
from celery_realtime.client.subscriptions import AsyncProjectSubscription
from celery_realtime.exceptions import SubscribeError
from celery_realtime.urls import place_of_socket

#: What :func:`follow` gives when all of the state has been replaced; no event has this name.
SNAPSHOT = "snapshot"

#: Events that may wait for who reads them; beyond, a snapshot stands for them.
MOST_WAITING = 10_000

#: Seconds between two looks whether the client has given its connection up.
_LOOK_INTERVAL = 1.0

#: Looks without a connection, and without an attempt at one, after which there will be none; see ``hub``, which makes
#: a client reconnect within two seconds.
_MOST_IDLE = 5

#: A token, or what returns one, in an event loop or not.
Token = str | Callable[[], str | Awaitable[str]]


class Followed(NamedTuple):
    """What has happened in a project.

    Attributes:
        event: ``agent_status``, ``agent_progress``, ``agent_metadata``, ``agent_workflow``, the name of a custom event;
            or ``snapshot``.
        data: The event's data, as on the wire; of a snapshot ``{"jobs": [...], "workflows": [...]}``.
        feed: The state of the project, which may be further than this event.
    """

    event: str
    data: Any
    feed: Feed


class _Waiting:
    """What has happened, until it is read.

    Args:
        most: Most events.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[Followed] = deque()
        self._has_news = asyncio.Event()
        self.feed: Feed | None = None

    def add_event(self, event: str, data: Any) -> None:
        if self.feed is None:  # the first comes with the subscription's own construction
            return
        if len(self._items) < self._most:
            self._items.append(Followed(event, data, self.feed))
        else:
            self.add_snapshot(self.feed)
        self._has_news.set()

    def changed(self, feed: Feed, reason: str) -> None:
        self.feed = feed
        if reason == SNAPSHOT and (not feed.recovered or self._has_snapshot):
            self.add_snapshot(feed)
        self._has_news.set()

    @property
    def _has_snapshot(self) -> bool:
        """Whether a snapshot waits: one that was too early for the jobs that came with the events."""
        return bool(self._items) and self._items[0].event == SNAPSHOT

    def add_snapshot(self, feed: Feed) -> None:
        """Let a snapshot stand for all that waits."""
        entries = {"jobs": feed.jobs, "workflows": feed.workflows}
        state = {name: [dict(entry) for entry in some.values()] for name, some in entries.items()}
        self._items.clear()
        self._items.append(Followed(SNAPSHOT, state, feed))

    def take(self) -> Followed | None:
        return self._items.popleft() if self._items else None

    async def wait(self) -> None:
        """Wait until there is something new, or it is time to look at the connection."""
        self._has_news.clear()
        with contextlib.suppress(asyncio.TimeoutError):  # up to Python 3.10 it is not the builtin
            await asyncio.wait_for(self._has_news.wait(), _LOOK_INTERVAL)


async def follow(
    project_id: object,
    *,
    url: str | None = None,
    token: Token | None = None,
    client: Any = None,
    since: Mapping[str, Any] | None = None,
    max_waiting: int = MOST_WAITING,
    namespace: str = "/",
    filter: Mapping[str, Any] | None = None,
) -> AsyncGenerator[Followed, None]:
    """Follow a project: first a snapshot, then each event once and in order, over lost connections and restarts.

    It goes on until the loop over it is left. Whoever reads slowly is given a snapshot in place of more than
    ``max_waiting`` events, and one after each loss of the history.

    Args:
        project_id: The project.
        url: The web server; with a path if Socket.IO is below one. A client of its own connects to it.
        token: For that connection, and for each that replaces it: a text, or a function or coroutine function that
            returns one.
        client: In place of ``url``: a :class:`socketio.AsyncClient`, which stays connected afterwards.
        since: Where to begin, of a :class:`~celery_realtime.jobs.handle.JobHandle`: then its events come without a
            snapshot before them.
        max_waiting: Most events that wait to be read.
        namespace: The Socket.IO namespace.
        filter: Which jobs to follow, such as ``{"status": ["running"], "task": ["reports.*"]}``; None for all. The
            event by which a job does not match any more is given, too; the job is not in ``feed.jobs`` then.

    Raises:
        ValueError: ``filter`` is none.
        TypeError: Neither ``url`` nor ``client`` is given, or both.
        SubscribeError: The server refuses the connection or the subscription; ``code`` says why.
        socketio.exceptions.ConnectionError: There is no server at ``url``, or the client has given up.
    """
    if (url is None) == (client is None):
        raise TypeError("follow() takes either url, the address of a web server, or client, a socketio.AsyncClient")
    waiting = _Waiting(max(1, max_waiting))
    own = new_async_client() if client is None else None
    options = {"namespace": namespace, "since": since, "batch": True, "filter": filter}
    subscription = _subscribe(own or client, project_id, waiting, options)
    waiting.feed = subscription.feed
    try:
        if own is not None and url is not None:
            await _connect(own, url, token, subscription)
        async for followed in _read(waiting, own or client, subscription.feed):
            yield followed
    finally:
        await subscription.close()
        if own is not None:
            await own.shutdown()


def _subscribe(client: Any, project_id: object, waiting: _Waiting, options: Any) -> AsyncProjectSubscription:
    return AsyncProjectSubscription(client, project_id, waiting.add_event, waiting.changed, **options)


async def _connect(client: Any, url: str, token: Token | None, subscription: AsyncProjectSubscription) -> None:
    async def credentials() -> dict[str, str]:
        given = token() if callable(token) else token
        known = await given if inspect.isawaitable(given) else given
        return {} if known is None else {"token": known}

    where, path = place_of_socket(url)
    namespaces = [subscription.namespace]
    try:
        await client.connect(where, auth=credentials, namespaces=namespaces, socketio_path=path)
    except NoConnection:
        _raise_refusal(subscription.feed)
        raise


async def _read(waiting: _Waiting, client: Any, feed: Feed) -> AsyncGenerator[Followed, None]:
    idle = 0
    while True:
        while (followed := waiting.take()) is not None:
            idle = 0
            yield followed
        _raise_refusal(feed)
        idle = 0 if is_connected_or_reconnecting(client) else idle + 1
        if idle > _MOST_IDLE:
            raise NoConnection(f"the client that follows {feed.project_id} has no connection, and makes none")
        await waiting.wait()


def _raise_refusal(feed: Feed) -> None:
    if feed.state == "refused":
        error = feed.error or {}
        raise SubscribeError(
            str(error.get("message") or "the server gave no reason"), str(error.get("code") or "forbidden")
        )
