"""The module for FastAPI, and what the core says of a CORSMiddleware without it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from typing import TYPE_CHECKING, Annotated, Any

import pytest
import socketio
import uvicorn
from celery import Celery
from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Mount

from celery_realtime import Realtime
from celery_realtime.contrib import fastapi as fastapi_module
from celery_realtime.contrib.fastapi import (
    Origins,
    get_realtime,
    health_router,
    mount_realtime,
    pages_router,
    realtime_lifespan,
)
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.health import health_asgi
from celery_realtime.pages import Page
from celery_realtime.web.client_manager import AsyncRealtimeClientManager
from tests.contrib.sites import Browser
from tests.log_records import logged_by
from tests.processes import HOST
from tests.waiting import wait_for
from tests.web_servers import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.launcher import Launcher

URL = "redis://localhost:1/0"  # nobody listens there, and nobody asks
OUTER = "celery_realtime.web.cors"


def new_realtime(url: str = URL) -> Realtime:
    return Realtime(Celery("studio", broker=url, set_as_current=False), history_url=None, secret_key=SECRET)


@pytest.fixture
def realtime(monkeypatch: pytest.MonkeyPatch) -> Realtime:
    monkeypatch.setattr(AsyncRealtimeClientManager, "start_listening", lambda _: None)
    return new_realtime()


def app_with_cors(**options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(CORSMiddleware, **options)
    return app


def environ(host: str = "api.example", scheme: str = "https", **more: str) -> dict[str, Any]:
    return {"HTTP_HOST": host, "asgi.scope": {"scheme": scheme}, **more}


# -- origins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "origin", "may"),
    [
        ({"allow_origins": ["https://a.example"]}, "https://a.example", True),
        ({"allow_origins": ["https://a.example"]}, "https://b.example", False),
        ({"allow_origins": ["https://a.example"]}, "https://api.example", True),
        ({"allow_origins": ["https://a.example"]}, "http://api.example", False),
        ({"allow_origins": ["https://a.example"]}, None, True),
        ({"allow_origins": ["https://a.example"]}, "null", False),
        ({"allow_origin_regex": r"https://.*\.a\.example"}, "https://x.a.example", True),
        ({"allow_origin_regex": r"https://.*\.a\.example"}, "https://x.a.example.evil", False),
        ({"allow_origins": ["*"]}, "https://b.example", False),
        ({"allow_origins": ["*"]}, "*", False),
        ({}, "https://b.example", False),
    ],
)
def test_the_origins_are_those_of_the_middleware_and_the_app_s_own(
    options: dict[str, Any], origin: str | None, may: bool
) -> None:
    assert Origins(app_with_cors(**options))(origin, environ()) is may


def test_middleware_may_come_later() -> None:
    app = FastAPI()
    origins = Origins(app)
    assert origins("https://a.example", environ()) is False
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"])
    assert origins("https://a.example", environ()) is True


def test_behind_a_proxy_the_own_origin_is_that_of_the_proxy() -> None:
    forwarded = {"HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_HOST": "studio.example, inner"}
    assert Origins(FastAPI())("https://studio.example", environ("10.0.0.1:8000", "http", **forwarded)) is True


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_web_socket_is_of_the_same_origin_as_its_page(scheme: str) -> None:
    assert Origins(FastAPI())("https://api.example", environ(scheme=scheme)) is True


def test_a_star_is_not_taken_over_and_a_line_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    origins = Origins(app_with_cors(allow_origins=["*"]))
    for _ in range(2):
        assert origins("https://evil.example", environ()) is False
    (line,) = logged_by(caplog, "celery_realtime.contrib.fastapi")
    assert "cors_allowed_origins" in line.getMessage()


# -- without the module -------------------------------------------------------------------------------------------


async def ask(app: Any) -> list[bytes]:
    """Ask for a polling session, as a browser does for a page of another origin; return who may read the answer."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/socket.io/",
        "raw_path": b"/socket.io/",
        "root_path": "",
        "query_string": b"EIO=4&transport=polling",
        "headers": [(b"host", b"api.example"), (b"origin", b"https://a.example")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers: list[tuple[bytes, bytes]] = sent[0]["headers"]
    return [value for name, value in headers if name.lower() == b"access-control-allow-origin"]


def test_a_server_that_is_mounted_by_hand_answers_twice_and_the_log_says_so(
    realtime: Realtime, caplog: pytest.LogCaptureFixture
) -> None:
    origins = ["https://a.example"]
    app = app_with_cors(allow_origins=origins)
    manager = realtime.async_client_manager()
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, cors_allowed_origins=origins)
    realtime.init_socketio(server)
    app.mount("/socket.io", socketio.ASGIApp(server, socketio_path=None))
    assert asyncio.run(ask(app)) == [b"https://a.example", b"https://a.example"]
    assert len(logged_by(caplog, OUTER)) == 1


def around_all(socket: Any) -> Any:
    return CORSMiddleware(socket, allow_origins=["https://a.example"])


def behind_others(socket: Any) -> Any:
    return CORSMiddleware(GZipMiddleware(ServerErrorMiddleware(socket)), allow_origins=["https://a.example"])


def around_a_mount(socket: Any) -> Any:
    cors = Middleware(CORSMiddleware, allow_origins=["https://a.example"])
    return Starlette(routes=[Mount("/socket.io", socket, middleware=[cors])])


def around_an_app_in_an_app(socket: Any) -> Any:
    app = app_with_cors(allow_origins=["https://a.example"])
    app.mount("/", Starlette(routes=[Mount("/socket.io", socket)]))
    return app


def of_a_function(socket: Any) -> Any:
    """A middleware as functions make one."""

    def cors(app: Any) -> Any:
        async def call(scope: Any, receive: Any, send: Any) -> None:
            async def send_with_headers(message: Any) -> None:
                if message["type"] == "http.response.start":
                    allowed = (b"access-control-allow-origin", b"https://a.example")
                    message = {**message, "headers": [*message["headers"], allowed]}
                await send(message)

            await app(scope, receive, send_with_headers)

        return call

    return cors(socket)


@pytest.mark.parametrize("origins", [["https://a.example"], None])
@pytest.mark.parametrize(
    "wrap",
    [around_all, behind_others, around_a_mount, around_an_app_in_an_app, of_a_function],
    ids=lambda f: f.__name__,
)
def test_a_middleware_is_noticed_wherever_it_stands(
    realtime: Realtime, caplog: pytest.LogCaptureFixture, wrap: Any, origins: Any
) -> None:
    manager = realtime.async_client_manager()
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, cors_allowed_origins=origins)
    realtime.init_socketio(server)
    app = wrap(socketio.ASGIApp(server, socketio_path=None))
    assert asyncio.run(ask(app)) == [b"https://a.example"] * (1 if origins is None else 2)
    (line,) = logged_by(caplog, OUTER)
    assert "is around this Socket.IO server" in line.getMessage()


def test_a_middleware_of_the_application_inside_is_none_around_the_server(
    realtime: Realtime, caplog: pytest.LogCaptureFixture
) -> None:
    manager = realtime.async_client_manager()
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, cors_allowed_origins=["https://a.example"])
    realtime.init_socketio(server)
    app = socketio.ASGIApp(server, app_with_cors(allow_origins=["https://a.example"]))
    assert asyncio.run(ask(GZipMiddleware(app))) == [b"https://a.example"]
    assert logged_by(caplog, OUTER) == []


@pytest.mark.parametrize("cors", [None, ["https://a.example"], "*"])
def test_a_server_that_the_module_mounts_answers_once(
    realtime: Realtime, caplog: pytest.LogCaptureFixture, cors: Any
) -> None:
    app = app_with_cors(allow_origins=["https://a.example"])
    mount_realtime(app, realtime, cors_allowed_origins=cors)
    assert asyncio.run(ask(app)) == [b"https://a.example"]
    assert logged_by(caplog, OUTER) == []


def test_without_a_middleware_the_server_answers_itself(realtime: Realtime) -> None:
    app = FastAPI()
    mount_realtime(app, realtime, cors_allowed_origins=["https://a.example"])
    assert asyncio.run(ask(app)) == [b"https://a.example"]


# -- life ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def app(redis_url: str) -> Iterator[FastAPI]:
    app = FastAPI()
    mount_realtime(app, new_realtime(redis_url))
    yield app
    asyncio.run(app.state.realtime_socket.stop())


def test_the_workers_are_heard_when_the_app_has_started_and_not_after_its_end(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastapi_module, "START_TIMEOUT", 60.0)

    async def live() -> tuple[bool, Any]:
        async with realtime_lifespan(app):
            manager = app.state.realtime_socket.manager
            return manager.reader.listener.wait(0), manager

    for _ in range(2):  # as tests do, which start an app again and again
        is_hearing, manager = asyncio.run(live())
        assert is_hearing is True
        manager.listener_thread.join(30)
        assert not manager.listener_thread.is_alive()


def test_a_lifespan_without_a_socket_says_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    async def live() -> None:
        async with realtime_lifespan(FastAPI()):
            pass

    asyncio.run(live())
    (line,) = logged_by(caplog, "celery_realtime.contrib.fastapi")
    assert "mount_realtime" in line.getMessage()


def test_the_realtime_of_an_app_is_found_by_its_requests(realtime: Realtime) -> None:
    from starlette.requests import HTTPConnection

    app = FastAPI()
    mount_realtime(app, realtime)
    assert get_realtime(HTTPConnection({"type": "http", "app": app, "headers": []})) is realtime


def asked_in_sub_application(app: FastAPI, api: FastAPI) -> str:
    """Return the name of the Celery app whose Realtime a route of a sub-application is given."""

    @api.get("/name")
    def name(realtime: Annotated[Realtime, Depends(get_realtime)]) -> str:
        return str(realtime.app.main)

    app.mount("/api", api)
    return str(json.loads(asyncio.run(get(app, "/api/name"))[1]))


def test_a_sub_application_has_its_own_realtime_or_the_only_one_of_the_process(
    realtime: Realtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Realtime(Celery("other", broker=URL, set_as_current=False), history_url=None, secret_key=SECRET)
    app, api = FastAPI(), FastAPI()
    mount_realtime(app, realtime)
    monkeypatch.setattr(fastapi_module, "instances", [realtime])
    assert asked_in_sub_application(app, FastAPI()) == "studio"
    for known in ([], [realtime, other]):
        monkeypatch.setattr(fastapi_module, "instances", known)
        with pytest.raises(ImproperlyConfigured, match=rf"/api/name .* has {len(known)}: call mount_realtime"):
            asked_in_sub_application(FastAPI(), FastAPI())
    mount_realtime(api, other)
    assert asked_in_sub_application(FastAPI(), api) == "other"


# -- sessions -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve an app in a thread, and give its address."""
    http = uvicorn.Server(uvicorn.Config(app, host=HOST, port=0, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(http.serve()), daemon=True)
    thread.start()
    try:
        wait_for(lambda: http.started, timeout=60)
        yield f"http://{HOST}:{http.servers[0].sockets[0].getsockname()[1]}"
    finally:
        http.should_exit = http.force_exit = True
        thread.join(30)


def authenticate(token: Any, environ: dict[str, Any]) -> Any:
    return environ["asgi.scope"]["session"].get("user_id")


def test_a_session_of_starlette_s_names_its_user(redis_url: str, launcher: Launcher) -> None:
    app = FastAPI(lifespan=realtime_lifespan)
    app.add_middleware(SessionMiddleware, secret_key=SECRET)

    @app.get("/login/{name}")
    def login(name: str, request: Request) -> None:
        request.session["user_id"] = name

    mount_realtime(
        app, new_realtime(redis_url), authenticate=authenticate, authorize=lambda *pair: pair == ("ada", "a")
    )
    with served(app) as url:
        browser = Browser(url)
        browser.get("/login/ada")
        client = browser.socket(launcher)
        assert client.subscribe("a")["ok"] is True
        assert client.subscribe("b")["error"]["code"] == "forbidden"
        client.close()
        stranger = Browser(url)
        with pytest.raises(socketio.exceptions.ConnectionError):
            stranger.socket(launcher, transports=["polling"])


# -- health ---------------------------------------------------------------------------------------------------------


async def get(app: Any, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Ask an application without a server."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": [], "root_path": ""}
    await app({**scope, "query_string": b"", "scheme": "http", "server": (HOST, 80), "app": app}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("framework", ["fastapi", "starlette"])
def test_health_checks_are_answered(monkeypatch: pytest.MonkeyPatch, realtime: Realtime, framework: str) -> None:
    app: Any = FastAPI() if framework == "fastapi" else Starlette(routes=[Mount("/", health_asgi(realtime))])
    if framework == "fastapi":
        app.include_router(health_router(realtime))
        app.include_router(pages_router({"/metrics": lambda: Page(b"m 1", media_type="text/plain")}))
        assert asyncio.run(get(app, "/metrics")) == (200, b"m 1")
        assert not app.openapi()["paths"]
    for path in ("/health", "/health/ready", "/health/live"):
        status, body = asyncio.run(get(app, path))
        assert (status, json.loads(body)["status"]) == (200, "ok")
    monkeypatch.setattr(realtime, "health", lambda: {"live": False, "ready": False, "checks": {"loops": FAILING}})
    for path in ("/health", "/health/ready", "/health/live"):
        status, body = asyncio.run(get(app, path))
        assert (status, json.loads(body)) == (503, {"status": "failing", "checks": {"loops": "failing"}})
    assert asyncio.run(get(app, "/health", "POST"))[0] == 405


FAILING = {"state": "failing", "stuck": ["keeper of redis.internal"]}
