"""Let connections wait for their turn to have their token looked at: addresses, and of each its users, in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.client_requests import token_of
from celery_realtime.web.metering import budget_of
from celery_realtime.web.seams import is_asyncio, peer_of
from celery_realtime.web.turns import WEIGHT, Kind, Owner, Turn, Turns

_MOST_WEIGHT = 10_000 * WEIGHT

#: How many are looked at at once: in the thread or greenlet that each connection has anyway, and in those of a lane.
OF_THREADS = Kind(at_once=48, of_peer=36, of_user=24, most_weight=_MOST_WEIGHT)
OF_LOOPS = Kind(at_once=16, of_peer=12, of_user=8, most_weight=_MOST_WEIGHT)

_KIND = "connect"


class Arriving:
    """One attempt to connect.

    Attributes:
        turn: Its turn.
        event: Set when that has come, or when it is not waited for any more.
        refusal: Why nothing is decided.
    """

    def __init__(self, turn: Turn, event: Any) -> None:
        self.turn = turn
        self.event = event
        self.refusal: SubscribeError | None = None

    def check(self, refusal_of: Callable[[Exception], Exception]) -> None:
        """Refuse it if nothing is to be decided.

        Args:
            refusal_of: Returns how an error is told to a client.

        Raises:
            socketio.exceptions.ConnectionRefusedError: The connection has gone, or too many wait.
        """
        if self.refusal is not None:
            raise refusal_of(self.refusal)


class ConnectTurns:
    """Says when the attempts of connections are decided.

    Of an address, those take turns that show tokens of different users, and no user has all that are decided at once.
    Who it is, is not known yet, and whoever claims to be another waits with that one's. Who has shown a bad token, and
    tries again on the same connection, waits with all others that do so, as if they were one user.

    Args:
        server: The Socket.IO server.
        on_gone: Calls a function with the Engine.IO session id of each connection that has gone.
    """

    def __init__(self, server: Any, on_gone: Callable[[Callable[[str], None]], Any]) -> None:
        self._turns = Turns({_KIND: OF_LOOPS if is_asyncio(server) else OF_THREADS})
        self._lock = threading.Lock()
        #: By Engine.IO session id, the attempts that wait or are being decided.
        self._arriving: dict[str, list[Arriving]] = {}
        on_gone(self._forget)

    def __len__(self) -> int:
        return len(self._arriving)

    @contextmanager
    def deciding(
        self, sid: str, environ: dict[str, Any], given: Any, make_event: Callable[[], Any]
    ) -> Iterator[Arriving]:
        """Decide about an attempt in the block, which begins with waiting for the event.

        Args:
            sid: Of the client that is to be.
            environ: Its request.
            given: Its Socket.IO ``auth`` object.
            make_event: Returns an event.
        """
        arriving = Arriving(Turn(_owner_of(sid, environ, given), _KIND), make_event())
        with self._lock:
            self._arriving.setdefault(arriving.turn.owner.client, []).append(arriving)
        try:
            comes = self._turns.enter(arriving.turn, arriving.event.set)
            if comes is None:
                arriving.refusal = SubscribeError("too many connect now", "too_many_requests")
            if comes is not False:
                arriving.event.set()
            yield arriving
        finally:
            self._leave(arriving)

    def _leave(self, arriving: Arriving) -> None:
        client = arriving.turn.owner.client
        with self._lock:
            others = [other for other in self._arriving.pop(client, ()) if other is not arriving]
            if others:
                self._arriving[client] = others
        self._begin(self._turns.leave(arriving.turn))

    def _forget(self, eio_sid: str) -> None:
        """Let the attempts of a connection that has gone wait no more."""
        with self._lock:
            gone = list(self._arriving.get(eio_sid, ()))
        for arriving in gone:
            arriving.refusal = SubscribeError("the connection has gone", "unavailable")
        for owner in {arriving.turn.owner for arriving in gone}:
            self._begin(self._turns.forget(owner))
        for arriving in gone:
            arriving.event.set()

    def _begin(self, starts: list[Callable[[], Any]]) -> None:
        for start in starts:
            start()


def _owner_of(sid: str, environ: dict[str, Any], given: Any) -> Owner:
    budget, peer = budget_of(environ), peer_of(environ)
    is_repeated = budget is not None and budget.connects > 1 and not budget.has_token
    client = sid if budget is None or budget.eio_sid is None else budget.eio_sid
    return Owner(peer, f"{peer} {'again' if is_repeated else _claimed_by(environ, given)}", client)


def _claimed_by(environ: dict[str, Any], given: Any) -> str:
    """Return what is the same for all attempts that show one token, or tokens ``user:...`` of one user."""
    token = token_of(environ, given)
    if token is None:
        return f"{hash((environ.get('HTTP_COOKIE'), environ.get('HTTP_AUTHORIZATION'))):x}"
    text = token if isinstance(token, str) else ""
    return f"{hash(text.rpartition(':')[0] or text):x}"
