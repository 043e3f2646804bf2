"""Who has sent nothing for long has no connections open, and sends on all the same; dropped apps have none."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import redis

from celery_realtime import Realtime
from celery_realtime.sending import sender
from celery_realtime.sending.connections import Connections
from tests.services import Broker
from tests.variants import long_unless
from tests.waiting import wait_for

NAMED = {"client_name": "sends"}
OPTIONS = {"history_options": NAMED, "connection_options": {"transport_options": NAMED}}


def test_connections_are_closed_when_nothing_is_sent_for_long(
    redis_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "IDLE_TURN", 0.2)
    realtime = Realtime(redis_broker.app(), **OPTIONS)
    for number in range(2):
        realtime.manager.emit_to_project("p", "line", {"number": number})
        assert realtime.flush(30)
        wait_for(lambda: not _open(redis_broker), timeout=30)
    history = realtime.manager.history
    assert history is not None
    assert [event["data"]["number"] for event in history.recent("p")] == [0, 1]
    history.close()


class Confined:
    is_confined = False

    def confine(self) -> None:
        self.is_confined = True

    def close_free(self) -> None:
        """Close nothing."""


def test_what_has_not_been_made_has_no_connections_and_is_confined_when_it_is() -> None:
    nothing = Connections()
    nothing.close_idle()
    nothing.confine()
    nothing.close_idle()
    late, early = Confined(), Confined()
    nothing.add_history(late)
    others = Connections()
    others.add_history(early)
    assert (late.is_confined, early.is_confined) == (True, False)
    others.confine()
    assert early.is_confined


def test_those_of_a_realtime_that_starts_over_are_closed(redis_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "IDLE_TURN", 600.0)
    realtime = Realtime(redis_broker.app(), **OPTIONS)
    for number in range(3):
        realtime.manager.emit_to_project("p", "line", {"number": number})
        assert realtime.flush(60)
        assert _open(redis_broker)
        realtime.start_over()
        wait_for(lambda: not _open(redis_broker))


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize("waits", long_unless([False], [True, False]))
def test_apps_that_have_sent_and_are_dropped_leave_nothing_behind(
    redis_broker: Broker, monkeypatch: pytest.MonkeyPatch, count: int, waits: bool
) -> None:
    monkeypatch.setattr(sender, "IDLE_TURN", 600.0)
    threads, left = set(threading.enumerate()), list[weakref.ref[Any]]()
    for number in range(count):
        left += _send_and_drop(redis_broker, number, waits)
    wait_for(lambda: gc.collect() is not None and not any(reference() for reference in left))
    wait_for(lambda: not _open(redis_broker))
    wait_for(lambda: not [one for one in set(threading.enumerate()) - threads if one.name == sender.THREAD])
    history = Realtime(redis_broker.app(), **OPTIONS).manager.history
    assert history is not None
    sent = [event["data"]["number"] for event in history.recent("p") if event["event"] == "line"]
    assert sorted(sent) == list(range(count))
    history.close()


def _send_and_drop(broker: Broker, number: int, waits: bool) -> list[weakref.ref[Any]]:
    """Have an app publish a job and send an event, and return what there was of it."""
    app = broker.app()
    realtime = Realtime(app, project_resolver=lambda *_: "p", **OPTIONS)
    app.send_task("task")
    realtime.manager.emit_to_project("p", "line", {"number": number})
    assert not waits or realtime.flush(60)
    app.close()
    manager = realtime.manager
    return [weakref.ref(one) for one in (app, realtime, manager, manager.outbox, manager.publisher, manager.history)]


def _open(broker: Broker) -> list[str]:
    servers = {broker.server.url(), broker.backend.url()}
    names = []
    for url in servers:
        with redis.Redis.from_url(url) as look:
            names += [client["name"] for client in look.client_list()]
    return [name for name in names if name == NAMED["client_name"]]
