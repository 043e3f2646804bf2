"""Keep tokens out of the logs, and keep strangers from filling them."""

from __future__ import annotations

import copy
import logging
import re
from typing import Any

from celery_realtime.logs import RepeatedErrors
from celery_realtime.web import server_errors

#: The name of the parameter; a server decodes letters that are escaped, too.
_NAME = "".join(f"(?:{letter}|%(?:25)*(?:{ord(letter):x}|{ord(letter.upper()):x}))" for letter in "token")

#: A token in the query of a URL, up to what separates it from the rest (RFC 3986, section 3.4), since user names hold
#: quotes and brackets too, and spaces that are none of ASCII, which Werkzeug shows as they are. A URL within another
#: one is escaped, once or more; then so is what separates the token, and an ``&`` of the token's own is once more.
_IN_URL = re.compile(
    rf"((?:^|[?&;\s\"'(\[<]|%(?:25)*(?:3f|26|3b)){_NAME}(?:=|%((?:25)*)3d))"
    r"((?(2)(?:(?!%\2(?:26|23))[^& \t\r\n#])+|[^& \t\r\n#]+))",
    re.IGNORECASE,
)

#: What follows a URL in a line of a log.
_CLOSING = "\"'),;]}>"

#: A token in the data of a connection, as python-socketio logs them, and as its clients send them. One that is no text,
#: or of which it cannot be told where it ends, such as in text within text, is left out up to the end of the line.
_IN_DATA = re.compile(
    r"""(\\*["']token\\*["']\s*:\s*)(?!None|null)"""
    r"""(b?"(?:[^"\\]|\\[^\\])*"|b?'(?:[^'\\]|\\[^\\])*'|b?\\*["'\[{(].*|[^\s,}\]]+)""",
    re.IGNORECASE | re.DOTALL,
)

#: A token in a header, as debugging logs show it.
_IN_HEADER = re.compile(
    r"""(authorization["']?\s*[:=,]\s*b?["']?(?:\w+\s+)?|\bbearer\s+(?=[^\s"',)\]}]{12}))[^\s"',)\]}]+""", re.IGNORECASE
)

#: What is in each of them; to look for it costs less.
_MAY_HAVE_ONE = re.compile(rf"{_NAME}|bearer|authorization", re.IGNORECASE)

#: The loggers of servers that log URLs.
LOGGERS = (
    *(
        "werkzeug",
        "gunicorn.access",
        "gunicorn.error",
        "uvicorn.access",
        "uvicorn.error",
        "uvicorn",
        "hypercorn.access",
        "hypercorn.error",
    ),
    *(
        "daphne.access",
        "django.server",
        "eventlet.wsgi",
        "geventwebsocket.handler",
        "engineio.server",
        "socketio.server",
    ),
    *("aiohttp.access", "gevent.pywsgi", "uvicorn.asgi", "websockets.server"),
)


#: Those that write a traceback for each packet that they cannot read.
PROTOCOL_LOGGERS = ("engineio.server", "socketio.server")


def redact(text: str) -> str:
    """Return a text without the tokens in its URLs, in the data of connections, and in headers."""
    if not _MAY_HAVE_ONE.search(text):
        return text
    text = _IN_HEADER.sub(r"\1**", _IN_URL.sub(_without_token, text))
    return _IN_DATA.sub(r'\1"**"', text)


def _without_token(found: re.Match[str]) -> str:
    name, _, token = found.groups()
    return f"{name}**{token[len(token.rstrip(_CLOSING)) :]}"


class TokenRedactor(logging.Filter):
    """Removes tokens from log records, and keeps the arguments separate, since some formatters read them one by one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record, and let it pass."""
        record.msg = _redacted(record.msg)
        if isinstance(record.args, dict):
            # Not their own copy(), which is a plain dict: gunicorn's and hypercorn's return "-" for what they lack.
            arguments = copy.copy(record.args)
            arguments.update({name: _redacted(value) for name, value in record.args.items()})
            record.args = arguments
        elif record.args:
            record.args = tuple(_redacted(value) for value in record.args)
        return True


def _redacted(value: Any) -> Any:
    return redact(value) if isinstance(value, str) else value


_redactor = TokenRedactor()
_repeated_errors = RepeatedErrors()
_repeated_server_errors = server_errors.RepeatedServerErrors()


def install(server: Any = None) -> None:
    """Filter the logs of the servers in :data:`LOGGERS`; a second call changes nothing.

    Args:
        server: A Socket.IO server that may have loggers of the application's own.
    """
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_redactor)
    for name in PROTOCOL_LOGGERS:
        logging.getLogger(name).addFilter(_repeated_errors)
    for name in server_errors.LOGGERS:
        logging.getLogger(name).addFilter(_repeated_server_errors)
    for own in (getattr(server, "logger", None), getattr(getattr(server, "eio", None), "logger", None)):
        if isinstance(own, logging.Logger) and own.name not in PROTOCOL_LOGGERS:
            own.addFilter(_redactor)
            own.addFilter(_repeated_server_errors)
