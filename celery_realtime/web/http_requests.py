"""Read the requests of plain HTTP, which are hostile until they have been checked."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qs

from celery_realtime.exceptions import SubscribeError

#: Longest epoch, and most digits of an offset, that a client can have got from a server.
LONGEST_EPOCH, MOST_DIGITS = 64, 15

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Route(NamedTuple):
    """What is asked for: ``events``, ``jobs``, or ``job`` with its id."""

    what: str
    job_id: str | None = None


def route_of(path: str) -> Route | None:
    """Return what a path asks for, below that of all routes; None for something else."""
    if path in ("/events", "/jobs"):
        return Route(path[1:])
    _, _, job_id = path.partition("/jobs/")
    return Route("job", job_id) if job_id and path.startswith("/jobs/") else None


class HttpRequest:
    """A request.

    Args:
        environ: It, as WSGI has it, or Engine.IO for ASGI.
    """

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.method: str = environ.get("REQUEST_METHOD", "")
        self._query = parse_qs(environ.get("QUERY_STRING") or "")

    @property
    def token(self) -> str | None:
        """The token of the ``Authorization`` header; that of the query is looked for where sockets have theirs."""
        scheme, _, token = str(self.environ.get("HTTP_AUTHORIZATION") or "").strip().partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None

    def text(self, name: str) -> str | None:
        """Return a parameter, or None if it is not there.

        Raises:
            SubscribeError: It is there more than once.
        """
        values = self._query.get(name, [])
        if len(values) > 1:
            raise SubscribeError(f"name one {name}, not {len(values)}", "bad_request")
        return values[0] if values else None

    def flag(self, name: str) -> bool | None:
        """Return a parameter that is true or false, or None if it is not there.

        Raises:
            SubscribeError: It is neither.
        """
        text = self.text(name)
        if text is None:
            return None
        if text not in _FLAGS:
            raise SubscribeError(f"{name} must be true or false", "bad_request")
        return _FLAGS[text]

    @property
    def project(self) -> dict[str, str]:
        """The project, as a request on a socket names it; nothing if it is not named."""
        project_id = self.text("project")
        return {} if project_id is None else {"project_id": project_id}

    @property
    def filter(self) -> dict[str, dict[str, list[str]]]:
        """Which jobs are wanted, as a request on a socket says it; nothing if that is not said."""
        named = {name: self._query[name] for name in ("status", "task", "label") if name in self._query}
        return {"filter": named} if named else {}

    @property
    def since(self) -> dict[str, Any] | None:
        """The last position that the client has, if it names one; what is none counts as if it had nothing."""
        return position_in(self.environ.get("HTTP_LAST_EVENT_ID") or self.text("last_event_id") or "")


def position_in(text: str) -> dict[str, Any] | None:
    """Return the position that an ``epoch:offset`` stands for; None for anything else."""
    epoch, _, digits = text.strip().rpartition(":")
    is_one = 0 < len(epoch) <= LONGEST_EPOCH and digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS
    return {"epoch": epoch, "offset": int(digits)} if is_one else None


class Asked(NamedTuple):
    """What a request asks of the server, as a client asks on a socket.

    Attributes:
        event: The event.
        data: Its data.
    """

    event: str
    data: dict[str, Any]


def subscription_in(request: HttpRequest) -> Asked:
    """Return the subscription that a stream of events begins with.

    Raises:
        SubscribeError: A parameter cannot be read.
    """
    options = {name: value for name in ("streams",) if (value := request.flag(name)) is not None}
    since = {"since": request.since} if request.since is not None else {}
    job_id = request.text("job")
    if job_id is None:
        return Asked("subscribe_project", {**request.project, **request.filter, **since, **options, "batch": True})
    if request.filter:
        raise SubscribeError(
            "status, task and label choose jobs of a project; a job is followed as it is", "bad_request"
        )
    return Asked("subscribe_job", {"job_id": job_id, **request.project, **since, "batch": True})
