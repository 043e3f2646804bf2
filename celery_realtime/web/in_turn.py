"""Let the requests of clients that take time be answered one after the other, as they arrive and before they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from celery_realtime.web.turns import Kind, Turn, Turns

#: The requests that take time, and of which kind each is: a client waits for itself only, and not for other kinds.
KIND_OF = dict.fromkeys(("subscribe_project", "unsubscribe_project", "subscribe_job", "unsubscribe_job"), "subscribe")
KIND_OF |= {"get_result": "result", "cancel_job": "cancel", "refresh_token": "refresh"}
KINDS = {"subscribe": Kind(), "result": Kind(at_once=2), "cancel": Kind(at_once=16), "refresh": Kind(at_once=16)}

#: The event that a request becomes if too many wait; a client that sends it is answered the same.
OVERFULL = "celery_realtime:overfull"

T = TypeVar("T")


class InTurn:
    """Lets requests wait for their turn, which travels with their data until they have been answered.

    Args:
        turns: Says whose turn it is.
        lane: Returns a context in which a request of a kind is answered.
        start: Begins a request whose turn has come because a client has gone.
    """

    def __init__(
        self,
        turns: Turns,
        *,
        lane: Callable[[str | None], AbstractContextManager[None]],
        start: Callable[[Callable[[], Any]], None],
    ) -> None:
        self._turns = turns
        self._lane = lane
        self._start = start

    def marks(self, event: str) -> list[Turn]:
        """Return what is added to the data of a request."""
        return [Turn("", KIND_OF[event])] if event in KIND_OF else []

    def begin(self, eio_sid: str, data: list[Any], start: Callable[[], Any]) -> list[Any] | None:
        """Return a request's data if it is its turn; else None, and ``start`` is called later."""
        turn = first_of(Turn, data)
        if turn is None:
            return data
        turn.client = eio_sid
        if data[0].startswith("unsubscribe") and not self._turns.is_waiting(eio_sid, turn.kind):
            return data  # it may withdraw what is being decided, and overtakes nothing
        comes = self._turns.enter(turn, start)
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
        for start in self._turns.forget(eio_sid):
            self._start(start)


def first_of(kind: type[T], arguments: Iterable[Any]) -> T | None:
    """Return the first of the arguments that is of a class, or None."""
    return next((argument for argument in arguments if isinstance(argument, kind)), None)
