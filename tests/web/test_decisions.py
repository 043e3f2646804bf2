"""A decision is written once, and made by calling its steps or by awaiting them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celery_realtime.web import decisions
from celery_realtime.web.decisions import Blocking, Decision

Drive = Callable[[Decision[Any]], Any]

DRIVERS = pytest.mark.parametrize(
    "drive", [decisions.call, lambda decision: asyncio.run(decisions.wait(decision))], ids=["called", "awaited"]
)


async def coroutine(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@DRIVERS
def test_what_a_step_returns_comes_back_from_the_yield(drive: Drive) -> None:
    def decide() -> Decision[Any]:
        first = yield lambda: 1
        second = yield lambda: coroutine(first + 1)
        third = yield Blocking(lambda number: number + 1, second)
        fourth = yield Blocking(coroutine, third + 1)
        return first, second, third, fourth

    assert drive(decide()) == (1, 2, 3, 4)


@DRIVERS
def test_a_decision_without_steps_has_a_result_too(drive: Drive) -> None:
    def decide() -> Decision[str]:
        yield from ()
        return "done"

    assert drive(decide()) == "done"


@DRIVERS
@pytest.mark.parametrize("kind", [lambda fails: fails, Blocking], ids=["plain", "blocking"])
def test_what_a_step_raises_is_raised_at_the_yield(drive: Drive, kind: Callable[[Any], Any]) -> None:
    def fails() -> None:
        raise ValueError("no")

    def decide() -> Decision[str]:
        try:
            yield kind(fails)
        except ValueError as error:
            return f"caught {error}, and then {(yield lambda: 5)}"
        return "not reached"

    assert drive(decide()) == "caught no, and then 5"


@DRIVERS
def test_an_error_that_the_decision_does_not_catch_is_its_own(drive: Drive) -> None:
    ended = []

    def fails() -> None:
        raise ValueError("no")

    def decide() -> Decision[None]:
        try:
            yield fails
        finally:
            ended.append(True)

    with pytest.raises(ValueError, match="no"):
        drive(decide())
    assert ended == [True]


@DRIVERS
def test_an_exit_is_not_for_the_decision_to_catch_but_it_tidies_up(drive: Drive) -> None:
    ended = []

    def leaves() -> None:
        raise SystemExit

    def decide() -> Decision[None]:
        try:
            yield leaves
        except Exception:
            ended.append("caught")
        finally:
            ended.append("closed")

    with pytest.raises(SystemExit):
        drive(decide())
    assert ended == ["closed"]


def test_a_step_that_may_block_leaves_the_event_loop_alone() -> None:
    threads = []

    def decide() -> Decision[None]:
        yield lambda: threads.append(threading.current_thread())
        yield Blocking(lambda: threads.append(threading.current_thread()))

    asyncio.run(decisions.wait(decide()))
    assert threads[0] is threading.current_thread()
    assert threads[1] is not threading.current_thread()


def test_a_rule_that_returns_an_awaitable_from_a_plain_function_is_awaited() -> None:
    def decide() -> Decision[int]:
        return (yield Blocking(lambda: coroutine(7)))

    assert asyncio.run(decisions.wait(decide())) == 7


def test_a_decision_that_is_cancelled_tidies_up() -> None:
    ended = []

    def decide() -> Decision[None]:
        try:
            yield lambda: asyncio.sleep(60)
        finally:
            ended.append(True)

    async def cancel() -> None:
        task = asyncio.create_task(decisions.wait(decide()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert ended == [True]
