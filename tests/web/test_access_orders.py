from __future__ import annotations

from typing import Any

import pytest

from celery_realtime.web.access_orders import AccessOrders
from tests.recording import Studio


class Publisher:
    """Records orders, which no broker accepts."""

    def __init__(self, orders: list[Any]) -> None:
        self._orders = orders

    def order(self, order: Any) -> bool:
        self._orders.append(order)
        return False


class Manager:
    """What orders need of a manager."""

    def __init__(self, orders: list[Any], history: Any) -> None:
        self.publisher = Publisher(orders)
        self.history = history


@pytest.fixture
def orders() -> list[Any]:
    return []


@pytest.fixture
def access(orders: list[Any]) -> AccessOrders:
    made: Any = AccessOrders(Manager(orders, None))  # type: ignore[arg-type]
    return made


def test_an_order_is_carried_out_here_and_published(access: AccessOrders, orders: list[Any]) -> None:
    here: list[Any] = []
    access.on_order(here.append)
    access.disconnect("ada")
    access.revoke("ada", 456)
    assert here == orders
    assert [order["action"] for order in orders] == ["disconnect", "revoke"]
    assert (orders[1]["user"], orders[1]["project"]) == ("ada", "456")


def test_it_returns_whether_the_broker_accepted_it(access: AccessOrders) -> None:
    assert not access.disconnect("ada")
    assert not access.revoke("ada", "p")


@pytest.mark.parametrize(("user", "project"), [("", "p"), ("ada", ""), ("ada", None), (None, "p")])
def test_what_is_not_an_id_is_refused(access: AccessOrders, orders: list[Any], user: Any, project: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        access.revoke(user, project)
    assert orders == []


def test_a_revocation_is_known_here_at_once(access: AccessOrders) -> None:
    access.revoke("ada", "p")
    assert access.revocations is access.revocations


def test_while_the_history_cannot_be_reached_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    studio = Studio(history_url="redis://127.0.0.1:1/0")
    access: Any = AccessOrders(Manager([], studio.realtime.manager.history))  # type: ignore[arg-type]
    assert not access.revoke("ada", "p")
    assert "cannot store that access was revoked" in caplog.text
