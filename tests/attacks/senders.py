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

#: Beginnings of requests of a polling session, and what comes of their bodies again and again.
HEAD = "{} /socket.io/?EIO=4&transport=polling&sid={} HTTP/1.1\r\nHost: x\r\n"
CHUNKED, LONG_BODY = "Transfer-Encoding: chunked\r\n\r\n", "Content-Length: 1000000000000\r\n\r\n"
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
SIZE = 32 * 1024
BYTES = b"4" * SIZE
CHUNK = b"%x\r\n%s\r\n" % (SIZE, BYTES)
ENDLESS_BODIES = {
    **{f"{method} in chunks": (HEAD.format(method, "SID") + CHUNKED, CHUNK) for method in ("POST", "OPTIONS", "PUT")},
    **{f"{method} with length": (HEAD.format(method, "SID") + LONG_BODY, BYTES) for method in ("POST", "OPTIONS")},
    "GET of nobody": (HEAD.format("GET", "nobody") + LONG_BODY, BYTES),
    "of nobody": (HEAD.format("POST", "nobody") + CHUNKED, CHUNK),
    "upgrade": (HEAD.format("GET", "SID").replace("polling", "websocket") + UPGRADE + CHUNKED, CHUNK),
    "expect": (HEAD.format("POST", "SID") + "Expect: 100-continue\r\n" + LONG_BODY, BYTES),
    "extension of a chunk": (HEAD.format("POST", "SID") + CHUNKED + "5;", BYTES),
    "trailers": (HEAD.format("POST", "SID") + CHUNKED + "0\r\n", b"X: y\r\n" * 100),
}

#: What is not taken from clients with a token either.
AFTER = [attachment, attachments_of_another_namespace, loose_bytes, no_packet, an_object]
