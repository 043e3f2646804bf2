"""The clocks of the host, also where a test freezes or moves the time, or replaces functions of the module ``time``.

What waits, measures, or compares with other processes goes by these: with freezegun, ``time.monotonic()`` stands still,
and a wait for it would never end. What an application shows or checks itself goes by the application's time: the
timestamps of events, and until when tokens are valid.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
import threading
import time as module
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any


class HostTime:
    """What this package uses of the module ``time``, as it is without freezegun and time-machine."""

    def __init__(self) -> None:
        original = _unfrozen()
        # Not monotonic, which time-machine up to 2.x changes for all who hold it. They read the same clock.
        self.monotonic: Callable[[], float] = original.perf_counter
        self.thread_time: Callable[[], float] = original.thread_time
        self._time_ns: Callable[[], int] = original.time_ns

    def time(self) -> float:
        """Return the seconds since the epoch."""
        return self.time_ns() / 1e9

    def time_ns(self) -> int:
        """Return the nanoseconds since the epoch."""
        travel = sys.modules.get("time_machine")
        if travel is not None:  # it changes the functions of the interpreter itself
            with contextlib.suppress(AttributeError, ValueError):  # it is being imported, or the travel has ended
                if travel.escape_hatch.is_travelling():
                    return int(travel.escape_hatch.time.time_ns())
        return self._time_ns()

    @staticmethod
    def sleep(seconds: float) -> None:
        """Sleep, by a lock: tests replace the module's function, and gevent and eventlet have locks of their own."""
        lock = threading.Lock()
        lock.acquire()
        lock.acquire(timeout=seconds)


def _unfrozen() -> Any:
    """Return the module ``time`` as it was built, of which freezegun knows nothing."""
    spec = importlib.machinery.BuiltinImporter.find_spec("time")
    if spec is None or spec.loader is None:  # no CPython
        return module
    original = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(original)
    return original


time = HostTime()
_host_time_ns = _unfrozen().time_ns  # which time-machine changes itself


def shown_time_ns() -> int:
    """Return the nanoseconds since the epoch as the application sees them: frozen or moved.

    What else has been put in place of the module's function, such as a mock that counts its calls or has only so many
    answers, is not for this package.
    """
    current = module.time_ns
    if type(current) is BuiltinFunctionType or not str(current.__module__).startswith("freezegun."):
        return _host_time_ns()  # type: ignore[no-any-return]
    return current()
