"""Make the answers to requests of plain HTTP: their status, headers and JSON."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from celery_realtime.exceptions import SubscribeError

Headers = list[tuple[str, str]]

#: By the code of a refusal: the status. Codes that rules of the application make up are as ``forbidden``.
STATUSES = {
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "bad_request": HTTPStatus.BAD_REQUEST,
    "too_many_requests": HTTPStatus.TOO_MANY_REQUESTS,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}

#: Seconds after which a client may try again what may be possible then.
RETRY_AFTER = 5

#: What an answer of a kind says beside.
_OF_STATUS: dict[HTTPStatus, Headers] = {
    HTTPStatus.UNAUTHORIZED: [("WWW-Authenticate", "Bearer")],
    HTTPStatus.TOO_MANY_REQUESTS: [("Retry-After", str(RETRY_AFTER))],
    HTTPStatus.SERVICE_UNAVAILABLE: [("Retry-After", str(RETRY_AFTER))],
    HTTPStatus.METHOD_NOT_ALLOWED: [("Allow", "GET, OPTIONS")],
}

#: Proxies pass on what they are sent as it comes: nginx would collect it.
OF_STREAM: Headers = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
    ("X-Content-Type-Options", "nosniff"),
]


class Answer(msgspec.Struct, frozen=True):
    """An answer.

    Attributes:
        status: The status of HTTP.
        headers: The headers.
        body: What it says; None for a stream, of which more is asked for.
    """

    status: HTTPStatus
    headers: Headers
    body: bytes | None

    @property
    def status_line(self) -> str:
        """The status, as WSGI wants it."""
        return f"{self.status.value} {self.status.phrase}"

    def with_headers(self, headers: Iterable[tuple[str, str]]) -> Answer:
        """Return it with more headers."""
        return msgspec.structs.replace(self, headers=[*self.headers, *headers])


def of_json(status: HTTPStatus, content: dict[str, Any]) -> Answer:
    """Return an answer with JSON, which no cache keeps."""
    body = msgspec.json.encode(content)
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return Answer(status, [*headers, *_OF_STATUS.get(status, [])], body)


def of_refusal(error: SubscribeError, status: HTTPStatus | None = None) -> Answer:
    """Return the answer to a request that is refused.

    Args:
        error: Why.
        status: In place of that of its code.
    """
    chosen = status or STATUSES.get(error.code, HTTPStatus.FORBIDDEN)
    return of_json(chosen, {"ok": False, "error": {"code": error.code, "message": str(error)}})


def of_preflight() -> Answer:
    """Return the answer to a browser that asks whether a page may ask; the headers of CORS are what it looks at."""
    return Answer(HTTPStatus.NO_CONTENT, [("Allow", "GET, OPTIONS"), ("Content-Length", "0")], b"")


def of_stream() -> Answer:
    """Return the beginning of a stream of events."""
    return Answer(HTTPStatus.OK, OF_STREAM, None)
