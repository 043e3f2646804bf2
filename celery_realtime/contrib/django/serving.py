"""Serve sockets beside a Django project's views, in ``asgi.py`` and in ``wsgi.py``."""

from __future__ import annotations

import logging
from typing import Any

import socketio
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler

from celery_realtime.contrib.django.rules import rules
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.extension import Realtime, current_realtime

logger = logging.getLogger(__name__)


#: Where plain HTTP is, beside the views of ``urls``.
HTTP_PREFIX = "/celery-realtime"


def realtime_asgi(
    application: Any, *, realtime: Realtime | None = None, http_prefix: str | None = HTTP_PREFIX, **options: Any
) -> Any:
    """Return an ASGI application that serves the sockets and plain HTTP, and all else as before.

    Args:
        application: What ``get_asgi_application()`` returned.
        realtime: By default that of the project's Celery app.
        http_prefix: What the paths of plain HTTP begin with; None for none.
        **options: Of :class:`socketio.AsyncServer`, such as ``cors_allowed_origins``.

    Raises:
        ImproperlyConfigured: It is of WSGI, or what ``init_socketio`` refuses.
    """
    if isinstance(application, WSGIHandler):
        raise ImproperlyConfigured("this application is of WSGI: pass get_asgi_application(), or use realtime_wsgi")
    realtime = realtime or current_realtime()
    server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager(), **options)
    realtime.init_socketio(server, **rules(realtime))
    return _with_http(socketio.ASGIApp(server, application), realtime, server, http_prefix)


def realtime_wsgi(
    application: Any, *, realtime: Realtime | None = None, http_prefix: str | None = HTTP_PREFIX, **options: Any
) -> Any:
    """Return a WSGI application that serves the sockets and plain HTTP, and all else as before.

    Args:
        application: What ``get_wsgi_application()`` returned.
        realtime: By default that of the project's Celery app.
        http_prefix: What the paths of plain HTTP begin with; None for none.
        **options: Of :class:`socketio.Server`, such as ``async_mode``; by default ``threading``.

    Raises:
        ImproperlyConfigured: It is of ASGI, or what ``init_socketio`` refuses.
    """
    if isinstance(application, ASGIHandler):
        raise ImproperlyConfigured("this application is of ASGI: pass get_wsgi_application(), or use realtime_asgi")
    realtime = realtime or current_realtime()
    options = {"async_mode": "threading", **options}
    server = socketio.Server(client_manager=realtime.client_manager(), **options)
    realtime.init_socketio(server, **rules(realtime))
    return _with_http(_Application(server, application), realtime, server, http_prefix)


def _with_http(application: Any, realtime: Realtime, server: Any, prefix: str | None) -> Any:
    return application if prefix is None else realtime.http_app(application, server=server, prefix=prefix)


class _Application(socketio.WSGIApp):
    """Lets browsers poll where the web server shows no socket that could become a WebSocket: under ``runserver``."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        engine = self.engineio_app.eio
        if engine.allow_upgrades and environ.get("SERVER_SOFTWARE", "").startswith("WSGIServer/"):
            engine.allow_upgrades, engine.transports = False, ["polling"]
            logger.info("runserver serves no WebSockets over WSGI, so browsers poll; with daphne it serves both")
        return super().__call__(environ, start_response)
