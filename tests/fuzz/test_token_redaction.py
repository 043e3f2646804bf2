"""Whatever a token looks like, and however a client sends it, no line of a log has it."""

from __future__ import annotations

import json
import logging
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from gunicorn.glogging import SafeAtoms
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.serving import WSGIRequestHandler
from werkzeug.urls import uri_to_iri

from celery_realtime.web.log_redaction import TokenRedactor
from tests.fuzz.budget import tried

#: Behind what a fuzzer makes up; no other part of a line has it.
SECRET = "Zx9Kq7Lm"

texts = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("&=%#?;+'\"()[]{}<>\\/ \t\n\xa0\x85\u2003\u2028,:.é€"),
    max_size=12,
)
tokens = st.builds(lambda before, between: f"{before}:{SECRET}{between}{SECRET}", texts, texts)

#: How clients write a token into an address: JavaScript, its older function, Python, PHP and a shell.
QUOTINGS: dict[str, Callable[[str], str]] = {
    "encodeURIComponent": lambda token: urllib.parse.quote(token, safe="!'()*~"),
    "URLSearchParams": lambda token: urllib.parse.quote_plus(token, safe="*"),
    "quote": urllib.parse.quote,
    "all": lambda token: "".join(f"%{byte:02x}" for byte in token.encode()),
    "as it is": lambda token: urllib.parse.quote(token, safe="!\"$'()*+,;:=@/?[]{}<>\\^`|~"),
}
ADDRESSES = [
    "/socket.io/?EIO=4&transport=polling&token={}",
    "/socket.io/?token={}&EIO=4&transport=websocket&sid=abc",
    "/socket.io/?token={}&token={}&t=1",
    "/?%74oken={}&EIO=4",
    "/?TOKEN={}",
    "ws://host/socket.io/?token={}",
]
DATA: dict[str, Callable[[Any], str]] = {
    "json": json.dumps,
    "json as it is": lambda data: json.dumps(data, ensure_ascii=False),
    "compact json": lambda data: json.dumps(data, separators=(",", ":")),
    "json in json": lambda data: json.dumps(json.dumps(data)),
    "repr": repr,
    "repr of json": lambda data: repr(json.dumps(data)),
    "repr of bytes": lambda data: repr(json.dumps(data).encode()),
}


def logged(message: str, *args: Any) -> str:
    """Return what is logged of a record when it has been redacted."""
    record = logging.LogRecord("a server", logging.INFO, "", 1, message, args, None)
    assert TokenRedactor().filter(record)
    return record.getMessage()


def as_werkzeug_shows(address: str) -> str:
    return uri_to_iri(address).translate(WSGIRequestHandler._control_char_table)  # type: ignore[attr-defined]


@tried(75)
@given(tokens, st.sampled_from([*QUOTINGS]), st.sampled_from(ADDRESSES))
def test_no_address_in_a_log_has_a_token(token: str, quoting: str, address: str) -> None:
    written = QUOTINGS[quoting](token)
    where = address.replace("{}", written)
    shown = as_werkzeug_shows(where)
    lines = [
        logged(f'"GET {where} HTTP/1.1" 200 -'),
        logged('"%s" %s %s', f"GET {shown} HTTP/1.1", "200", "-"),
        logged('%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", where, "1.1", 200),
        logged('%s - "WebSocket %s" [accepted]', "1.2.3.4:5", where),
        logged("%(r)s %(f)s", SafeAtoms({"r": f"GET {where} HTTP/1.1", "f": f"http://host{where}"})),
        logged(f"GET /login?next={urllib.parse.quote(where, safe='')}&page=2 HTTP/1.1"),
        logged(f"GET /a?b={urllib.parse.quote('/login?next=' + urllib.parse.quote(where, safe=''), safe='')} HTTP/1.1"),
    ]
    for line in lines:
        assert SECRET not in line
        assert "**" in line
    assert all(
        line.endswith(('HTTP/1.1" 200 -', "HTTP/1.1 200 -", 'HTTP/1.1" 200', "[accepted]")) for line in lines[:4:3]
    )
    assert "page=2" in lines[5]


@tried(75)
@given(tokens | st.lists(tokens, max_size=2) | st.dictionaries(texts, tokens, max_size=2), st.sampled_from([*DATA]))
def test_no_data_of_a_connection_in_a_log_has_a_token(token: Any, writing: str) -> None:
    for data in ({"token": token}, {"page": 2, "token": token}, ["refresh_token", {"token": token}]):
        written = DATA[writing](data)
        for line in (
            logged(f"received event CONNECT {written}"),
            logged("%s: Received packet %s data %s", "abc", "MESSAGE", f"0{written}"),
            logged("%s", written[: len(written) // 2 + 10]),
        ):
            assert SECRET not in line


@pytest.mark.parametrize(
    "line",
    [
        f"< Authorization: Bearer {SECRET}.{SECRET}",
        f"{{'authorization': 'Bearer {SECRET}'}}",
        f"[(b'authorization', b'Bearer {SECRET}')]",
        f"Authorization: Basic {SECRET}=",
        f"authorization={SECRET}",
    ],
)
def test_no_header_in_a_log_has_a_token(line: str) -> None:
    assert SECRET not in logged("%s", line)


@pytest.mark.parametrize(
    "line",
    [
        "a token is needed to connect",
        "GET /?csrf_token=kept&tokens=kept&my.token=kept HTTP/1.1",
        "no bearer of bad news",
        '{"csrf_token": "kept"}',
        "{'token': None}",
    ],
)
def test_other_lines_stay_as_they_are(line: str) -> None:
    assert logged("%s", line) == line
