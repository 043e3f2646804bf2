"""Browsers that read what they are told when a test lets them, over raw WebSockets with small buffers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import websocket

#: Bytes that the kernel keeps for a browser that does not read.
BUFFER = 4096


class SlowBrowser:
    """Subscribes to a project, and reads nothing more until it is told to.

    Args:
        url: The web server.
        token: Opens the project.
        project: The project.
        batch: Whether events come as lists.
    """

    def __init__(self, url: str, token: str, project: str, *, batch: bool = False) -> None:
        self.events: list[tuple[str, Any]] = []
        self.closed = False
        self._socket = websocket.create_connection(
            f"{url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket",
            sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)],
            timeout=10,
        )
        self._socket.send("40" + json.dumps({"token": token}))
        self._socket.send("420" + json.dumps(["subscribe_project", {"project_id": project, "batch": batch}]))
        self._answer: dict[str, Any] | None = None
        self.read_until(lambda: self._answer is not None)
        assert self._answer is not None
        assert self._answer["ok"], self._answer

    def read_until(self, condition: Callable[[], Any], *, timeout: float = 20.0) -> None:
        """Read until something is so, or the server has hung up."""
        deadline = time.monotonic() + timeout
        while not condition() and not self.closed:
            assert time.monotonic() < deadline, f"read for {timeout:g} s in vain, after {self.events[-1:]}"
            self._read()

    def read_to_the_end(self, *, timeout: float = 20.0) -> None:
        """Read until the server has hung up."""
        self.read_until(lambda: self.closed, timeout=timeout)

    def of(self, event: str) -> list[Any]:
        """Return the data of each event of that name."""
        return [data for name, data in self.events if name == event]

    def close(self) -> None:
        self._socket.close(timeout=0.1)

    def _read(self) -> None:
        try:
            packet = self._socket.recv()
        except (websocket.WebSocketConnectionClosedException, OSError):
            packet = ""
        if packet == "":
            self.closed = True
        elif packet == "2":
            self._socket.send("3")
        elif packet.startswith("42"):
            event, data = json.loads(packet[2:])
            self.events += [(one["event"], one["data"]) for one in data] if event == "agent_batch" else [(event, data)]
        elif packet.startswith("43"):
            self._answer = json.loads(packet[packet.index("[") :])[0]
