"""A Celery app whose tasks are coroutines, for the pool of celery-aio-pool."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from celery import Celery

from celery_realtime import Realtime

celery = Celery("aio")
celery.conf.broker_connection_retry_on_startup = True
realtime = Realtime(celery, history_url=os.environ.get("HISTORY_URL"), progress_interval=0.01)


@celery.task(bind=True)
async def work(self: Any, steps: int) -> int:
    """Report from the loop, and from a thread that the loop waits for."""
    for _ in self.track(range(steps), "Working"):
        await asyncio.sleep(0)
    self.emit("line", {"steps": steps})
    await asyncio.to_thread(self.update_progress, 100, "done")
    return steps


@celery.task
async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("no")


@celery.task(bind=True)
def plain(self: Any) -> str:
    self.update_progress(50, "half")
    return "plain"


@celery.task
async def outer() -> str:
    return str(work.delay(2).id)
