"""Waiting: for a condition, with a deadline."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import WaitTimeout, wait_for, wait_for_async


def test_what_came_true_is_returned() -> None:
    values = iter([0, None, "here"])

    assert wait_for(lambda: next(values)) == "here"


def test_the_error_shows_the_last_value() -> None:
    with pytest.raises(WaitTimeout, match=r"no third job \(waited 0.05 s; last seen: \[\]\)"):
        wait_for(list, timeout=0.05, message="no third job")


def test_an_ignored_exception_means_not_yet() -> None:
    attempts = iter([True, False])

    def condition() -> bool:
        if next(attempts):
            raise ConnectionError("not up yet")
        return True

    assert wait_for(condition, ignoring=(ConnectionError,))


def test_any_other_exception_ends_the_wait() -> None:
    def condition() -> bool:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        wait_for(condition, ignoring=(ConnectionError,))


def test_the_event_loop_runs_while_a_coroutine_waits() -> None:
    async def main() -> bool:
        done: list[bool] = []
        asyncio.get_running_loop().call_later(0.05, done.append, True)
        return (await wait_for_async(lambda: done))[0]

    assert asyncio.run(main())
