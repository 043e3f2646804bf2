"""What is published on a real broker is received: all of it, in order, and nothing but it, whatever else comes."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kombu
import pytest
import redis
import socketio
from kombu import compression

from celery_realtime.channel.listener import Listener
from celery_realtime.environments import with_transport_options
from celery_realtime.events import Outgoing
from tests.channel.test_wire import NO_MESSAGES
from tests.channels import Channel, async_client_manager, client_manager, numbers, step
from tests.processes import HOST, ROOT, free_port
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import Broker

WIRES = pytest.mark.parametrize("stock", [False, True], ids=["frames", "stock"])
SCHEMES = pytest.mark.parametrize("scheme", ["redis", "amqp"])


@pytest.fixture
def channel(broker: Broker) -> Iterator[Channel]:
    channel = Channel(broker.url)
    yield channel
    channel.close()


@WIRES
def test_a_thousand_events_are_heard_in_order_and_none_is_lost(channel: Channel, stock: bool) -> None:
    listener, publisher = channel.recorder(), channel.publisher(stock=stock)

    for start in range(0, 1000, 100):
        assert publisher.publish_events([step(number) for number in range(start, start + 100)]) == 100

    assert numbers(listener.wait_for_count(1000)) == list(range(1000))


@WIRES
def test_an_event_goes_to_the_room_of_its_project_in_its_namespace(channel: Channel, stock: bool) -> None:
    listener, publisher = channel.recorder(), channel.publisher(stock=stock, namespace="/jobs")

    publisher.publish_events([Outgoing("beta", "thumbnail", b'{"url":"/1.png"}')])

    [emit] = listener.wait_for_count(1)
    assert (emit.event, emit.room, emit.namespace) == ("thumbnail", "project:beta", "/jobs")
    assert emit.data == {"url": "/1.png"}


def test_a_listener_is_silent_for_no_longer_than_it_may_be_and_pings_no_more_often(channel: Channel) -> None:
    recorder = channel.stock_recorder()
    messages = client_manager(channel.url).reader.listener.messages(lambda: 0.02)
    silences = 0
    began = time.monotonic()
    while silences < 10 or time.monotonic() - began < 2.5:
        silences += next(messages) is None
    messages.close()
    seconds = time.monotonic() - began

    pings = [body for body in recorder.bodies if "celery-realtime-ping" in str(body)]
    assert 1 <= len(pings) <= seconds + 2
    assert silences > 1.5 * len(pings)  # up to 50 a second; with a second for each there would be one for each ping


def test_an_event_larger_than_a_frame_is_heard_whole(channel: Channel) -> None:
    listener, publisher = channel.recorder(), channel.publisher()

    assert publisher.publish_events([step(0), step(1, padding=1_000_000), step(2)]) == 3

    heard = listener.wait_for_count(3)
    assert numbers(heard) == [0, 1, 2]
    assert heard[1].data["padding"] == "x" * 1_000_000


def test_no_events_are_no_message(channel: Channel) -> None:
    listener, publisher = channel.recorder(), channel.publisher()

    assert publisher.publish_events([]) == 0
    assert publisher.publish_events([step(1)]) == 1

    assert numbers(listener.wait_for_count(1)) == [1]


@WIRES
def test_events_with_any_text_arrive_as_they_were(channel: Channel, stock: bool) -> None:
    listener, publisher = channel.recorder(), channel.publisher(stock=stock)
    text = 'é ü 漢字 🎉 "quoted" \\ \u2028 </script> \x00'

    publisher.publish_events([Outgoing("café 🎉", "caption", json.dumps({"text": text}).encode())])

    [emit] = listener.wait_for_count(1)
    assert emit.room == "project:café 🎉"
    assert emit.data == {"text": text}


def test_every_listener_hears_everything(channel: Channel) -> None:
    listeners, publisher = [channel.recorder() for _ in range(3)], channel.publisher()

    publisher.publish_events([step(number) for number in range(50)])

    for listener in listeners:
        assert numbers(listener.wait_for_count(50)) == list(range(50))


def test_another_channel_is_not_heard(channel: Channel) -> None:
    listener = channel.recorder()

    channel.publisher(channel="elsewhere").publish_events([step(1)])
    channel.publisher().publish_events([step(2)])

    assert numbers(listener.wait_for_count(1)) == [2]


def test_messages_of_pythonsocketios_own_manager_are_heard(channel: Channel) -> None:
    listener = channel.recorder()
    stock = socketio.KombuManager(channel.url, write_only=True, logger=logging.getLogger("stock"))

    for number in range(20):
        stock.emit("step", {"number": number}, room="project:alpha")
    stock.enter_room("a-client", "/", "project:alpha")

    emits = listener.wait_for_count(20)
    wait_for(lambda: listener.messages)
    stock.publisher_connection.release()
    assert numbers(emits) == list(range(20))
    assert {emit.room for emit in emits} == {"project:alpha"}
    assert [(message["method"], message["sid"]) for message in listener.messages] == [("enter_room", "a-client")]


# -- what strangers publish ---------------------------------------------------------------------------------------


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_neighbours_of_poison_are_heard_and_pickle_is_never_run(
    channel: Channel, broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener, publisher = channel.recorder(), channel.publisher()
    trace = tmp_path / "unpickled"
    poisons: list[tuple[Any, dict[str, Any]]] = [
        (body, {"content_type": "text/plain", "content_encoding": "utf-8"}) for body in NO_MESSAGES.values()
    ]
    poisons.append((pickle.dumps(Bomb(trace)), {"content_type": "application/x-python-serialize"}))
    poisons.append((pickle.dumps(Bomb(trace)), {"content_type": "application/data"}))
    poisons.append((b"\x00\xff", {"content_type": "text/plain", "content_encoding": "binary"}))
    poisons.append(
        (b"not compressed", {"content_type": "text/plain", "headers": {"compression": "application/x-gzip"}})
    )
    poisons.append((b"{}", {"content_type": "text/plain", "headers": {"compression": "unheard of"}}))

    kombu.enable_insecure_serializers(["pickle"])  # as a web process may have done for its own tasks
    try:
        publisher.publish_events([step(0)])
        for number, (body, options) in enumerate(poisons, 1):
            channel.publish_raw(body, **{"content_encoding": "binary", **options})
            publisher.publish_events([step(number)])
        wait_for(lambda: numbers(listener.emits)[-1:] == [len(poisons)])
    finally:
        kombu.disable_insecure_serializers()

    assert numbers(listener.emits) == list(range(len(poisons) + 1))
    assert not trace.exists()
    assert listener.manager.generation == 1
    assert "not hearing" not in caplog.text


def test_a_compressed_message_is_ignored_before_it_is_inflated(channel: Channel) -> None:
    inflated: list[bytes] = []

    def inflate(body: bytes) -> bytes:
        inflated.append(body)
        return zlib.decompress(body)

    method = "application/x-seen"
    compression.register(zlib.compress, inflate, method)
    listener, publisher = channel.recorder(), channel.publisher()
    frame = json.dumps({"method": "emit", "event": "step", "data": [{"number": 0}], "room": "project:alpha"})

    channel.publish_raw(frame, content_type="text/plain", content_encoding="utf-8", compression=method)
    publisher.publish_events([step(1)])

    assert numbers(listener.wait_for_count(1)) == [1]
    assert inflated == []


@pytest.mark.parametrize(
    "envelope",
    ["not JSON", "5", "null", "[]", "{}", '{"body": 5}', '{"body": "%%%", "properties": {"body_encoding": "base64"}}'],
)
def test_neighbours_of_a_bare_publish_on_redis_are_heard(redis_broker: Broker, envelope: str) -> None:
    """Anybody may PUBLISH on the channel without the envelope that kombu expects."""
    with contextlib.closing(Channel(redis_broker.url)) as channel, redis.Redis.from_url(redis_broker.url) as stranger:
        listener, publisher = channel.recorder(), channel.publisher()
        database = redis_broker.url.rpartition("/")[2]

        for number in range(5):
            publisher.publish_events([step(number)])
            stranger.publish(f"/{database}.socketio", envelope)
        publisher.publish_events([step(5)])

        wait_for(lambda: numbers(listener.emits)[-1:] == [5])
        assert numbers(listener.emits) == [0, 1, 2, 3, 4, 5]


# -- when the broker is not there ---------------------------------------------------------------------------------


@SCHEMES
def test_a_manager_that_hears_nothing_says_so(scheme: str) -> None:
    manager = client_manager(f"{scheme}://{HOST}:{free_port()}/")

    assert not manager.wait_until_listening(0.1)


@SCHEMES
def test_making_a_manager_opens_no_connection_and_starts_no_thread(scheme: str) -> None:
    with socket.create_server((HOST, 0), backlog=1) as broker:
        broker.settimeout(0.1)
        threads = set(threading.enumerate())

        client_manager(f"{scheme}://{HOST}:{broker.getsockname()[1]}/")
        async_client_manager(f"{scheme}://{HOST}:{broker.getsockname()[1]}/")

        assert set(threading.enumerate()) <= threads
        with pytest.raises(TimeoutError):
            broker.accept()


# -- what is left behind ------------------------------------------------------------------------------------------


def test_a_listener_that_ends_leaves_nothing_on_the_broker(broker: Broker) -> None:
    channel = Channel(broker.url)
    listener, publisher = channel.recorder(), channel.publisher()
    publisher.publish_events([step(number) for number in range(10)])
    listener.wait_for_count(10)
    assert len(_left_on(broker)) == 1

    channel.close()

    wait_for(lambda: _left_on(broker) == [], message="the listener's queue is still there")


LISTENS = """
import os, signal, sys, threading
from celery_realtime.channel.listener import Listener
listener = Listener(sys.argv[1], "socketio")
threading.Thread(target=lambda: [None for _ in listener.messages()], daemon=True).start()
assert listener.wait(60)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def listen_in_process(url: str, end: str) -> int:
    """Have another process listen until it ends, and return its exit code."""
    command = [sys.executable, "-c", LISTENS, url, end]
    return subprocess.run(command, cwd=ROOT, timeout=120, check=False).returncode


@pytest.mark.parametrize("options", ["", "staging:"])
def test_a_redis_remembers_no_names_of_processes_that_have_ended(redis_broker: Broker, options: str) -> None:
    url = redis_broker.url + (f"?global_keyprefix={options}" if options else "")
    url, given = with_transport_options(url, {})
    listener = Listener(url, "socketio", connection_options=given)
    messages = listener.messages(lambda: 0.01)
    wait_for(lambda: next(messages) or listener.wait(0), timeout=30)
    assert _left_on(redis_broker) == [f"{options}_kombu.binding.socketio"]
    listener.leave()
    assert _left_on(redis_broker) == []
    messages.close()


def test_a_process_that_ends_takes_its_name_from_redis_and_those_that_are_killed_leave_one(
    redis_broker: Broker,
) -> None:
    with redis.Redis.from_url(redis_broker.url) as client:
        assert [listen_in_process(redis_broker.url, "killed") for _ in range(3)] == [-signal.SIGKILL] * 3
        assert client.scard("_kombu.binding.socketio") == 1
        assert listen_in_process(redis_broker.url, "in order") == 0
        assert client.scard("_kombu.binding.socketio") == 0


def test_listeners_of_one_name_all_hear_all_and_one_that_leaves_costs_no_other_a_thing(redis_broker: Broker) -> None:
    channel = Channel(redis_broker.url)
    publisher, staying, leaving = channel.publisher(), channel.recorder(), channel.recorder()
    publisher.publish_events([step(0)])
    for listener in (staying, leaving):
        listener.wait_for_count(1)
    leaving.manager.reader.listener.leave()
    publisher.publish_events([step(1)])
    for listener in (staying, leaving):
        listener.wait_for_count(2)
    channel.close()


def _left_on(broker: Broker) -> list[str]:
    """Return the queues of the broker; on Redis also the messages that wait to be acknowledged."""
    if broker.name == "rabbitmq":
        vhost = broker.url.rpartition("/")[2]
        return [queue["name"] for queue in broker.server.manage("GET", f"queues/{vhost}")]  # type: ignore[union-attr]
    with redis.Redis.from_url(broker.url) as client:
        keys = {key.decode() for key in client.scan_iter()}
        return sorted(
            key for key in keys if not key.endswith("_kombu.binding_deadlines")
        )  # when kombu is to look for dead queues
