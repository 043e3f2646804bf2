"""A mapping that forgets its oldest entries, so that no process grows with the jobs it has seen."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class BoundedDict(Generic[K, V]):
    """A mapping of the ``limit`` entries that were set last.

    Without a lock: the handler of a signal, which runs in the middle of whatever the main thread does, may change it
    too, and Celery shuts a worker down in one; and in a child of a fork, a lock that another thread holds stays held.

    Args:
        limit: Entries kept, above 0.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Not a dict, in which the way to the oldest entry leads past all those that have been removed before it.
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __setitem__(self, key: K, value: V) -> None:
        entries = self._entries
        if key in entries:
            entries.pop(key, None)
        entries[key] = value
        while len(entries) > self._limit:
            with contextlib.suppress(KeyError):  # it has changed meanwhile
                entries.popitem(last=False)

    def get(self, key: K, default: D = None) -> V | D:  # type: ignore[assignment]
        """Return the entry of a key, else the default."""
        return self._entries.get(key, default)

    def pop(self, key: K) -> V | None:
        """Forget a key and return its entry, if there was one."""
        return self._entries.pop(key, None)

    def names(self) -> list[K]:
        """Return the keys, the oldest first."""
        return list(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
