"""What a server reads that shows nothing is counted beside it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_realtime.settings import Settings
from celery_realtime.web.budgets import Allowance, Budget
from celery_realtime.web.sessions import Limits
from celery_realtime.web.socket_watch import IS_POSSIBLE, READ_AHEAD, WATCHED_KEY, SocketWatches
from tests.log_records import logged_by
from tests.processes import HOST
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(not IS_POSSIBLE, reason="needs what only Linux has")


class Reader:
    """A server's side of a connection, read in a thread of its own, as by a server that shows nothing."""

    def __init__(self) -> None:
        with socket.create_server((HOST, 0)) as listening:
            self.client = socket.create_connection(listening.getsockname()[:2])
            self._server, address = listening.accept()
        self.client.settimeout(60)
        #: As Granian has it: ports are text.
        self.scope: dict[str, Any] = {
            "client": (address[0], str(address[1])),
            "server": (HOST, str(self._server.getsockname()[1])),
        }
        self.read = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(65536):
                self.read += len(data)

    def has_read(self, size: int) -> bool:
        return self.read >= size

    def close(self) -> None:
        self.client.close()
        self._thread.join(60)
        self._server.close()


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


@pytest.fixture
def budget() -> Budget:
    limits = Limits.of(Settings())
    budget = Budget(Allowance.before_token(limits), "peer", lambda _: None)
    budget.admit(Allowance.after_token(limits, 1_000_000))
    return budget


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_for, condition)


def test_a_message_that_does_not_end_ends_the_connection(reader: Reader, budget: Budget) -> None:
    async def attack() -> None:
        with SocketWatches().watching(reader.scope, budget):
            reader.client.sendall(bytes(500_000))
            await until(functools.partial(reader.has_read, 500_000))
            assert budget.exceeded is None
            reader.client.sendall(bytes(500_000 + READ_AHEAD))
            await until(functools.partial(reader.has_read, 1_000_000))
            reader.client.sendall(bytes(1000))
            await until(lambda: budget.exceeded is not None)
            assert await asyncio.to_thread(is_shut, reader.client)

    asyncio.run(attack())
    assert budget.exceeded == "bytes in one message"


def is_shut(client: socket.socket) -> bool:
    try:
        return client.recv(10) == b""
    except ConnectionError:
        return True


def test_messages_that_were_handed_over_count_no_more(reader: Reader, budget: Budget) -> None:
    async def talk() -> None:
        with SocketWatches().watching(reader.scope, budget):
            for number in range(1, 4):
                reader.client.sendall(bytes(900_000))
                await until(functools.partial(reader.has_read, number * 900_000))
                reader.scope[WATCHED_KEY].note_message()
                await asyncio.sleep(0.02)  # for what was reported to be looked at

    asyncio.run(talk())
    assert budget.exceeded is None


def test_what_comes_in_a_second_is_counted(reader: Reader, budget: Budget) -> None:
    async def flood() -> None:
        sent = 0
        with SocketWatches().watching(reader.scope, budget), contextlib.suppress(OSError):
            while budget.exceeded is None:
                sent += 500_000
                await asyncio.to_thread(reader.client.sendall, bytes(500_000))
                await until(lambda sent=sent: budget.exceeded is not None or reader.has_read(sent))  # type: ignore[misc]
                reader.scope[WATCHED_KEY].note_message()

    asyncio.run(asyncio.wait_for(flood(), 20))
    assert budget.exceeded == "bytes a second"


def test_a_socket_that_is_not_to_be_found_is_reported(
    reader: Reader, budget: Budget, caplog: pytest.LogCaptureFixture
) -> None:
    async def go_on() -> None:
        scope = {**reader.scope, "client": ("192.0.2.1", 0)}
        with SocketWatches().watching(scope, budget):
            assert WATCHED_KEY not in scope

    asyncio.run(go_on())
    [record] = logged_by(caplog, "celery_realtime.web.socket_watch")
    assert "is not bounded" in record.message


def test_what_is_over_is_watched_no_more(budget: Budget) -> None:
    async def come_and_go() -> None:
        watches = SocketWatches()
        for _ in range(5):  # the numbers of files are used again
            reader = Reader()
            with watches.watching(reader.scope, budget):
                assert reader.scope[WATCHED_KEY].connection.getpeername() == reader.client.getsockname()
            reader.close()
        assert len(watches) == 0

    asyncio.run(come_and_go())
