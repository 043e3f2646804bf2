"""Answer requests for a few plain pages, such as health checks, in any WSGI or ASGI server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec


class Page(msgspec.Struct, frozen=True):
    """An answer.

    Attributes:
        body: What it says.
        status: The HTTP status.
        media_type: Of the body.
    """

    body: bytes
    status: int = 200
    media_type: str = "application/json"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer; no cache may keep it."""
        length = str(len(self.body))
        return {"Content-Type": self.media_type, "Content-Length": length, "Cache-Control": "no-store"}


#: By path, what makes a page; it must not block.
Pages = Mapping[str, Callable[[], Page]]

ASGIApp = Callable[[Any, Any, Any], Any]
WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

NOT_FOUND = Page(b'{"status": "not found"}', 404)
NOT_ALLOWED = Page(b'{"status": "method not allowed"}', 405)


def answer(pages: Pages, path: str, method: str) -> Page | None:
    """Return the answer to a request; None where there is no such page."""
    make = pages.get(path) or pages.get(path.rstrip("/"))
    if make is None:
        return None
    return make() if method in ("GET", "HEAD") else NOT_ALLOWED


def wsgi(pages: Pages, app: WSGIApp | None = None) -> WSGIApp:
    """Return a WSGI application with the pages.

    Args:
        pages: By path.
        app: What answers all other requests; without it they are not found.
    """

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        page = answer(pages, environ.get("PATH_INFO", ""), method)
        if page is None and app is not None:
            return app(environ, start_response)
        page = page or NOT_FOUND
        start_response(f"{page.status} {HTTPStatus(page.status).phrase}", list(page.headers.items()))
        return [] if method == "HEAD" else [page.body]

    return application


def asgi(pages: Pages, app: ASGIApp | None = None) -> ASGIApp:
    """Return an ASGI application with the pages.

    Args:
        pages: By path.
        app: What answers all other requests, and gets all that is none; without it they are not found.
    """

    async def application(scope: Any, receive: Any, send: Any) -> None:
        is_http = scope["type"] == "http"
        page = answer(pages, path_of(scope), scope["method"]) if is_http else None
        if page is None and app is not None:
            await app(scope, receive, send)
        elif is_http:
            await _send(page or NOT_FOUND, scope["method"], send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await _live(receive, send)

    return application


def path_of(scope: Any) -> str:
    """Return the path of a request below what the application is mounted at."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root) else path


async def _send(page: Page, method: str, send: Any) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in page.headers.items()]
    await send({"type": "http.response.start", "status": page.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else page.body})


async def _live(receive: Any, send: Any) -> None:
    """Begin and end with the server; there is nothing to do for that."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
