from __future__ import annotations

import asyncio
import contextlib
import email.utils
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import socketio
import uvicorn

from celery_realtime.clocks import time
from tests.cli.doctor.looking import findings, names, new_realtime
from tests.cli.doctor.proxies import http_proxy
from tests.processes import HOST, free_port
from tests.waiting import wait_for
from tests.web_servers import Kind, Web

pytestmark = pytest.mark.service

LOOKS = ("http", "origins", "websocket", "stickiness")
Headers = list[tuple[str, str]]


@pytest.fixture(scope="module")
def web(results_server: Any) -> Iterator[Web]:
    """A server that is well."""
    made = Web("sync", results_server.fresh_url()).attach().start()
    yield made
    made.stop()


@pytest.fixture
def serve(redis_url: str) -> Iterator[Callable[..., Web]]:
    """Start a server with options of Engine.IO's."""
    with contextlib.ExitStack() as stack:

        def start(kind: Kind = "sync", **options: Any) -> Web:
            made = Web(kind, redis_url).attach()
            stack.callback(made.stop)
            for name, value in options.items():
                setattr(made.server.eio, name, value)
            return made.start()

        yield start


@pytest.mark.parametrize("kind", ["sync", "asgi"])
def test_nothing_is_found_where_nothing_is_wrong(serve: Callable[..., Web], kind: Kind) -> None:
    assert names(new_realtime(), *LOOKS, url=serve(kind).url) == []


def test_a_server_that_is_away_is_found() -> None:
    assert names(new_realtime(), *LOOKS, url=f"http://{HOST}:{free_port()}") == ["web-unreachable"]


def test_a_server_that_hangs_hangs_no_check() -> None:
    with socket.create_server((HOST, 0)) as listening:
        url = f"http://{HOST}:{listening.getsockname()[1]}"
        assert names(new_realtime(), *LOOKS, url=url, patience=0.2) == ["web-unreachable"]


def test_a_server_of_something_else_is_found(web: Web) -> None:
    (found,) = findings(new_realtime(), *LOOKS, url=web.url, path="other.io")
    assert found.name == "web-not-socketio"
    assert "answers 404" in found.text


def test_a_page_that_answers_everything_is_no_socketio() -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((HOST, 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://{HOST}:{server.server_address[1]}"
        assert names(new_realtime(), *LOOKS, url=url) == ["web-not-socketio"]
        server.shutdown()


def test_tokens_over_plain_http_to_another_host_are_found(web: Web) -> None:
    assert names(new_realtime(), "http", url=web.url.replace(HOST, "0.0.0.0")) == ["no-tls"]


def test_a_clock_that_is_off_is_found(web: Web) -> None:
    def late(headers: Headers) -> Headers:
        others = [(name, value) for name, value in headers if name.lower() != "date"]
        return [*others, ("Date", email.utils.formatdate(time.time() - 600, usegmt=True))]

    with http_proxy(web.url, to_client=late) as url:
        (found,) = findings(new_realtime(), "http", url=url)
    assert found.name == "clock-skew"
    assert "behind that of this machine" in found.text


# -- WebSockets and polling -------------------------------------------------------------------------------------------


def test_a_server_without_websockets_is_found(serve: Callable[..., Web]) -> None:
    assert names(new_realtime(), *LOOKS, url=serve(allow_upgrades=False).url) == ["no-upgrade"]


def test_a_server_without_polling_is_found(serve: Callable[..., Web]) -> None:
    assert names(new_realtime(), *LOOKS, url=serve(transports=["websocket"]).url) == ["polling-off"]


def test_a_proxy_that_passes_no_upgrade_on_is_found(web: Web) -> None:
    with http_proxy(web.url) as url:
        assert names(new_realtime(), *LOOKS, url=url) == ["no-websocket"]


def test_servers_without_sticky_sessions_are_found(serve: Callable[..., Web], web: Web) -> None:
    with http_proxy(web.url, serve().url) as url:
        (found,) = findings(new_realtime(), "stickiness", url=url)
    assert found.name == "not-sticky"
    assert "4 of 8 requests" in found.text


# -- origins ----------------------------------------------------------------------------------------------------------


def test_pages_of_another_origin_are_refused_unless_they_are_named(serve: Callable[..., Web], web: Web) -> None:
    origin = "https://studio.example"
    assert names(new_realtime(), *LOOKS, url=web.url, origin=origin) == ["cors-refused", "no-websocket"]
    named = serve(cors_allowed_origins=[origin])
    assert names(new_realtime(), *LOOKS, url=named.url, origin=origin) == []


def test_a_proxy_that_does_not_pass_the_host_on_is_found(web: Web) -> None:
    def other_host(headers: Headers) -> Headers:
        return [(name, "backend.internal" if name.lower() == "host" else value) for name, value in headers]

    with http_proxy(web.url, to_server=other_host) as url:
        assert names(new_realtime(), "origins", url=url) == ["cors-refused"]


def test_a_server_that_lets_every_page_in_is_found(serve: Callable[..., Web]) -> None:
    assert names(new_realtime(), *LOOKS, url=serve(cors_allowed_origins="*").url) == ["cors-open"]


def test_headers_that_come_twice_are_found(web: Web) -> None:
    def as_middleware_does(headers: Headers) -> Headers:
        return [*headers, ("Access-Control-Allow-Origin", "*")]

    with http_proxy(web.url, to_client=as_middleware_does) as url:
        assert names(new_realtime(), "origins", url=url) == ["cors-twice"]


# -- a server without this package ------------------------------------------------------------------------------------


@pytest.fixture
def stranger() -> Iterator[str]:
    """A Socket.IO server on which init_socketio was not called."""
    config = uvicorn.Config(
        socketio.ASGIApp(socketio.AsyncServer(async_mode="asgi")),
        host=HOST,
        port=0,
        log_level="error",
        lifespan="off",
    )
    http = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(http.serve()), daemon=True)
    thread.start()
    wait_for(lambda: http.started)
    yield f"http://{HOST}:{http.servers[0].sockets[0].getsockname()[1]}"
    http.should_exit = http.force_exit = True
    thread.join(60)


def test_websockets_that_are_compressed_are_found(stranger: str) -> None:
    assert names(new_realtime(), *LOOKS, url=stranger) == ["deflate"]


def test_a_server_that_is_not_ours_is_found(stranger: str, redis_url: str) -> None:
    assert names(new_realtime(redis_url), "client", url=stranger, patience=0.5) == ["web-not-ours"]
