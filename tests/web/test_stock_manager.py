"""A stock KombuManager fits where ours does, and does nothing that it cannot do."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from celery_realtime.web import stock_manager
from celery_realtime.web.stock_manager import StockManager

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import CatchUp, ClientManager, Delivery, SlowClients


def test_it_has_every_part_of_a_client_manager() -> None:
    manager: ClientManager = StockManager()
    slow: SlowClients = manager.slow_clients
    catch_up: CatchUp = manager.catch_up
    delivery: Delivery = manager.delivery
    for part, protocol in (
        (manager, stock_manager.ClientManager),
        (slow, stock_manager.SlowClients),
        (catch_up, stock_manager.CatchUp),
        (delivery, stock_manager.Delivery),
    ):
        names = [name for name, _ in inspect.getmembers(protocol) if not name.startswith("_")]
        assert [name for name in names if not hasattr(part, name)] == []


def test_it_holds_nothing_back_and_redacts_nothing() -> None:
    manager = StockManager()
    assert not manager.follows_jobs
    assert not manager.filters
    assert not manager.slow_clients.is_loaded("sid", 10**9)
    assert list(manager.slow_clients.due()) == []
    assert manager.delivery.audiences.event("agent_status", "alpha", {"a": 1}, "member") == {"a": 1}
    assert manager.delivery.audiences.snapshot("alpha", {"jobs": []}, "member") == {"jobs": []}


def test_what_it_is_told_has_no_effect() -> None:
    manager = StockManager()
    manager.on_order(lambda order: None)
    manager.on_slow_client(lambda sid, eio_sid: None)
    manager.wait_until_listening(60.0)
    manager.emit_here({})
    manager.slow_clients.disconnect_overloaded()
    manager.slow_clients.forget("sid")
    manager.catch_up.expect("alpha")
    manager.catch_up.seed("alpha", "e", 1)
    manager.delivery.expect("alpha", None, None)
    manager.delivery.forget_unwatched(set())
