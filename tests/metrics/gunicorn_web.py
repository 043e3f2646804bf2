"""A web application of several processes that emits events: ``gunicorn tests.metrics.gunicorn_web:application``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from celery import Celery
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from celery_realtime import Realtime
from celery_realtime.metrics.serving import wsgi_app

celery = Celery("web", broker=os.environ["CELERY_BROKER_URL"])
realtime = Realtime(celery, metrics=True, history_url=None)


def emit(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Emit an event, and answer with the process that has done so."""
    realtime.manager.emit_to_project("p", "line", {})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


application = DispatcherMiddleware(emit, {"/metrics": wsgi_app()})
