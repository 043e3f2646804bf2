"""Let a thread wait for work without keeping alive whoever may have some for it."""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

from celery_realtime.forks import after_fork
from celery_realtime.loops import WakeUp

T = TypeVar("T")


class Hold(Generic[T]):
    """What a thread has of the object that it works for.

    The thread knows the object through this alone, and only while it works. So an object that nobody else has is
    collected: at once if there is nothing to do, and else when that is done. The thread is woken then, to end.

    Args:
        worker: The object.
        work: What the thread waits for.

    Attributes:
        kept: The object while there is something to do, else None. Whoever has the object sets it, under the lock under
            which there comes to be something, or nothing, to do.
        work: What the thread waits for.
    """

    __slots__ = ("__weakref__", "_reference", "kept", "work")

    def __init__(self, worker: T, work: WakeUp) -> None:
        self.kept: T | None = None
        self.work = work
        # A collection can come at any moment and in any thread: no more is done in it than to wake that one.
        self._reference = weakref.ref(worker, lambda _: work.call())
        after_fork(self._let_go)

    def _let_go(self) -> None:
        self.kept = None  # the thread is not in the child, but what it had is

    def get(self) -> T | None:
        """Return the object, or None if it is gone."""
        return self._reference()
