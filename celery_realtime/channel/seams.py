"""Reach what kombu and py-amqp keep of a connection, and have no public way to.

Each function says why it is needed, with which version it was seen to work, and what happens when the thing is gone.
tests/channel/test_seams.py fails then.
"""

from __future__ import annotations

import contextlib
import queue
import weakref
from collections.abc import Callable, Iterator
from typing import Any


def on_confirms(channel: Any, acknowledged: Callable[[int, bool], None], refused: Callable[[int, bool], None]) -> bool:
    """Have RabbitMQ confirm what is published on a channel.

    Why: py-amqp's own option, ``confirm_publish``, waits for each message by itself, which costs a round trip a
    message; ours are confirmed a batch at a time. Seen: ``confirm_select`` and the sets of callbacks in ``events`` of a
    channel, in py-amqp 5.4.2. Without them: messages count as accepted when they have been written to the socket, so
    those that a broker loses as it dies are lost.

    Args:
        channel: A kombu channel, of whatever transport.
        acknowledged: Called with a delivery tag, and whether it stands for all up to it too.
        refused: The same, for messages that the broker did not accept.

    Returns:
        Whether it will: other brokers than RabbitMQ answer each command, or nothing.
    """
    select, events = getattr(channel, "confirm_select", None), getattr(channel, "events", None)
    if select is None or events is None:
        return False
    select()
    events["basic_ack"].add(acknowledged)
    events["basic_nack"].add(refused)
    return True


def keep_queues(connection: Any) -> None:
    """Have kombu close a connection to Redis without deleting its queues first.

    Why: the connection may be dead, and each deletion waits for an answer. Seen: ``_default_channel`` of a connection,
    and ``auto_delete_queues`` of a Redis channel, in kombu 5.7.0. Without them: hanging up waits for a second.
    """
    getattr(getattr(connection, "_default_channel", None), "auto_delete_queues", set()).clear()


def shorten_farewell(connection: Any, seconds: float) -> None:
    """Have py-amqp not wait longer than this for the other side's answer when a TLS connection is closed.

    Why: the connection may be dead. Seen: ``_connection`` of a kombu connection, and ``_transport.sock`` of py-amqp's,
    in kombu 5.7.0 and py-amqp 5.4.2. Without them: hanging up waits for a second.
    """
    transport = getattr(getattr(connection, "_connection", None), "_transport", None)
    sock = getattr(transport, "sock", None)
    if sock is not None:
        sock.settimeout(seconds)


@contextlib.contextmanager
def answered_within(channel: Any, seconds: float) -> Iterator[None]:
    """Have py-amqp not wait longer than this for what a RabbitMQ says next, in the block.

    Why: its methods that wait for an answer do so for ever, also if the connection is dead. Seen: ``transport`` of the
    connection of a channel, and its ``having_timeout``, in py-amqp 5.4.2. Without them: a listener whose connection
    dies just when it binds a shard hears nothing until TCP gives up.

    Args:
        channel: A kombu channel, of whatever transport.
        seconds: The longest silence.

    Raises:
        TimeoutError: It was longer.
    """
    transport = getattr(channel.connection, "transport", None)
    having_timeout = getattr(transport, "having_timeout", contextlib.nullcontext)
    with having_timeout(seconds):
        yield


def read_buffered(channel: Any, guard: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    """Read the messages that kombu has left in redis-py's buffer.

    Why: when a message without kombu's envelope raises, kombu does not read those that came in one packet behind it,
    and polling the socket again does not tell, since they are not in the socket any more. Seen: ``subclient`` in the
    ``__dict__`` of a Redis channel once it has subscribed, and ``_receive_one``, in kombu 5.7.0. Without them: such
    messages are delivered when the next packet comes, which is the listener's own ping after a second at the latest.

    Args:
        channel: A kombu channel, of whatever transport.
        guard: Makes a context in which one message is read, which survives what is wrong with it.
    """
    subclient = vars(channel).get("subclient")
    receive = getattr(channel, "_receive_one", None)
    if subclient is None or receive is None:
        return
    while subclient.connection is not None and subclient.connection.can_read(timeout=0):
        with guard(), contextlib.suppress(queue.Empty):
            receive(subclient)


def clients_of_redis(channel: Any) -> dict[str, Any]:
    """Return what a Redis says of its clients (``INFO clients``); nothing of another broker, or if that is forbidden.

    Why: our connections must not be the ones that Celery needs. Seen: ``client`` of a Redis channel, a redis-py client,
    in kombu 5.7.0. Without it: where ``maxclients`` is small, this package may take the last connections.

    Args:
        channel: A kombu channel, of whatever transport.
    """
    info = getattr(getattr(channel, "client", None), "info", None)
    if not callable(info):
        return {}
    with contextlib.suppress(*channel.connection.channel_errors):
        clients: dict[str, Any] = info("clients")
        return clients
    return {}


def close_reading_connection(channel: Any) -> None:
    """Close the connection that kombu has to a Redis for reading, of a channel that only publishes.

    Why: it has one from the start, beside the one that publishing uses, and without reading it does nothing. Seen: the
    pool of ``client`` of a Redis channel, in kombu 5.7.0. Without it: each process that publishes has one more.

    Args:
        channel: A kombu channel, of whatever transport.
    """
    pool = getattr(getattr(channel, "client", None), "connection_pool", None)
    if pool is not None:
        pool.disconnect()


def keep_client(channel: Any) -> None:
    """Have kombu use one client of redis-py for all that is published on a channel.

    Why: it makes one for each message, which takes longer than sending that. Seen: ``_create_client``, which is called
    without arguments where a Redis channel needs a client for one command, and ``pool``, whose connections that client
    uses, in kombu 5.7.0. Without them: publishing takes more of the processor.

    Args:
        channel: A kombu channel, of whatever transport; changed in place.
    """
    make = getattr(type(channel), "_create_client", None)
    if make is None:
        return
    of_channel, clients = weakref.ref(channel), list[Any]()

    def client(*arguments: Any, **options: Any) -> Any:
        there = of_channel()
        if arguments or options:
            return make(there, *arguments, **options)
        if not clients or clients[0].connection_pool is not getattr(there, "pool", None):
            clients[:] = [make(there)]
        return clients[0]

    channel._create_client = client


def leave_compressed(channel: Any) -> None:
    """Have kombu not inflate the bodies of compressed messages.

    Why: a message of some kilobytes may inflate to gigabytes, before anybody can look at its size, and no message of
    the channel is compressed: neither ours nor python-socketio's. Seen: ``Message`` of a channel, which makes its
    messages, and which inflates what has a header ``compression``, in kombu 5.7.0. Without it: whoever can publish on
    the channel can fill the memory of all web servers.

    Args:
        channel: A kombu channel, of whatever transport; changed in place.
    """
    made = getattr(channel, "Message", None)
    if isinstance(made, type):
        channel.Message = type("PlainMessage", (made,), {"headers": property(_headers_of, _set_plain_headers)})


def _headers_of(message: Any) -> dict[str, Any]:
    headers: dict[str, Any] = vars(message)["headers"]
    return headers


def _set_plain_headers(message: Any, headers: dict[str, Any]) -> None:
    vars(message)["headers"] = {name: value for name, value in headers.items() if name != "compression"}


class RedisTopics:
    """What one connection to a Redis is subscribed to, beside what kombu has subscribed it to.

    Why: kombu subscribes to the topics of all its queues once, when it first polls, and each exchange has one queue
    with one topic. Seen: ``_get_publish_topic`` (and ``_get_publish_topics``) of a Redis channel, its ``subclient``, a
    ``PubSub`` of redis-py, and ``_handle_message``, which is given what Redis confirms, in kombu 5.7.0. Without them:
    nothing is subscribed to, and web servers with ``realtime_shards`` hear of no project; test_shards.py fails, too.

    Args:
        channel: A kombu channel, of whatever transport.
        confirmed: Called with an exchange and a routing key when Redis has confirmed their topic.
    """

    def __init__(self, channel: Any, confirmed: Callable[[str, str], None]) -> None:
        self._channel = channel
        self._confirmed = confirmed
        #: By topic, what it was subscribed to for.
        self._wanted: dict[str, list[tuple[str, str]]] = {}
        self._handle = getattr(channel, "_handle_message", None)
        #: Whether this is a Redis, which confirms what it is asked for.
        self.are_there = hasattr(channel, "_get_publish_topic") and self._handle is not None
        if self.are_there:
            channel._handle_message = self._note

    def subscribe(self, exchange: str, routing_key: str) -> None:
        """Subscribe to the topic of a routing key."""
        if not self.are_there:
            return
        topics = self._topics_of(exchange, routing_key)
        self._wanted.setdefault(topics[0], []).append((exchange, routing_key))
        self._channel.subclient.subscribe(*topics)  # not by a pattern: Redis compares each message with all of those

    def unsubscribe(self, exchange: str, routing_key: str) -> None:
        """End the subscription to the topic of a routing key, unless another one has the same."""
        if not self.are_there:
            return
        topics = self._topics_of(exchange, routing_key)
        users = self._wanted[topics[0]]
        users.remove((exchange, routing_key))
        if not users:
            del self._wanted[topics[0]]
            self._channel.subclient.unsubscribe(*topics)

    def _topics_of(self, exchange: str, routing_key: str) -> list[str]:
        topic: str = self._channel._get_publish_topic(exchange, routing_key)
        several = getattr(self._channel, "_get_publish_topics", None)
        others: list[str] = [] if several is None else several(exchange, routing_key)
        return [topic, *(other for other in others if other != topic)]

    def _note(self, client: Any, response: Any) -> Any:
        if response[0] in (b"subscribe", "subscribe"):
            for exchange, routing_key in list(self._wanted.get(_text(response[1]), ())):
                self._confirmed(exchange, routing_key)
        assert self._handle is not None
        return self._handle(client, response)


def has_listeners(channel: Any, exchange: str, routing_key: str) -> bool:
    """Return whether anybody is subscribed to the topic of a routing key, as far as a Redis says so.

    Why: what nobody hears need not be sent to the broker, and kombu does not pass on what Redis answers to a message.
    Seen: ``_get_publish_topic``, ``conn_or_acquire`` (which yields the client of redis-py that publishes, with
    ``pubsub_numsub``; ``client`` would open one more connection) and ``global_keyprefix`` of a Redis channel, in kombu
    5.7.0; and ``sentinel_fanout_compat``, with which others may be subscribed to another topic. Without them: each
    message is sent.

    Args:
        channel: A kombu channel, of whatever transport.
        exchange: A fan-out exchange.
        routing_key: Its routing key.
    """
    topic_of = getattr(channel, "_get_publish_topic", None)
    borrowed = getattr(channel, "conn_or_acquire", None)
    if topic_of is None or borrowed is None or getattr(channel, "sentinel_fanout_compat", False):
        return True
    prefix = getattr(channel, "global_keyprefix", None) or ""
    with contextlib.suppress(*channel.connection.channel_errors), borrowed() as client:  # an ACL may forbid it
        return any(count > 0 for _, count in client.pubsub_numsub(prefix + topic_of(exchange, routing_key)))
    return True


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
