"""A part of an object that is made when it is first needed, once, whichever thread comes first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from celery_realtime.forks import after_fork

T = TypeVar("T")


class Lazy(Generic[T]):
    """A part that is made when it is first asked for.

    Threads that ask meanwhile wait for it. An exception is passed on to all of them, and the next call tries again.
    A child of a fork inherits what had been made.

    Args:
        make: Returns the part.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: tuple[T] | None = None
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()  # a thread that is not in the child may hold the old one

    def get(self) -> T:
        """Return the part, and make it first if need be."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = (self._make(),)
        return self._made[0]

    def peek(self) -> T | None:
        """Return the part if it has been made, else None."""
        return None if self._made is None else self._made[0]

    @property
    def is_made(self) -> bool:
        """Whether the part has been made."""
        return self._made is not None

    def forget(self) -> None:
        """Make another one when it is next asked for."""
        self._made = None
