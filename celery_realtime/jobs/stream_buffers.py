"""Hold what was written to a stream until it is sent, and cut it into chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from celery_realtime.encoding import encode_lenient, legible


class TextBuffer:
    """Texts that become one.

    Attributes:
        size: How many characters there are.
        nothing: A chunk without any.
    """

    nothing = ""

    def __init__(self) -> None:
        #: Up to `_begin` it has been taken: a long text is not copied for each chunk of it.
        self._text, self._begin = "", 0

    @property
    def size(self) -> int:
        """How many characters there are."""
        return len(self._text) - self._begin

    def add(self, texts: Iterable[str]) -> None:
        """Add texts behind it."""
        self._text, self._begin = self._text[self._begin :] + legible("".join(texts)), 0

    def drop_oldest(self, most: int) -> int:
        """Drop the first characters, so that at most so many are left; returns how many it has dropped."""
        dropped = max(0, self.size - most)
        self._text, self._begin = self._text[self._begin + dropped :], 0
        return dropped

    def take(self, most: int) -> str:
        """Remove and return the first characters, at most so many."""
        taken = self._text[self._begin : self._begin + most]
        self._begin += len(taken)
        if self._begin == len(self._text):
            self._text, self._begin = "", 0
        return taken

    def shown(self, piece: str) -> Any:
        """Return a chunk as plain data."""
        return piece

    def piece_of(self, data: Any) -> str:
        """Return the chunk that plain data are; what is no text is none."""
        return legible(data) if isinstance(data, str) else ""

    def encoded(self, piece: str) -> bytes:
        """Return a chunk as it is stored."""
        return piece.encode()


class ItemBuffer:
    """Items of JSON, encoded.

    Attributes:
        nothing: A chunk without any.
    """

    nothing: tuple[bytes, ...] = ()

    def __init__(self) -> None:
        self._items: deque[bytes] = deque()
        self._size = 0

    @property
    def size(self) -> int:
        """About how many bytes there are."""
        return self._size

    def add(self, items: Iterable[bytes]) -> None:
        """Add items behind it."""
        added = list(items)
        self._items.extend(added)
        self._size += sum(map(len, added)) + len(added)

    def _pop(self) -> bytes:
        item = self._items.popleft()
        self._size -= len(item) + 1
        return item

    def drop_oldest(self, most: int) -> int:
        """Drop the first items, so that at most so many bytes are left; returns how many items it has dropped."""
        dropped = 0
        while self._size > most:
            self._pop()
            dropped += 1
        return dropped

    def take(self, most: int) -> tuple[bytes, ...]:
        """Remove and return the first items: one, and more as long as they have at most so many bytes."""
        taken = [self._pop()]
        size = len(taken[0])
        while self._items and size + len(self._items[0]) <= most:
            taken.append(self._pop())
            size += len(taken[-1])
        return tuple(taken)

    def shown(self, piece: tuple[bytes, ...]) -> Any:
        """Return a chunk as plain data."""
        return [msgspec.json.decode(item) for item in piece]

    def piece_of(self, data: Any) -> tuple[bytes, ...]:
        """Return the chunk that plain data are; what is no list is none."""
        return tuple(encode_lenient(item) for item in data) if isinstance(data, (list, tuple)) else ()

    def encoded(self, piece: tuple[bytes, ...]) -> bytes:
        """Return a chunk as it is stored."""
        return b"\n".join((*piece, b""))
