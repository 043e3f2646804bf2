"""Have a thread that begins to send wait until the publication is through that has started it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from celery_realtime.loops import WakeUp

_waiting: ContextVar[list[WakeUp] | None] = ContextVar("celery_realtime_waiting_for_publication", default=None)


@contextlib.contextmanager
def publication() -> Iterator[None]:
    """Publish a job in the block.

    A thread that begins to send loads what it needs, and connects. A publisher that started it would wait for the
    interpreter at each of its own requests to the broker, in the first call of a process for a tenth of a second or so.
    """
    waiting: list[WakeUp] = []
    token = _waiting.set(waiting)
    try:
        yield
    finally:
        _waiting.reset(token)
        for wake_up in waiting:
            wake_up.call()


def call_after_publication(wake_up: WakeUp) -> None:
    """Call a wake-up when the publication is through that the caller is in the middle of, or else at once."""
    waiting = _waiting.get()
    if waiting is None:
        wake_up.call()
    else:
        waiting.append(wake_up)
