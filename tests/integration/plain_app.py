"""A Celery app without the extension: it shows that the workers and brokers of the tests do their part."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

app = Celery("plain")
app.conf.broker_connection_retry_on_startup = True


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def where() -> dict[str, Any]:
    return {"pid": os.getpid(), "parent": os.getppid()}
