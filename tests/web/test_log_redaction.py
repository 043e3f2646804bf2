"""Tokens in addresses stay out of the logs."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest

from celery_realtime.web import log_redaction
from tests.web_servers import Web


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /socket.io/?token=ada:secret HTTP/1.1", "GET /socket.io/?token=** HTTP/1.1"),
        ('"GET /socket.io/?EIO=4&token=secret&t=1"', '"GET /socket.io/?EIO=4&token=**&t=1"'),
        ("token=secret", "token=**"),
        ("/?csrf_token=kept&page=2", "/?csrf_token=kept&page=2"),
        ("nothing to see", "nothing to see"),
    ],
)
def test_a_token_is_struck_out_and_nothing_else(text: str, shown: str) -> None:
    assert log_redaction.redact(text) == shown


class Atoms(dict[str, Any]):
    """As gunicorn's: what is missing reads as a dash."""

    def __getitem__(self, key: str) -> Any:
        return super().get(key, "-")

    def copy(self) -> Atoms:
        return Atoms(self)


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("GET /?token=secret", ()),
        ('%s - "%s %s HTTP/%s" %d', ("1.2.3.4", "GET", "/socket.io/?token=secret", "1.1", 200)),
        ("%(r)s %(missing)s", (Atoms(r="GET /?token=secret"),)),
    ],
)
def test_records_of_every_server_keep_their_form(message: str, args: Any) -> None:
    log_redaction.install()
    log_redaction.install()
    logger, stream = logging.getLogger("uvicorn.access"), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        logger.error(message, *args)
    finally:
        logger.removeHandler(handler)
    assert "secret" not in stream.getvalue()
    assert "token=**" in stream.getvalue()
    assert [type(found) for found in logger.filters] == [log_redaction.TokenRedactor]


def test_the_log_of_a_real_server_has_no_token(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "werkzeug")
    web = Web("flask", redis_url).attach().start()
    try:
        token = web.token()
        client = web.client()
        client.connect(web.url, token=token, via="query", transports=["polling"])
        assert client.subscribe("alpha")["ok"]
    finally:
        web.stop()
    assert "token=**" in caplog.text
    assert token.split(":")[1] not in caplog.text


def test_a_server_that_takes_connections_from_everywhere_is_warned_of(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    web = Web("sync", redis_url)
    web.server.eio.cors_allowed_origins = "*"
    web.attach()
    web.stop()
    assert "cors_allowed_origins" in caplog.text
