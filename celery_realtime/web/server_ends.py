"""Tell whether a web server is about to end: it waits for answers, and a stream of events has no end by itself.

Seen in uvicorn 0.54, which waits for ever, and gunicorn 27, which waits for its ``--graceful-timeout``. On other
servers nobody knows, and streams end with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

#: Seconds between two looks.
GLANCE = 0.5

IsEnding = Callable[[], bool]


def of_wsgi() -> IsEnding:
    """Return what tells whether the server is about to end in whose code this is called, on threads or greenlets."""
    worker = _gunicorn_worker(sys._getframe(1))
    return _never if worker is None else lambda: not worker.alive


def of_asgi(send: Any) -> IsEnding:
    """Return the same of the server that has been asked for something over ASGI, in whose code this is called."""
    worker, cycle = _gunicorn_worker(sys._getframe(1)), getattr(send, "__self__", None)
    if worker is not None:
        return lambda: not worker.alive
    if getattr(cycle, "keep_alive", False) is True:  # uvicorn lets no other request follow then
        return lambda: not getattr(cycle, "keep_alive", True) or _is_uvicorn_ending()
    return _is_uvicorn_ending


def _gunicorn_worker(frame: FrameType | None) -> Any:
    """Return gunicorn's worker in whose code a frame is; None if that is not gunicorn's."""
    while frame is not None:
        holder: Any = frame.f_locals.get("self")
        is_gunicorns = type(holder).__module__.startswith("gunicorn.")  # who knows what others do when they are asked
        for worker in (holder, getattr(holder, "worker", None)) if is_gunicorns else ():
            if type(worker).__module__.startswith("gunicorn.workers.") and hasattr(worker, "alive"):
                return worker
        frame = frame.f_back
    return None


def _is_uvicorn_ending() -> bool:
    """Tell whether uvicorn has been sent a signal, whose handler is a method of its server."""
    return bool(getattr(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), "should_exit", False))


def _never() -> bool:
    return False


class Farewells:
    """Has streams of an event loop end when their server is about to."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[IsEnding, Callable[[], object]]] = {}
        self._names = itertools.count()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watching(self, is_ending: IsEnding, end: Callable[[], object]) -> Iterator[None]:
        """Call ``end`` if the server is about to end while the block runs."""
        name = next(self._names)
        self._watched[name] = is_ending, end
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            self._watched.pop(name, None)

    async def _watch(self) -> None:
        while self._watched:
            for name, (is_ending, end) in list(self._watched.items()):
                if is_ending():
                    self._watched.pop(name, None)
                    end()
            await asyncio.sleep(GLANCE)
