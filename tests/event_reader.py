"""A client of plain HTTP: it asks for JSON, and reads server-sent events as the HTML standard has it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from tests.waiting import PATIENCE, wait_for


class Sent(NamedTuple):
    """One event, as it came, and the position that a browser would come back with by then."""

    event: str
    data: Any
    id: str


class Reply(NamedTuple):
    """An answer that is no stream."""

    status: int
    headers: dict[str, str]
    content: Any

    @property
    def code(self) -> str | None:
        """That of a refusal."""
        return self.content["error"]["code"] if isinstance(self.content, dict) and not self.content["ok"] else None


def path_with(path: str, **query: Any) -> str:
    return f"{path}?{urlencode(query, doseq=True)}" if query else path


def _take_as_it_is(_name: str, _data: Any) -> None:
    """Hold what travels against nothing."""


class Checks:
    """What is done with all that comes: with events by their names, and with answers in JSON by the path."""

    event: Callable[[str, Any], None] = staticmethod(_take_as_it_is)
    reply: Callable[[str, Any], None] = staticmethod(_take_as_it_is)


def ask(url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Reply:
    """Send a request, and return the answer."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, f"{place.path}?{place.query}", headers=headers or {})
        answer = connection.getresponse()
        body = answer.read()
        said = {name.lower(): value for name, value in answer.getheaders()}
        reply = Reply(answer.status, said, json.loads(body) if "json" in said.get("content-type", "") else body)
        if reply.content is not body:
            Checks.reply(place.path, reply.content)
        return reply


class EventReader:
    """A stream of events, read in a thread.

    Args:
        url: What is asked for.
        headers: Of the request.
        receive_buffer: Bytes that the kernel takes of what is not read.
        reads: Whether it reads at once; else after :meth:`go_on`.

    Attributes:
        status, headers: Of the answer.
        events, comments, retries: What has come.
        has_ended: Whether the server has ended the stream.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        receive_buffer: int | None = None,
        reads: bool = True,
    ) -> None:
        self.events: list[Sent] = []
        self.comments = 0
        self.retries: list[int] = []
        self.has_ended = False
        self.last_id = ""
        place = urlsplit(url)
        self._socket = socket.socket()
        self._socket.settimeout(PATIENCE)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.connect((place.hostname, place.port))
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
        connection.sock = self._socket
        connection.request("GET", f"{place.path}?{place.query}", headers=headers or {})
        self._answer = connection.getresponse()
        self.status = self._answer.status
        self.headers = {name.lower(): value for name, value in self._answer.getheaders()}
        self._go_on = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        if reads:
            self.go_on()

    def go_on(self) -> None:
        """Read from now on."""
        self._go_on.set()

    def _read(self) -> None:
        self._go_on.wait()
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            for fields in self._blocks():
                self._take(fields)
        self.has_ended = True

    def _blocks(self) -> Iterator[dict[str, str]]:
        fields: dict[str, str] = {}
        while line := self._answer.readline():
            text = line.decode().removesuffix("\n")
            if not text:
                yield fields
                fields = {}
                continue
            name, _, value = text.partition(":")
            fields[name] = value.removeprefix(" ")

    def _take(self, fields: dict[str, str]) -> None:
        self.last_id = fields.get("id", self.last_id)
        if "" in fields:
            self.comments += 1
        if "retry" in fields:
            self.retries.append(int(fields["retry"]))
        if "data" in fields:
            sent = Sent(fields.get("event", "message"), json.loads(fields["data"]), self.last_id)
            self.events.append(sent)
            Checks.event(sent.event, sent.data)

    def of(self, event: str) -> list[Any]:
        """Return the data of all events of a name."""
        return [sent.data for sent in list(self.events) if sent.event == event]

    def wait(self, condition: Callable[[EventReader], Any]) -> Any:
        """Wait until something holds of what has come, and return it."""
        return wait_for(lambda: condition(self))

    def wait_for_event(self, event: str, count: int = 1) -> Any:
        """Wait until so many events of a name have come, and return the data of the last of these."""
        return self.wait(lambda reader: len(reader.of(event)) >= count and reader.of(event)[count - 1 : count])[0]

    def wait_for_end(self) -> None:
        """Wait until the server has ended the stream."""
        self.wait(lambda reader: reader.has_ended)

    def close(self) -> None:
        """Hang up."""
        self.go_on()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        with contextlib.suppress(OSError):
            self._answer.close()
            self._socket.close()
