"""What observes the stages of an event's way, as metrics and traces do; by default nothing, at no cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

Function = TypeVar("Function", bound=Callable[..., Any] | None)


def unobserved(function: Function) -> Function:
    """Return a function as it is."""
    return function


class Stages(msgspec.Struct, frozen=True):
    """Wraps what does each stage where it is put together; a wrapper returns, and raises, what the function does.

    Attributes:
        report: Wraps ``(event) -> event, or None``, or None where events pass as they are, in the thread that reports.
        append: Wraps ``(batch) -> events to publish, or None``, which appends events to the history.
        publish: Wraps ``(batch) -> number``, which publishes events and returns how many of the first were.
        hear: Wraps ``(message, has_room) -> items``, which turns a message of the channel into what is emitted.
        deliver: Wraps ``(emit) -> None``, a coroutine function or not, which emits to the clients of this server.
    """

    report: Callable[..., Any] = unobserved
    append: Callable[..., Any] = unobserved
    publish: Callable[..., Any] = unobserved
    hear: Callable[..., Any] = unobserved
    deliver: Callable[..., Any] = unobserved


#: Nothing observes.
UNOBSERVED = Stages()


def both(inner: Stages, outer: Stages) -> Stages:
    """Return what has two observe each stage, the second around the first."""
    names = Stages.__struct_fields__
    return Stages(**{name: _around(getattr(inner, name), getattr(outer, name)) for name in names})


def _around(inner: Callable[..., Any], outer: Callable[..., Any]) -> Callable[..., Any]:
    if unobserved in (inner, outer):
        return outer if inner is unobserved else inner

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        wrapped: Callable[..., Any] = outer(inner(function))
        return wrapped

    return wrap
