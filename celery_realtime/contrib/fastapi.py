"""Fit this package into a FastAPI app: sockets that start and end with it, CORS, tokens, and the browser's modules."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import socketio
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Response
from starlette.requests import HTTPConnection

from celery_realtime.contrib import browser
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.extension import Realtime
from celery_realtime.health import health_pages
from celery_realtime.instances import instances
from celery_realtime.pages import Page, Pages
from celery_realtime.web.cors import HANDLED_KEY

logger = logging.getLogger(__name__)

#: Seconds for which a token is good.
TOKEN_SECONDS = 3600

#: Longest wait, in seconds, for the broker when the app starts; it is tried on and on anyway.
START_TIMEOUT = 5.0

Scope = MutableMapping[str, Any]
Authorize = Callable[[Any, str], Any]


def mount_realtime(
    app: FastAPI,
    realtime: Realtime,
    *,
    path: str = "/socket.io",
    cors_allowed_origins: Any = None,
    server_options: Mapping[str, Any] | None = None,
    **rules: Any,
) -> None:
    """Serve the sockets of an app.

    Args:
        app: The app; with ``lifespan=realtime_lifespan`` the sockets start and end with it.
        realtime: The Realtime, which :func:`get_realtime` returns from now on.
        path: Where socket.io-client looks for the server.
        cors_allowed_origins: As that of python-socketio; by default pages of the app's own origin, and of those that
            its ``CORSMiddleware`` names.
        server_options: More of :class:`socketio.AsyncServer`.
        **rules: Of ``init_socketio``, such as ``authenticate`` and ``authorize``.

    Raises:
        ImproperlyConfigured: What ``init_socketio`` refuses.
    """
    origins = Origins(app) if cors_allowed_origins is None else cors_allowed_origins
    socket = _Socket(app, realtime, {"cors_allowed_origins": origins, **(server_options or {})}, rules)
    app.state.realtime, app.state.realtime_socket = realtime, socket
    app.mount(path, socket)


@asynccontextmanager
async def realtime_lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Begin to hear the workers before the first request, and send what waits at the end.

    ``FastAPI(lifespan=realtime_lifespan)``; or in a lifespan of yours, ``async with realtime_lifespan(app): yield``.
    """
    socket: _Socket | None = getattr(app.state, "realtime_socket", None)
    if socket is None:
        logger.warning(
            "realtime_lifespan has nothing to start, so this app serves no sockets; call mount_realtime(app, "
            "realtime) before the app starts"
        )
        yield
        return
    await socket.start()
    try:
        yield
    finally:
        await socket.stop()


def get_realtime(connection: HTTPConnection) -> Realtime:
    """Return the Realtime of the app: ``realtime: Annotated[Realtime, Depends(get_realtime)]``.

    A sub-application does not know the app that it is mounted in: if it has none of its own, it is the only one of this
    process.

    Raises:
        ImproperlyConfigured: There is none, or there are several.
    """
    own: Realtime | None = getattr(connection.app.state, "realtime", None)
    found = list(instances) if own is None else [own]
    if len(found) != 1:
        raise ImproperlyConfigured(
            f"the app of {connection.url.path} has no Realtime, and this process has {len(found)}: call "
            "mount_realtime(app, realtime); in a sub-application of an app that has done so, set app.state.realtime"
        )
    return found[0]


def realtime_router(user: Callable[..., Any], authorize: Authorize, *, expires_in: float = TOKEN_SECONDS) -> APIRouter:
    """Return a router with the browser's modules, plain HTTP, and ``/token?project=...`` for your own users.

    Args:
        user: A dependency that returns the user's id, or raises.
        authorize: ``(user_id, project_id) -> bool``; sync or async.
        expires_in: Seconds for which a token is good.
    """
    router = APIRouter()
    for path in ("/events", "/jobs", "/jobs/{job_id:path}"):
        app: Any = _PlainHttp()  # Starlette takes an ASGI application, too
        router.add_route(path, app, include_in_schema=False)

    @router.get("/token")
    async def token(
        response: Response,
        realtime: Annotated[Realtime, Depends(get_realtime)],
        user_id: Any = Depends(user),  # noqa: B008 - an annotation cannot name what is not global
        project: Annotated[list[str] | None, Query()] = None,
    ) -> dict[str, Any]:
        """Return ``{token, expires_in}`` for the projects that the query names."""
        response.headers["Cache-Control"] = "no-store"
        return {
            "token": await _token(realtime, user_id, project or [], authorize, expires_in),
            "expires_in": expires_in,
        }

    @router.get("/{name}.js")
    def module(name: str, if_none_match: Annotated[str, Header()] = "") -> Response:
        """Return one of the browser's modules."""
        return _module(name, if_none_match)

    return router


def health_router(realtime: Realtime, *, path: str = "/health") -> APIRouter:
    """Return a router that answers health checks, at ``/health/live`` and ``/health/ready``.

    Args:
        realtime: The Realtime.
        path: In place of ``/health``.
    """
    return pages_router(health_pages(realtime, path))


def pages_router(pages: Pages) -> APIRouter:
    """Return a router with plain pages, which no schema lists.

    Args:
        pages: By path.
    """
    router = APIRouter()
    for path, make in pages.items():
        router.add_api_route(path, _endpoint(make), methods=["GET", "HEAD"], include_in_schema=False)
    return router


def _endpoint(make: Callable[[], Page]) -> Callable[[], Awaitable[Response]]:
    async def endpoint() -> Response:  # in the event loop: it waits for nothing
        page = make()
        return Response(page.body, page.status, page.headers)

    return endpoint


async def _token(realtime: Realtime, user_id: Any, projects: list[str], authorize: Authorize, expires_in: float) -> str:
    if user_id is None:
        raise HTTPException(401, "log in first")
    for project in projects:
        if await _outcome(authorize, user_id, project) is not True:
            raise HTTPException(403, "the project is not open to this user")
    try:
        return await asyncio.to_thread(realtime.issue_token, user_id, projects, expires_in=expires_in)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None


async def _outcome(rule: Authorize, *args: Any) -> Any:
    outcome = rule(*args) if inspect.iscoroutinefunction(rule) else await asyncio.to_thread(rule, *args)
    return await outcome if inspect.isawaitable(outcome) else outcome


def _module(name: str, if_none_match: str) -> Response:
    found = browser.module(name)
    if found is None:
        raise HTTPException(404)
    headers = {"ETag": found.etag, "Cache-Control": "no-cache"}
    if found.etag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(found.text, media_type="text/javascript; charset=utf-8", headers=headers)


# -- origins ------------------------------------------------------------------------------------------------------


def _cors_options(app: Any) -> dict[str, Any] | None:
    """Return what an app's ``CORSMiddleware`` was given; None if it has none."""
    for middleware in getattr(app, "user_middleware", ()):
        if getattr(middleware.cls, "__name__", "") == "CORSMiddleware":
            return dict(middleware.kwargs)
    return None


class Origins:
    """The origins that may connect: the app's own, and those that its ``CORSMiddleware`` names.

    Not all that ``*`` names: a page of any origin could connect with the cookies of your users.

    Args:
        app: The app, which may get its middleware later.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._has_warned = False

    def __call__(self, origin: str | None, environ: dict[str, Any]) -> bool:
        """Tell whether a page of an origin may connect; called by Engine.IO at each request."""
        options = _cors_options(self._app) or {}
        named, pattern = options.get("allow_origins", ()), options.get("allow_origin_regex")
        if origin is None or origin in _own_origins(environ) or (origin != "*" and origin in named):
            return True
        if pattern is not None and re.fullmatch(pattern, origin):
            return True
        if "*" in named and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "allow_origins=['*'] of CORSMiddleware does not apply to sockets, which have your users' cookies, "
                "so a page of %.200r may not connect; name the origins, or pass cors_allowed_origins to "
                "mount_realtime",
                origin,
            )
        return False


def _own_origins(environ: dict[str, Any]) -> set[str]:
    """Return the origins of the server itself, as its clients and its proxy name it; as python-socketio does."""
    scope, host = environ.get("asgi.scope") or {}, environ.get("HTTP_HOST", "")
    scheme = _SCHEMES.get(scope.get("scheme", ""), "http")
    forwarded = environ.get("HTTP_X_FORWARDED_PROTO", scheme), environ.get("HTTP_X_FORWARDED_HOST", host)
    of_proxy = "://".join(value.split(",")[0].strip() for value in forwarded)
    return {f"{scheme}://{host}", of_proxy}


#: By that of a request: the scheme of the page.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


# -- the socket ---------------------------------------------------------------------------------------------------


class _Socket:
    """The ASGI application that is mounted.

    Args:
        app: The app that it is mounted in.
        realtime: The Realtime.
        options: Of the Socket.IO server.
        rules: Of ``init_socketio``.
    """

    def __init__(self, app: FastAPI, realtime: Realtime, options: dict[str, Any], rules: dict[str, Any]) -> None:
        self._app = app
        self._realtime = realtime
        self._options = options
        self._rules = rules
        self._has_ended = False
        self._make()

    def _make(self) -> None:
        manager = self._realtime.async_client_manager()
        self._server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, **self._options)
        self._realtime.init_socketio(self._server, **self._rules)
        self._asgi = socketio.ASGIApp(self._server, socketio_path=None)
        self._has_ended = False

    @property
    def manager(self) -> Any:
        """The client manager of the server."""
        return self._server.manager

    async def start(self) -> None:
        """Wait until the workers are heard."""
        if self._has_ended:
            self._make()
        if not await asyncio.to_thread(self._server.manager.reader.listener.wait, START_TIMEOUT):
            logger.warning(
                "the broker cannot be reached yet, so clients get no live events; trying again until it can be"
            )

    async def stop(self) -> None:
        """End what runs in the background, and send what waits."""
        self._has_ended = True
        self._server.manager.stop_listening()
        await self._server.shutdown()
        await asyncio.to_thread(self._realtime.flush)

    def http(self) -> Any:
        """Return what answers plain HTTP."""
        return self._realtime.http_app(server=self._server, prefix="")

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request, without a second answer to what ``CORSMiddleware`` has answered."""
        await self._asgi(scope, receive, _answering_once(self._app, scope, send))


class _PlainHttp:
    """The ASGI application behind the routes of plain HTTP, in whatever app they are."""

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request."""
        connection = HTTPConnection(scope)
        socket: _Socket | None = getattr(connection.app.state, "realtime_socket", None)
        http = get_realtime(connection).http_app(prefix="") if socket is None else socket.http()
        job_id = scope.get("path_params", {}).get("job_id")
        path = f"/jobs/{job_id}" if job_id is not None else f"/{connection.url.path.rpartition('/')[2]}"
        below = {**scope, "path": path, "root_path": ""}
        await http(below, receive, _answering_once(connection.app, below, send))


def _answering_once(app: Any, scope: Scope, send: Any) -> Any:
    """Return how an answer is sent, without a second answer to what an app's ``CORSMiddleware`` has answered."""
    if scope["type"] != "http" or _cors_options(app) is None:
        return send
    scope[HANDLED_KEY] = True

    async def send_once(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            message = {**message, "headers": [pair for pair in headers if not _is_of_cors(pair[0])]}
        await send(message)

    return send_once


def _is_of_cors(name: bytes) -> bool:
    return bytes(name).lower().startswith(b"access-control-")
