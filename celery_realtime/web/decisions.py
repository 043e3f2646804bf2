"""Write each decision once, as a generator of steps that a synchronous server calls and an asyncio server awaits.

A step is a callable without arguments. What it returns, or raises, comes back from the ``yield``. On an asyncio server
a step may return an awaitable; one that may block is a :class:`Blocking`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, TypeVar

from celery_realtime.web.lanes import in_thread

Step = Callable[[], Any]
T = TypeVar("T")
Decision = Generator[Step, Any, T]


class Blocking:
    """A step that may block, such as a rule of the application or a read from Redis.

    Args:
        function: What to call; a plain function or a coroutine function.
        *args: Its arguments.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._function = function
        self._args = args

    def __call__(self) -> Any:
        """Call the function in this thread."""
        return self._function(*self._args)

    async def off_the_loop(self) -> Any:
        """Await a coroutine function; call any other in a thread, so that the event loop goes on."""
        if inspect.iscoroutinefunction(self._function):
            return await self._function(*self._args)
        outcome = await in_thread(self._function, *self._args)
        return await outcome if inspect.isawaitable(outcome) else outcome


def caught(decision: Decision[T]) -> Decision[T | Exception]:
    """Return what a decision returns, or the exception that it raises, for a caller who answers in either case."""
    try:
        return (yield from decision)
    except Exception as error:  # noqa: BLE001 - rules of the application may raise anything
        return error


class _Run:
    """One run of a decision: where it stands, and the outcome of its last step."""

    def __init__(self, decision: Decision[Any]) -> None:
        self._decision = decision
        self._error: Exception | None = None
        self.outcome: Any = None

    def next_step(self) -> Step:
        """Go on to the next step.

        Raises:
            StopIteration: The decision has ended, with its result as the value.
        """
        outcome, error = self.outcome, self._error
        self.outcome, self._error = None, None
        return self._decision.send(outcome) if error is None else self._decision.throw(error)

    def __enter__(self) -> None:
        """Begin a step."""

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _where: TracebackType | None
    ) -> bool:
        # An exit or a cancellation is not for the decision to handle.
        self._error = error if isinstance(error, Exception) else None
        return self._error is not None


def call(decision: Decision[T]) -> T:
    """Make a decision by calling its steps; an awaitable that one returns is run to its end."""
    run = _Run(decision)
    with contextlib.closing(decision):
        while True:
            try:
                step = run.next_step()
            except StopIteration as end:
                result: T = end.value
                return result
            with run:
                run.outcome = _settled(step())


async def wait(decision: Decision[T]) -> T:
    """Make a decision by awaiting its steps; those that may block run in a thread."""
    run = _Run(decision)
    with contextlib.closing(decision):
        while True:
            try:
                step = run.next_step()
            except StopIteration as end:
                result: T = end.value
                return result
            with run:
                outcome = step.off_the_loop() if isinstance(step, Blocking) else step()
                run.outcome = await outcome if inspect.isawaitable(outcome) else outcome


def _settled(outcome: Any) -> Any:
    return asyncio.run(_awaited(outcome)) if inspect.isawaitable(outcome) else outcome


async def _awaited(outcome: Any) -> Any:
    return await outcome
