"""Of several brokers all sides of a channel use the first that works, and meet again when another one is that."""

from __future__ import annotations

import pytest
from kombu import Connection

from celery_realtime.channel import connections
from celery_realtime.channel.connections import Preference
from tests.channels import PROBE, Channel, ChannelRecorder
from tests.launcher import Launcher
from tests.services import Broker, RabbitMQServer, RedisServer
from tests.waiting import wait_for

Node = RedisServer | RabbitMQServer


def new_nodes(kind: str, launcher: Launcher) -> list[Node]:
    if kind == "redis":
        return [launcher.redis(name=name) for name in ("one", "two")]
    return [launcher.start(RabbitMQServer(launcher.folder / name)) for name in ("one", "two")]


def hears(channel: Channel, listeners: list[ChannelRecorder]) -> bool:
    """Publish, and tell whether all listeners hear it."""
    [publisher] = channel.publishers
    for listener in listeners:
        listener.probed.clear()
    return bool(publisher.publish_events([PROBE])) and all(listener.probed.wait(0.2) for listener in listeners)


@pytest.mark.parametrize("kind", ["redis", pytest.param("rabbitmq", marks=pytest.mark.long)])
@pytest.mark.service
def test_both_sides_meet_on_the_broker_that_works_and_return_to_the_first(
    kind: str, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "RETURN_PAUSE", 0.2)
    first, second = new_nodes(kind, launcher)
    channel = Channel(f"{first.url()};{second.url()}")
    channel.publisher()
    listeners = [channel.recorder()]
    wait_for(lambda: hears(channel, listeners), timeout=30)
    first.kill()
    wait_for(lambda: hears(channel, listeners), timeout=60)
    listeners.append(channel.recorder())  # which begins after it
    wait_for(lambda: hears(channel, listeners), timeout=60)
    first.start()
    second.kill()
    wait_for(lambda: hears(channel, listeners), timeout=60)
    second.start()
    first.kill()
    wait_for(lambda: hears(channel, listeners), timeout=60)
    first.start()
    listeners.append(channel.recorder())  # which is at the first one, where the others have to return to
    wait_for(lambda: hears(channel, listeners), timeout=60)
    channel.close()


def test_one_broker_is_never_left_for_another(redis_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RETURN_PAUSE", 0.0)
    with Connection(redis_broker.url) as broker:
        assert not Preference(redis_broker.url, {}).is_back(broker)
        assert not Preference(f"{redis_broker.url};redis://127.0.0.1:1/0", {}).is_back(broker)
        assert not Preference(f"redis://127.0.0.1:1/0;{redis_broker.url}", {}).is_back(broker)
    with Connection("redis://127.0.0.1:1/0") as later:
        assert Preference(f"{redis_broker.url};redis://127.0.0.1:1/0", {}).is_back(later)
