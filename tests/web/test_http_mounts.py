"""Where the routes of plain HTTP are: around another application, by themselves, or nowhere with a word on why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import socketio
from celery import Celery

from celery_realtime import Realtime
from celery_realtime.exceptions import ImproperlyConfigured

URL = "redis://127.0.0.1:1/0"


@pytest.fixture
def realtime() -> Realtime:
    app = Celery("mounts", broker=URL, set_as_current=False)
    return Realtime(app, history_url=None, secret_key="a long and random string of the tests")


def wsgi_server(realtime: Realtime) -> Any:
    server = socketio.Server(async_mode="threading", client_manager=realtime.client_manager())
    realtime.init_socketio(server)
    return server


def call(app: Any, path: str, **environ: Any) -> tuple[str, bytes]:
    said: list[str] = []
    given = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "REMOTE_ADDR": "127.0.0.1", **environ}
    body = b"".join(app(given, lambda status, _headers, *_: said.append(status)))
    return said[0], body


def inner(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"inner"]


def test_other_requests_go_to_the_application_inside(realtime: Realtime) -> None:
    server = wsgi_server(realtime)
    app = realtime.http_app(inner)
    for path in ("/", "/celery-realtime", "/celery-realtime/celery-realtime.js", "/celery-realtime/events/", "/jobs"):
        assert call(app, path) == ("200 OK", b"inner")
    assert call(app, "/celery-realtime/jobs")[0] == "401 Unauthorized"
    server.manager.stop_listening()


def test_without_one_they_are_not_found(realtime: Realtime) -> None:
    server = wsgi_server(realtime)
    app = realtime.http_app(prefix="/live/")
    assert call(app, "/other") == (
        "404 Not Found",
        b'{"ok":false,"error":{"code":"bad_request","message":"there is no such page"}}',
    )
    assert call(app, "/live/jobs")[0] == "401 Unauthorized"
    assert call(realtime.http_app(prefix=""), "/jobs/one")[0] == "401 Unauthorized"
    server.manager.stop_listening()


def test_an_asyncio_server_is_answered_by_asgi(realtime: Realtime) -> None:
    server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
    realtime.init_socketio(server)
    app, sent = realtime.http_app(), []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/studio/celery-realtime/other", "root_path": "/studio"}
    asyncio.run(app({**scope, "headers": []}, receive, send))
    assert sent[0]["status"] == 404
    assert b"there is no such page" in sent[1]["body"]
    server.manager.stop_listening()


def test_without_a_server_there_is_nothing_to_mount(realtime: Realtime) -> None:
    with pytest.raises(ImproperlyConfigured, match="init_socketio"):
        realtime.http_app()


def test_one_of_several_servers_is_named(realtime: Realtime) -> None:
    servers = [wsgi_server(realtime), wsgi_server(realtime)]
    with pytest.raises(ImproperlyConfigured, match="this process has 2"):
        realtime.http_app()
    assert call(realtime.http_app(server=servers[1]), "/celery-realtime/jobs")[0] == "401 Unauthorized"
    for server in servers:
        server.manager.stop_listening()


def test_a_prefix_is_a_path(realtime: Realtime) -> None:
    server = wsgi_server(realtime)
    with pytest.raises(ImproperlyConfigured, match="prefix"):
        realtime.http_app(prefix="live")
    server.manager.stop_listening()


def test_a_server_that_is_neither_of_wsgi_nor_of_asgi_is_refused(realtime: Realtime) -> None:
    server = socketio.AsyncServer(async_mode="aiohttp", client_manager=realtime.async_client_manager())
    realtime.init_socketio(server)
    with pytest.raises(ImproperlyConfigured, match="aiohttp"):
        realtime.http_app()
    server.manager.stop_listening()
