"""Keep tokens that browsers send in URLs out of the logs."""

from __future__ import annotations

import logging
import re
from typing import Any

_TOKEN = re.compile(r"((?:^|[?&\s\"'])token=)[^&\s\"'#]+")

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


def redact(text: str) -> str:
    """Return a text without the tokens in its URLs."""
    return _TOKEN.sub(r"\1**", text) if "token=" in text else text


class TokenRedactor(logging.Filter):
    """Removes tokens from log records, and keeps the arguments separate, since some formatters read them one by one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record, and let it pass."""
        record.msg = _redacted(record.msg)
        if isinstance(record.args, dict):
            # A copy has the same class: gunicorn's returns "-" for what it does not have.
            arguments = record.args.copy()
            arguments.update({name: _redacted(value) for name, value in record.args.items()})
            record.args = arguments
        elif record.args:
            record.args = tuple(_redacted(value) for value in record.args)
        return True


def _redacted(value: Any) -> Any:
    return redact(value) if isinstance(value, str) else value


_redactor = TokenRedactor()


def install() -> None:
    """Redact the logs of the servers in :data:`LOGGERS`; a second call changes nothing."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_redactor)
