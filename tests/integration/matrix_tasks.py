"""Tasks that pytest-celery copies into its workers, local or in a container."""

from __future__ import annotations

import os
from typing import Any

from celery import shared_task, signals

from celery_realtime import Realtime


@signals.celeryd_init.connect(weak=False)
def attach(instance: Any = None, **_: Any) -> None:
    """Attach the extension to the app of the worker, which pytest-celery makes."""
    Realtime(instance.app, progress_interval=0)


@shared_task(bind=True)
def count(self: Any, total: int) -> dict[str, int]:
    """Count, and store how far it got."""
    for current in range(1, total + 1):
        self.update_state(state="PROGRESS", meta={"current": current, "total": total})
    return {"total": total, "pid": os.getpid(), "parent": os.getppid()}


@shared_task(bind=True)
def report(self: Any, total: int) -> int:
    """Count, and tell the project how far it got."""
    for current in range(1, total + 1):
        self.update_progress(current=current, total=total, message="counting")
    return total


@shared_task
def worker_pid() -> int:
    """Return the pid of the worker's main process."""
    return os.getppid()
