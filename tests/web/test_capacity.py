"""How many requests a server answers at once is to be seen where it answers one."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_realtime.web import capacity
from tests.attacks.hosts import PROJECT, Attacked, token_of
from tests.attacks.raw import Polling, Raw, Refused
from tests.launcher import Launcher
from tests.waiting import wait_for


def test_others_answer_any_number() -> None:
    assert capacity.requests_at_once() is None


def test_connections_without_a_token_take_a_part_of_the_memory() -> None:
    assert capacity.most_without_token("threading", {}) < capacity.most_without_token("asgi", {})
    assert capacity.most_without_token("of another name", {}) > 500


def test_eventlet_shows_its_pool() -> None:
    eventlet = pytest.importorskip("eventlet")
    seen: list[int | None] = []
    pool = eventlet.GreenPool(7)
    pool.spawn(lambda: seen.append(capacity.requests_at_once())).wait()
    assert seen == [7]


# -- gunicorn ---------------------------------------------------------------------------------------------------------

THREADS = 16


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = Path(tmp_path_factory.mktemp("gthread"))
    with Launcher(folder) as launcher:
        yield launcher.start(
            Attacked("gthread", folder, {"CELERY_BROKER_URL": "memory://", "HOST_THREADS": str(THREADS)})
        )


def is_served(small: Attacked, token: str) -> bool:
    with contextlib.suppress(OSError):
        client = Raw(small.url, timeout=5.0).enter(token)
        answer = client.ask("subscribe_project", {"project_id": PROJECT})
        client.close()
        return '"ok":true' in answer
    return False


@pytest.mark.service
def test_sockets_without_a_token_leave_threads_for_others(small: Attacked) -> None:
    silent = [Raw(small.url) for _ in range(3 * THREADS)]
    wait_for(lambda: is_served(small, token_of("bob")))
    for connection in silent:
        connection.close()


def _received(connection: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        return connection.recv(65536)
    return b""


@pytest.mark.service
def test_polls_of_one_user_leave_threads_for_others(small: Attacked) -> None:
    held = []

    def begin_session() -> Polling | None:
        with contextlib.suppress(Refused):  # too many connections came at once; a client tries again
            return Polling(small.url)
        return None

    def hold() -> None:
        with contextlib.suppress(OSError):
            session = wait_for(begin_session)
            session.post("40" + json.dumps({"token": token_of()}))
            held.extend([session.get(), session.get(), session.begin_post(50_000)])

    threads = [threading.Thread(target=hold) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    wait_for(lambda: is_served(small, token_of("bob")))
    for thread in threads:
        thread.join(60)
    wait_for(lambda: is_served(small, token_of("bob")))
    # And that was not since the polls were answered by pings: some were ended, or refused.
    readable, _, _ = select.select(held, [], [], 0)
    answers = b"".join(_received(connection) for connection in readable)
    assert b"too many requests" in answers.lower().replace(b"_", b" "), answers
    for connection in held:
        connection.close()
