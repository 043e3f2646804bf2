"""What a web server missed while it was deaf is made good before it passes anything on."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.proxy import Proxy
from tests.variants import long_unless
from tests.waiting import wait_for
from tests.web_servers import Web, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.client_recorder import Recorder
    from tests.launcher import Brokers
    from tests.web_servers import Kind

NO_ACCESS = {"code": "forbidden", "message": "this project does not exist, or is not open to you"}


KINDS = ["sync", "asgi"]


class Pair:
    """Two web servers on one broker; what the second hears comes through a proxy.

    Args:
        kind: Of both.
        url: The broker.
        proxy: Stands in front of it.
        **settings: Of both.
    """

    def __init__(self, kind: Kind, url: str, proxy: Proxy, **settings: Any) -> None:
        self.proxy = proxy
        self.here = Web(kind, url, **settings)
        self.there = Web(kind, proxy.url, **settings)

    def start(self, **rules: Any) -> Pair:
        for web in (self.here, self.there):
            web.attach(**rules).start()
        return self

    def deafen(self) -> None:
        """Break the connections of the second server, and let it make none until :meth:`heal`."""
        self.proxy.refuse()
        wait_for(lambda: not self.there.manager.reader.listener.wait(0))

    def heal(self) -> None:
        self.proxy.heal()

    def emit(self, number: int, project_id: str = "alpha") -> None:
        """Say a number to a project, from a process that hears and is heard; it is on the channel when this returns."""
        self.here.emit(project_id, number)
        assert self.here.realtime.flush(60)


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.long)])
def make_pair(
    request: pytest.FixtureRequest, kind: Kind, brokers: Brokers, redis_url: str
) -> Iterator[Callable[..., Pair]]:
    broker = brokers.make(request.param)
    with contextlib.ExitStack() as stack:

        def make(**settings: Any) -> Pair:
            proxy = stack.enter_context(Proxy(broker.url))
            pair = Pair(kind, broker.url, proxy, **{"history_url": redis_url, **settings})
            for web in (pair.here, pair.there):
                stack.callback(web.stop)
            return pair

        yield make


def test_a_revocation_that_was_missed_holds_before_anything_is_passed_on(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().start()
    client, other = pair.there.subscriber("alpha", "beta"), pair.there.connect(pair.there.token("bob"))
    assert other.subscribe("alpha")["ok"]
    pair.deafen()
    assert pair.here.realtime.revoke_access("ada", "alpha", wait=0)
    pair.heal()
    for number in range(20):
        pair.emit(number)
    pair.emit(100, "beta")

    client.wait_for_event("error", code="forbidden")
    other.wait_for_event("step", number=19)
    assert steps(other) == list(range(20))
    client.wait_for_event("step", number=100)
    assert steps(client) == [100]
    assert client.of("error") == [{**NO_ACCESS, "project_id": "alpha"}]
    assert client.subscribe("alpha")["error"] == NO_ACCESS


def test_whom_a_missed_order_disconnects_hears_nothing_more_and_who_comes_later_stays(
    make_pair: Callable[..., Pair],
) -> None:
    pair = make_pair().start()
    client, other = pair.there.subscriber("alpha"), pair.there.connect(pair.there.token("bob"))
    assert other.subscribe("alpha")["ok"]
    pair.deafen()
    pair.here.realtime.disconnect_user("ada", wait=0)
    pair.heal()
    for number in range(20):
        pair.emit(number)

    wait_for(lambda: client.disconnects == 1)
    assert client.of("error") == [{"code": "unauthorized", "message": "you have been disconnected"}]
    other.wait_for_event("step", number=19)
    assert (steps(other), steps(client)) == (list(range(20)), [])
    later = pair.there.subscriber("alpha")
    pair.there.realtime.access.catch_up()
    pair.emit(20)
    later.wait_for_event("step", number=20)
    assert later.disconnects == 0


# Which server reads the record, and how, is the same for both; each of the two slow tests is of one.
@pytest.mark.parametrize("kind", long_unless(["asgi"], KINDS), scope="module")
def test_an_order_is_carried_out_and_confirmed_by_a_server_that_stays_deaf(make_pair: Callable[..., Pair]) -> None:
    """It reads the record every two seconds."""
    pair = make_pair().start()
    clients = [pair.here.subscriber("alpha"), pair.there.subscriber("alpha")]
    wait_for(lambda: len(pair.here.realtime.manager.history.access.servers()) == 2)
    pair.deafen()
    result = pair.here.realtime.revoke_access("ada", "alpha", wait=30)
    assert result.is_complete
    assert result.confirmed == sorted([pair.here.realtime.access.name, pair.there.realtime.access.name])
    for client in clients:
        client.wait_for_event("error", code="forbidden")
    pair.here.realtime.disconnect_user("ada", wait=30)
    wait_for(lambda: all(client.disconnects == 1 for client in clients))


@pytest.mark.parametrize("kind", long_unless(["sync"], KINDS), scope="module")
def test_what_is_recovered_while_a_connection_only_looks_alive_is_not_for_whom_it_was_taken_from(
    make_pair: Callable[..., Pair],
) -> None:
    """The server thinks that it hears, and finds in the history that it has missed something."""
    pair = make_pair().start()
    client, other = pair.there.subscriber("alpha"), pair.there.connect(pair.there.token("bob"))
    assert other.subscribe("alpha")["ok"]
    pair.emit(0)
    for heard in (client, other):
        heard.wait_for_event("step", number=0)
    pair.there.realtime.access.stop()  # it is not by looking at the record now and then that it knows
    pair.proxy.stall()
    assert pair.here.realtime.revoke_access("ada", "alpha", wait=0)
    for number in range(1, 20):
        pair.emit(number)
    other.wait_for_event("step", number=19)
    assert (steps(other), steps(client)) == (list(range(20)), [0])


class Rule:
    """Says who may see a project; it can be made to fail, or to take its time, for a user."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.failing: set[str] = set()
        self.slow: set[str] = set()
        self.asked: list[str] = []
        self.go_on = threading.Event()

    def __call__(self, user: str, _project: str) -> bool:
        self.asked.append(user)
        if user in self.slow:
            assert self.go_on.wait(60)
        if user in self.failing:
            raise OSError("the database is away")
        return user not in self.refused


@pytest.fixture
def rule() -> Rule:
    return Rule()


@pytest.fixture
def ruled(make_pair: Callable[..., Pair], rule: Rule) -> Pair:
    """Two servers whose rule is the application's own."""
    return make_pair(secret_key=None).start(authenticate=lambda token, _: token, authorize=rule)


def subscribed(web: Web, *users: str) -> list[Recorder]:
    clients = [web.connect(user) for user in users]
    for client in clients:
        assert client.subscribe("alpha")["ok"]
    return clients


def test_the_rule_is_asked_again_for_all_and_nothing_is_lost_for_those_who_may_go_on(ruled: Pair, rule: Rule) -> None:
    ada, bob, eve = subscribed(ruled.there, "ada", "bob", "eve")
    rule.slow.add("bob")
    ruled.deafen()
    rule.refused.add("ada")
    rule.asked.clear()
    ruled.heal()
    for number in range(20):
        ruled.emit(number)

    eve.wait_for_event("step", number=19)
    assert steps(eve) == list(range(20))
    ada.wait_for_event("error", code="forbidden")
    assert steps(ada) == steps(bob) == []
    rule.go_on.set()
    ruled.emit(20)
    bob.wait_for_event("step", number=20)
    assert steps(bob) == list(range(21))
    assert set(rule.asked) == {"ada", "bob", "eve"}
    ruled.emit(21)
    for client in (bob, eve):
        client.wait_for_event("step", number=21)
    assert steps(ada) == []


def test_while_a_rule_fails_events_are_held_and_it_is_asked_again(ruled: Pair, rule: Rule) -> None:
    ada, bob = subscribed(ruled.there, "ada", "bob")
    rule.failing.add("ada")
    ruled.deafen()
    ruled.heal()
    for number in range(20):
        ruled.emit(number)
    bob.wait_for_event("step", number=19)
    wait_for(lambda: rule.asked.count("ada") >= 3)
    assert steps(ada) == []
    rule.failing.clear()
    ada.wait_for_event("step", number=19)
    assert steps(ada) == list(range(20))


def test_a_subscription_that_cannot_be_decided_ends(ruled: Pair, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_realtime.web.doubts.LONGEST_DOUBT", 1.0)
    ada, bob = subscribed(ruled.there, "ada", "bob")
    rule.failing.add("ada")
    ruled.deafen()
    ruled.heal()
    ruled.emit(1)
    assert ada.wait_for_event("error", code="unavailable")["project_id"] == "alpha"
    assert ada.wait_for_event("agent_resync")["project_id"] == "alpha"
    bob.wait_for_event("step", number=1)
    rule.failing.clear()
    assert ada.subscribe("alpha")["ok"]
    ruled.emit(2)
    ada.wait_for_event("step", number=2)
    assert steps(ada) == [2]


def test_what_is_held_is_bounded_and_its_loss_is_told(ruled: Pair, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_realtime.web.suspensions.MOST_HELD_OF_ONE", 5)
    ada, bob = subscribed(ruled.there, "ada", "bob")
    rule.slow.add("ada")
    ruled.deafen()
    ruled.heal()
    for number in range(20):
        ruled.emit(number)
    bob.wait_for_event("step", number=19)
    assert ruled.there.manager.suspensions.held == 5
    rule.go_on.set()
    ada.wait_for_event("step", number=19)
    assert steps(ada) == list(range(15, 20))
    assert ada.of("agent_resync")[0]["offset"] == 15
    assert ruled.there.manager.suspensions.is_idle


def test_a_second_gap_has_the_rule_asked_again_and_one_that_hangs_holds_up_nobody_else(ruled: Pair, rule: Rule) -> None:
    ada, bob = subscribed(ruled.there, "ada", "bob")
    rule.slow.add("ada")
    ruled.deafen()
    rule.asked.clear()
    ruled.heal()
    wait_for(lambda: {*rule.asked} == {"ada", "bob"})  # it is about to say yes
    ruled.deafen()
    ruled.heal()
    ruled.emit(1)
    bob.wait_for_event("step", number=1)
    rule.refused.add("ada")
    rule.slow.clear()
    rule.go_on.set()
    ada.wait_for_event("error", code="forbidden")
    assert steps(ada) == []


def test_a_client_that_was_placed_in_a_project_is_held_and_taken_out_as_well(ruled: Pair, rule: Rule) -> None:
    ada, bob = ruled.there.connect("ada"), ruled.there.connect("bob")
    for client in (ada, bob):
        ruled.here.realtime.manager.register_client_for_project("alpha", client.sio.get_sid())
    ruled.there.settle()
    ruled.emit(0)
    for client in (ada, bob):
        client.wait_for_event("step", number=0)
    rule.refused.add("ada")
    ruled.deafen()
    ruled.heal()
    for number in range(1, 20):
        ruled.emit(number)
    bob.wait_for_event("step", number=19)
    ruled.there.settle()
    assert (steps(bob), steps(ada)) == (list(range(20)), [0])


def test_a_client_that_leaves_meanwhile_leaves_nothing_behind(ruled: Pair, rule: Rule) -> None:
    ada, bob = subscribed(ruled.there, "ada", "bob")
    rule.slow.add("ada")
    ruled.deafen()
    ruled.heal()
    ruled.emit(1)
    bob.wait_for_event("step", number=1)
    ada.close()
    wait_for(lambda: ruled.there.manager.suspensions.is_idle)
    rule.go_on.set()
    ruled.emit(2)
    bob.wait_for_event("step", number=2)


# -- the record -----------------------------------------------------------------------------------------------------


def test_nothing_is_passed_on_before_the_record_has_been_read(make_pair: Callable[..., Pair], redis_url: str) -> None:
    with Proxy(redis_url) as redis_proxy:
        pair = make_pair()
        pair.there.stop()
        pair.there = Web(pair.here.kind, pair.proxy.url, history_url=redis_proxy.url)
        try:
            pair.start()
            ada, bob = pair.there.subscriber("alpha"), pair.there.connect(pair.there.token("bob"))
            assert bob.subscribe("alpha")["ok"]
            redis_proxy.refuse()
            pair.deafen()
            assert pair.here.realtime.revoke_access("ada", "alpha", wait=0)
            pair.heal()
            pair.there.settle()  # what it misses now cannot be recovered
            for number in range(20):
                pair.emit(number)
            pair.there.settle()
            assert steps(ada) == steps(bob) == []
            redis_proxy.heal()
            bob.wait_for_event("step", number=19)
            ada.wait_for_event("error", code="forbidden")
            assert (steps(bob), steps(ada)) == (list(range(20)), [])
        finally:
            pair.there.stop()


def test_revocations_outlive_the_loss_of_the_record(make_pair: Callable[..., Pair], redis_url: str) -> None:
    pair = make_pair().start()
    old = pair.here.token()
    bob = pair.there.connect(pair.there.token("bob"))
    assert bob.subscribe("alpha")["ok"]
    for web in (pair.here, pair.there):
        web.realtime.access.catch_up()
    assert pair.here.realtime.revoke_access("ada", "alpha")
    redis.Redis.from_url(redis_url).flushdb()
    pair.there.realtime.access.catch_up()
    later = Web(pair.here.kind, pair.proxy.url, history_url=redis_url).attach().start()
    try:
        assert later.connect(old).subscribe("alpha")["error"] == NO_ACCESS
        assert later.connect(later.token()).subscribe("alpha")["ok"]
    finally:
        later.stop()
    pair.emit(1)
    bob.wait_for_event("step", number=1)
