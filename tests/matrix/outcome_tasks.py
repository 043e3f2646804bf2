"""A Celery app with a task for every way in which a job can end.

A job whose id starts with its project and a slash also tells that project of each Celery signal, after the extension
has heard it: a custom event ``signal``. From one process, what it tells of a signal comes before that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery, chain, group, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from celery_realtime import Realtime

SECRET = "a secret of the tests"

celery = Celery("outcomes")
celery.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options=json.loads(os.environ.get("TRANSPORT_OPTIONS", "{}")),
    result_backend_transport_options={"retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.01}},
    task_send_sent_event=False,
    worker_soft_shutdown_timeout=float(os.environ.get("SOFT_SHUTDOWN", "0")),
)


def history() -> dict[str, str | None]:
    if os.environ.get("HISTORY") == "off":
        return {"history_url": None}
    return {"history_url": os.environ["HISTORY_URL"]} if "HISTORY_URL" in os.environ else {}


realtime = Realtime(celery, secret_key=SECRET, progress_interval=0.05, **history())


def tell_of(name: str) -> Any:
    def receiver(sender: Any = None, task_id: Any = None, request: Any = None, state: Any = None, **_: Any) -> None:
        job_id = task_id or (sender.request if request is None else request).id or ""
        project, slash, _ = job_id.partition("/")
        if slash:
            realtime.manager.emit_to_project(project, "signal", {"job": job_id, "name": name, "state": state})

    return receiver


if "TELL_SIGNALS" in os.environ:
    for name in ("prerun", "postrun", "success", "failure", "retry", "revoked", "internal_error"):
        getattr(signals, f"task_{name}").connect(tell_of(name), weak=False)


class UnpicklableError(Exception):
    """An exception that pickle can do nothing with."""

    def __init__(self, lock: Any, text: str) -> None:
        super().__init__(text)
        self.lock = lock


# -- ordinary ends ------------------------------------------------------------------------------------------------


@celery.task(bind=True)
def succeed(self: Any, value: str = "done") -> str:
    self.update_progress(50, "half")
    return value


@celery.task(ignore_result=True)
def succeed_unstored() -> str:
    return "done"


@celery.task(bind=True)
def fail(self: Any, text: str = "broken") -> None:
    self.update_progress(50, "half")
    raise ValueError(text)


@celery.task
def note(value: str) -> str:
    return f"noted {value}"


@celery.task
def note_error(failed: str) -> str:
    """Note that a job failed: with one argument, it is published as a job."""
    return "noted"


@celery.task
def gather(values: list[str]) -> str:
    return "+".join(values)


@celery.task
def unserialisable() -> object:
    return object()


@celery.task
def unpicklable() -> None:
    raise UnpicklableError(threading.Lock(), "held")


@celery.task(bind=True)
def hold(self: Any, path: str, seconds: float = 20.0) -> str:
    """Run until a file appears."""
    self.update_progress(10, "holding")
    wait_for_file(path, seconds)
    return "let go"


@celery.task(bind=True, acks_late=True)
def hold_late(self: Any, path: str, seconds: float = 20.0) -> str:
    self.update_progress(10, "holding")
    wait_for_file(path, seconds)
    return "let go"


def wait_for_file(path: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # noqa: TID251


@celery.task
def last(seconds: float) -> str:
    time.sleep(seconds)  # noqa: TID251
    return "done"


@celery.task(acks_late=True)
def last_late(seconds: float) -> str:
    time.sleep(seconds)  # noqa: TID251
    return "done"


@celery.task
def catch_soft_limit(path: str, seconds: float) -> str:
    try:
        wait_for_file(path, seconds)
    except SoftTimeLimitExceeded:
        return "caught"
    return "let go"


# -- retries ------------------------------------------------------------------------------------------------------


@celery.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=False, default_retry_delay=0)
def autoretry(self: Any, times: int = 1) -> str:
    self.update_progress(80 - 40 * self.request.retries)
    if self.request.retries < times:
        raise ConnectionError("not yet")
    return "done"


@celery.task(bind=True)
def retry_at_once(self: Any, times: int = 1) -> int:
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@celery.task(bind=True, max_retries=1)
def exhaust(self: Any) -> None:
    raise self.retry(countdown=0)


@celery.task(bind=True, max_retries=1)
def exhaust_with_cause(self: Any) -> None:
    raise self.retry(countdown=0, exc=ConnectionError("never there"))


@celery.task(bind=True)
def retry_and_return(self: Any) -> str:
    if not self.request.retries:
        self.retry(countdown=0.3, throw=False)
        return "first"
    return "second"


@celery.task(bind=True)
def retry_and_fail(self: Any) -> str:
    if not self.request.retries:
        self.retry(countdown=0.3, throw=False)
        raise ValueError("first")
    return "second"


# -- jobs that end themselves -------------------------------------------------------------------------------------


@celery.task
def ignore() -> None:
    raise Ignore("not needed")


@celery.task(bind=True)
def store_and_ignore(self: Any, state: str, meta: Any) -> None:
    self.update_state(state=state, meta=meta)
    raise Ignore("stored by hand")


@celery.task
def reject() -> None:
    raise Reject("no thanks", requeue=False)


@celery.task(acks_late=True)
def reject_late() -> None:
    raise Reject("no thanks", requeue=False)


@celery.task(acks_late=True)
def requeue_once(path: str) -> str:
    if first_run(path):
        raise Reject("later", requeue=True)
    return "second run"


@celery.task(bind=True)
def replace_with_task(self: Any) -> None:
    raise self.replace(succeed.s("replacement"))


@celery.task(bind=True)
def replace_second_try(self: Any) -> None:
    if not self.request.retries:
        raise self.retry(countdown=0)
    raise self.replace(succeed.s("replacement"))


@celery.task(bind=True)
def replace_second_try_with_chain(self: Any) -> None:
    if not self.request.retries:
        raise self.retry(countdown=0)
    raise self.replace(chain(last.si(0.1), autoretry.si()))


@celery.task(bind=True)
def replace_with_chain(self: Any) -> None:
    raise self.replace(chain(last.si(0.2), succeed.si("replacement")))


@celery.task(bind=True)
def replace_with_failing_chain(self: Any) -> None:
    raise self.replace(chain(fail.si(), succeed.si("replacement")))


@celery.task(bind=True)
def replace_with_group(self: Any) -> None:
    raise self.replace(group(succeed.si("one"), succeed.si("two")))


def first_run(path: str) -> bool:
    if Path(path).exists():
        return False
    Path(path).touch()
    return True


# -- sudden ends --------------------------------------------------------------------------------------------------


@celery.task
def leave(code: int = 3) -> None:
    sys.exit(code)


@celery.task
def die(path: str, how: str = "kill") -> None:
    wait_for_file(path, 20.0)
    end_process(how)


@celery.task(acks_late=True)
def die_late(path: str, how: str = "kill") -> None:
    wait_for_file(path, 20.0)
    end_process(how)


@celery.task(acks_late=True, reject_on_worker_lost=True)
def die_once(path: str, how: str = "kill") -> str:
    if first_run(path):
        end_process(how)
    return "second run"


def end_process(how: str) -> None:
    if how == "exit":
        os._exit(9)
    os.kill(os.getpid(), signal.SIGKILL)
