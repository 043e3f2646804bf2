"""A Celery app with tasks of celery-batches."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery import Celery
from celery_batches import Batches

from celery_realtime import Realtime

celery = Celery("batches")
celery.conf.broker_connection_retry_on_startup = True
realtime = Realtime(celery, history_url=os.environ.get("HISTORY_URL"))


@celery.task(base=Batches, flush_every=3, flush_interval=1)
def count_all(requests: list[Any]) -> int:
    """Store the result of each job, as celery-batches asks for; of one a failure, of another nothing."""
    for request in requests:
        if request.args[0] == "fails":
            celery.backend.mark_as_failure(request.id, ValueError("no"), request=request, call_errbacks=False)
        elif request.args[0] != "says nothing":
            celery.backend.mark_as_done(request.id, len(request.args[0]), request=request)
    return len(requests)


@celery.task(base=Batches, flush_every=2, flush_interval=1)
def fail_all(requests: list[Any]) -> None:
    raise ValueError("nothing works")


@celery.task(base=Batches, flush_every=2, flush_interval=1)
def die_all(_requests: list[Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
