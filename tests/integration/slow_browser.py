"""Browsers that read what they are told when a test lets them, over raw WebSockets with small buffers."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import websocket

from tests.waiting import PATIENCE

#: Bytes that the kernel keeps for a browser that does not read.
BUFFER = 4096


class SlowBrowser:
    """Subscribes to a project, and reads nothing more until it is told to.

    Args:
        url: The web server.
        token: Opens the project.
        project: The project.
        batch: Whether events come as lists.
        polls_first: Whether it begins by polling, as socket.io-client does.
    """

    def __init__(self, url: str, token: str, project: str, *, batch: bool = False, polls_first: bool = False) -> None:
        self.events: list[tuple[str, Any]] = []
        self.answers: dict[int, dict[str, Any]] = {}
        self.closed = False
        session = f"&sid={_poll(url)}" if polls_first else ""
        self._socket = websocket.create_connection(
            f"{url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket{session}",
            sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)],
            timeout=PATIENCE,
        )
        if polls_first:
            self._socket.send("2probe")
            assert self._socket.recv() == "3probe"
            self._socket.send("5")
        self._socket.send("40" + json.dumps({"token": token}))
        self.ask(0, "subscribe_project", {"project_id": project, "batch": batch})
        self.read_until(lambda: self.answers)
        assert self.answers[0]["ok"], self.answers

    def ask(self, number: int, request: str, data: Any) -> None:
        """Ask for something, and do not wait for the answer."""
        self._socket.send(f"42{number}" + json.dumps([request, data]))

    def answer(self, request: str, data: Any) -> dict[str, Any]:
        """Ask for something, and read until it is answered."""
        number = len(self.answers)
        self.ask(number, request, data)
        self.read_until(lambda: number in self.answers)
        return self.answers[number]

    def read_until(self, condition: Callable[[], Any], *, timeout: float = PATIENCE) -> None:
        """Read until something is so, or the server has hung up."""
        deadline = time.monotonic() + timeout
        while not condition() and not self.closed:
            assert time.monotonic() < deadline, f"read for {timeout:g} s in vain, after {self.events[-1:]}"
            self._read()

    def read_to_the_end(self, *, timeout: float = PATIENCE) -> None:
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
            number, bracket, answer = packet[2:].partition("[")
            self.answers[int(number)] = json.loads(bracket + answer)[0]


def _poll(url: str) -> str:
    """Begin a session by polling, and return its id."""
    with urllib.request.urlopen(f"{url}/socket.io/?EIO=4&transport=polling", timeout=60) as answer:
        opened = json.loads(answer.read()[1:])
    return str(opened["sid"])
