"""A lossy proxy does to events what it is asked to, by its seed, and leaves the rest alone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celery_realtime.testing import LossyProxy

EVENT = '42["agent_progress",{"n":%d}]'


class Peer:
    """A server that shakes hands for a WebSocket and then says what it is told to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heads: list[bytes] = []
        self._ends: list[socket.socket] = []

    def accept(self) -> socket.socket:
        end, _ = self._listener.accept()
        end.settimeout(60)
        self._ends.append(end)
        self.heads.append(read_head(end))
        end.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
        return end

    def close(self) -> None:
        for end in [*self._ends, self._listener]:
            end.close()


def read_head(end: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = end.recv(1)
        assert data, "the connection ended"
        head += data
    return head


def frame(text: str) -> bytes:
    payload = text.encode()
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + payload
    return struct.pack("!BBH", 0x81, 126, size) + payload


def read_frames(end: socket.socket, last: str) -> list[str]:
    """Return what comes, up to a text."""
    texts: list[str] = []
    stream = end.makefile("rb")
    while not texts or texts[-1] != last:
        head = stream.read(2)
        assert len(head) == 2, f"the connection ended after {texts}"
        size = head[1]
        if size == 126:
            size = struct.unpack("!H", stream.read(2))[0]
        texts.append(stream.read(size).decode())
    return texts


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@contextlib.contextmanager
def joined(peer: Peer, proxy: LossyProxy) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect a client through a proxy; gives its end and the server's."""
    port = int(proxy.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        key = base64.b64encode(b"0123456789abcdef").decode()
        client.sendall(
            f"GET /socket.io/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate\r\nConnection: Upgrade\r\n\r\n".encode()
        )
        server = peer.accept()
        assert b"101" in read_head(client)
        yield client, server


def numbers(texts: list[str]) -> list[int]:
    return [int(text.partition('"n":')[2].partition("}")[0]) for text in texts if text.startswith("42")]


def told(peer: Peer, count: int, **chances: Any) -> list[int]:
    """Return which of so many events a client hears."""
    with LossyProxy(peer.url, **chances) as proxy, joined(peer, proxy) as (client, server):
        for n in range(count):
            server.sendall(frame(EVENT % n))
        server.sendall(frame("3end"))
        return numbers(read_frames(client, "3end"))


def test_by_itself_it_changes_nothing(peer: Peer) -> None:
    with LossyProxy(peer.url) as proxy, joined(peer, proxy) as (client, server):
        texts = ["0{}", EVENT % 1, '42/shop,["a",1]', '430[{"ok":true}]', "2", EVENT % 2 + " " * 300, "3end"]
        for text in texts:
            server.sendall(frame(text))
        assert read_frames(client, "3end") == texts
        client.sendall(b"whatever a client says")
        assert server.recv(100) == b"whatever a client says"
        assert proxy.counts["passed"] == 3
    assert b"permessage-deflate" not in peer.heads[0]
    assert b"Connection: Upgrade" in peer.heads[0]


def test_events_are_dropped_by_the_seed(peer: Peer) -> None:
    heard = told(peer, 200, drop=0.5, seed=7)
    assert 50 < len(heard) < 150
    assert heard == sorted(set(heard))
    assert heard == told(peer, 200, drop=0.5, seed=7)
    assert heard != told(peer, 200, drop=0.5, seed=8)
    assert told(peer, 20, drop=1) == []


def test_answers_are_never_dropped(peer: Peer) -> None:
    with LossyProxy(peer.url, drop=1, duplicate=1, reorder=1) as proxy, joined(peer, proxy) as (client, server):
        for text in ('0{"sid":"x"}', '40{"sid":"y"}', '431[{"ok":true}]', EVENT % 1, '421["asks"]', "3end"):
            server.sendall(frame(text))
        assert read_frames(client, "3end") == [
            *('0{"sid":"x"}', '40{"sid":"y"}', '431[{"ok":true}]', '421["asks"]', "3end")
        ]


def test_events_come_twice(peer: Peer) -> None:
    assert told(peer, 3, duplicate=1) == [0, 0, 1, 1, 2, 2]


def test_events_overtake_each_other(peer: Peer) -> None:
    heard = told(peer, 100, reorder=0.3, seed=3)
    assert sorted(heard)[:99] == list(range(99))  # the last may wait for another
    assert heard != sorted(heard)


def test_a_delayed_event_keeps_its_place(peer: Peer) -> None:
    assert told(peer, 50, delay=0.01) == list(range(50))


def test_connections_are_cut_and_others_are_accepted(peer: Peer) -> None:
    with LossyProxy(peer.url, cut=1) as proxy:
        with joined(peer, proxy) as (client, server):
            server.sendall(frame(EVENT % 1))
            with contextlib.suppress(ConnectionError):
                while client.recv(100):
                    pass
        proxy.heal()
        with joined(peer, proxy) as (client, server):
            server.sendall(frame(EVENT % 2) + frame("3end"))
            assert numbers(read_frames(client, "3end")) == [2]
            proxy.cut()
            with contextlib.suppress(ConnectionError):
                while client.recv(100):
                    pass
    assert proxy.counts["accepted"] == 2
    assert proxy.counts["cut"] in (2, 3)  # healing cuts the first one once more, if it is not gone by then


def test_what_is_no_web_socket_goes_through(peer: Peer) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + head[:5])
        await writer.drain()
        writer.close()

    async def ask() -> bytes:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with LossyProxy(f"http://127.0.0.1:{port}", drop=1) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
            writer.write(b"POST /jobs HTTP/1.1\r\n\r\n")
            data = await reader.read()
            writer.close()
        server.close()
        return data

    assert asyncio.run(ask()).endswith(b"\r\n\r\nPOST ")


@pytest.mark.parametrize("chances", [{"drop": 1.5}, {"duplicate": -0.1}, {"delay": -1}])
def test_a_chance_is_from_0_to_1(chances: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(chances))} must be"):
        LossyProxy("http://127.0.0.1:1", **chances)  # type: ignore[arg-type]


def test_it_stands_in_front_of_http() -> None:
    with pytest.raises(ValueError, match="http://"):
        LossyProxy("https://127.0.0.1:1")


def test_it_leaves_no_thread(peer: Peer) -> None:
    proxy = LossyProxy(peer.url)
    assert any(thread.name == "lossy-proxy" for thread in threading.enumerate())
    proxy.close()
    proxy.close()
    assert not any(thread.name == "lossy-proxy" for thread in threading.enumerate())
