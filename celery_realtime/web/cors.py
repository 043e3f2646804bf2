"""Warn of a middleware around the server that answers the same question as Engine.IO: which origins may read this."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

logger = logging.getLogger(__name__)

#: In the scope of a request whose answer has no headers of Engine.IO's.
HANDLED_KEY = "celery_realtime.cors"

#: Callables that are looked through for a middleware, at most.
MOST_CALLABLES = 50


class OuterCors:
    """Looks at the first request of a browser from another origin, and at what its answer goes through.

    Args:
        allowed_origins: What the server was made with; an empty list where it leaves origins to others.
    """

    def __init__(self, allowed_origins: Any) -> None:
        self._allowed_origins = allowed_origins
        self._has_looked = False

    def look(self, environ: dict[str, Any]) -> None:
        """Look at a request, and warn, once, if a browser cannot use what it is answered.

        Args:
            environ: The request, as the gate has it.
        """
        if self._has_looked or "asgi.scope" not in environ:
            return
        scope = environ["asgi.scope"]
        if not any(name == b"origin" for name, _ in scope.get("headers") or ()):
            return
        self._has_looked = True
        if scope.get(HANDLED_KEY) or self._allowed_origins == []:
            return
        name = _middleware_of(scope.get("app")) or _middleware_behind(environ.get("asgi.send"))
        if name is not None:
            logger.warning(
                "%s is around this Socket.IO server, so %s; put socketio.ASGIApp around the app that has it, or with "
                "FastAPI mount the server with celery_realtime.contrib.fastapi.mount_realtime, which takes its origins",
                name,
                "this server admits pages of its own origin only, whatever that says"
                if self._allowed_origins is None
                else "both answer with CORS headers, which browsers refuse",
            )


def _middleware_of(app: Any) -> str | None:
    """Return the name of what a Starlette or FastAPI app, which Starlette puts into the scope, has of this kind."""
    classes = (getattr(middleware, "cls", None) for middleware in getattr(app, "user_middleware", ()))
    return next((name for name in map(_cors_name, classes) if name is not None), None)


def _middleware_behind(send: Any) -> str | None:
    """Return the name of such a middleware among those that an answer goes through, each of which wraps ``send``."""
    waiting = [send]
    for _ in range(MOST_CALLABLES):
        if not waiting:
            break
        part = waiting.pop()
        name = _cors_name(getattr(part, "__func__", part)) or _cors_name(type(getattr(part, "__self__", None)))
        if name is not None:
            return name
        waiting += _behind(part)
    return None


def _cors_name(part: Any) -> str | None:
    """Return the name of a class or function if that, or the package that it is of, is called after CORS."""
    name, package = str(getattr(part, "__qualname__", "")), str(getattr(part, "__module__", "")).partition(".")[0]
    return name.partition(".")[0] if "cors" in f"{name} {package}".lower() else None


def _behind(send: Any) -> Iterator[Any]:
    """Yield what a ``send`` calls, in the forms that middlewares give it: a partial, a method, or a closure."""
    if isinstance(send, functools.partial):
        yield send.func
        yield from _named_send(send.keywords)
    yield from _named_send(getattr(getattr(send, "__self__", None), "__dict__", {}))
    names = getattr(getattr(send, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, getattr(send, "__closure__", None) or (), strict=False))
    yield from (cell.cell_contents for cell in _named_send(cells))


def _named_send(values: Mapping[str, Any]) -> list[Any]:
    return [value for name, value in values.items() if "send" in name]
