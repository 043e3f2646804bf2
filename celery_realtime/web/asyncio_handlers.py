"""Answer browsers on an asyncio Socket.IO server, with the same decisions."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from celery_realtime.web import decisions
from celery_realtime.web.decisions import Decision
from celery_realtime.web.handlers import Read, SocketIOEventHandlers
from celery_realtime.web.shared_reads import AsyncSharedReads


class AsyncSocketIOEventHandlers(SocketIOEventHandlers):
    """Handle connections and requests on a :class:`socketio.AsyncServer`.

    Takes the arguments of :class:`SocketIOEventHandlers`. Rules that are plain functions run in a thread, so that
    they may block. Every ``on_...`` returns an awaitable.
    """

    _run: Callable[[Decision[Any]], Any] = staticmethod(decisions.wait)
    _share: Callable[[Read], Callable[..., Any]] = AsyncSharedReads
    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: asyncio holds tasks weakly.
        self._tasks: set[asyncio.Task[Any]] = set()

    def _register(self, event: str, handler: Callable[..., Any]) -> None:
        # python-socketio awaits what it knows as a coroutine function.
        super()._register(event, _awaited(handler))

    def followed_by(self, event: str, theirs: Callable[..., Any] | None) -> Callable[..., Any]:
        """Return the handler of ``connect`` or ``disconnect``, with the application's own behind it."""
        return _awaited(super().followed_by(event, theirs))

    def _note_connection(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def on_disconnect(self, sid: str, *_reason: Any) -> None:
        """Forget a client."""
        super().on_disconnect(sid)

    def carry_out(self, order: dict[str, Any]) -> None:
        """Carry out an order that the application gave to all web servers of the channel; from any thread."""
        decision = self._orders.accept(order)
        if decision is None or self._loop is None:  # without a loop there are no clients yet
            return
        if _running_loop() is self._loop:
            self._begin(decision)
        else:
            # What arrives after it is handed over after it.
            self._loop.call_soon_threadsafe(self._begin, decision)

    def _begin(self, decision: Decision[Any]) -> None:
        task = asyncio.ensure_future(self._run(decision))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _awaited(handler: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(handler)
    async def awaited(*args: Any) -> Any:
        return await handler(*args)

    return awaited
