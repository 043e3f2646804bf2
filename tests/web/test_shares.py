"""A user with many connections has one message handled at a time."""

from __future__ import annotations

import asyncio
import threading

from celery_realtime.web.shares import AsyncShares, Shares


def test_a_message_waits_for_one_of_the_same_user_and_for_no_other() -> None:
    shares, begun = Shares(), []

    def handle(user: str) -> None:
        shares.take(user)
        begun.append(user)

    shares.take("ada")
    threads = [threading.Thread(target=handle, args=[user]) for user in ("ada", "bob")]
    for thread in threads:
        thread.start()
    threads[1].join(60)
    assert begun == ["bob"]
    shares.give("ada")
    threads[0].join(60)
    assert begun == ["bob", "ada"]
    shares.give("ada")
    shares.give("bob")
    assert len(shares) == 0


def test_in_a_loop_messages_of_a_user_come_in_turn() -> None:
    begun: list[str] = []

    async def handle(shares: AsyncShares, name: str) -> None:
        await shares.take(name[:3])
        begun.append(name)
        await asyncio.sleep(0)
        shares.give(name[:3])

    async def all_of_them() -> int:
        shares = AsyncShares()
        await asyncio.gather(*(handle(shares, name) for name in ("ada1", "ada2", "ada3", "bob1")))
        return len(shares)

    assert asyncio.run(all_of_them()) == 0
    assert begun == ["ada1", "bob1", "ada2", "ada3"]


def test_whoever_goes_while_it_waits_takes_nothing_along() -> None:
    async def come_and_go() -> int:
        shares = AsyncShares()
        await shares.take("ada")
        waiting = [asyncio.ensure_future(shares.take("ada")) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.gather(*waiting[:1], return_exceptions=True)
        shares.give("ada")
        await waiting[1]
        shares.give("ada")
        return len(shares)

    assert asyncio.run(come_and_go()) == 0
