"""What breaks a server's log: packets, HTTP and endings that nobody can read, each sent many times.

Each function sends one of its kind; an error is what the server does about it, and no matter.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from tests.attacks.raw import BINARY, CLOSE, CONTINUATION, TEXT, Polling, Raw, Refused, frame, http

Flood = Callable[[str, str], None]
GONE = (OSError, Refused)

BROKEN_PACKETS = [
    *(
        "4",
        "4x",
        "42[",
        "42{}",
        '42["a",',
        "47",
        "40{",
        "42[1]",
        '42[{"a":1}]',
        "42" + "[" * 5000,
        "40/x",
        "41",
        "43[]",
    ),
    *("5", "6", "7hello", "x", "b", "bAAAA", "b!!!", "2probe", "3", "40" + "[" * 5000, '431["x"]', "430", "451-[]"),
    *('46-["x"]', '451-["x",{"_placeholder":true}]', '42["connect"]', '42["disconnect"]', '42999999999999999999["x"]'),
]
HEAD = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n"
UPGRADE = (
    "GET /socket.io/?EIO=4&transport=websocket{} HTTP/1.1\r\nHost: x\r\n"
    "Upgrade: websocket\r\nConnection: Upgrade\r\n{}\r\n"
)
KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

BROKEN_REQUESTS: list[bytes] = [
    b"\r\n\r\n",
    b"hello\r\n\r\n",
    b"GET\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /socket.io/ HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET /socket.io/ HTTP/1.1\r\n\r\n",
    b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /socket.io/?EIO=4&transport=polling\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /socket.io/%ff%fe?EIO=4 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /socket.io/?EIO=4&transport=polling&j=x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /socket.io/?EIO=4&transport=polling&j=1%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /socket.io/?EIO=x&transport=none HTTP/1.1\r\nHost: x\r\n\r\n",
    (HEAD + "X: " + "y" * 200_000 + "\r\n\r\n").encode(),
    (HEAD + "".join(f"X-{number}: y\r\n" for number in range(2000)) + "\r\n").encode(),
    HEAD.encode() + b"X: \xff\xfe\xe9\r\n\r\n",
    HEAD.encode() + b"\xff: x\r\n\r\n",
    HEAD.encode() + b"X: a\x00b\r\n\r\n",
    HEAD.encode() + b"Cookie: \xff\xfe\r\nOrigin: \xff://[\r\n\r\n",
    HEAD.encode() + b"Origin: http://[\r\nX-Forwarded-Proto: \xe9\r\nX-Forwarded-Host: \xe9\r\n\r\n",
    HEAD.encode() + b"Accept-Encoding: \xff, gzip;q=x\r\n\r\n",
    HEAD.encode() + b"Access-Control-Request-Headers: a\r\n b\r\n\r\n",
    HEAD.encode() + b"Transfer-Encoding: nonsense\r\n\r\n",
    HEAD.encode() + b"Content-Length: -5\r\n\r\n",
    HEAD.encode() + b"Content-Length: 5x\r\n\r\n",
    HEAD.encode() + b"Content-Length: 99999999999999999999999\r\n\r\n",
    HEAD.encode() + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    HEAD.replace("GET", "BREW").encode() + b"\r\n",
    HEAD.replace("GET", "OPTIONS").encode() + b"\r\n",
    HEAD.replace("GET", "HEAD").encode() + b"\r\n",
    HEAD.replace("GET", "PUT").encode() + b"Content-Length: 3\r\n\r\nabc",
    UPGRADE.format("", "").encode(),  # without a key
    UPGRADE.format("", "Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 99\r\n").encode(),
    UPGRADE.format("", "Sec-WebSocket-Version: 13\r\n" + KEY + KEY).encode(),
    UPGRADE.format("&sid=nobody", "Sec-WebSocket-Version: 13\r\n" + KEY).encode(),
    UPGRADE.format("\xe9", "Sec-WebSocket-Version: 13\r\nX: \xe9\r\n" + KEY).encode("latin-1"),
    UPGRADE.format("", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: \xe9,,\r\n" + KEY).encode("latin-1"),
    UPGRADE.format(
        "", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate; a=\r\n" + KEY
    ).encode(),
    UPGRADE.format("", "Sec-WebSocket-Version: 13\r\nOrigin: http://evil.example\r\n" + KEY).encode(),
    UPGRADE.replace("GET", "POST").format("", "Sec-WebSocket-Version: 13\r\n" + KEY).encode(),
    UPGRADE.replace("websocket", "h2c").format("", "HTTP2-Settings: x\r\n").encode(),
    UPGRADE.replace("transport=websocket", "transport=polling")
    .format("", "Sec-WebSocket-Version: 13\r\n" + KEY)
    .encode(),
]

BROKEN_FRAMES: list[bytes] = [
    frame(TEXT, b"4\xff\xfe"),
    frame(TEXT, b"4\xc3", fin=False) + frame(CONTINUATION, b"\x28"),
    frame(TEXT, b"4", fin=False) + frame(TEXT, b"4"),
    frame(CONTINUATION, b"x"),
    frame(11, b"x"),
    frame(3, b"x"),
    frame(CLOSE, b"\x00"),
    frame(CLOSE, struct.pack("!H", 999)),
    frame(CLOSE, struct.pack("!H", 1000) + b"\xff\xfe"),
    frame(9, b"x" * 126),
    frame(TEXT, b"4x", compressed=True),
    b"\x81\x05hello",  # no mask
    b"\xff" * 100,
    b"GET / HTTP/1.1\r\n\r\n",
    frame(TEXT, b""),
    frame(BINARY, b""),
    frame(BINARY, b"\xff"),
    b"\x81\xff" + b"\xff" * 8,
]

BROKEN_BODIES = [b"\xff\xfe", b"4\xff", b"\x1e" * 50, b"", b"b!!!", b"d=4", b"4" + b"[" * 5000, b"x", b"\xe9" * 20]


def connect(token: str) -> str:
    """Return the packet that shows a token."""
    return "40" + json.dumps({"token": token})


def broken_packets(url: str, token: str) -> None:
    """Packets that are none, each on a connection with a token."""
    for packet in BROKEN_PACKETS:
        with _closing(Raw(url).enter(token)) as connection:
            connection.text(packet)
            connection.is_closed(0.05)


def broken_packets_without_token(url: str, _token: str) -> None:
    for packet in BROKEN_PACKETS:
        with _closing(Raw(url)) as connection:
            connection.text(packet)
            connection.is_closed(0.02)


def broken_frames(url: str, token: str) -> None:
    for data, has_token in itertools.product(BROKEN_FRAMES, (True, False)):
        with _closing(Raw(url)) as connection:
            if has_token:
                connection.enter(token)
            connection.write(data)
            connection.is_closed(0.05)


def broken_requests(url: str, _token: str) -> None:
    for request in BROKEN_REQUESTS:
        with contextlib.suppress(OSError), http(url, request, timeout=0.2) as connection:
            connection.recv(1000)


def broken_bodies(url: str, token: str) -> None:
    for body in BROKEN_BODIES:
        with contextlib.suppress(*GONE):
            session = Polling(url)
            session.post(connect(token))
            with session.begin_post(len(body)) as connection:
                connection.settimeout(0.2)
                connection.sendall(body)
                connection.recv(1000)


def false_lengths(url: str, token: str) -> None:
    """Bodies that end before they have come, and chunks that are none."""
    for head in (
        "Content-Length: x",
        "Content-Length: -1",
        "Transfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
    ):
        with contextlib.suppress(*GONE):
            sid = Polling(url).sid
            request = f"POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\nzz\r\n"
            with http(url, request.encode(), timeout=0.2) as connection:
                connection.recv(1000)


def abrupt_ends(url: str, token: str) -> None:
    """Resets in the midst of whatever goes on."""
    with contextlib.suppress(*GONE):
        connection = Raw(url).enter(token)
        connection.write(frame(TEXT, b"4" + b"x" * 5000)[:100])
        _reset(connection._socket)
        connection = Raw(url)
        connection.text(connect(token))
        _reset(connection._socket)
        connection = Raw(url).enter(token)
        for number in range(20):
            connection.text(f'42{number}["subscribe_project",{{"project_id":"alpha"}}]')
        _reset(connection._socket)
        session = Polling(url)
        session.post(connect(token))
        _reset(session.get())
        _reset(session.begin_post(5000))
        parts = urlsplit(url)
        for text in ("", "GET ", HEAD, HEAD + "\r\n", UPGRADE.format("", "Sec-WebSocket-Version: 13\r\n" + KEY)):
            plain = socket.create_connection((parts.hostname or "", parts.port or 80), 5)
            plain.sendall(text.encode())
            _reset(plain)


def raising_handlers(url: str, token: str) -> None:
    """Events at which the application's own handlers raise, with and without an acknowledgement."""
    with contextlib.suppress(*GONE), _closing(Raw(url).enter(token)) as connection:
        for number in range(10):
            connection.text(f'42["raise","{number}"]')
            connection.text(f'42{number}["raise","{number}"]')
            connection.text(f"40/raising,{number}" if number < 3 else '42["too_few"]')
        connection.is_closed(0.1)


FLOODS: dict[str, Flood] = {
    flood.__name__: flood
    for flood in (
        *(broken_packets, broken_packets_without_token, broken_frames, broken_requests, broken_bodies, false_lengths),
        *(abrupt_ends, raising_handlers),
    )
}


@contextlib.contextmanager
def _closing(connection: Raw) -> Iterator[Raw]:
    with contextlib.suppress(*GONE):
        try:
            yield connection
        finally:
            connection.close()


def _reset(connection: socket.socket) -> None:
    """Close a connection so that the other side has an error."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
