"""Tasks that end in every way, and canvases of them that are described in JSON."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, chain, chord, group
from celery.exceptions import Ignore, Reject

from celery_realtime import Realtime

#: What a task of a canvas may do. A chord of which a member is ignored or rejected is never over for Celery.
ENDS = ("succeed", "fail", "ignore", "reject", "retry", "retry_in_vain")
#: Times that ``celery.chord_unlock`` looks at a chord; without a limit it would look at such a chord for ever.
LOOKS = 40
#: Seconds before a retry: Celery stores RETRY after it has published it, and over the success of a quick one.
PAUSE = 0.5


def make_app(broker: str, backend: str, history: str, **options: Any) -> Celery:
    """Return an app with one task for each end.

    Args:
        broker: Address of the broker.
        backend: Address of the result backend.
        history: Address of the Redis for the history.
        **options: Of the app.
    """
    app = Celery("canvas", broker=broker, backend=backend, **options)
    app.conf.update(broker_connection_retry_on_startup=True, result_extended=True, result_chord_retry_interval=0.1)
    Realtime(app, history_url=history, lost_after=60.0)
    for name, task in TASKS.items():
        app.task(name=name, bind=True, max_retries=1, shared=False)(task)
    app.on_after_finalize.connect(limit_looks, weak=False)
    return app


def limit_looks(sender: Any, **_: Any) -> None:
    """Let a chord whose members are never ready be given up."""
    sender.tasks["celery.chord_unlock"].max_retries = LOOKS


def succeed(self: Any, *_: Any) -> int:
    return 1


def fail(self: Any, *_: Any) -> None:
    raise ValueError("nothing works")


def ignore(self: Any, *_: Any) -> None:
    raise Ignore


def reject(self: Any, *_: Any) -> None:
    raise Reject("no thanks", requeue=False)


def retry(self: Any, *_: Any) -> int:
    if not self.request.retries:
        raise self.retry(countdown=PAUSE)
    return 1


def retry_in_vain(self: Any, *_: Any) -> None:
    raise self.retry(countdown=PAUSE, exc=ConnectionError("never there"))


def become(self: Any, *_: Any, canvas: Any) -> Any:
    return self.replace(build(self.app, canvas))


TASKS = {task.__name__: task for task in (succeed, fail, ignore, reject, retry, retry_in_vain, become)}


def build(app: Celery, canvas: Any) -> Any:
    """Return the signature of a canvas.

    Args:
        app: Its app.
        canvas: The name of a task, or one of ``[chain, canvases]``, ``[group, canvases]``, ``[chord, canvases, body]``,
            ``[become, canvas]``, ``[link, canvas, callback]``, ``[link_error, canvas, errback]``.
    """
    if isinstance(canvas, str):
        return app.tasks[canvas].s()
    kind, *parts = canvas
    if kind == "become":
        return app.tasks["become"].s(canvas=parts[0])
    if kind in ("link", "link_error"):
        signature = build(app, parts[0])
        getattr(signature, kind)(build(app, parts[1]))
        return signature
    members = [build(app, part) for part in parts[0]]
    if kind == "chain":
        return chain(*members, app=app)
    if kind == "group":
        return group(members, app=app)
    return chord(members, build(app, parts[1]), app=app)


if "HISTORY_URL" in os.environ:
    celery = make_app(os.environ["CELERY_BROKER_URL"], os.environ["CELERY_RESULT_BACKEND"], os.environ["HISTORY_URL"])
