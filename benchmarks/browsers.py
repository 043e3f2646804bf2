"""Many browsers in one process: WebSockets with no more of the protocol than it takes to follow a project."""

from __future__ import annotations

import base64
import collections
import json
import os
import selectors
import socket
import time
import zlib
from collections.abc import Sequence
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

#: In each event, and before when it was sent: so it can be found without parsing.
MARK = b'"message":"'


def _connected(address: tuple[str, int]) -> socket.socket:
    """Connect to a server that may not have begun to listen."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(address, timeout=60)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Browser:
    """One WebSocket.

    Args:
        address: The host and the port of the server.
        token: Goes into the ``auth`` object.
        project: What it follows.
    """

    def __init__(self, address: tuple[str, int], token: str, project: str) -> None:
        self.socket = _connected(address)
        self.events = 0
        #: By event name, how long each event took, in seconds.
        self.took: dict[str, list[float]] = collections.defaultdict(list)
        self._buffer = b""
        self._shake_hands()
        self._send("40" + json.dumps({"token": token}))
        self._read_until(b"40{")
        self._send("420" + json.dumps(["subscribe_project", {"project_id": project}]))
        self._read_until(b"430[")
        self.socket.setblocking(False)

    def _shake_hands(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        ]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._receive()
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        assert b" 101 " in head, head
        self._inflate = zlib.decompressobj(wbits=-15) if b"permessage-deflate" in head.lower() else None

    def _receive(self) -> bytes:
        data = self.socket.recv(262144)
        assert data, "the server hung up"
        return data

    def _send(self, text: str) -> None:
        payload, mask = text.encode(), os.urandom(4)
        size = len(payload)
        head = bytes([0x81, 0x80 | size]) if size < 126 else bytes([0x81, 0xFE, size >> 8, size & 255])
        self.socket.sendall(head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload)))

    def _read_until(self, start: bytes) -> None:
        while True:
            for message in self._messages():
                if message.startswith(start):
                    return
            self._buffer += self._receive()

    def read(self) -> None:
        """Read what has come."""
        self._buffer += self._receive()
        now = time.monotonic()
        for message in self._messages():
            place = message.find(MARK)
            if message == b"2":
                self._send("3")
            elif place > 0:
                name, sent = message.split(b'"', 2)[1].decode(), message[place + len(MARK) :].partition(b'"')[0]
                self.took[name].append(now - float(sent))
                self.events += 1

    def _messages(self) -> list[bytes]:
        """Take the whole messages of text in the buffer; servers of ours and of python-socketio send no fragments."""
        data, messages, at = self._buffer, [], 0
        while len(data) - at >= 2:
            first, size, begin = data[at], data[at + 1], at + 2
            if size == 126:
                size, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, begin = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if len(data) < begin + size or begin > len(data):
                break
            payload, at = data[begin : begin + size], begin + size
            if first & 0x40 and self._inflate is not None:
                payload = self._inflate.decompress(payload + b"\x00\x00\xff\xff")
            if first & 0x0F == 1:
                messages.append(payload)
            elif first & 0x0F == 9:
                self.socket.sendall(
                    bytes([0x8A, 0x80 | len(payload)]) + bytes(4) + payload
                )  # RFC 6455: the same payload
        self._buffer = data[at:]
        return messages


def browse(pipe: Connection, url: str, tokens: Sequence[tuple[str, str]], count: int) -> None:
    """Be many browsers: when asked for a number, wait until each has got so many events, or until asked for less.

    The answer is the time, and by event name how long each event took.

    Args:
        pipe: From where it is asked.
        url: The server.
        tokens: Projects, each with a token for it; the browsers are dealt out to them.
        count: How many browsers.
    """
    address = urlsplit(url)
    where = (str(address.hostname), int(address.port or 80))
    browsers: list[Browser] = []
    selector = selectors.DefaultSelector()
    for number in range(count):
        project, token = tokens[number % len(tokens)]
        browsers.append(Browser(where, token, project))
        selector.register(browsers[-1].socket, selectors.EVENT_READ, browsers[-1])
        for key, _ in selector.select(0):
            key.data.read()
    selector.register(pipe, selectors.EVENT_READ)
    pipe.send("ready")
    wanted: int | None = None
    while True:
        for key, _ in selector.select():
            if key.data is None:
                wanted = pipe.recv()
            else:
                key.data.read()
        if wanted is not None and all(browser.events >= wanted for browser in browsers):
            wanted = None
            pipe.send((time.monotonic(), _taken(browsers)))


def _taken(browsers: list[Browser]) -> dict[str, list[float]]:
    """Take from browsers how long the events took, by their names."""
    took: dict[str, list[float]] = collections.defaultdict(list)
    for browser in browsers:
        for name, seconds in browser.took.items():
            took[name] += seconds
        browser.events, browser.took = 0, collections.defaultdict(list)
    return dict(took)
