"""The private things of kombu and py-amqp that we use are still there, and still do what they did."""

from __future__ import annotations

import contextlib
import socket
import ssl
import zlib
from typing import TYPE_CHECKING, Any

import kombu
import kombu.exceptions
import pytest
from redis import Redis

from celery_realtime.channel.connections import connection, fanout_exchange, fanout_queue, hang_up
from celery_realtime.channel.seams import (
    RedisTopics,
    has_listeners,
    keep_client,
    keep_queues,
    leave_compressed,
    on_confirms,
    read_buffered,
    shorten_farewell,
)
from tests.processes import HOST
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import Broker


@pytest.fixture
def amqp(rabbitmq_broker: Broker) -> Iterator[Any]:
    opened = connection(rabbitmq_broker.url, {})
    opened.connect()
    yield opened
    opened.release()


@pytest.fixture
def redis(redis_broker: Broker) -> Iterator[Any]:
    opened = connection(redis_broker.url, {})
    opened.connect()
    yield opened
    opened.release()


def test_rabbitmq_confirms_a_whole_batch(amqp: Any) -> None:
    confirmed: list[int] = []
    channel = amqp.default_channel
    assert on_confirms(channel, lambda tag, multiple: confirmed.append(tag), lambda tag, multiple: None)
    producer = amqp.Producer(channel, exchange=fanout_exchange("seams", {}))
    for _ in range(10):
        producer.publish(b"{}", content_type="text/plain", content_encoding="utf-8")
    while not confirmed or max(confirmed) < 10:
        amqp.drain_events(timeout=5)
    assert max(confirmed) == 10


def test_redis_confirms_nothing_since_it_answers_each_command(redis: Any) -> None:
    assert not on_confirms(redis.default_channel, lambda *_: None, lambda *_: None)


@pytest.mark.parametrize("channel", [object(), type("Channel", (), {"confirm_select": print})()])
def test_a_channel_without_the_private_parts_confirms_nothing(channel: object) -> None:
    assert not on_confirms(channel, lambda *_: None, lambda *_: None)


def test_kombu_still_deletes_the_queues_of_a_redis_connection_unless_they_are_forgotten(redis: Any) -> None:
    consumer = redis.Consumer(fanout_queue(fanout_exchange("seams", {}), {}), no_ack=True)
    consumer.consume()
    assert redis.default_channel.auto_delete_queues
    keep_queues(redis)
    assert not redis.default_channel.auto_delete_queues


def test_a_connection_that_has_never_been_used_has_no_queues_and_no_socket() -> None:
    unused = connection("amqp://localhost:1//", {})
    keep_queues(unused)
    shorten_farewell(unused, 0.1)
    hang_up(unused)


def test_py_amqps_socket_can_be_reached_to_shorten_its_farewell(amqp: Any) -> None:
    shorten_farewell(amqp, 0.125)
    assert amqp.connection.transport.sock.gettimeout() == 0.125


def test_the_farewell_of_tls_waits_no_longer_than_the_sockets_timeout() -> None:
    """What the time-out is for: py-amqp shakes hands once more before it closes a TLS connection."""
    from amqp.transport import SSLTransport

    assert "unwrap" in SSLTransport._shutdown_transport.__code__.co_names
    assert issubclass(ssl.SSLSocket, socket.socket)


def test_hanging_up_closes_the_socket_of_a_broker_that_does_not_answer_any_more() -> None:
    with socket.create_server((HOST, 0)) as server:
        unanswered = connection(f"redis://{HOST}:{server.getsockname()[1]}/0", {})
        with pytest.raises((OSError, kombu.exceptions.OperationalError)):
            _ = unanswered.default_channel
        peer, _ = server.accept()
        hang_up(unanswered)
        peer.settimeout(60)
        wait_for(lambda: peer.recv(65536) == b"")
        peer.close()


def test_hanging_up_an_amqp_connection_says_no_farewell(amqp: Any) -> None:
    sock = amqp.connection.transport.sock
    hang_up(amqp)
    assert sock.fileno() == -1
    assert not amqp.connected


# -- reading ------------------------------------------------------------------------------------------------------


class Guard:
    """Makes contexts that survive what is wrong with a message, and count it."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.errors.append(error)


def test_messages_in_one_packet_behind_one_without_an_envelope_are_read(redis_broker: Broker) -> None:
    """What kombu would leave in redis-py's buffer until the next packet comes."""
    received: list[Any] = []
    with connection(redis_broker.url, {}, reading=True) as broker, Redis.from_url(redis_broker.url) as stranger:
        topic = f"/{redis_broker.url.rpartition('/')[2]}.socketio"
        envelope = _envelope(stranger, redis_broker.url, topic)
        exchange = fanout_exchange("socketio", {})
        consumer = broker.Consumer(fanout_queue(exchange, {}), on_message=received.append, no_ack=True)
        consumer.consume()
        with contextlib.suppress(TimeoutError):
            broker.drain_events(timeout=0.05)
        with stranger.pipeline(transaction=True) as pipeline:  # all in one packet
            for message in ("{}", envelope, "5", envelope):
                pipeline.publish(topic, message)
            pipeline.execute()
        guard = Guard()
        wait_for(lambda: _drain(broker, guard) or received or guard.errors)
        assert vars(broker.default_channel)["subclient"].connection is not None
        read_buffered(broker.default_channel, guard)

    assert len(received) == 2
    assert len(guard.errors) == 2


def _drain(broker: Any, guard: Guard) -> None:
    with guard(), contextlib.suppress(TimeoutError):
        broker.drain_events(timeout=0.1)


def _envelope(stranger: Any, url: str, topic: str) -> bytes:
    """Return a message in kombu's envelope, as it is on Redis."""
    with stranger.pubsub() as listening, kombu.Connection(url) as publishing:
        listening.subscribe(topic)
        wait_for(lambda: listening.get_message(timeout=0.1))
        publishing.Producer(exchange=fanout_exchange("socketio", {})).publish("{}", content_type="text/plain")
        message = wait_for(lambda: listening.get_message(timeout=0.1))
    return bytes(message["data"])


@pytest.mark.service
@pytest.mark.parametrize("name", ["amqp", "redis"])
def test_kombu_inflates_messages_unless_it_is_kept_from_it(name: str, request: pytest.FixtureRequest) -> None:
    broker = request.getfixturevalue(name)
    queue = kombu.Queue("compressed", kombu.Exchange("compressed"), durable=False, auto_delete=True)(
        broker.default_channel
    )
    queue.declare()
    producer = broker.Producer(exchange=queue.exchange)
    for expected in (b"small", zlib.compress(b"small")):
        producer.publish(b"small", content_type="text/plain", content_encoding="binary", compression="zlib")
        message = wait_for(lambda: queue.get(no_ack=True))
        assert message.body == expected
        assert "compression" not in message.headers or expected == b"small"
        leave_compressed(broker.default_channel)


def test_of_another_transport_nothing_is_read() -> None:
    with kombu.Connection("memory://") as broker:
        read_buffered(broker.default_channel, Guard())


# -- a client for each message --------------------------------------------------------------------------------------


def test_what_is_published_on_a_channel_goes_through_one_client(redis: Any, redis_broker: Broker) -> None:
    channel = redis.default_channel
    before = [channel._create_client() for _ in range(2)]
    assert before[0] is not before[1], "kombu keeps one itself: this is not needed any more"
    keep_client(channel)
    with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
        assert first is second
    assert channel._create_client(asynchronous=True) is not first
    with contextlib.closing(Redis.from_url(redis_broker.url)) as reader, reader.pubsub() as subscribed:
        subscribed.psubscribe("*")
        assert subscribed.get_message(timeout=60) is not None
        redis.Producer(channel, exchange=fanout_exchange("kept", {})).publish(b"{}")
        message = wait_for(lambda: subscribed.get_message(timeout=1))
        assert message is not None
        assert message["type"] == "pmessage"


def test_a_client_is_not_kept_longer_than_its_connections(redis: Any) -> None:
    channel = redis.default_channel
    keep_client(channel)
    before = channel._create_client()
    channel._disconnect_pools()
    after = channel._create_client()
    assert after is not before
    assert after.connection_pool is channel.pool
    assert after.ping()


def test_a_broker_without_such_clients_is_left_alone(amqp: Any) -> None:
    channel = amqp.default_channel
    attributes = {*vars(channel)}
    keep_client(channel)
    assert {*vars(channel)} == attributes


# -- topics of shards -----------------------------------------------------------------------------------------------


def test_redis_confirms_the_topics_of_routing_keys_and_ends_them(redis: Any, redis_broker: Broker) -> None:
    confirmed: list[tuple[str, str]] = []
    received: list[Any] = []
    channel = redis.default_channel
    exchange = fanout_exchange("seams.8", {})
    topics = RedisTopics(channel, lambda *which: confirmed.append(which))
    assert topics.are_there
    consumer = redis.Consumer(fanout_queue(exchange, {}, "seams"), on_message=received.append, no_ack=True)
    consumer.consume()
    with contextlib.suppress(TimeoutError):
        redis.drain_events(timeout=0.1)

    def drained(until: Any) -> Any:
        with contextlib.suppress(TimeoutError):
            redis.drain_events(timeout=0.1)
        return until()

    for key in ("1", "2"):
        topics.subscribe("seams.8", key)
    wait_for(lambda: drained(lambda: len(confirmed) == 2))
    assert confirmed == [("seams.8", "1"), ("seams.8", "2")]

    with kombu.Connection(redis_broker.url) as other:
        producer = other.Producer(exchange=exchange)
        for key in ("2", "3", "1"):
            producer.publish(b"{}", routing_key=key, content_type="text/plain", content_encoding="utf-8")
        wait_for(lambda: drained(lambda: len(received) == 2))
        topics.unsubscribe("seams.8", "1")
        topic = f"/{redis_broker.url.rpartition('/')[2]}.seams.8/1"
        with Redis.from_url(redis_broker.url) as client:
            wait_for(lambda: client.pubsub_numsub(topic)[0][1] == 0)
        for key in ("1", "2"):
            producer.publish(b"{}", routing_key=key, content_type="text/plain", content_encoding="utf-8")
        wait_for(lambda: drained(lambda: len(received) == 3))
    assert [message.delivery_info["routing_key"] for message in received] == ["2", "1", "2"]


def test_rabbitmq_has_no_such_topics(amqp: Any) -> None:
    topics = RedisTopics(amqp.default_channel, lambda *_: None)
    assert not topics.are_there
    topics.subscribe("seams.8", "1")
    topics.unsubscribe("seams.8", "1")


def test_redis_says_whether_anybody_hears_a_routing_key(redis: Any, redis_broker: Broker) -> None:
    channel = redis.default_channel
    database = redis_broker.url.rpartition("/")[2]
    assert not has_listeners(channel, "seams.8", "1")
    with Redis.from_url(redis_broker.url) as client, client.pubsub() as pubsub:
        pubsub.subscribe(f"/{database}.seams.8/1")
        wait_for(lambda: has_listeners(channel, "seams.8", "1"))
        assert not has_listeners(channel, "seams.8", "2")
        pubsub.unsubscribe()
        wait_for(lambda: not has_listeners(channel, "seams.8", "1"))


def test_where_nobody_can_say_who_hears_all_count_as_heard(amqp: Any) -> None:
    assert has_listeners(amqp.default_channel, "seams.8", "1")
    assert has_listeners(object(), "seams.8", "1")


def test_a_redis_that_does_not_say_who_hears_counts_as_heard(redis: Any) -> None:
    channel = redis.default_channel

    def forbidden(*_: Any) -> Any:
        raise redis.channel_errors[0]("no permissions to run 'pubsub|numsub'")

    keep_client(channel)
    with channel.conn_or_acquire() as client:
        client.pubsub_numsub = forbidden
    assert has_listeners(channel, "seams.8", "1")
