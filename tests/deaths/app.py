"""A Celery app whose tasks write down what becomes of them: ``celery -A tests.deaths.app worker``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task, signals

from celery_realtime import Realtime
from tests.deaths import diary

SECRET = "a secret of the deaths"
SPOKEN = "said"
#: Longest time, in seconds, that anything here waits for a file.
PATIENCE = 120.0


def configure(app: Celery, broker: str, backend: str | None) -> Celery:
    """Give an app its servers."""
    app.conf.update(
        broker_url=broker,
        result_backend=backend,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=1.0,
        # Without it RabbitMQ may lose a message that it has just been given, when it is killed.
        broker_transport_options={"confirm_publish": True} if broker.startswith("amqp") else {},
        result_backend_transport_options={
            "retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.01}
        },
        task_send_sent_event=False,
        worker_prefetch_multiplier=4,
        # With it, gevent workers of Celery 5.7 may stand still for ever after RabbitMQ was away: a job that ends raises
        # the prefetch count, reads new messages while it waits for the answer, and waits for its own place in the pool.
        worker_enable_prefetch_count_reduction=False,
    )
    return app


def realtime_for(app: Celery, history: str, url: str | None, lost_after: float) -> Realtime:
    """Add the extension to an app."""
    return Realtime(
        app,
        secret_key=SECRET,
        progress_interval=0.05,
        history_url=history,
        lost_after=lost_after,
        history_size=5000,
        **({"url": url} if url else {}),
    )


celery = Celery("deaths")


@signals.task_prerun.connect(weak=False)
def note_begin(task: Any = None, task_id: str = "", args: Any = None, **_: Any) -> None:
    """Write down that a task begins, before the extension, which connects later, reports it."""
    if isinstance(task, Watched):
        note(args[0], task_id, diary.BEGIN)


realtime: Realtime | None = None
if "DEATHS_HISTORY" in os.environ:
    configure(celery, os.environ["DEATHS_BROKER"], os.environ.get("DEATHS_BACKEND"))
    realtime = realtime_for(
        celery,
        os.environ["DEATHS_HISTORY"],
        os.environ.get("DEATHS_CHANNEL"),
        float(os.environ["DEATHS_LOST_AFTER"]),
    )


class Watched(Task):
    """Writes down what Celery makes of the job, and can be held up between its steps."""

    Request = "tests.deaths.requests:WatchedRequest"

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Celery has stored the result, and is about to send its signal."""
        note(args[0], task_id, diary.STORED)
        wait_for_gate(args[0], "hook")

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Celery has stored the failure; without a request it is the main process that speaks, for a dead child."""
        if self.request.id == task_id:
            note(args[0], task_id, diary.STORED)
            wait_for_gate(args[0], "hook")

    def after_return(self, status: Any, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Celery has sent its signal."""
        if self.request.id == task_id:
            note(args[0], task_id, diary.REPORTED)


@celery.task(base=Watched, bind=True, name="deaths.early")
def early(self: Any, part: dict[str, Any]) -> str:
    return perform(self, part)


@celery.task(base=Watched, bind=True, name="deaths.late", acks_late=True)
def late(self: Any, part: dict[str, Any]) -> str:
    return perform(self, part)


@celery.task(base=Watched, bind=True, name="deaths.again", acks_late=True, reject_on_worker_lost=True)
def again(self: Any, part: dict[str, Any]) -> str:
    return perform(self, part)


@celery.task(base=Watched, bind=True, name="deaths.named")
def named(self: Any, part: dict[str, Any], project_id: str) -> str:
    return perform(self, part)


def perform(task: Any, part: dict[str, Any]) -> str:
    """Do what a part says.

    Args:
        task: The running task.
        part: ``folder``; ``end``, "success" or "error"; ``gate`` and ``hook``, the files that it waits for before and
            after its end; ``seconds`` that it takes; ``suicide``, whether it kills its own process after these.
    """
    if part.get("suicide"):
        time.sleep(part.get("seconds", 0))  # noqa: TID251
        note(part, task.request.id, diary.SUICIDE)
        os.kill(os.getpid(), signal.SIGKILL)
    task.update_progress(10, "begun")
    wait_for_gate(part, "gate")
    time.sleep(part.get("seconds", 0))  # noqa: TID251
    task.update_progress(90, "nearly done")
    task.emit(SPOKEN, {"of": task.request.id})
    note(part, task.request.id, diary.END, end=part["end"])
    if part["end"] == "error":
        raise ValueError("as it should")
    return "as it should"


def note(part: dict[str, Any], job: str, what: str, end: str | None = None) -> None:
    main = os.getppid() if os.environ.get("DEATHS_POOL") == "prefork" else os.getpid()
    diary.write(Path(part["folder"]), job, what, main_pid=main, end=end)


def wait_for_gate(part: dict[str, Any], name: str) -> None:
    path = part.get(name)
    deadline = time.monotonic() + PATIENCE
    while path and not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.02)  # noqa: TID251
