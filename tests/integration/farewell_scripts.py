"""Programs that end as soon as they have spoken: ``python -m tests.integration.farewell_scripts name project``."""

from __future__ import annotations

import os
import sys

from celery_realtime import get_socketio_manager
from tests.integration.farewell_jobs import celery
from tests.integration.jobs import named

LINES = 500


def publish(project: str) -> None:
    """Publish a job by its project's argument."""
    named.delay(project)


def vanish(project: str) -> None:
    """Publish a job and be gone before anything else is sent."""
    named.delay(project)
    os._exit(0)


def crash(project: str) -> None:
    emit(project)
    raise RuntimeError("unhandled")


def leave(project: str) -> None:
    emit(project)
    sys.exit(3)


def emit(project: str) -> None:
    for number in range(LINES):
        get_socketio_manager().emit_to_project(project, "line", {"number": number})
    print("said all", flush=True)  # noqa: T201  (tests wait for it)


if __name__ == "__main__":
    celery.set_current()
    {"publish": publish, "vanish": vanish, "crash": crash, "leave": leave}[sys.argv[1]](sys.argv[2])
