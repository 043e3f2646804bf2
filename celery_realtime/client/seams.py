"""Every private or undocumented part of python-socketio's clients that is used here, and nowhere else.

Seen in python-socketio 5.18.1 and python-engineio 4.15.1. ``tests/client/test_seams.py`` fails when one is gone.

``_trigger_event``, replaced on the client
    Why: an event has one handler, so that the public ``on("*")`` is not called for events for which the user has
    registered a handler, and a handler of ours for ``connect`` would replace the user's.
    Without it: subscribing raises a :class:`RealtimeError` that names the mend.

``eio.queue``, whose ``put`` (in an event loop ``put_nowait``) is replaced; ``eio.ws``, ``eio.state``
    Why: the task that reads puts None when the connection has ended, and waits until the task that writes ends by it.
    If that takes None together with a packet which can still be sent, it goes on, and the client hears nothing for 30
    seconds, or longer if it sends something meanwhile.
    Without them: such a client hears nothing for so long, as it would without this package.

``reason.SERVER_DISCONNECT``, ``eio.state``
    Why: a client whose connection the server closes by a packet of Engine.IO is not reconnected, as if it had been sent
    away.
    Without them: such a client stays disconnected, as it would without this package.

The event ``__disconnect_final``
    Why: it is the only sign that the client will not reconnect.
    Without it: a client that was told to disconnect would be made to reconnect.

``_handle_reconnect``, ``_reconnect_task``, ``eio.state``; setting ``connected`` and ``namespaces``
    Why: a connection that ends before the task that made it has finished is never made again, and the client stays
    disconnected for good.
    Without them: such a client stays disconnected, as it would without this package.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import socketio
from socketio.exceptions import ConnectionError as NoConnection
from socketio.exceptions import SocketIOError as NotConnected

from celery_realtime.client.messages import has_code
from celery_realtime.exceptions import RealtimeError

__all__ = [
    "FINAL_DISCONNECT",
    "NoConnection",
    "NotConnected",
    "WriterEnds",
    "can_restart_reconnection",
    "is_closed_by_server",
    "is_connected_or_reconnecting",
    "new_async_client",
    "new_client",
    "observe_events",
    "refusal_in",
    "restart_reconnection",
]

#: The event after a ``disconnect`` that is not followed by a reconnection.
FINAL_DISCONNECT = "__disconnect_final"

#: Gets the name of an event, its namespace and its arguments.
Observer = Callable[[str, str, tuple[Any, ...]], None]


def new_client() -> Any:
    """Return a client with threads, as :func:`new_async_client`."""
    return socketio.Client()


def new_async_client() -> Any:
    """Return a client for the event loop that runs; nothing private, but nowhere else is python-socketio known."""
    return socketio.AsyncClient()


def observe_events(client: Any, observer: Observer) -> None:
    """Call an observer after each event of a client, and after the handlers that the user has registered for it.

    Args:
        client: A :class:`socketio.Client` or :class:`socketio.AsyncClient`.
        observer: ``(event, namespace, arguments)``.

    Raises:
        RealtimeError: This version of python-socketio does not let its events be observed.
    """
    trigger = getattr(client, "_trigger_event", None)
    if trigger is None:
        raise RealtimeError(
            f"{type(client).__name__} of this python-socketio has no _trigger_event, so that its events cannot be "
            "observed; install python-socketio 5.18.1"
        )
    observed = _observed_async if inspect.iscoroutinefunction(trigger) else _observed
    client._trigger_event = observed(trigger, observer)


def _observed(trigger: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    def observed(event: str, namespace: str | None = None, *args: Any) -> Any:
        outcome = trigger(event, namespace, *args)
        observer(event, namespace or "/", args)
        return outcome

    return observed


def _observed_async(trigger: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    async def observed(event: str, namespace: str | None = None, *args: Any) -> Any:
        outcome = await trigger(event, namespace, *args)
        observer(event, namespace or "/", args)
        return outcome

    return observed


def refusal_in(args: tuple[Any, ...]) -> dict[str, Any] | None:
    """Return ``{"code", "message"}`` from the arguments of ``connect_error``; None if the server gave no code."""
    answer = args[0] if args else None
    refusal = answer.get("data") if isinstance(answer, dict) else None
    return refusal if has_code(refusal) else None


class WriterEnds:
    """The ends that a client's reading task has told its writing task, which may miss one.

    Args:
        client: The client.
    """

    def __init__(self, client: Any) -> None:
        self._client = weakref.ref(client)
        #: The connection that has ended.
        self._ended: Any = None
        queue = getattr(client.eio, "queue", None)
        name = "put_nowait" if isinstance(queue, asyncio.Queue) else "put"
        if hasattr(queue, name):
            setattr(queue, name, self._noting(getattr(queue, name)))

    def _noting(self, put: Callable[..., Any]) -> Callable[..., Any]:
        def note(item: Any, *args: Any, **options: Any) -> Any:
            client = self._client()
            if item is None and client is not None:
                self._ended = client.eio.ws
            return put(item, *args, **options)

        return note

    def is_missed(self) -> bool:
        """Return whether the present connection has ended, and the client takes it for open."""
        client = self._client()
        if client is None or self._ended is None:
            return False
        return client.eio.state == "connected" and client.eio.ws is self._ended

    def repeat(self) -> None:
        """Tell the writing task once more."""
        client = self._client()
        if client is not None:
            client.eio.queue.put_nowait(None)


def is_closed_by_server(client: Any, args: tuple[Any, ...]) -> bool:
    """Return whether the server has closed the connection, and not ended a namespace.

    Browsers come back then. python-socketio does not, and gives the same reason for both.

    Args:
        client: The client.
        args: The arguments of its event ``disconnect``.
    """
    return args[:1] == (client.reason.SERVER_DISCONNECT,) and client.eio.state == "disconnecting"


def can_restart_reconnection(client: Any) -> bool:
    """Return whether this version of python-socketio has all that restarting takes."""
    parts = ("_handle_reconnect", "_reconnect_task", "connected", "namespaces")
    return all(hasattr(client, name) for name in parts) and hasattr(client.eio, "state")


def is_connected_or_reconnecting(client: Any) -> bool:
    """Return whether a client is connected, or is about to be."""
    if client.eio.state != "disconnected":
        return True
    task = client._reconnect_task
    if isinstance(task, asyncio.Future):
        return not task.done()
    return task is not None and getattr(task, "is_alive", lambda: True)()


def restart_reconnection(client: Any) -> None:
    """Start the task that python-socketio starts when a connection is lost."""
    client.connected, client.namespaces = False, {}
    client._reconnect_task = client.start_background_task(client._handle_reconnect)
