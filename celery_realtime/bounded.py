"""A mapping that forgets its oldest entries, so that no process grows with the jobs it has seen."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class BoundedDict(Generic[K, V]):
    """A mapping of the ``limit`` entries that were set last.

    Args:
        limit: Entries kept, above 0.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[K, V] = {}
        self._lock = threading.Lock()

    def __setitem__(self, key: K, value: V) -> None:
        with self._lock:
            self._entries.pop(key, None)
            self._entries[key] = value
            while len(self._entries) > self._limit:
                del self._entries[next(iter(self._entries))]

    def get(self, key: K, default: D = None) -> V | D:  # type: ignore[assignment]
        """Return the entry of a key, else the default."""
        return self._entries.get(key, default)

    def pop(self, key: K) -> V | None:
        """Forget a key and return its entry, if there was one."""
        with self._lock:
            return self._entries.pop(key, None)

    def names(self) -> list[K]:
        """Return the keys, the oldest first."""
        with self._lock:
            return list(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
