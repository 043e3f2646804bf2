"""A WebSocket client that keeps to no rule: it sends what it is told to, and reads only when asked."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"

#: What a message takes of the sender's time if each byte is masked; a mask of zeros changes nothing.
NO_MASK = bytes(4)


def frame(opcode: int, payload: bytes, *, fin: bool = True, compressed: bool = False) -> bytes:
    """Return a frame, as a client sends it."""
    head = opcode | (0x80 if fin else 0) | (0x40 if compressed else 0)
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        length = bytes([0x80 | 127]) + struct.pack("!Q", size)
    return bytes([head]) + length + NO_MASK + payload


class Refused(Exception):
    """The server did not accept the WebSocket."""


class Raw:
    """One WebSocket.

    Args:
        url: The server, such as ``http://127.0.0.1:5000``.
        timeout: Seconds that a read or a write may take.
        deflate: Whether to offer permessage-deflate.
        receive_buffer: Bytes that the kernel keeps of what is not read, or None for its own choice.
        query: More of the query string.
        address: The address that it comes from, or None for the kernel's choice.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        deflate: bool = False,
        receive_buffer: int | None = None,
        query: str = "",
        address: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(timeout)
        if address is not None:
            self._socket.bind((address, 0))
        self._socket.connect((parts.hostname or "", parts.port or 80))
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n{DEFLATE if deflate else ''}\r\n".encode()
        )
        self._buffer = b""
        head = self._read_until(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise Refused(head.decode(errors="replace"))
        self.deflates = b"permessage-deflate" in head.lower()
        #: Called with the opcode and the payload of each control frame that is read.
        self.on_control: Callable[[int, bytes], Any] = lambda _opcode, _payload: None

    # -- sending ------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send these bytes."""
        self._socket.sendall(data)

    def text(self, message: str) -> None:
        """Send a message."""
        self.write(frame(TEXT, message.encode()))

    def bomb(self, size: int, *, head: bytes = b"4") -> bytes:
        """Return a frame that inflates to so many bytes."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(head + bytes(size)) + packer.flush(zlib.Z_SYNC_FLUSH)
        return frame(TEXT, packed[:-4], compressed=True)

    # -- reading ------------------------------------------------------------------------------------------------

    def messages(self) -> Iterator[str]:
        """Yield the messages that come, and answer Engine.IO's pings; end when the server has closed."""
        message = b""
        while True:
            head = self._read(2)
            size = head[1] & 127
            if size == 126:
                size = struct.unpack("!H", self._read(2))[0]
            elif size == 127:
                size = struct.unpack("!Q", self._read(8))[0]
            payload = self._read(size)
            opcode = head[0] & 15
            if opcode & 8:
                self.on_control(opcode, payload)
            if opcode == CLOSE:
                return
            if opcode in (TEXT, CONTINUATION):
                message += payload
                if head[0] & 0x80:
                    yield message.decode(errors="replace")
                    message = b""

    def wait_for(self, pattern: str) -> str:
        """Return the first message that a regular expression matches from its beginning."""
        for message in self.messages():
            if message == "2":
                self.text("3")
            if re.match(pattern, message):
                return message
        raise ConnectionError(f"closed before {pattern}")

    def enter(self, token: str) -> Raw:
        """Connect to the main namespace."""
        self.wait_for("0")
        self.text("40" + json.dumps({"token": token}))
        answer = self.wait_for("4[04]")
        if answer.startswith("44"):
            raise Refused(answer)
        return self

    def ask(self, event: str, data: Any, number: int = 1) -> str:
        """Send an event, and return its acknowledgement."""
        self.text(f"42{number}" + json.dumps([event, data]))
        return self.wait_for(f"43{number}")

    def is_closed(self, timeout: float) -> bool:
        """Return whether the server has closed within so many seconds; what it sends before is thrown away."""
        end = time.monotonic() + timeout
        with contextlib.suppress(TimeoutError):
            while (left := end - time.monotonic()) > 0:
                self._socket.settimeout(left)
                try:
                    if not self._socket.recv(65536):
                        return True
                except ConnectionError:
                    return True
        return False

    def close(self) -> None:
        """Close without a word."""
        self._socket.close()

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._fill()
        data, _, self._buffer = self._buffer.partition(end)
        return data

    def _fill(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("closed by the server")
        self._buffer += data


def http(url: str, request: bytes, *, timeout: float = 30.0) -> socket.socket:
    """Open a connection and send a request, or the beginning of one."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout)
    connection.sendall(request)
    return connection


class Polling:
    """A polling session, each of whose requests has a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        #: Its Engine.IO session id.
        self.sid = handshake(url)

    def get(self) -> socket.socket:
        """Begin to poll."""
        return http(self._url, self._head("GET") + b"\r\n")

    def begin_post(self, size: int) -> socket.socket:
        """Begin to send a body of so many bytes."""
        return http(self._url, self._head("POST") + b"Content-Length: %d\r\n\r\n" % size)

    def post(self, body: str) -> bytes:
        """Send packets, and return the beginning of what is answered."""
        with self.begin_post(len(body)) as connection:
            connection.sendall(body.encode())
            return connection.recv(4096)

    def _head(self, method: str) -> bytes:
        path = f"/socket.io/?EIO=4&transport=polling&sid={self.sid}"
        return f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()


def handshake(url: str) -> str:
    """Begin a polling session, and return its Engine.IO session id."""
    with http(
        url, b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ) as asked:
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while data := asked.recv(65536):
                answer += data
                if b"}" in data:
                    break
    found = re.search(rb'"sid":"([^"]+)"', answer)
    if found is None:
        raise Refused(answer.decode(errors="replace")[:200])
    return found[1].decode()
