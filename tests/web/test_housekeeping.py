"""What ends by itself is ended, whatever goes wrong beside it; and the loop goes with the last connection."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import engineio
import pytest

from celery_realtime.web import housekeeping
from celery_realtime.web.seams import EngineSockets
from tests.variants import in_a_loop, on_threads
from tests.waiting import wait_for
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def web(make_web: Callable[..., Web]) -> Web:
    return make_web().attach().start()


def breaks(*_: Any) -> None:
    raise RuntimeError("set changed size during iteration")


@on_threads
def test_it_outlives_an_exception_in_one_of_its_chores_and_does_the_others(
    web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    web.manager.delivery.forget_unwatched = breaks
    client = web.connect(web.token(expires_in=6))

    loop = web.handlers.housekeeper.loop
    wait_for(lambda: loop.failures >= 3)
    assert loop.state != "stuck"
    client.wait_for_event("error", code="unauthorized")
    lines = [record.getMessage() for record in caplog.records if "housekeeping" in record.getMessage()]
    assert len(lines) == 1
    assert "set changed size" in lines[0]


@in_a_loop
def test_it_outlives_an_exception_before_its_chores(web: Web) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineSockets, "are_open", breaks)
        client = web.connect(web.token(expires_in=6))
        loop = web.handlers.housekeeper.loop
        wait_for(lambda: loop.failures >= 2)
        client.wait_for_event("error", code="unauthorized")
    assert web.handlers.housekeeper.is_running


def test_if_it_is_interrupted_the_next_connection_starts_it_again(web: Web) -> None:
    housekeeper, sleep = web.handlers.housekeeper, web.server.sleep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web.server, "sleep", breaks)
        with contextlib.suppress(Exception):
            web.connect()
        wait_for(lambda: not housekeeper.is_running)
    web.server.sleep = sleep

    client = web.connect(web.token(expires_in=6))
    client.wait_for_event("error", code="unauthorized")
    assert housekeeper.loop.state != "stuck"  # it may have ended by now, with the connection


def test_it_ends_with_the_last_connection_and_begins_again_with_the_next(web: Web) -> None:
    for _ in range(2):
        client = web.connect()
        wait_for(lambda: web.handlers.housekeeper.is_running)
        client.close()
        wait_for(lambda: not web.handlers.housekeeper.is_running, timeout=60)


@in_a_loop
def test_a_connection_that_cannot_be_closed_keeps_no_other_open(make_web: Callable[..., Web]) -> None:
    web = make_web(connect_timeout=5).attach().start()
    silent = [engineio.Client() for _ in range(2)]
    silent[0].connect(web.url, transports=["websocket"], engineio_path="socket.io")
    [held] = web.server.eio.sockets.values()
    close, held.close = held.close, breaks
    silent[1].connect(web.url, transports=["websocket"], engineio_path="socket.io")

    wait_for(lambda: silent[1].state == "disconnected")
    held.close = close
    silent[0].disconnect(abort=True)


def test_a_server_that_is_behind_gives_a_connection_more_time_to_show_its_token(
    make_web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "TICK", 0.05)
    web = make_web(connect_timeout=0.25).attach()
    sleep, ticks = web.server.sleep, []

    def sleep_long(seconds: float) -> Any:
        ticks.append(seconds)
        return sleep(0.3)

    web.server.sleep = sleep_long
    web.start()
    client = engineio.Client()
    client.connect(web.url, transports=["websocket"], engineio_path="socket.io")
    wait_for(lambda: client.state == "disconnected", timeout=60)
    assert len(ticks) >= 3
