"""Tokens in addresses stay out of the logs."""

from __future__ import annotations

import io
import json
import logging
import traceback
from typing import Any

import pytest
import simple_websocket
from gunicorn.glogging import SafeAtoms

from celery_realtime.web import log_redaction
from tests.log_records import logged_by
from tests.variants import long_unless
from tests.waiting import wait_for
from tests.web_servers import Kind, Web


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /socket.io/?token=ada:secret HTTP/1.1", "GET /socket.io/?token=** HTTP/1.1"),
        ('"GET /socket.io/?EIO=4&token=secret&t=1"', '"GET /socket.io/?EIO=4&token=**&t=1"'),
        ("token=secret", "token=**"),
        ("GET /?token=o'brien:secret.secret HTTP/1.1", "GET /?token=** HTTP/1.1"),
        ('GET /?token=a\',"b",c:secret&EIO=4 HTTP/1.1', "GET /?token=**&EIO=4 HTTP/1.1"),
        ("['/?token=ada:secret', '/?token=eve:secret']", "['/?token=**', '/?token=**']"),
        ("<http://h/?token=secret>; (http://h/?a=1&token=secret)", "<http://h/?token=**>; (http://h/?a=1&token=**)"),
        ("/login?next=%2F%3FEIO%3D4%26token%3Dada%3Asecret%26t%3D1", "/login?next=%2F%3FEIO%3D4%26token%3D**%26t%3D1"),
        ("/?token=secret#token=secret", "/?token=**#token=secret"),
        ("/?TOKEN=secret", "/?TOKEN=**"),
        ("GET /?token=a%26b%3Asecret&EIO=4 HTTP/1.1", "GET /?token=**&EIO=4 HTTP/1.1"),
        ("GET /?token=o\xa0brien:secret HTTP/1.1", "GET /?token=** HTTP/1.1"),
        ("GET /?%74oken=secret HTTP/1.1", "GET /?%74oken=** HTTP/1.1"),
        ("/?a=%2F%3Fb%3D%252F%253Ftoken%253Dsecret%2526t%253D1", "/?a=%2F%3Fb%3D%252F%253Ftoken%253D**%2526t%253D1"),
        ("""'{"token":"a\\\\"secret"}'""", """'{"token":"**\""""),
        ("{'token': ['secret', 'secret'], 'page': 2}", "{'token': \"**\""),
        ("< Authorization: Bearer secret.secret", "< Authorization: Bearer **"),
        (
            "received event CONNECT {'token': 'ada:secret', 'page': 2}",
            "received event CONNECT {'token': \"**\", 'page': 2}",
        ),
        ("""data 0{"a":1,"token":"o\\"b'rien:secret"}""", """data 0{"a":1,"token":"**"}"""),
        ("""data 0{"token":"secret that was cut off...""", """data 0{"token":"**\""""),
        ("/?csrf_token=kept&page=2", "/?csrf_token=kept&page=2"),
        ("nothing to see", "nothing to see"),
    ],
)
def test_a_token_is_struck_out_and_nothing_else(text: str, shown: str) -> None:
    assert log_redaction.redact(text) == shown


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("GET /?token=secret", ()),
        ('%s - "%s %s HTTP/%s" %d', ("1.2.3.4", "GET", "/socket.io/?token=secret", "1.1", 200)),
        ("%(r)s %({x-forwarded-for}i)s", (SafeAtoms({"r": "GET /?token=secret"}),)),
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


BROKEN = ["4", "4x", "42[", "42{}", '42["a",', "47", "40{", "42[1]", '42[{"a":1}]', "42" + "[" * 5000]


@pytest.mark.parametrize("kind", long_unless(["sync"], ["sync", "asgi"]))  # the filter is the same
def test_packets_that_cannot_be_read_do_not_fill_the_log(
    redis_url: str, caplog: pytest.LogCaptureFixture, kind: Kind
) -> None:
    web = Web(kind, redis_url).attach().start()
    try:
        client = connect(web)
        for packet in BROKEN * 2:
            try:
                client.send(packet)
                client.send('420["subscribe_project",{"project_id":"alpha"}]')
                wait_for(lambda client=client: (client.receive(1) or "").startswith("430["))
            except simple_websocket.ConnectionClosed:
                client = connect(web)
    finally:
        web.stop()
    logged = [record for record in logged_by(caplog, "engineio.server") if record.exc_info]
    assert 0 < len(logged) == len({log_of(record) for record in logged}) < len(BROKEN)


def connect(web: Web) -> simple_websocket.Client:
    """Return a connection with a good token."""
    client = simple_websocket.Client(f"{web.url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket")
    client.receive(5)
    client.send(f"40{json.dumps({'token': web.token()})}")
    client.receive(5)
    return client


def log_of(record: logging.LogRecord) -> str:
    """Return what a line says, but for where it was called from."""
    assert record.exc_info is not None
    return f"{record.getMessage()}: {record.exc_info[0]} in {traceback.extract_tb(record.exc_info[2])[-1]}"
