"""What no server should take from a connection, each as a function that sends it once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from celery_realtime.web.budgets import MOST_CONNECTS
from tests.attacks.raw import BINARY, CONTINUATION, TEXT, Raw, frame

LONG = 2_000_000
Send = Callable[[Raw], None]


def endless_message(connection: Raw) -> None:
    connection.write(frame(TEXT, b"4", fin=False))
    for _ in range(LONG // 8192):
        connection.write(frame(CONTINUATION, b"x" * 8192, fin=False))


def endless_frame(connection: Raw) -> None:
    connection.write(bytes([TEXT | 0x80, 0x80 | 127]) + (1 << 30).to_bytes(8, "big") + bytes(4))
    for _ in range(LONG // 8192):
        connection.write(b"4" * 8192)


def empty_fragments(connection: Raw) -> None:
    connection.write(frame(TEXT, b"4", fin=False))
    for _ in range(200):
        connection.write(frame(CONTINUATION, b"", fin=False) * 500)


def long_namespace(connection: Raw) -> None:
    connection.text("40/" + "n" * 30_000 + ",")


def many_namespaces(connection: Raw) -> None:
    for number in range(100):
        connection.text(f"40/{number},")


def bad_tokens(connection: Raw) -> None:
    for _ in range(MOST_CONNECTS + 5):
        connection.text('40{"token":"bad"}')


def attachment(connection: Raw) -> None:
    connection.text('451-["subscribe_project",{"_placeholder":true,"num":0}]')


def attachments_of_another_namespace(connection: Raw) -> None:
    connection.text('45999-/other,["file",{"_placeholder":true,"num":0}]')


def loose_bytes(connection: Raw) -> None:
    connection.write(frame(BINARY, b"x" * 1000))


def no_packet(connection: Raw) -> None:
    connection.text("hello")


def an_object(connection: Raw) -> None:
    connection.text('4{"a":1}')


def many_packets(connection: Raw) -> None:
    for _ in range(20):
        connection.write(frame(TEXT, b"3") * 500)


def sent(connection: Raw, send: Send) -> None:
    """Send, as long as the server reads."""
    with contextlib.suppress(OSError):
        send(connection)


BEFORE = [
    *(endless_message, endless_frame, empty_fragments, long_namespace, many_namespaces, bad_tokens, attachment),
    *(loose_bytes, no_packet, an_object, many_packets),
]

#: What is not taken from clients with a token either.
AFTER = [attachment, attachments_of_another_namespace, loose_bytes, no_packet, an_object]
