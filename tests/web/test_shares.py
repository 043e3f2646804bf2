"""A user with many connections has one message handled at a time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from celery_realtime.web import shares
from celery_realtime.web.metering import Users
from celery_realtime.web.seams import guard_messages
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


class Engine:
    """Has Engine.IO's handler of messages, which notes how many it handles at once."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {"message": self._handle}
        self.now = self.most = 0
        self._lock = threading.Lock()

    def _handle(self, _eio_sid: str, _message: str) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Event().wait(0.02)
        with self._lock:
            self.now -= 1


class Server:
    def __init__(self) -> None:
        self.eio = Engine()

    def is_asyncio_based(self) -> bool:
        return False


@pytest.mark.parametrize(("users", "most"), [(["ada"] * 4, [1]), (["ada", "ada", None, None], [1, 2, 3])])
def test_messages_of_polling_sessions_of_a_user_come_in_turn_too(
    users: list[str | None], most: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "LONGEST", 120.0)
    server, passed = Server(), []
    guard_messages(
        server,
        lambda *_: True,
        lambda eio_sid, _: passed.append(eio_sid),
        users=Users.nobody(),
        user_of=lambda eio_sid: users[int(eio_sid)],
    )
    threads = [threading.Thread(target=server.eio.handlers["message"], args=[str(number), "2"]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(passed) == ["0", "1", "2", "3"]
    assert server.eio.most in most
