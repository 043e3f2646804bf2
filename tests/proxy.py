"""A TCP proxy in the test's own process, whose connections break in every way that a network's do."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.processes import HOST, free_port

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

TURN = 0.02
CHUNK = 65536

_delays = random.Random()


class Proxy:
    """Stands between a client and a server, and passes on what they say until it is told not to.

    Args:
        url: The server's address.
        delay: Longest time, in seconds, that anything is on its way. Each connection keeps its order; two do not.

    Attributes:
        url: The address to connect to instead.
        accepted: How many connections have been made.
        round_trips: How often a client has spoken that had not asked yet, or had been answered, on any connection.
    """

    def __init__(self, url: str, delay: float = 0.0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._held: list[socket.socket] = []
        self._delay = delay
        self._on_the_way: dict[socket.socket, list[tuple[float, bytes]]] = {}
        self._lock = threading.RLock()
        self._stalled: set[socket.socket] = set()
        self._black_hole = False
        self._ended = False
        self.accepted = 0
        self.round_trips = 0
        #: The ends towards clients, and whether each has spoken since the server did.
        self._is_asking: dict[socket.socket, bool] = {}
        self._listener: socket.socket | None = None
        self.port = self._listen(free_port())  # which it has again after it was closed
        self.url = url.replace(f":{parts.port}", f":{self.port}", 1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()

    def _listen(self, port: int) -> int:
        self._listener = socket.create_server((HOST, port))
        self._listener.setblocking(False)
        return int(self._listener.getsockname()[1])

    # -- outages ------------------------------------------------------------------------------------------------

    def refuse(self) -> None:
        """Cut all connections, and refuse new ones: the server was killed."""
        with self._lock:
            if self._listener is not None:
                # A select() that waits for it would hold the port for a while.
                self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
                self._listener = None
            self._cut()

    def black_hole(self) -> None:
        """Cut all connections; accept new ones, and never say a word on them."""
        with self._lock:
            self._black_hole = True
            self._cut()

    def stall(self, *, new: bool = True) -> None:
        """Keep all connections, and pass nothing on any more: the network lost the way, and nobody was told.

        Args:
            new: Whether new connections get nowhere either.
        """
        with self._lock:
            self._stalled = set(self._pairs)
            self._black_hole = new

    def heal(self) -> None:
        """Pass on whatever comes; connections that were stalled stay so, or are cut when they speak."""
        with self._lock:
            self._black_hole = False
            for held in self._held:
                held.close()
            self._held.clear()
            if self._listener is None:
                self._listen(self.port)

    def resume(self) -> None:
        """Let stalled connections go on where they were."""
        with self._lock:
            self._stalled.clear()
        self.heal()

    def close(self) -> None:
        """End the proxy."""
        self._ended = True
        self._thread.join(60)
        self.refuse()
        for held in self._held:
            held.close()

    def _cut(self) -> None:
        for one in self._pairs:
            one.close()
        self._pairs.clear()
        self._is_asking.clear()
        self._on_the_way.clear()
        self._stalled.clear()

    # -- passing on ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended:
            with self._lock:
                listener = self._listener
                waiting = [one for one in self._pairs if one not in self._stalled]
            self._turn(([listener] if listener else []) + waiting, listener)

    def _turn(self, watched: list[socket.socket], listener: Any) -> None:
        if not watched:
            threading.Event().wait(TURN)
            return
        try:
            ready, _, _ = select.select(watched, [], [], 0.002 if self._on_the_way else TURN)
        except (OSError, ValueError):  # closed meanwhile
            return
        with self._lock:
            self._deliver()
            for one in ready:
                if one is listener:
                    self._accept(listener)
                elif one in self._pairs and one not in self._stalled:
                    self._pass_on(one)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        self.accepted += 1
        if self._black_hole:
            self._held.append(client)
            return
        try:
            server = socket.create_connection(self._target, timeout=60)
        except OSError:
            client.close()
            return
        self._is_asking[client] = False
        for one, other in ((client, server), (server, client)):
            one.setblocking(True)
            self._pairs[one] = other

    def _pass_on(self, one: socket.socket) -> None:
        other = self._pairs[one]
        with contextlib.suppress(OSError):
            data = one.recv(CHUNK)
            if data:
                self._count(one, other)
            if data and self._delay:
                due = time.monotonic() + _delays.uniform(0, self._delay)
                self._on_the_way.setdefault(other, []).append((due, data))
                return
            if data:
                other.sendall(data)
                return
        for end in (one, other):
            self._pairs.pop(end, None)
            self._is_asking.pop(end, None)
            self._on_the_way.pop(end, None)
            end.close()

    def _count(self, one: socket.socket, other: socket.socket) -> None:
        if one in self._is_asking:
            self.round_trips += not self._is_asking[one]
            self._is_asking[one] = True
        else:
            self._is_asking[other] = False

    def _deliver(self) -> None:
        """Pass on what has been on its way for long enough; nothing overtakes what was said before it."""
        clock = time.monotonic()
        for other, waiting in list(self._on_the_way.items()):
            while waiting and waiting[0][0] <= clock:
                with contextlib.suppress(OSError):
                    other.sendall(waiting.pop(0)[1])
            if not waiting:
                del self._on_the_way[other]
