"""What python-socketio's clients do not document is there, and its absence is handled."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import socketio

from celery_realtime.client import seams
from celery_realtime.client.hub import ReconnectionGuard
from celery_realtime.exceptions import RealtimeError
from tests.waiting import wait_for
from tests.web_servers import Web

CLIENTS = [socketio.Client, socketio.AsyncClient]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_has_every_part_that_is_used(kind: Any) -> None:
    client = kind()
    assert callable(client._trigger_event)
    assert inspect.iscoroutinefunction(client._trigger_event) == client.is_asyncio_based()
    assert callable(client._handle_reconnect)
    assert client._reconnect_task is None
    assert (client.connected, client.namespaces, client.eio.state) == (False, {}, "disconnected")
    assert seams.FINAL_DISCONNECT in client.reserved_events
    assert seams.can_restart_reconnection(client)
    assert not seams.is_connected_or_reconnecting(client)


def test_events_of_a_real_connection_are_observed_beside_the_users_handlers(redis_url: str) -> None:
    web = Web("sync", redis_url).attach().start()
    observed: list[tuple[str, str]] = []
    handled: list[str] = []
    client = socketio.Client(reconnection=False)
    client.on("connect", lambda: handled.append("connect"))
    client.on("*", lambda event, *_: handled.append(event))
    seams.observe_events(client, lambda event, namespace, _: observed.append((event, namespace)))
    client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
    client.emit("subscribe_project", {"project_id": "beta"})
    wait_for(lambda: "error" in handled)
    assert seams.is_connected_or_reconnecting(client)
    client.disconnect()
    wait_for(lambda: not seams.is_connected_or_reconnecting(client))
    wait_for(lambda: (seams.FINAL_DISCONNECT, "/") in observed)
    assert [event for event, _ in observed] == ["connect", "error", "disconnect", seams.FINAL_DISCONNECT]
    assert handled == ["connect", "error"]
    web.stop()


@pytest.mark.parametrize("kind", CLIENTS)
def test_reconnecting_is_started_as_the_client_itself_does(kind: Any) -> None:
    async def restart() -> None:
        client = kind()
        started: list[Any] = []
        client.start_background_task = started.append
        client.connected, client.namespaces = True, {"/": "sid"}
        seams.restart_reconnection(client)
        assert started == [client._handle_reconnect]
        assert (client.connected, client.namespaces) == (False, {})

    asyncio.run(restart())


def test_a_task_in_an_event_loop_counts_until_it_is_done() -> None:
    async def look() -> None:
        client = socketio.AsyncClient()
        client._reconnect_task = asyncio.create_task(asyncio.sleep(0))
        assert seams.is_connected_or_reconnecting(client)
        await client._reconnect_task
        assert not seams.is_connected_or_reconnecting(client)

    asyncio.run(look())


@pytest.mark.parametrize("kind", CLIENTS)
def test_an_end_that_the_writing_task_may_have_missed_is_told_again(kind: Any) -> None:
    async def look() -> None:
        client = kind()
        ends = seams.WriterEnds(client)
        client.eio.state, client.eio.ws = "connected", object()
        assert not ends.is_missed()
        putting = client.eio.queue.put(None)  # as the task that reads does
        if putting is not None:
            await putting
        assert ends.is_missed()
        assert client.eio.queue.get_nowait() is None
        ends.repeat()
        assert client.eio.queue.get_nowait() is None
        client.eio.ws = object()
        assert not ends.is_missed()

    asyncio.run(look())


def test_a_client_whose_events_cannot_be_observed_is_refused_with_the_mend() -> None:
    with pytest.raises(RealtimeError, match="install python-socketio"):
        seams.observe_events(SimpleNamespace(), lambda *_: None)


def test_a_client_that_cannot_be_made_to_reconnect_is_left_alone() -> None:
    client: Any = SimpleNamespace(connected=False, namespaces={}, reconnection=True, eio=SimpleNamespace())
    assert not seams.can_restart_reconnection(client)
    guard = ReconnectionGuard()
    guard.note("connect", "/")
    assert not guard.is_stranded(client)


REFUSAL = {"code": "unauthorized", "message": "no"}


@pytest.mark.parametrize(
    ("args", "refusal"),
    [
        (({"message": "no", "data": REFUSAL},), REFUSAL),
        (({"message": "no"},), None),
        (({"message": "no", "data": {"code": 5}},), None),
        (({"message": "no", "data": "no"},), None),
        (("no route to host",), None),
        ((), None),
    ],
)
def test_only_a_refusal_with_a_code_says_why(args: tuple[Any, ...], refusal: Any) -> None:
    assert seams.refusal_in(args) == refusal
