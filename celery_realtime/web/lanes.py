"""Threads for what would block an event loop: each kind of request has its own, so that none waits for another kind."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

#: Where what blocks runs, in the request that is being answered; None for the event loop's own threads.
_LANE: contextvars.ContextVar[Executor | None] = contextvars.ContextVar("celery_realtime_lane", default=None)


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a thread of the lane of the request that is being answered, as :func:`asyncio.to_thread`."""
    call = functools.partial(contextvars.copy_context().run, function, *args)
    return await asyncio.get_running_loop().run_in_executor(_LANE.get(), call)


class Lanes:
    """The threads of one server, by the kind of requests. Those of a kind are made when they are needed.

    Args:
        sizes: How many threads each kind has.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        self._executors = {
            kind: ThreadPoolExecutor(size, thread_name_prefix=f"celery-realtime-{kind}") for kind, size in sizes.items()
        }

    @contextmanager
    def of(self, kind: str | None) -> Iterator[None]:
        """Answer a request of a kind; one of another kind is answered in the event loop's own threads."""
        lane = _LANE.set(self._executors.get(kind or ""))
        try:
            yield
        finally:
            _LANE.reset(lane)
