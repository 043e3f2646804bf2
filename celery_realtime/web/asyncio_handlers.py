"""Answer browsers on an asyncio Socket.IO server, with the same decisions."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from celery_realtime.web import decisions
from celery_realtime.web.decisions import Decision
from celery_realtime.web.doubts import WORKERS
from celery_realtime.web.handlers import Read, SocketIOEventHandlers
from celery_realtime.web.lanes import Lanes
from celery_realtime.web.shared_reads import AsyncSharedReads

#: Threads for each kind of request, and for what is decided again: all that decides, and the reading of the record.
LANES = {"connect": 16, "subscribe": 32, "result": 4, "cancel": 16, "refresh": 16, "again": WORKERS + 2}

#: Seconds that it is waited for an event loop to carry out an order.
CARRY_OUT_TIMEOUT = 5.0


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
        self._tasks: set[asyncio.Future[Any]] = set()
        self._lanes = Lanes(LANES)

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> Any:
        """Let a client in whose token is good; of the connections that come at once, those of each address in turn.

        Raises:
            socketio.exceptions.ConnectionRefusedError: It is not, with the code in its data.
        """
        with self._connects.deciding(sid, environ, auth, asyncio.Event) as arriving, self._lanes.of("connect"):
            await arriving.event.wait()
            return await self._run(self._connect(sid, environ, auth, arriving))

    def _lane(self, kind: str | None) -> AbstractContextManager[None]:
        return self._lanes.of(kind)

    def _start(self, start: Callable[[], Any]) -> None:
        self._keep(asyncio.ensure_future(start()))

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
        self._begin(decision)

    def carry_out_missed(self, orders: list[dict[str, Any]]) -> None:
        """Carry out orders that are on record, each of which may have been before, and return when that is done.

        Not to be called on the event loop.

        Raises:
            TimeoutError: It is not within a few seconds.
        """
        if self._loop is not None and not self._loop.is_closed():
            done = asyncio.run_coroutine_threadsafe(self._run(self._orders.accept_missed(orders)), self._loop)
            done.result(CARRY_OUT_TIMEOUT)

    def decide_again(self, generation: int | None = None) -> None:
        """Have the access of all clients decided again before anything more is passed to them; from any thread.

        Args:
            generation: As that of :meth:`celery_realtime.web.doubts.Doubts.doubt_all`.
        """
        if self._loop is None or _running_loop() is self._loop:
            super().decide_again(generation)
        else:
            self._loop.call_soon_threadsafe(super().decide_again, generation)

    def _begin(self, decision: Decision[Any]) -> None:
        """Make a decision in the background; from any thread. Without a loop there are no clients yet."""
        if self._loop is None:
            decision.close()
        elif _running_loop() is self._loop:
            with self._lanes.of("again"):
                self._keep(asyncio.ensure_future(self._run(decision)))
        else:
            # What arrives after it is handed over after it.
            self._loop.call_soon_threadsafe(self._begin, decision)

    def _keep(self, task: asyncio.Future[Any]) -> None:
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
