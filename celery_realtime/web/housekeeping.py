"""End what ends by itself: expired tokens, connections that never show one, clients that read too slowly."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.loops import BackgroundLoop
from celery_realtime.web.answers import HAS_EXPIRED, TOO_SLOW
from celery_realtime.web.decisions import Decision
from celery_realtime.web.doubts import Doubts
from celery_realtime.web.gate import Gate
from celery_realtime.web.membership import Clients
from celery_realtime.web.messages import ERROR_EVENT
from celery_realtime.web.pings import Pings

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import ClientManager

logger = logging.getLogger(__name__)

#: Seconds between two turns.
TICK = 0.5

#: Seconds without a turn after which housekeeping counts as standing still.
LONGEST_TURN = 30.0

#: How often, a tick apart, it is checked whether a slow client has read why it is disconnected.
FAREWELL_CHECKS = 4

#: A client is warned so many seconds before its token expires, or when a fifth of its life is left.
WARNING = 60.0


class Housekeeper:
    """Looks after the connections of a server for as long as it has any.

    Args:
        server: The Socket.IO server, sync or asyncio.
        run: Drives a decision, such as :func:`celery_realtime.web.decisions.call` does.
        clients: The clients of the server.
        manager: The server's client manager.
        doubts: Decides again whether clients may see what they are subscribed to.
        gate: Stands in front of the server.
    """

    def __init__(
        self,
        server: Any,
        run: Callable[[Decision[Any]], Any],
        *,
        clients: Clients,
        manager: ClientManager,
        doubts: Doubts,
        gate: Gate,
    ) -> None:
        self.loop = BackgroundLoop("housekeeping", logger, LONGEST_TURN)
        self._server = server
        self._run = run
        #: Stands in front of the server.
        self.gate = gate
        self._sockets = gate.sockets
        self._sessions = clients.sessions
        self._sender = clients.sender
        self._membership = clients.membership
        self._manager = manager
        self._log = RateLimitedLogger(logger)
        #: By connection that has not shown a token, ``_served`` when it came.
        self._newcomers: dict[str, float] = {}
        #: Seconds in which the server has kept up with its connections: of a tick that was late, only a part.
        self._served = 0.0
        self._chores = (
            *(self._end_tokens, self._close_silent, doubts.end_overdue, self._relieve_slow),
            gate.sweep,
        )
        self._lock = threading.Lock()
        self._is_running = False

    @property
    def is_running(self) -> bool:
        """Whether it runs; it ends with the last connection, and begins again with the next."""
        return self._is_running

    @property
    def pings(self) -> Pings:
        """Pings the clients."""
        return self.gate.pings

    def watch(self, on_connection: Callable[[], None]) -> None:
        """Look after each new Engine.IO connection, which has to show a token in time.

        Args:
            on_connection: Called before; on an asyncio server in its event loop.
        """

        def connected(eio_sid: str) -> None:
            on_connection()
            self._newcomers[eio_sid] = self._served
            self._begin()

        self.gate.install(connected)

    def note_departure(self, eio_sid: str | None) -> None:
        """Look after a connection whose client has left the namespace: it has to show a token again, in time."""
        if eio_sid is not None and eio_sid in self._sockets:
            self._newcomers[eio_sid] = self._served

    def _begin(self) -> None:
        with self._lock:
            begins = not self._is_running
            self._is_running = True
        if begins:
            self._server.start_background_task(self._run, self._keep_house())

    def part_with(self, sid: str, eio_sid: str) -> Any:
        """Disconnect a client that reads too slowly; awaitable on an asyncio server."""
        return self._run(self._farewell(sid, eio_sid))

    # -- the loop -----------------------------------------------------------------------------------------------

    def _keep_house(self) -> Decision[None]:
        is_interrupted = True
        try:
            while self._goes_on():
                if not (yield from self._sleep()):
                    return
                for chore in self._chores:
                    with self.loop.turn():
                        yield from chore()
            is_interrupted = False
            self.loop.rest()
        finally:
            if is_interrupted:
                self._is_running = False  # the next connection starts it again

    def _sleep(self) -> Decision[bool]:
        """Wait for a tick, and return whether that was possible; without a pause the loop would take a whole core."""
        has_slept = False
        with self.loop.turn():
            began = time.monotonic()
            yield functools.partial(self._server.sleep, TICK)
            self._served += min(time.monotonic() - began, 2 * TICK)
            has_slept = True
        return has_slept

    def _goes_on(self) -> bool:
        with self._lock:
            # If the check fails, somebody may be connected.
            self._is_running = True
            with self.loop.turn():
                self._is_running = bool(self._sockets.are_open() or self._sessions.all() or self.gate.is_busy)
            return self._is_running

    def _end_tokens(self) -> Decision[None]:
        for session in self._sessions.all():
            if session.has_expired:
                yield from self._membership.silence(session)
                yield from self._sender.notify(self._sender.disconnect(session.sid, dict(HAS_EXPIRED)))
            elif session.should_be_warned(WARNING):
                yield from self._sender.notify(self._sender.warn_of_expiry(session))

    def _close_silent(self) -> Decision[None]:
        """Close the connections that should have shown a token by now, whatever they have sent instead."""
        for eio_sid in self._silent_newcomers():
            self.gate.cut_soon(eio_sid)
            with self._log.suppressing(
                "cannot close a connection that shows no token, so it is cut; its client may try again"
            ):
                yield functools.partial(self._sockets.close, eio_sid)

    def _silent_newcomers(self) -> list[str]:
        if not self._newcomers:
            return []
        present = self._sockets.present()
        late = self._served - self._sessions.limits.connect_timeout
        silent = []
        for eio_sid, began in list(self._newcomers.items()):
            if eio_sid not in self._sockets or eio_sid in present:
                self._newcomers.pop(eio_sid, None)
            elif began < late:
                self._newcomers.pop(eio_sid, None)
                silent.append(eio_sid)
        return silent

    def _relieve_slow(self) -> Decision[None]:
        slow_clients = self._manager.slow_clients
        slow_clients.disconnect_overloaded()
        self.gate.end_unread()
        for emit in slow_clients.due():
            with self._log.suppressing(
                "cannot emit progress that was held back, so a client shows an older one; the next report replaces it",
                project_id=emit.project_id,
            ):
                yield functools.partial(self._manager.emit_here, emit)
        watched = {(topic.project_id, topic.job_id) for topic in self._sessions.topics()}
        self._manager.delivery.forget_unwatched(watched)

    # -- slow clients -------------------------------------------------------------------------------------------

    def _farewell(self, sid: str, eio_sid: str) -> Decision[None]:
        """Say why, and end the connection; the client comes back when it can, and recovers.

        Not by a disconnect of Socket.IO, after which browsers do not come back by themselves, nor by one of Engine.IO,
        after which python-socketio's clients do not.
        """
        if eio_sid not in self._sockets:
            return
        discarded = self._sockets.discard(eio_sid)
        self._log.warning(
            "a client reads too slowly, so it is disconnected (%d packets waited for it); it connects again, and "
            "recovers what it missed",
            discarded,
        )
        yield from self._sender.notify([functools.partial(self._sender.send, sid, ERROR_EVENT, dict(TOO_SLOW))])
        yield from self._sockets.abort(eio_sid)
        for _ in range(FAREWELL_CHECKS):
            if self._sockets.waiting(eio_sid):
                yield functools.partial(self._server.sleep, TICK)
        self._sockets.drop(eio_sid)
