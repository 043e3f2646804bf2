"""The two ends of the channel when the broker, or the way to it, breaks under them."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from celery_realtime.channel.kombu_manager import RealtimeKombuManager
from celery_realtime.channel.listener import DEAF_AFTER
from celery_realtime.events import Outgoing
from celery_realtime.web.delivery import Emit
from tests.channels import PROBE, Channel, every_room, numbers, returns
from tests.proxy import Proxy
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.services import Broker, RabbitMQServer

OUTAGES: list[Callable[[Proxy], None]] = [Proxy.refuse, Proxy.black_hole, Proxy.stall]
EVERY_OUTAGE = pytest.mark.parametrize("outage", OUTAGES, ids=["refused", "black hole", "stalled"])


def step(number: int) -> Outgoing:
    return Outgoing("alpha", "step", json.dumps({"number": number}).encode())


class Ears:
    """Hears what a server's manager hears, in a thread.

    Args:
        url: The broker.
    """

    def __init__(self, url: str) -> None:
        self.manager = every_room(url)
        self.numbers: list[int] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.manager.wait_until_listening(60)

    def _run(self) -> None:
        for items in self.manager.reader.read():
            self.numbers += [item.data["number"] for item in items if isinstance(item, Emit)]

    def end(self) -> None:
        """End the thread."""
        self.manager.stop_listening()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    with Proxy(broker.url) as proxy:
        yield proxy


@pytest.fixture
def make_ears(broker: Broker) -> Iterator[Callable[[str], Ears]]:
    made: list[Ears] = []

    def make(url: str) -> Ears:
        made.append(Ears(url))
        return made[-1]

    yield make
    for ears in made:
        ears.end()


@pytest.fixture
def publisher(proxy: Proxy) -> Iterator[RealtimeKombuManager]:
    """A publisher that has published already, over the proxy."""
    manager = RealtimeKombuManager(proxy.url, write_only=True)
    assert manager.publish_events([step(0)]) == 1
    yield manager
    manager.close()


def publish_until_taken(manager: RealtimeKombuManager, events: list[Outgoing]) -> None:
    """Publish as the outbox does: again, from the first that was not taken."""
    left = list(events)

    def all_taken() -> bool:
        del left[: manager.publish_events(left)]
        return not left

    wait_for(all_taken)


# -- publishing ---------------------------------------------------------------------------------------------------


@EVERY_OUTAGE
def test_in_an_outage_nothing_counts_as_sent_and_after_it_all_of_it_goes_out_in_order(
    broker: Broker,
    proxy: Proxy,
    make_ears: Callable[[str], Ears],
    publisher: RealtimeKombuManager,
    outage: Callable[[Proxy], None],
) -> None:
    ears = make_ears(broker.url)
    events = [step(number) for number in range(1, 301)]

    outage(proxy)
    assert publisher.publish_events(events) == 0  # and it comes back, whatever the outage
    proxy.heal()
    publish_until_taken(publisher, events)

    wait_for(lambda: ears.numbers[-1:] == [300])
    assert ears.numbers == list(range(1, 301))


def test_a_connection_that_goes_on_after_a_pause_has_lost_nothing(
    broker: Broker, proxy: Proxy, make_ears: Callable[[str], Ears], publisher: RealtimeKombuManager
) -> None:
    ears = make_ears(broker.url)

    proxy.stall()
    threading.Timer(0.5, proxy.resume).start()
    publish_until_taken(publisher, [step(number) for number in range(1, 51)])

    wait_for(lambda: ears.numbers[-1:] == [50])
    assert ears.numbers == list(range(1, 51))


def test_a_publisher_that_a_memory_alarm_blocks_writes_nothing_twice_and_loses_nothing(
    own_rabbitmq_broker: Broker, make_rabbitmq_ears: Callable[[str], Ears], alarm: Callable[[bool], None]
) -> None:
    ears = make_rabbitmq_ears(own_rabbitmq_broker.url)
    publisher = RealtimeKombuManager(own_rabbitmq_broker.url, write_only=True)
    publisher.publish_events([step(0)])
    events = [step(number) for number in range(1, 501)]

    alarm(True)
    taken = 0
    for start in range(0, 500, 100):
        taken += publisher.publish_events(events[taken : start + 100])
    assert taken < 500
    alarm(False)
    publish_until_taken(publisher, events[taken:])

    wait_for(lambda: ears.numbers[-1:] == [500])
    assert ears.numbers == list(range(501))
    publisher.close()


def test_offering_during_a_memory_alarm_does_not_wait(
    own_rabbitmq_broker: Broker, alarm: Callable[[bool], None]
) -> None:
    publisher = RealtimeKombuManager(own_rabbitmq_broker.url, write_only=True)
    publisher.publish_events([step(0)])
    alarm(True)
    wait_for(lambda: publisher.publish_events([step(1), step(2)]) == 0)

    outcomes = [publisher.order({"action": "none"}) for _ in range(10)]

    assert not any(outcomes)  # the alarm is still on: none has waited for its end
    alarm(False)
    publisher.close()


@pytest.fixture
def make_rabbitmq_ears(own_rabbitmq_broker: Broker) -> Iterator[Callable[[str], Ears]]:
    made: list[Ears] = []

    def make(url: str) -> Ears:
        made.append(Ears(url))
        return made[-1]

    yield make
    for ears in made:
        ears.end()


@pytest.fixture
def alarm(own_rabbitmq_server: RabbitMQServer) -> Iterator[Callable[[bool], None]]:
    """Switch the alarm of a RabbitMQ that is short of memory on and off."""
    is_on = False

    def switch(on: bool) -> None:
        nonlocal is_on
        is_on = on
        own_rabbitmq_server.set_memory_alarm(on)

    yield switch
    if is_on:
        switch(False)


# -- listening ----------------------------------------------------------------------------------------------------


@EVERY_OUTAGE
def test_a_listener_notices_that_it_hears_nothing_and_hears_again_by_itself(
    broker: Broker,
    proxy: Proxy,
    make_ears: Callable[[str], Ears],
    outage: Callable[[Proxy], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "celery_realtime.channel.listener")
    ears = make_ears(proxy.url)
    wait_for(lambda: ears.manager.is_hearing)

    outage(proxy)
    wait_for(lambda: not ears.manager.wait_until_listening(0), message="it has not noticed")
    assert not ears.manager.is_hearing
    proxy.heal()

    wait_for(lambda: ears.manager.is_hearing)
    assert ears.manager.generation == 2
    assert ears.manager.reader.listener.losses == 1
    wait_for(lambda: "again after" in caplog.text)
    told = [record.levelname for record in caplog.records if record.name == "celery_realtime.channel.listener"]
    assert told == ["ERROR", "INFO"]


def test_a_listener_whose_own_connection_alone_is_dead_makes_a_new_one(
    broker: Broker, proxy: Proxy, make_ears: Callable[[str], Ears]
) -> None:
    ears = make_ears(proxy.url)
    wait_for(lambda: ears.manager.is_hearing)

    proxy.stall(new=False)

    wait_for(lambda: ears.manager.generation == 2 and ears.manager.is_hearing)
    assert ears.manager.reader.listener.losses == 1
    publisher = RealtimeKombuManager(broker.url, write_only=True)
    publisher.publish_events([step(7)])
    wait_for(lambda: ears.numbers == [7])
    publisher.close()


def test_a_quiet_channel_is_heard_to_be_quiet(broker: Broker, make_ears: Callable[[str], Ears]) -> None:
    ears = make_ears(broker.url)
    wait_for(lambda: ears.manager.last_heard is not None)
    first = ears.manager.last_heard

    wait_for(lambda: ears.manager.last_heard != first, message="no echo comes back")

    assert ears.numbers == []
    assert ears.manager.generation == 1
    assert ears.manager.is_hearing
    ears.end()
    assert ears.manager.reader.listener.losses == 0


def test_a_listener_that_a_memory_alarm_keeps_from_speaking_goes_on_listening(
    own_rabbitmq_broker: Broker, make_rabbitmq_ears: Callable[[str], Ears], alarm: Callable[[bool], None]
) -> None:
    ears = make_rabbitmq_ears(own_rabbitmq_broker.url)
    wait_for(lambda: ears.manager.is_hearing)

    alarm(True)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > DEAF_AFTER + 1)
    assert ears.manager.is_hearing
    alarm(False)

    wait_for(lambda: ears.manager.is_hearing)
    assert ears.manager.generation == 1


def test_a_listener_that_may_not_publish_hears_all_the_same(
    own_rabbitmq_server: RabbitMQServer, own_rabbitmq_broker: Broker, make_rabbitmq_ears: Callable[[str], Ears]
) -> None:
    publisher: Any = RealtimeKombuManager(own_rabbitmq_broker.url, write_only=True)
    publisher.publish_events([step(0)])
    ears = make_rabbitmq_ears(own_rabbitmq_server.listen_only_url(own_rabbitmq_broker.url))

    wait_for(lambda: ears.manager.generation == 2, message="being forbidden to speak has not ended the connection")
    wait_for(lambda: ears.manager.is_hearing)
    publisher.publish_events([step(1)])

    wait_for(lambda: ears.numbers == [1])
    assert ears.manager.generation == 2
    publisher.close()


# -- both ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def channel(broker: Broker) -> Iterator[Channel]:
    channel = Channel(broker.url)
    yield channel
    broker.server.ensure_running()
    channel.close()


@pytest.mark.own_rabbitmq
def test_both_sides_go_on_by_themselves_when_the_broker_comes_back(channel: Channel, broker: Broker) -> None:
    listener, publisher, leaving = channel.recorder(), channel.publisher(), channel.publisher()
    publisher.publish_events([step(0)])
    leaving.publish_events([step(0)])
    listener.wait_for_count(2)

    broker.server.stop()
    leaving.close()
    wait_for(lambda: publisher.publish_events([step(-1)]) == 0)
    wait_for(lambda: not listener.manager.wait_until_listening(0))
    broker.server.start()

    wait_for(lambda: publisher.publish_events([PROBE]) and listener.probed.wait(0.05))
    listener.emits.clear()
    assert publisher.publish_events([step(number) for number in range(1, 101)]) == 100
    assert numbers(listener.wait_for_count(100)) == list(range(1, 101))
    assert listener.manager.generation >= 2


@pytest.mark.own_rabbitmq
def test_both_sides_go_on_by_themselves_when_an_operator_cuts_them_off(channel: Channel, broker: Broker) -> None:
    listener, publisher = channel.recorder(), channel.publisher()
    publisher.publish_events([step(0)])
    listener.wait_for_count(1)

    _cut_all_connections(broker)
    wait_for(lambda: listener.manager.generation >= 2)

    wait_for(lambda: publisher.publish_events([PROBE]) and listener.probed.wait(0.05))
    publisher.publish_events([step(number) for number in range(1, 11)])
    assert numbers(listener.wait_for_count(11)) == list(range(11))


def _cut_all_connections(broker: Broker) -> None:
    if broker.name == "rabbitmq":
        broker.server.manage("DELETE", "connections/username/guest")  # type: ignore[union-attr]
        return
    with redis.Redis.from_url(broker.url) as client:
        client.client_kill_filter(_type="pubsub")
        client.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.own_rabbitmq
def test_a_paused_broker_holds_up_nobody_and_is_used_again_when_it_goes_on(channel: Channel, broker: Broker) -> None:
    listener, publisher = channel.recorder(), channel.publisher()
    publisher.publish_events([step(0)])

    broker.server.pause()
    try:
        returns(publisher.publish_events, [step(-1)])
    finally:
        broker.server.resume()

    wait_for(lambda: publisher.publish_events([PROBE]) and listener.probed.wait(0.05))
    publisher.publish_events([step(1)])
    wait_for(lambda: numbers(listener.emits)[-1:] == [1])


@pytest.mark.own_rabbitmq
def test_closing_does_not_wait_for_a_broker_that_does_not_answer(channel: Channel, broker: Broker) -> None:
    publisher = channel.publisher()
    publisher.publish_events([step(1)])

    broker.server.pause()
    try:
        returns(publisher.close)
    finally:
        broker.server.resume()

    assert wait_for(lambda: publisher.publish_events([step(2)]))
