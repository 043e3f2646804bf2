"""A token in an address is in no log of any host, however the client has written it."""

from __future__ import annotations

import http.client
import itertools
import secrets
import urllib.parse
from collections.abc import Callable

import pytest

from tests.integration.stage import Stage
from tests.integration.test_hosts import HostProcess
from tests.launcher import Launcher
from tests.variants import long_unless
from tests.waiting import wait_for

#: What makes each host log its requests.
LOGGING = {
    "flask-threading": "",
    "uvicorn": "",
    "gunicorn-gthread": "--access-logfile -",
    "gunicorn-gevent": "--access-logfile -",
    "gunicorn-asgi": "--access-logfile -",
}

#: In a user's name, or in a token of somebody else's making; a browser may or may not escape them.
USERS = [
    "ada",
    "o'brien",
    'a"b',
    "a,b",
    "a;b",
    "(a)",
    "a'b\"c",
    "[a]",
    "{a}",
    "a=b",
    "a%b",
    "zoë",
    "a\\b",
    "a'",
    "a&b",
    "a\xa0b",
]


def addresses(token: str) -> list[str]:
    """Return what different clients make of a token in an address: nothing, what JavaScript does, and all."""
    plain = urllib.parse.quote(token, safe="!\"$'()*+,;:=@/?[]{}\\")
    scripted = urllib.parse.quote(token, safe="!'()*~")
    return [f"/socket.io/?EIO=4&transport=polling&token={text}" for text in (plain, scripted)] + [
        f"/socket.io/?token={scripted}&EIO=4&transport=polling"
    ]


#: One for each server: gunicorn writes its lines in one place, whatever its workers are.
@pytest.mark.parametrize("name", long_unless(["flask-threading", "uvicorn", "gunicorn-gthread"], LOGGING))
def test_no_log_has_a_token(launcher: Launcher, shared_stage: Callable[..., Stage], name: str) -> None:
    env = shared_stage("redis").broker.env
    web = launcher.start(HostProcess(name, folder=launcher.folder, env=env, options=LOGGING[name]))
    secret, host = secrets.token_hex(8), urllib.parse.urlsplit(web.url).netloc
    requests = list(itertools.chain.from_iterable(addresses(f"{user}:x{secret}.{secret}") for user in USERS))

    for address in requests:
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("GET", address, headers={"Referer": f"{web.url}{address}"})
        assert connection.getresponse().read()
        connection.close()

    log = wait_for(lambda: (text := web.log).count("GET /socket.io/") >= len(requests) and text)
    assert secret not in log
    assert log.count("token=**") >= len(requests)
