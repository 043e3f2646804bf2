"""Put the routes of plain HTTP into a WSGI or ASGI server: an application, around another one or by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from celery_realtime import pages
from celery_realtime.exceptions import ImproperlyConfigured, SubscribeError
from celery_realtime.web.handlers import SocketIOEventHandlers
from celery_realtime.web.http import PlainHttp, send_answer
from celery_realtime.web.http_answers import of_refusal
from celery_realtime.web.http_requests import Route, route_of
from celery_realtime.web.refusals import inner_server
from celery_realtime.web.seams import is_asyncio

#: Where the routes are, beside the browser's modules.
PREFIX = "/celery-realtime"


def application(serving: Iterable[Any], server: Any, app: Any, prefix: str) -> Any:
    """Return an application with the routes of a server.

    Args:
        serving: What serves in this process, its handlers among it.
        server: The Socket.IO server; None for the only one.
        app: What answers all other requests; None if nothing does.
        prefix: What the paths of the routes begin with.

    Raises:
        ImproperlyConfigured: The server has no handlers, or is of another kind; or the prefix is none.
    """
    if prefix and not prefix.startswith("/"):
        raise ImproperlyConfigured(f"the prefix of plain HTTP must begin with '/', not be {prefix!r}")
    http = _chosen(serving, server).http
    return (asgi if http.is_asyncio else wsgi)(http, app, prefix.rstrip("/"))


def _chosen(serving: Iterable[Any], server: Any) -> SocketIOEventHandlers:
    handlers = [part for part in serving if isinstance(part, SocketIOEventHandlers)]
    if server is not None:
        inner = inner_server(server)
        handlers = [one for one in handlers if one.server is inner]
    if len(handlers) != 1:
        raise ImproperlyConfigured(
            f"plain HTTP is answered by a Socket.IO server, and this process has {len(handlers)}: call "
            "init_socketio(server) first, and name the server if there are several, as http_app(server=server)"
        )
    [found] = handlers
    if is_asyncio(found.server) and found.server.async_mode != "asgi":
        raise ImproperlyConfigured(
            f"plain HTTP is answered on WSGI and ASGI, and this server has async_mode={found.server.async_mode!r}"
        )
    return found


def _route(path: str, prefix: str) -> Route | None:
    return route_of(path[len(prefix) :]) if path.startswith(f"{prefix}/") else None


def wsgi(http: PlainHttp, app: pages.WSGIApp | None, prefix: str) -> pages.WSGIApp:
    """Return a WSGI application with the routes."""
    others = app or _not_found

    def respond(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", "")).encode("latin-1", "replace").decode(errors="replace")
        route = _route(path, prefix)
        return others(environ, start_response) if route is None else http.wsgi(environ, start_response, route)

    return respond


NOT_FOUND = of_refusal(SubscribeError("there is no such page", "bad_request"), HTTPStatus.NOT_FOUND)


def _not_found(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response(NOT_FOUND.status_line, NOT_FOUND.headers)
    return [NOT_FOUND.body or b""]


def asgi(http: PlainHttp, app: pages.ASGIApp | None, prefix: str) -> pages.ASGIApp:
    """Return an ASGI application with the routes."""
    others = app or pages.asgi({})  # which begins and ends with the server

    async def respond(scope: Any, receive: Any, send: Any) -> None:
        is_http = scope["type"] == "http"
        route = _route(pages.path_of(scope), prefix) if is_http else None
        if route is not None:
            await http.asgi(scope, receive, send, route)
        elif is_http and app is None:
            await send_answer(send, NOT_FOUND)
        else:
            await others(scope, receive, send)

    return respond
