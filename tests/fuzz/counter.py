"""Ask a web server's handlers as its sockets do, without any sockets, and look at where that leads."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import logging
import re
from typing import TYPE_CHECKING, Any

from celery_realtime.web.handlers import NO_ACKNOWLEDGEMENT
from tests.waiting import wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

    from tests.web_servers import Web

CODES = {"unauthorized", "forbidden", "bad_request", "too_many_requests", "unavailable"}

#: Whose errors are findings; others tell that a service is slow, as on a busy machine.
WATCHED = (
    *(
        "celery_realtime.web.answers",
        "celery_realtime.web.delivery",
        "celery_realtime.web.handlers",
        "celery_realtime.web.housekeeping",
    ),
    *("celery_realtime.web.job_requests", "celery_realtime.web.stream_answers", "celery_realtime.web.stream_board"),
    "celery_realtime.web.subscribing",
    *("socketio.server", "engineio.server", "asyncio"),
)

_JOB_ROOM = re.compile(r"job:(\d+):(.*)", re.DOTALL)


class Counter:
    """The counter of a web server; clients that ask there have no sockets.

    Args:
        web: Has been started, and a client has been there.
    """

    def __init__(self, web: Web) -> None:
        self.web = web
        self._numbers = itertools.count()

    def _settle(self, outcome: Any) -> Any:
        if not inspect.isawaitable(outcome):
            return outcome
        loop = wait_for(lambda: self.web.loop)
        return asyncio.run_coroutine_threadsafe(outcome, loop).result(30)

    def enter(self, auth: Any, query: str | None = "") -> str:
        """Connect a client, and return its session id.

        Raises:
            socketio.exceptions.ConnectionRefusedError: It is not let in.
        """
        eio_sid = f"counter-{next(self._numbers)}"
        environ = {"QUERY_STRING": query}
        sid = self._settle(self.web.server.manager.connect(eio_sid, "/"))
        self.web.server.environ[eio_sid] = environ
        try:
            self._settle(self.web.server._trigger_event("connect", "/", sid, environ, auth))
        except Exception:
            self.leave(sid)
            raise
        return str(sid)

    def ask(self, sid: str, event: str, *data: Any, acknowledged: bool = True) -> Any:
        """Ask for something, and return the answer."""
        if not acknowledged and event.startswith("subscribe"):
            data = (*(*data, None)[:1], NO_ACKNOWLEDGEMENT)
        return self._settle(self.web.server._trigger_event(event, "/", sid, *data))

    def rooms(self, sid: str) -> set[str]:
        """Return the rooms that a client is in, beside its own."""
        return {room for room in self.web.server.manager.get_rooms(sid, "/") or () if room not in (None, sid)}

    def leave(self, sid: str) -> None:
        """Disconnect a client."""
        manager = self.web.server.manager
        eio_sid = manager.eio_sid_from_sid(sid, "/")
        self._settle(self.web.server._trigger_event("disconnect", "/", sid, "test"))
        if eio_sid is not None:
            self._settle(manager.disconnect(sid, "/", ignore_queue=True))
        self.web.server.environ.pop(eio_sid, None)


def check_answer(answer: Any) -> None:
    """See to it that an answer is one that the documentation has."""
    json.dumps(answer)
    if answer["ok"] is not True:
        assert answer == {
            "ok": False,
            "error": {"code": answer["error"]["code"], "message": answer["error"]["message"]},
        }
        assert answer["error"]["code"] in CODES
        assert isinstance(answer["error"]["message"], str)


def project_of(room: str) -> str:
    """Return the project that a room tells of."""
    kind, _, rest = room.partition(":")
    if kind in ("project", "batch", "streams"):
        return rest
    if kind == "batched":
        return project_of(rest)
    match = _JOB_ROOM.fullmatch(room)
    assert match is not None, f"nobody should be in the room {room!r}"
    return match[2][: int(match[1])]


class Alarm(logging.Handler):
    """Notes what a server should never have to log.

    Args:
        but: Errors with one of these in them are no finding.
    """

    def __init__(self, but: tuple[str, ...] = ()) -> None:
        super().__init__(logging.ERROR)
        self._but = ("TimeoutError", *but)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        if record.name.startswith(WATCHED) and not any(part in message for part in self._but):
            self.records.append(f"{record.name}: {message}")

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
