"""A process that has sent nothing for long has no connections open, and sends on all the same."""

from __future__ import annotations

import pytest
import redis

from celery_realtime import Realtime
from celery_realtime.sending import sender
from celery_realtime.sending.connections import Connections
from tests.services import Broker
from tests.waiting import wait_for

NAMED = {"client_name": "sends"}


def test_connections_are_closed_when_nothing_is_sent_for_long(
    redis_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "IDLE_TURN", 0.2)
    options = {"history_options": NAMED, "connection_options": {"transport_options": NAMED}}
    realtime = Realtime(redis_broker.app(), **options)
    for number in range(2):
        realtime.manager.emit_to_project("p", "line", {"number": number})
        assert realtime.flush(30)
        wait_for(lambda: not _open(redis_broker), timeout=30)
    history = realtime.manager.history
    assert history is not None
    assert [event["data"]["number"] for event in history.recent("p")] == [0, 1]
    history.close()


def test_what_has_not_been_made_has_no_connections() -> None:
    nothing = Connections(lambda: (None, None))
    nothing.confine()
    nothing.close_idle()


def _open(broker: Broker) -> list[str]:
    servers = {broker.server.url(), broker.backend.url()}
    names = []
    for url in servers:
        with redis.Redis.from_url(url) as look:
            names += [client["name"] for client in look.client_list()]
    return [name for name in names if name == NAMED["client_name"]]
