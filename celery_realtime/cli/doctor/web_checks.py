"""Look at a web server from outside, as a browser does."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import json
import os
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from celery_realtime.cli.doctor.context import Context
from celery_realtime.cli.doctor.findings import Finding, finding
from celery_realtime.cli.doctor.server_checks import skewed
from celery_realtime.clocks import time
from celery_realtime.logs import describe
from celery_realtime.urls import redact

#: An origin that no server names.
STRANGER = "https://celery-realtime-doctor.invalid"

#: How many requests of one polling client are made, each over a connection of its own.
POLLS = 8

#: The Date of an answer is in full seconds.
DATE_SKEW = 5.0

LOCAL = ("localhost", "127.0.0.1", "::1")


class Answer:
    """An answer of the web server.

    Args:
        response: As :mod:`http.client` has it.
        body: What it says.
    """

    def __init__(self, response: http.client.HTTPResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def opened(self) -> dict[str, Any] | None:
        """What Engine.IO says of a new connection, or None if this is no such answer."""
        if self.status != http.client.OK or not self.body.startswith(b"0{"):
            return None
        with contextlib.suppress(ValueError):
            found: dict[str, Any] = json.loads(self.body[1:].split(b"\x1e")[0])
            return found
        return None

    @property
    def refuses_polling(self) -> bool:
        """Whether Engine.IO answers, and takes WebSockets only."""
        return self.status == http.client.BAD_REQUEST and b"nvalid transport" in self.body


class Site:
    """A web server.

    Args:
        url: Its address.
        path: Where its Socket.IO server is.
        timeout: Longest wait for an answer, in seconds.
    """

    def __init__(self, url: str, path: str, timeout: float) -> None:
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.host = parts.hostname or ""
        self.is_encrypted = parts.scheme == "https"
        self._port = parts.port
        self.path = f"{parts.path.rstrip('/')}/{path}/"
        self._timeout = timeout

    def ask(self, query: str, *, body: str | None = None, **headers: str) -> Answer:
        """Make one request over a connection of its own.

        Args:
            query: What follows ``EIO=4`` in the query.
            body: What is posted, if anything.
            **headers: With underscores for hyphens.

        Raises:
            OSError, http.client.HTTPException: There is no answer.
        """
        if self.is_encrypted:
            context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self.host, self._port, timeout=self._timeout, context=context
            )
        else:
            connection = http.client.HTTPConnection(self.host, self._port, timeout=self._timeout)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", f"{self.path}?EIO=4&{query}", body, named)
            response = connection.getresponse()
            is_upgraded = response.status == http.client.SWITCHING_PROTOCOLS
            return Answer(response, b"" if is_upgraded else response.read(100_000))

    def poll(self, **headers: str) -> Answer:
        """Open a connection of Engine.IO by polling; as :meth:`ask`."""
        return self.ask("transport=polling", **headers)

    def upgrade(self, origin: str) -> Answer:
        """Ask for a WebSocket that may be compressed; as :meth:`ask`."""
        return self.ask(
            "transport=websocket",
            Origin=origin,
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key=base64.b64encode(os.urandom(16)).decode(),
            Sec_WebSocket_Extensions="permessage-deflate",
        )


def site_of(context: Context) -> Site:
    """Return the web server of a checkup."""
    assert context.url is not None
    return Site(context.url, context.path, context.patience)


def look_at_http(context: Context) -> Iterator[Finding]:
    """Look whether a Socket.IO server answers, and at its clock."""
    site = site_of(context)
    if not site.is_encrypted and site.host not in LOCAL:
        yield finding("no-tls")
    try:
        answer = site.poll()
    except (OSError, http.client.HTTPException) as error:
        yield finding("web-unreachable", f"{redact(context.url or '')} does not answer: {describe(error)}")
        return
    if answer.refuses_polling:
        yield finding("polling-off")
        return
    if answer.opened is None:
        start = answer.body[:80].decode(errors="replace")
        where = f"{redact(context.url or '')} at /{context.path}/"
        yield finding("web-not-socketio", f"{where} answers {answer.status}: {start!r}")
        return
    date = email.utils.parsedate_to_datetime(answer.headers["Date"]) if answer.headers["Date"] else None
    if date is not None and abs(date.timestamp() - time.time()) > DATE_SKEW:
        yield skewed(context.url or "", date.timestamp() - time.time())


def look_at_origins(context: Context) -> Iterator[Finding]:
    """Look which pages may connect."""
    site = site_of(context)
    origin = context.origin or site.origin
    answer = site.poll(Origin=origin)
    allowed = answer.headers.get_all("Access-Control-Allow-Origin") or []
    if answer.opened is None:
        yield finding(
            "cors-refused",
            f"pages of {origin} are refused: {answer.status} {answer.body[:80].decode(errors='replace')!r}",
        )
    if len(allowed) > 1:
        yield finding(
            "cors-twice", f"answers to pages of {origin} have Access-Control-Allow-Origin {len(allowed)} times"
        )
    if site.poll(Origin=STRANGER).opened is not None:
        yield finding("cors-open")


def look_at_websocket(context: Context) -> Iterator[Finding]:
    """Look whether a WebSocket can be had, and whether it is compressed."""
    site = site_of(context)
    polled = site.poll()
    if not polled.refuses_polling and "websocket" not in (polled.opened or {}).get("upgrades", ()):
        yield finding("no-upgrade")
        return
    answer = site.upgrade(context.origin or site.origin)
    if answer.status != http.client.SWITCHING_PROTOCOLS:
        yield finding("no-websocket", f"the request to upgrade is answered with {answer.status}")
    elif "permessage-deflate" in (answer.headers["Sec-WebSocket-Extensions"] or ""):
        yield finding("deflate")


def look_at_stickiness(context: Context) -> Iterator[Finding]:
    """Look whether all requests of a polling client reach the server that knows it."""
    site = site_of(context)
    opened = site.poll().opened or {}
    query = f"transport=polling&sid={opened.get('sid')}"
    answers = [site.ask(query, body="3", Content_Type="text/plain") for _ in range(POLLS)]  # a pong, which nobody minds
    lost = [answer for answer in answers if answer.status != http.client.OK]
    if lost:
        yield finding(
            "not-sticky", f"{len(lost)} of {POLLS} requests of one polling client were answered {lost[0].status}"
        )
