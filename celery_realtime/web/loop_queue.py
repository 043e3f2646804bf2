"""A bounded queue from a thread to an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class LoopQueue(Generic[T]):
    """Hands over items from one thread to one coroutine, in order.

    The thread asks for room before it makes items, and may then put all that one message of its own made: so the
    queue holds at most ``limit`` items and those of one message.

    Args:
        loop: The event loop of the coroutine.
        limit: Items beyond which there is no room.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._items: deque[T] = deque()
        self._taken = threading.Condition()
        self._ready = asyncio.Event()
        self._was_full = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def wait_for_room(self, timeout: float) -> bool:
        """Wait until there is room, at most ``timeout`` seconds; returns whether there is.

        After a wait in vain there is no other until there has been room: a loop that stands still is waited for once.
        """
        with self._taken:
            if not self._was_full:
                self._taken.wait_for(self._has_room, timeout)
            self._was_full = not self._has_room()
            return not self._was_full

    def _has_room(self) -> bool:
        return len(self._items) < self._limit

    def put(self, items: Iterable[T]) -> None:
        """Put items, whether there is room or not.

        Raises:
            RuntimeError: The loop has been closed.
        """
        with self._taken:
            was_empty = not self._items
            self._items.extend(items)
            wakes = was_empty and bool(self._items)
        if wakes:
            self._loop.call_soon_threadsafe(self._ready.set)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more comes, and all has been taken."""
        return self._closed and not self._items

    def close(self) -> None:
        """Put no more: the coroutine has what there is, and then None.

        Raises:
            RuntimeError: The loop has been closed.
        """
        self._closed = True
        self._loop.call_soon_threadsafe(self._ready.set)

    async def get(self) -> T | None:
        """Wait for the next item and take it; None if none comes any more."""
        while True:
            with self._taken:
                if self._items:
                    item = self._items.popleft()
                    if len(self._items) == self._limit - 1:
                        self._taken.notify_all()
                    return item
                if self._closed:
                    return None
                self._ready.clear()
            await self._ready.wait()
