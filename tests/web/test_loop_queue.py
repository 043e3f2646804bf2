"""What a thread puts, a coroutine gets, in order; and a loop that does not keep up is waited for, once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from celery_realtime.web.loop_queue import LoopQueue


def test_what_a_thread_puts_is_taken_in_order() -> None:
    async def take() -> list[int]:
        queue = LoopQueue[int](asyncio.get_running_loop(), 100)
        threading.Thread(target=lambda: [queue.put([n, n + 1]) for n in range(0, 2000, 2)], daemon=True).start()
        return [await asyncio.wait_for(queue.get(), 20) for _ in range(2000)]

    assert asyncio.run(take()) == list(range(2000))


def test_a_thread_that_asks_for_room_puts_no_more_than_the_limit_and_one_message() -> None:
    longest = 0

    async def take() -> list[int]:
        nonlocal longest
        queue = LoopQueue[int](asyncio.get_running_loop(), 10)

        def put() -> None:
            for number in range(0, 300, 3):
                assert queue.wait_for_room(20)
                queue.put(range(number, number + 3))

        threading.Thread(target=put, daemon=True).start()
        taken = []
        for _ in range(300):
            taken.append(await asyncio.wait_for(queue.get(), 20))
            longest = max(longest, len(queue))
        return taken

    assert asyncio.run(take()) == list(range(300))
    assert longest <= 12


def test_a_loop_that_stands_still_is_waited_for_once() -> None:
    async def fill() -> None:
        queue = LoopQueue[int](asyncio.get_running_loop(), 2)
        queue.put([1, 2])

        assert not queue.wait_for_room(0.1)
        assert not queue.wait_for_room(600)  # not again
        await queue.get()
        assert queue.wait_for_room(600)
        queue.put([3])
        assert not queue.wait_for_room(0.1)  # but there was room since

    asyncio.run(fill())


def test_a_put_for_a_loop_that_is_closed_says_so() -> None:
    loop = asyncio.new_event_loop()
    queue = LoopQueue[int](loop, 2)
    loop.close()

    with pytest.raises(RuntimeError, match="closed"):
        queue.put([1])


def test_nothing_that_is_put_is_no_reason_to_wake_the_loop() -> None:
    loop = asyncio.new_event_loop()
    queue = LoopQueue[int](loop, 2)
    loop.close()

    queue.put([])

    assert len(queue) == 0
