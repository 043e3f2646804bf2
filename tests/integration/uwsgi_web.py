"""A WSGI application for uWSGI: it publishes a job with each request, and with AT_IMPORT one while it is imported."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from celery import Celery

from celery_realtime import Realtime
from tests.waiting import wait_for

logging.basicConfig()
celery = Celery("studio", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
realtime = Realtime(celery)


def publish() -> bytes:
    return str(celery.send_task("add", headers={"project_id": os.environ["PROJECT"]})).encode()


if os.environ.get("AT_IMPORT"):
    publish()
    realtime.flush(60)
    realtime.manager.outbox.stop()
    wait_for(lambda: threading.active_count() == 1)  # one that runs while uWSGI forks can keep its workers from running


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [publish()]
