"""Reach what kombu and py-amqp keep of a connection that is written to, and have no public way to.

Each function says why it is needed, with which version it was seen to work, and what happens when the thing is gone.
tests/test_kombu_seams.py fails then.
"""

from __future__ import annotations

from collections.abc import Callable
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
