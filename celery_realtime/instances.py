"""Know which Realtimes there are in this process, without keeping any alive."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any


class Instances:
    """The Realtimes of a process that are attached to a Celery app."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Any] = weakref.WeakSet()
        self._observers: list[Callable[[Any], None]] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._all))

    def add(self, realtime: Any) -> None:
        """Note a Realtime that has been attached."""
        self._all.add(realtime)
        for observer in list(self._observers):
            observer(realtime)

    @contextlib.contextmanager
    def observed(self, observer: Callable[[Any], None]) -> Iterator[None]:
        """Call ``observer`` with each Realtime that there is, and inside the block with each that comes."""
        self._observers.append(observer)
        try:
            for realtime in self:
                observer(realtime)
            yield
        finally:
            self._observers.remove(observer)


#: Celery's current app is one for each thread, and the request threads of a web server have none.
instances = Instances()
