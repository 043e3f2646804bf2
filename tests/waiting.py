"""Wait for a condition with a deadline; never for a length of time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.02
#: Seconds until what comes at once has not come: on a machine with many times more to do than it can, that takes long.
PATIENCE = 60.0
LONGEST_REPR = 2000


class WaitTimeout(AssertionError):
    """A condition did not come true in time."""


def wait_for(
    condition: Callable[[], T | None],
    *,
    timeout: float = PATIENCE,
    message: str = "the condition did not come true",
    ignoring: tuple[type[Exception], ...] = (),
) -> T:
    """Call ``condition`` until it returns something true, and return that.

    Args:
        condition: Called at least twice, so a slow one still gets its last look.
        timeout: Seconds from now.
        message: What the error says beside the last value seen.
        ignoring: Exceptions of the condition that mean "not yet".

    Raises:
        WaitTimeout: With the last value, or the last exception, that was seen.
    """
    for value in _looks(condition, timeout, message, ignoring):
        if value:
            return value
        time.sleep(INTERVAL)  # noqa: TID251  (the one place)
    raise AssertionError("unreachable")


async def wait_for_async(
    condition: Callable[[], T | None],
    *,
    timeout: float = PATIENCE,
    message: str = "the condition did not come true",
    ignoring: tuple[type[Exception], ...] = (),
) -> T:
    """Do what ``wait_for`` does, and let the event loop run meanwhile."""
    for value in _looks(condition, timeout, message, ignoring):
        if value:
            return value
        await asyncio.sleep(INTERVAL)
    raise AssertionError("unreachable")


def _looks(
    condition: Callable[[], T | None], timeout: float, message: str, ignoring: tuple[type[Exception], ...]
) -> Iterator[T | None]:
    deadline = time.monotonic() + timeout
    late = False
    while True:
        value, seen = _look(condition, ignoring)
        if not value and late:
            raise WaitTimeout(f"{message} (waited {timeout:g} s; last seen: {seen})")
        late = time.monotonic() > deadline
        yield value


def _look(condition: Callable[[], T | None], ignoring: tuple[type[Exception], ...]) -> tuple[T | None, str]:
    try:
        value = condition()
    except ignoring as error:
        return None, repr(error)
    return value, repr(value)[:LONGEST_REPR]
