"""Keep tokens that browsers send in addresses out of the logs."""

from __future__ import annotations

import logging
import re
from typing import Any

_TOKEN = re.compile(r"((?:^|[?&\s\"'])token=)[^&\s\"'#]+")

#: The logs of the servers that write down addresses.
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
    """Return a text without the tokens in the addresses that it holds."""
    return _TOKEN.sub(r"\1**", text) if "token=" in text else text


class TokenRedactor(logging.Filter):
    """Strikes tokens out of log records, and keeps their arguments apart: formatters look at them one by one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record, and let it pass."""
        record.msg = _redacted(record.msg)
        if isinstance(record.args, dict):
            # Of the kind that it was: gunicorn's says "-" for what it does not have.
            kept = record.args.copy()
            kept.update({name: _redacted(value) for name, value in record.args.items()})
            record.args = kept
        elif record.args:
            record.args = tuple(_redacted(value) for value in record.args)
        return True


def _redacted(value: Any) -> Any:
    return redact(value) if isinstance(value, str) else value


_redactor = TokenRedactor()


def install() -> None:
    """Redact the logs of the servers that are known; twice is no more than once."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_redactor)
