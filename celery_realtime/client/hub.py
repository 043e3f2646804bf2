"""Pass the events of one client of python-socketio on to its subscriptions."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from celery_realtime.client import seams
from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger

logger = logging.getLogger(__name__)

#: Seconds between two checks of a client; it must have been disconnected, and not reconnecting, at two in a row.
CHECK_INTERVAL = 1.0

#: Seconds for which subscribing waits until the server has confirmed that the client has left the same topic.
LONGEST_LEAVING = 5.0


#: What is subscribed to: its kind, its project, and its job; None for what only the server knows so far.
Topic = tuple[str | None, ...]


class Subscriber(Protocol):
    """What a hub passes events on to."""

    @property
    def topic(self) -> Topic:
        """What it is subscribed to: the server knows one subscription of a client to it."""

    @property
    def namespace(self) -> str:
        """The Socket.IO namespace whose events it takes."""

    def connected(self) -> None:
        """Note that the client has connected."""

    def disconnected(self) -> None:
        """Note that the client has lost its connection."""

    def refused(self, error: dict[str, Any]) -> None:
        """Note that the server has refused the connection."""

    def heard(self, name: str, data: Any) -> None:
        """Take an event."""


class ReconnectionGuard:
    """Finds clients that python-socketio has left disconnected, although they are to reconnect.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        #: Namespaces that have been connected, and that neither side has left for good.
        self._open: set[str] = set()
        #: Those of them of which the server has closed the connection, and has not ended them.
        self._cut: set[str] = set()
        self._idle_since: float | None = None

    def note(self, event: str, namespace: str, *, is_cut: bool = False) -> None:
        """Note an event of the client.

        Args:
            event: Its name.
            namespace: Its namespace.
            is_cut: The server has closed the connection beneath the namespace.
        """
        if event == "connect":
            self._open.add(namespace)
        elif event == "disconnect" and is_cut:
            self._cut.add(namespace)
        elif event == seams.FINAL_DISCONNECT and namespace not in self._cut:
            self._open.discard(namespace)
        if event != "disconnect":
            self._cut.discard(namespace)

    def is_stranded(self, client: Any) -> bool:
        """Return, once for each time it happens, whether a client needs to be made to reconnect."""
        with self._lock:
            if not self._is_idle(client):
                self._idle_since = None
                return False
            now = self._clock()
            self._idle_since = now if self._idle_since is None else self._idle_since
            if now - self._idle_since < CHECK_INTERVAL:
                return False
            self._idle_since = None
            return True

    def _is_idle(self, client: Any) -> bool:
        if not self._open or not client.reconnection or not seams.can_restart_reconnection(client):
            return False
        return not seams.is_connected_or_reconnecting(client)


class _Leaving:
    """A topic that the server has been told to leave.

    Args:
        namespace: The Socket.IO namespace.
        topic: The topic.
        until: When it is no longer waited for, by the hub's clock.
    """

    def __init__(self, namespace: str, topic: Topic, until: float) -> None:
        self.namespace = namespace
        self.until = until
        self._topic = topic

    def is_about(self, subscriber: Subscriber) -> bool:
        """Return whether a subscriber is, as far as is known, of the topic."""
        topic = subscriber.topic
        if subscriber.namespace != self.namespace or len(topic) != len(self._topic):
            return False
        return all(mine == other or None in (mine, other) for mine, other in zip(self._topic, topic, strict=True))


class ClientHub:
    """Passes what one client receives on to its subscriptions; handlers registered on the client stay in use.

    Args:
        guard: Finds out whether the client has been left disconnected.
        clock: Returns the time in seconds.
    """

    def __init__(self, guard: ReconnectionGuard | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._guard = guard or ReconnectionGuard()
        self._clock = clock
        self._subscribers: list[Subscriber] = []
        self._lock = threading.Lock()
        #: Which topics the server has been told to leave, and has not confirmed yet.
        self._leaving: list[_Leaving] = []
        self._ends: seams.WriterEnds | None = None
        self._had_missed_end = False
        self._log = RateLimitedLogger(logger)

    def observe(self, client: Any) -> None:
        """Take the events of a client from now on."""
        self._ends = seams.WriterEnds(client)
        for namespace in list(client.namespaces):
            self._guard.note("connect", namespace)
        seams.observe_events(client, functools.partial(self._on_event, weakref.ref(client)))

    def add(self, subscriber: Subscriber) -> bool:
        """Pass events on to a subscriber too; returns whether it may subscribe at once.

        While the server has not confirmed that the client has left the topic it may not: it might handle that last.
        The subscriber is told then that the client has connected.
        """
        with self._lock:
            self._subscribers.append(subscriber)
            return not any(one.is_about(subscriber) for one in self._leaving)

    def remove(self, subscriber: Subscriber) -> Callable[..., None] | None:
        """Pass nothing on to a subscriber any more.

        Returns:
            If it was the last one of its topic, what has to be called when the server has confirmed that the client has
            left, or cannot be asked; else None.
        """
        with self._lock:
            self._subscribers.remove(subscriber)
            leaving = _Leaving(subscriber.namespace, subscriber.topic, self._clock() + LONGEST_LEAVING)
            if any(leaving.is_about(other) for other in self._subscribers):
                return None
            self._leaving.append(leaving)
        return lambda *_: self._left([leaving])

    def _left(self, left: list[_Leaving]) -> None:
        """Let those subscribe that have waited for that."""
        with self._lock:
            left = [one for one in left if one in self._leaving]  # of an earlier connection, or given up, it is not
            self._leaving = [one for one in self._leaving if one not in left]
            waiting = [one for one in self._subscribers if any(leaving.is_about(one) for leaving in left)]
        for subscriber in waiting:
            subscriber.connected()

    def check(self, client: Any) -> None:
        """Make a client reconnect that python-socketio has left disconnected; called about once a second."""
        self._repeat_missed_end()
        now = self._clock()
        self._left([one for one in self._leaving if one.until <= now])
        if not self._guard.is_stranded(client):
            return
        self._log.warning(
            "a Socket.IO client was left disconnected by python-socketio, so it misses events; making it reconnect "
            "and catch up"
        )
        for subscriber in list(self._subscribers):
            subscriber.disconnected()
        seams.restart_reconnection(client)

    def _repeat_missed_end(self) -> None:
        """Have a client notice that its connection has ended, if it has not done so since the last check."""
        is_missed = self._ends is not None and self._ends.is_missed()
        if is_missed and self._had_missed_end and self._ends is not None:
            self._ends.repeat()
        self._had_missed_end = is_missed

    def _of_namespace(self, namespace: str) -> list[Subscriber]:
        return [subscriber for subscriber in self._subscribers if subscriber.namespace == namespace]

    def _on_event(self, client: Callable[[], Any], event: str, namespace: str, args: tuple[Any, ...]) -> None:
        is_cut = event == "disconnect" and seams.is_closed_by_server(client(), args)
        self._guard.note(event, namespace, is_cut=is_cut)
        if event in ("connect", "disconnect"):
            with self._lock:  # over another connection there is nothing to leave
                self._leaving = [one for one in self._leaving if one.namespace != namespace]
        for subscriber in self._of_namespace(namespace):
            self._pass_on(subscriber, event, args)

    def _pass_on(self, subscriber: Subscriber, event: str, args: tuple[Any, ...]) -> None:
        if event == "connect":
            subscriber.connected()
        elif event == "disconnect":
            subscriber.disconnected()
        elif event == "connect_error":
            refusal = seams.refusal_in(args)
            if refusal is not None:
                subscriber.refused(refusal)
        elif event != seams.FINAL_DISCONNECT:
            subscriber.heard(event, args[0] if len(args) == 1 else list(args) or None)


#: Two subscriptions of a client share its events. An entry goes with its client.
_hubs: weakref.WeakKeyDictionary[Any, ClientHub] = weakref.WeakKeyDictionary()
_hubs_lock = threading.Lock()


def hub_of(client: Any) -> ClientHub:
    """Return the hub of a client; its first one takes the client's events from then on."""
    with _hubs_lock:
        hub = _hubs.get(client)
        if hub is None:
            hub = ClientHub()
            hub.observe(client)
            _hubs[client] = hub
        return hub
