"""Orders about access are published, put on record, and carried out by processes that have not heard them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from celery_realtime.auth import TokenUser
from celery_realtime.history.keys import Keys
from celery_realtime.history.store import History
from celery_realtime.web import order_results
from celery_realtime.web.access_orders import AccessOrders
from celery_realtime.web.order_results import OrderResult
from tests.recording import Studio
from tests.waiting import wait_for


class Publisher:
    """Records orders, which a broker accepts or not."""

    def __init__(self, orders: list[Any], *, accepts: bool = False) -> None:
        self._orders = orders
        self._accepts = accepts

    def order(self, order: Any) -> bool:
        self._orders.append(order)
        return self._accepts


class Manager:
    """What orders need of a manager."""

    def __init__(self, orders: list[Any], history: Any, *, accepts: bool = False) -> None:
        self.publisher = Publisher(orders, accepts=accepts)
        self.history = history


@pytest.fixture
def orders() -> list[Any]:
    return []


@pytest.fixture
def access(orders: list[Any]) -> AccessOrders:
    made: Any = AccessOrders(Manager(orders, None))  # type: ignore[arg-type]
    return made


class Server:
    """Records what it is ordered to do."""

    def __init__(self) -> None:
        self.orders: list[Any] = []
        self.missed: list[Any] = []
        self.doubts = 0
        self.failure: Exception | None = None

    def carry_out(self, order: Any) -> None:
        self.orders.append(order)

    def carry_out_missed(self, orders: list[Any]) -> None:
        if self.failure is not None:
            raise self.failure
        self.missed += orders

    def decide_again(self) -> None:
        self.doubts += 1


def test_an_order_is_carried_out_here_and_published(access: AccessOrders, orders: list[Any]) -> None:
    here = Server()
    access.add(here)
    access.disconnect("ada")
    access.revoke("ada", 456)
    assert here.orders == orders
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
    assert [(one.user, one.project) for one in access.revocations.remembered()] == [("ada", "p")]


def test_while_the_history_cannot_be_reached_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    studio = Studio(history_url="redis://127.0.0.1:1/0")
    access: Any = AccessOrders(Manager([], studio.realtime.manager.history))  # type: ignore[arg-type]
    assert not access.revoke("ada", "p")
    assert "cannot store that access was taken back" in caplog.text


# -- on record ------------------------------------------------------------------------------------------------------


class Process:
    """What one process has: orders with a record, and one server."""

    def __init__(self, url: str) -> None:
        self.published: list[Any] = []
        self.history = History(url, "test", 100, 60.0)
        self.orders = AccessOrders(Manager(self.published, self.history, accepts=True))  # type: ignore[arg-type]
        self.server = Server()
        self.orders.add(self.server)


@pytest.fixture
def make_process(redis_url: str) -> Iterator[Callable[[], Process]]:
    made: list[Process] = []

    def make() -> Process:
        made.append(Process(redis_url))
        return made[-1]

    yield make
    for process in made:
        process.orders.stop()
        process.history.close()


def missed(process: Process) -> list[tuple[str, str, Any]]:
    return [(order["action"], order["user"], order.get("project")) for order in process.server.missed]


def test_a_process_carries_out_what_it_has_not_heard_with_the_id_that_it_would_have_heard(
    make_process: Callable[[], Process],
) -> None:
    here, there = make_process(), make_process()
    there.orders.catch_up()
    here.orders.revoke("ada", "p", 0)
    here.orders.disconnect("bob", 0)
    there.orders.catch_up()
    assert missed(there) == [("revoke", "ada", "p"), ("disconnect", "bob", None)]
    assert there.server.missed == here.published
    there.orders.catch_up()
    assert len(there.server.missed) == 2
    assert [(one.user, one.project) for one in there.orders.revocations.remembered()] == [("ada", "p")]


def test_a_result_names_the_servers_that_have_confirmed_and_those_that_have_not(
    make_process: Callable[[], Process],
) -> None:
    here, there = make_process(), make_process()
    for process in (here, there):
        process.orders.catch_up()
    result = here.orders.revoke("ada", "p", 0)
    assert result
    assert result.knows_servers
    assert not result.is_complete
    assert (result.confirmed, list(result.unconfirmed)) == ([], sorted([here.orders.name, there.orders.name]))
    here.orders.catch_up()
    result.look()
    assert (result.confirmed, list(result.unconfirmed)) == ([here.orders.name], [there.orders.name])
    assert there.orders.name in repr(result)
    there.orders.catch_up()
    assert result.look().is_complete
    assert result.confirmed == sorted([here.orders.name, there.orders.name])


def test_an_order_is_waited_for_until_all_servers_have_confirmed(make_process: Callable[[], Process]) -> None:
    processes = [make_process(), make_process()]
    for process in processes:
        process.orders.start()
    wait_for(lambda: len(processes[0].history.access.servers()) == 2)
    assert processes[0].orders.disconnect("ada", 30).is_complete
    assert processes[1].server.missed


def test_a_server_that_cannot_carry_out_an_order_does_not_confirm_it_and_tries_again(
    make_process: Callable[[], Process],
) -> None:
    here, there = make_process(), make_process()
    there.orders.catch_up()
    there.server.failure = TimeoutError("busy")
    result = here.orders.revoke("ada", "p", 0)
    with pytest.raises(TimeoutError):
        there.orders.catch_up()
    assert list(result.look().unconfirmed) == [there.orders.name]
    there.server.failure = None
    there.orders.catch_up()
    assert result.look().is_complete
    assert missed(there) == [("revoke", "ada", "p")]


def test_a_server_that_ends_is_listed_no_more_and_a_silent_one_is_not_waited_for(
    make_process: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, silent = make_process(), make_process(), make_process()
    there.orders.catch_up()
    there.orders.stop()
    silent.orders.catch_up()
    monkeypatch.setattr(order_results, "SILENT", 0.0)
    result = here.orders.revoke("ada", "p", 10**9)
    assert list(result.unconfirmed) == [silent.orders.name]
    assert not result.is_complete


def test_without_a_history_it_is_not_known_which_servers_there_are(access: AccessOrders) -> None:
    result = access.revoke("ada", "p")
    assert not result.knows_servers
    assert not result.is_complete
    assert "unknown" in repr(result)


def test_a_result_is_a_truth_value_also_in_json(make_process: Callable[[], Process], access: AccessOrders) -> None:
    result = make_process().orders.revoke("ada", "p")
    assert (result == True, json.dumps([result, access.revoke("ada", "p")])) == (True, "[1, 0]")  # noqa: E712


def test_in_an_event_loop_nothing_is_waited_for(make_process: Callable[[], Process]) -> None:
    """Its own server could not confirm meanwhile."""
    process = make_process()
    process.orders.catch_up()

    async def revoke() -> OrderResult:
        return process.orders.revoke("ada", "p", 10**9)

    assert list(asyncio.run(revoke()).unconfirmed) == [process.orders.name]


def test_a_record_that_was_lost_is_noted_again_and_all_access_decided_again(
    make_process: Callable[[], Process], redis_url: str
) -> None:
    here, there = make_process(), make_process()
    for _ in range(2):
        for process in (here, there):
            process.orders.catch_up()
    at = here.orders.revoke("ada", "p", 0).at
    there.orders.catch_up()
    assert there.server.doubts == 0
    redis.Redis.from_url(redis_url).flushdb()
    here.orders.disconnect("bob", 0)
    there.orders.catch_up()
    assert there.server.doubts == 1
    assert [one.at for one in there.history.access.look(None).taken if one.user == "ada"] == [at]
    assert ("disconnect", "bob", None) in missed(there)
    for process in (here, there, there):
        process.orders.catch_up()
    assert (here.server.doubts, there.server.doubts) == (1, 1)


def evict(redis_url: str, name: str) -> None:
    assert redis.Redis.from_url(redis_url).delete(Keys("test").leases(name)[0])


@pytest.mark.parametrize("lost", [["servers"], ["revoked"], ["servers", "access", "revoked", "disconnected"]])
def test_a_result_does_not_count_a_server_as_informed_that_was_lost_from_the_record(
    make_process: Callable[[], Process], redis_url: str, lost: list[str]
) -> None:
    """Neither one that is not listed any more, nor one that has carried out all but the order that was lost."""
    here, deaf = make_process(), make_process()
    for _ in range(2):
        for process in (here, deaf):
            process.orders.catch_up()
    revoker = make_process()  # without the loop that reads the record, as in a script
    for name in lost:
        evict(redis_url, name)
    result = revoker.orders.revoke("ada", "p", 0)
    if "revoked" in lost:
        evict(redis_url, "revoked")
    here.orders.disconnect("bob", 0)
    here.orders.catch_up()
    assert not result.look().is_complete
    assert not result.knows_servers
    assert "unknown" in repr(result)


def test_after_its_end_a_server_can_be_listed_again(make_process: Callable[[], Process]) -> None:
    process = make_process()
    for _ in range(2):
        process.orders.catch_up()
        assert process.orders.revoke("ada", "p", 0).knows_servers
        process.orders.stop()


def opens(process: Process, user: str, issued_at: float) -> bool:
    token_user = TokenUser(user)
    token_user.projects, token_user.issued_at = frozenset(["p"]), issued_at
    return not process.orders.revocations.cover(token_user, "p")


def test_revocations_outlive_the_loss_of_their_key_alone(make_process: Callable[[], Process], redis_url: str) -> None:
    here = make_process()
    here.orders.catch_up()
    here.orders.catch_up()
    at = here.orders.revoke("ada", "p", 0).at
    assert at is not None
    here.orders.catch_up()
    evict(redis_url, "revoked")
    here.orders.catch_up()
    assert here.server.doubts == 1
    later = make_process()
    later.orders.catch_up()
    assert (opens(later, "ada", at), opens(later, "ada", at + 1), opens(later, "bob", at)) == (False, True, True)


def test_a_disconnection_that_a_server_has_not_carried_out_outlives_the_loss_of_its_key(
    make_process: Callable[[], Process], redis_url: str
) -> None:
    here, deaf = make_process(), make_process()
    for process in (here, deaf, here, deaf):
        process.orders.catch_up()
    here.orders.disconnect("bob", 0)
    here.orders.catch_up()
    evict(redis_url, "disconnected")
    deaf.orders.catch_up()  # it notices the loss first, and does not remember that
    here.orders.disconnect("eve", 0)
    deaf.orders.catch_up()
    here.orders.catch_up()
    deaf.orders.catch_up()
    assert ("disconnect", "bob", None) in missed(deaf)


def test_tokens_open_nothing_that_may_have_been_revoked_by_what_nobody_remembers(
    make_process: Callable[[], Process], redis_url: str
) -> None:
    gone = make_process()
    at = gone.orders.revoke("ada", "p", 0).at
    assert at is not None
    for _ in range(2):
        gone.orders.catch_up()
    evict(redis_url, "revoked")
    now = gone.history.access.clock.now()
    later, latest = make_process(), make_process()
    for process in (later, later, latest):
        process.orders.catch_up()
        assert not opens(process, "ada", at)
        assert not opens(process, "bob", now)
        assert opens(process, "ada", now + 60)
    assert later.server.doubts
    # The one that remembers was not gone after all.
    gone.orders.catch_up()
    for process in (gone, later, latest):
        process.orders.catch_up()
        assert not opens(process, "ada", at)
        assert opens(process, "bob", now)


def test_the_record_is_read_from_where_it_was_while_servers_note_again_what_they_remember(
    make_process: Callable[[], Process], redis_url: str
) -> None:
    here, there = make_process(), make_process()
    for process in (here, there, here, there):
        process.orders.catch_up()
    here.orders.revoke("ada", "p", 0)
    here.orders.catch_up()
    evict(redis_url, "revoked")
    there.orders.catch_up()
    here.orders.revoke("bob", "p", 0)
    there.orders.catch_up()
    assert missed(there) == [("revoke", "bob", "p")]
    here.orders.catch_up()
    there.orders.catch_up()
    assert ("revoke", "ada", "p") in missed(there)


def test_tokens_have_the_time_of_the_record(make_process: Callable[[], Process], access: AccessOrders) -> None:
    orders = make_process().orders
    at = orders.revoke("ada", "p", 0).at
    made = orders.time_of_tokens()
    assert made is not None
    assert at is not None
    assert at <= made < at + 60
    assert access.time_of_tokens() is None


def test_a_clock_that_cannot_be_read_is_left_alone_for_a_while() -> None:
    history = Studio(history_url="redis://127.0.0.1:1/0").realtime.manager.history
    access: Any = AccessOrders(Manager([], history))  # type: ignore[arg-type]
    assert access.time_of_tokens() is None
    asked: list[Any] = []
    history.access.clock.now = lambda: asked.append(True)  # type: ignore[union-attr,method-assign]
    assert access.time_of_tokens() is None
    assert asked == []
