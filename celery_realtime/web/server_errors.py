"""Keep strangers from filling logs with tracebacks of web servers' own, which they write of what nobody can read.

Each kind is written once a minute. Only what has no line of an application in it is concerned. Seen in uvicorn 0.54,
hypercorn 0.18, gunicorn 27, gevent 26.9 and eventlet 0.41.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
import sysconfig
from collections.abc import Callable, Hashable, Iterator
from types import FrameType, TracebackType
from typing import Any

from celery_realtime.logs import RateLimit, RepeatedErrors, origin_of

#: Whose lines are none of an application.
SERVERS = frozenset(
    (
        *(
            "asyncio",
            "autobahn",
            "celery_realtime",
            "concurrent",
            "daphne",
            "engineio",
            "eventlet",
            "gevent",
            "greenlet",
        ),
        *("gunicorn", "h11", "h2", "http", "httptools", "hypercorn", "selectors", "simple_websocket", "socket"),
        *("socketio", "socketserver", "ssl", "threading", "twisted", "uvicorn", "uvloop", "websockets", "werkzeug"),
        *("wsproto", "codecs", "base64", "json", "urllib", "io", "contextlib", "encodings", "email", "runners"),
    )
)

#: The loggers that such errors come over.
LOGGERS = ("asyncio", "uvicorn.error", "hypercorn.error", "gunicorn.error", "gevent.pywsgi", "eventlet.wsgi")

_STANDARD = sysconfig.get_paths()["stdlib"]
_FILE = re.compile(r'^ *\|? *File "([^"]*)", line (\d+)', re.MULTILINE)
_BEGINNING = "Traceback (most recent call last)"


def is_of_servers(error: BaseException) -> bool:
    """Tell whether no line of an application has led to an error, nor to any of its parts."""
    parts = getattr(error, "exceptions", ())
    modules = (frame.f_globals.get("__name__", "").partition(".")[0] for frame in _frames(error.__traceback__))
    return all(module in SERVERS for module in modules) and all(is_of_servers(part) for part in parts)


def _frames(place: TracebackType | None) -> Iterator[FrameType]:
    while place is not None:
        yield place.tb_frame
        place = place.tb_next


class RepeatedServerErrors(RepeatedErrors):
    """Lets each kind of error of a web server's own pass once a minute, and all others always."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is to be logged."""
        error = record.exc_info[1] if record.exc_info else None
        return error is None or not is_of_servers(error) or super().filter(record)

    def kind_of(self, record: logging.LogRecord, error: BaseException) -> Hashable:
        """Return what is told apart; messages may name the connection."""
        return record.name, *origin_of(error)


class RareTracebacks:
    """Says which tracebacks of web servers' own are to be written, where these write them past ``logging``."""

    def __init__(self) -> None:
        self._limit = RateLimit()

    def is_due(self, error: BaseException) -> bool:
        """Tell whether the traceback of an error is to be written."""
        return not is_of_servers(error) or self._limit.admit(origin_of(error)) is not None

    def is_text_due(self, text: str) -> bool:
        """Tell whether a text is to be written, which may be a traceback."""
        files = _FILE.findall(text) if _BEGINNING in text else []
        if not files or any(_module_of(path) not in SERVERS for path, _ in files):
            return True
        return self._limit.admit((files[-1], text.rstrip().rpartition("\n")[2].partition(":")[0])) is not None


def _module_of(path: str) -> str:
    """Return the name of the package, or of the module of the standard library, that a file is of."""
    _, found, inside = path.replace("\\", "/").rpartition("/site-packages/")
    if not found:
        inside = path.removeprefix(_STANDARD).lstrip("/") if path.startswith(_STANDARD) else ""
    return inside.partition("/")[0].removesuffix(".py")


class ServerLogs:
    """Keeps tracebacks rare that the web server which has called us writes past ``logging``."""

    def __init__(self) -> None:
        self._tracebacks = RareTracebacks()
        self._is_installed = False

    def install(self) -> None:
        """Do so from now on; called within a request, of which the server is known."""
        if self._is_installed:
            return
        self._is_installed = True
        server = _eventlet_server()
        if server is not None and not isinstance(server.log, RareLines):
            server.log = RareLines(server.log, self._tracebacks)
        handler = getattr(sys.modules.get("gevent.pywsgi"), "WSGIHandler", None)
        if handler is not None:
            self._install_gevent(handler)

    def _install_gevent(self, handler: Any) -> None:
        import gevent

        hub, tracebacks = gevent.get_hub(), self._tracebacks
        hub.handle_error = _rare_errors(hub.handle_error, tracebacks)  # as its documentation says
        refuse = getattr(handler, "_handle_client_error", None)
        if refuse is not None and not hasattr(refuse, "__wrapped__"):

            @functools.wraps(refuse)
            def refuse_quietly(self: Any, error: Exception) -> Any:
                return refuse(self, error if tracebacks.is_due(error) else ValueError(str(error)))

            handler._handle_client_error = refuse_quietly


def _rare_errors(theirs: Callable[..., Any], tracebacks: RareTracebacks) -> Callable[..., Any]:
    """Return what a hub of gevent does about errors of greenlets, but for repeated ones of clients that have gone."""

    def handle_error(context: Any, kind: Any, value: Any, place: Any) -> Any:
        if context is None or not isinstance(value, OSError) or tracebacks.is_due(value):
            return theirs(context, kind, value, place)
        return None

    return handle_error


class RareLines:
    """The log of a server of eventlet, without its repeated tracebacks.

    Args:
        theirs: The log.
        tracebacks: Says which are to be written.
    """

    def __init__(self, theirs: Any, tracebacks: RareTracebacks) -> None:
        self._theirs = theirs
        self._tracebacks = tracebacks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)

    def info(self, message: Any, *args: Any, **options: Any) -> None:
        """Write a line, or a traceback."""
        if not isinstance(message, str) or self._tracebacks.is_text_due(message):
            self._theirs.info(message, *args, **options)


def _eventlet_server() -> Any:
    """Return the server of eventlet that has called us, or None: its frames know it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        holder = frame.f_locals.get("self") if frame.f_code.co_name == "handle_one_response" else None
        if type(holder).__module__ == "eventlet.wsgi":
            return getattr(holder, "server", None)
        frame = frame.f_back
    return None
