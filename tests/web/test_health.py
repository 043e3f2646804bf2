from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import socketio

from celery_realtime.health import health_asgi, health_wsgi
from tests.services import RedisServer
from tests.waiting import wait_for
from tests.web_servers import Kind, Web

pytestmark = pytest.mark.service

#: What a thread does that waits for something, or for somebody.
WAITING = {"acquire", "connect", "poll", "recv", "recv_into", "select", "send", "sendall", "sleep"}


def state(web: Web, check: str) -> str:
    found: str = web.realtime.health()["checks"][check]["state"]
    return found


def ready(web: Web) -> bool:
    return bool(web.realtime.health()["ready"])


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """A Redis that may be stopped."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def web(kind: Kind, server: RedisServer) -> Any:
    """A web server that nobody uses yet, with all on one Redis."""
    made = Web(kind, server.url(), history_url=server.url(), lost_after=1.5)
    yield made
    made.stop()


def test_a_server_is_ready_before_its_first_client_and_while_its_redis_answers(web: Web, server: RedisServer) -> None:
    web.attach().start()
    wait_for(lambda: state(web, "hearing") in ("ok", "idle"))
    assert ready(web)
    assert state(web, "keeper") == "idle"

    web.subscriber("alpha")
    wait_for(lambda: state(web, "keeper") == state(web, "history") == state(web, "hearing") == "ok")
    web.emit("alpha", 1)
    wait_for(lambda: web.realtime.health()["checks"]["outbox"]["waiting"] == 0)
    assert ready(web)

    server.stop()
    wait_for(lambda: state(web, "history") == state(web, "hearing") == state(web, "keeper") == "failing")
    health = web.realtime.health()
    assert (health["live"], health["ready"]) == (True, False)
    assert "Error" in health["checks"]["history"]["error"]

    server.restart()
    wait_for(lambda: ready(web))
    assert state(web, "hearing") == "ok"


def test_a_probe_waits_for_nothing(web: Web, server: RedisServer) -> None:
    web.attach().start()
    web.subscriber("alpha")
    wait_for(lambda: state(web, "history") == "ok")
    waited: list[str] = []

    def note(_frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and getattr(function, "__name__", "") in WAITING:
            waited.append(function.__name__)

    server.stop()
    sys.setprofile(note)
    try:
        web.realtime.health()
    finally:
        sys.setprofile(None)
    assert waited == []


def test_without_clients_there_is_no_work_and_that_is_well(web: Web) -> None:
    web.attach().start()
    web.subscriber("alpha").close()
    wait_for(lambda: not web.handlers.clients())
    wait_for(lambda: states_of(web)["housekeeping"] == "idle")
    assert web.realtime.health()["live"]


def states_of(web: Web) -> dict[str, str]:
    return {loop["name"]: loop["state"] for loop in web.realtime.health()["loops"]}


# -- the pages ------------------------------------------------------------------------------------------------------


def ask(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_plain_servers_answer_probes_beside_their_sockets(
    monkeypatch: pytest.MonkeyPatch, kind: Kind, web: Web, server: RedisServer
) -> None:
    wrap: Callable[..., Any] = health_asgi if kind == "asgi" else health_wsgi
    name = "ASGIApp" if kind == "asgi" else "WSGIApp"
    around = getattr(socketio, name)
    monkeypatch.setattr(socketio, name, lambda sockets: wrap(web.realtime, around(sockets)))
    web.attach().start()
    wait_for(lambda: ask(f"{web.url}/health/ready")[0] == 200)
    assert ask(f"{web.url}/health/live") == (200, {"status": "ok", "checks": {"loops": "ok"}})
    web.subscriber("alpha")
    server.stop()
    wait_for(lambda: ask(f"{web.url}/health")[1]["checks"]["history"] == "failing")
    status, body = ask(f"{web.url}/health")
    assert (status, body["status"]) == (503, "failing")
    assert server.url().partition("//")[2].partition("/")[0] not in str(body)
    assert ask(f"{web.url}/health/live")[0] == 200
