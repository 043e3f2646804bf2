"""Stop a subscription on its way through the server, between any two of its steps, and let it go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from socketio.packet import ACK

from tests.web_servers import Web

BEFORE_JOINING = "before it joins"
JOINED = "once it has joined"
BEFORE_READING = "before the history is read"
READ = "once the history has been read"
BEFORE_ANSWER = "before it is answered"
ANSWERED = "once it has been answered"

#: In the order in which a subscription passes them.
ARROWS = (BEFORE_JOINING, JOINED, BEFORE_READING, READ, BEFORE_ANSWER, ANSWERED)

#: Those at which the history has not been read yet, so that it will tell what happens meanwhile.
UNREAD = (BEFORE_JOINING, JOINED, BEFORE_READING)

DEADLINE = 20.0


def _always(*_: Any) -> bool:
    return True


class Gates:
    """The gates of one web server, all open but the one that a test closes for the next subscription.

    Args:
        web: A web server with a history, to which nothing is attached yet.
    """

    def __init__(self, web: Web) -> None:
        self._closed: str | None = None
        self._reached = threading.Event()
        self._opened = threading.Event()
        self._lock = threading.Lock()
        history: Any = web.realtime.manager.history
        server = web.server
        gate = self._gate_async if web.kind == "asgi" else self._gate
        # What catches up for the server reads the same history, but says how many jobs it wants.
        history.read = self._gate(history.read, BEFORE_READING, READ, lambda *args: len(args) == 3)
        # Right after a client has entered its room it leaves the others; a lock is held while it enters.
        server.leave_room = gate(server.leave_room, JOINED, None)
        server._send_packet = gate(server._send_packet, BEFORE_ANSWER, ANSWERED, _is_answer)

    def authorize(self, user_id: Any, project_id: str) -> bool:
        """Be the web server's rule for who may see a project: the last that is asked before a client joins."""
        self._pass(BEFORE_JOINING)
        return project_id in user_id.projects

    def close(self, arrow: str) -> None:
        """Let the next subscription, and only that, stop there."""
        with self._lock:
            self._closed = arrow
            self._reached.clear()
            self._opened.clear()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Wait until the subscription stands still; it goes on afterwards."""
        try:
            assert self._reached.wait(DEADLINE), "the subscription did not come to the gate"
            yield
        finally:
            self._opened.set()

    def _pass(self, arrow: str | None) -> None:
        with self._lock:
            if arrow is None or self._closed != arrow:
                return
            self._closed = None
        self._reached.set()
        assert self._opened.wait(DEADLINE), "the gate was not opened"

    def _gate(
        self, step: Callable[..., Any], before: str, after: str | None, concerns: Callable[..., bool] = _always
    ) -> Callable[..., Any]:
        def gated(*args: Any, **options: Any) -> Any:
            if not concerns(*args):
                return step(*args, **options)
            self._pass(before)
            outcome = step(*args, **options)
            self._pass(after)
            return outcome

        return gated

    def _gate_async(
        self, step: Callable[..., Any], before: str, after: str | None, concerns: Callable[..., bool] = _always
    ) -> Callable[..., Any]:
        async def gated(*args: Any, **options: Any) -> Any:
            if not concerns(*args):
                return await step(*args, **options)
            await asyncio.to_thread(self._pass, before)
            outcome = await step(*args, **options)
            await asyncio.to_thread(self._pass, after)
            return outcome

        return gated


def _is_answer(_eio_sid: str, packet: Any) -> bool:
    return bool(packet.packet_type == ACK)
