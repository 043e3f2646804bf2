"""Know objects without keeping any of them alive."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Living(Generic[T]):
    """Those objects of all that were added that are still there, in their order; added and read from any thread."""

    def __init__(self) -> None:
        self._references: list[weakref.ref[T]] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[T]:
        return (one for reference in self._references if (one := reference()) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, one: T) -> None:
        """Know an object from now on, for as long as somebody has it."""
        with self._lock:  # a new list: somebody may be in the midst of the present one
            living = [reference for reference in self._references if reference() is not None]
            self._references = [*living, weakref.ref(one)]
