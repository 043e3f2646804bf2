"""Let the requests of clients that take time be answered one after the other, as they arrive and before they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from celery_realtime.web.answers import size_of
from celery_realtime.web.turns import Kind, Owner, Turn, Turns

#: The requests that take time, and of which kind each is: a client does not wait for other kinds.
KIND_OF = dict.fromkeys(("subscribe_project", "unsubscribe_project", "subscribe_job", "unsubscribe_job"), "subscribe")
KIND_OF |= {"read_jobs": "subscribe", "read_stream": "subscribe"}
KIND_OF |= {"get_result": "result", "cancel_job": "cancel", "rerun_job": "rerun", "refresh_token": "refresh"}
KINDS = {
    "subscribe": Kind(of_user=4),  # of all clients of a proxy at once: those that come back together share what is read
    "result": Kind(at_once=4, of_peer=3, of_user=2),
    "cancel": Kind(at_once=16, of_peer=12, of_user=4),
    "rerun": Kind(at_once=4, of_peer=3, of_user=2),
    "refresh": Kind(at_once=16, of_peer=12, of_user=4),
}

NOBODY = Owner("", "", "")

#: The event that a request becomes if too many wait; a client that sends it is answered the same.
OVERFULL = "celery_realtime:overfull"

T = TypeVar("T")


class InTurn:
    """Lets requests wait for their turn, which travels with their data until they have been answered.

    Args:
        turns: Says whose turn it is.
        owner_of: Says whose an Engine.IO connection is.
        max_request: Bytes that a request may have; longer ones do not wait, since they are refused.
        lane: Returns a context in which a request of a kind is answered.
        start: Begins a request whose turn has come because a client has gone.
    """

    def __init__(
        self,
        turns: Turns,
        owner_of: Callable[[str], Owner],
        *,
        max_request: int,
        lane: Callable[[str | None], AbstractContextManager[None]],
        start: Callable[[Callable[[], Any]], None],
    ) -> None:
        self._turns = turns
        self._owner_of = owner_of
        self._max_request = max_request
        self._lane = lane
        self._start = start

    def marks(self, event: str) -> list[Turn]:
        """Return what is added to the data of a request."""
        return [Turn(NOBODY, KIND_OF[event])] if event in KIND_OF else []

    def begin(self, eio_sid: str, data: list[Any], start: Callable[[], Any]) -> list[Any] | None:
        """Return a request's data if it is its turn; else None, and ``start`` is called later."""
        turn = first_of(Turn, data)
        if turn is None:
            return data
        turn.owner, size = self._owner_of(eio_sid), size_of(data[1])
        if size > self._max_request:
            return data
        if data[0].startswith("unsubscribe") and not self._turns.is_waiting(turn.owner, turn.kind):
            return data  # it may withdraw what is being decided, and overtakes nothing
        comes = self._turns.enter(turn, start, size)
        return data if comes else None if comes is False else [OVERFULL]

    @contextmanager
    def answering(self, data: list[Any]) -> Iterator[None]:
        """Answer a request in the block."""
        turn = first_of(Turn, data)
        if turn is not None:
            turn.has_begun = True
        with self._lane(None if turn is None else turn.kind):
            yield

    def leave(self, turn: Turn) -> list[Callable[[], Any]]:
        """End a turn, and return what has to be called to begin others."""
        return self._turns.leave(turn)

    def forget(self, eio_sid: str) -> None:
        """Drop the requests that wait of a connection that has gone."""
        for start in self._turns.forget(self._owner_of(eio_sid)):
            self._start(start)


def first_of(kind: type[T], arguments: Iterable[Any]) -> T | None:
    """Return the first of the arguments that is of a class, or None."""
    return next((argument for argument in arguments if isinstance(argument, kind)), None)
