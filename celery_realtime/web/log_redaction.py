"""Keep tokens out of the logs, and keep strangers from filling them."""

from __future__ import annotations

import copy
import logging
import re
from typing import Any

from celery_realtime.logs import RepeatedErrors

#: A token in the query of a URL, up to what separates it from the rest (RFC 3986, section 3.4), since user names hold
#: quotes and brackets too. A URL within another one is escaped.
_IN_URL = re.compile(r"((?:^|[?&;\s\"'(]|%3f|%26)token(?:=|%3d))((?:(?!%26)[^&\s#])+)", re.IGNORECASE)

#: What follows a URL in a line of a log.
_CLOSING = "\"'),;]}>"

#: A token in the data of a connection, as python-socketio logs them, and as its clients send them.
_IN_DATA = re.compile(r"""(["']token["']\s*:\s*)("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)""")

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
    ),
    *(
        "daphne.access",
        "django.server",
        "eventlet.wsgi",
        "geventwebsocket.handler",
        "engineio.server",
        "socketio.server",
    ),
    *("aiohttp.access",),
)


#: Those that write a traceback for each packet that they cannot read.
PROTOCOL_LOGGERS = ("engineio.server", "socketio.server")


def redact(text: str) -> str:
    """Return a text without the tokens in its URLs, and in the data of connections."""
    if "token" not in text.lower():
        return text
    return _IN_DATA.sub(r'\1"**"', _IN_URL.sub(_without_token, text))


def _without_token(found: re.Match[str]) -> str:
    name, token = found.groups()
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


def install() -> None:
    """Filter the logs of the servers in :data:`LOGGERS`; a second call changes nothing."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_redactor)
    for name in PROTOCOL_LOGGERS:
        logging.getLogger(name).addFilter(_repeated_errors)
