"""A Django program: publishes in transactions, in blocks of projects, and prints the project of each job as JSON."""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import django
from django.conf import settings

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}, USE_TZ=True)

from celery.contrib.django.task import DjangoTask  # noqa: E402

from tests.recording import Studio, new_app  # noqa: E402

studio = Studio(new_app(task_cls=DjangoTask))


def task(name: str, function: Any = lambda *_: None, **options: Any) -> Any:
    function.__name__ = name
    studio.app.task(function, name=name, shared=False, **options)
    return studio.app.tasks[name]


WAYS = ("delay_on_commit", "apply_async_on_commit", "closure", "partial", "robust", "argument", "outside", "after")
tasks = {name: task(name) for name in WAYS}


def said(in_task: Any = None) -> None:
    from django.db import transaction

    with transaction.atomic():
        with studio.realtime.project("p"):
            tasks["delay_on_commit"].delay_on_commit(1)
            tasks["apply_async_on_commit"].apply_async_on_commit((1,), headers={"other": "header"})
            transaction.on_commit(lambda: tasks["closure"].delay(1))
            transaction.on_commit(functools.partial(tasks["partial"].delay, 1))
            transaction.on_commit(lambda: tasks["robust"].delay(1), robust=True)
            tasks["argument"].delay_on_commit(1, project_id="q")
        tasks["outside"].delay_on_commit(1)
        with studio.realtime.project("x"):
            pass
    tasks["after"].delay(1)


def projects() -> dict[str, str]:
    sent = studio.sent
    studio.wire.sent.clear()
    return {each.data["task"]: each.project_id for each in sent if each.data["state"] == "PENDING"}


django.setup()
if __name__ == "__main__":
    said()
    sys.stdout.write(json.dumps(projects()) + "\n")
    task("outer", said, bind=True).apply(headers={"project_id": "job"})
    sys.stdout.write(json.dumps(projects()) + "\n")
    from django.db import connection, transaction

    marks: list[Any] = [lambda: None]
    with transaction.atomic():
        transaction.on_commit(marks[0])
        assert connection.run_on_commit[-1][1] is marks[0], "a function is changed for nothing"
        try:
            with studio.realtime.project("p"):
                transaction.on_commit("no function")  # type: ignore[arg-type]
        except TypeError:
            sys.stdout.write("refused\n")
