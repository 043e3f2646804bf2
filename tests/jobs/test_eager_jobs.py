"""Whether all jobs of a process run where they are called."""

from __future__ import annotations

from celery import Celery, signals
from celery.app.trace import build_tracer

from celery_realtime.jobs.eager_jobs import EagerJobs
from tests.recording import new_app


def noop() -> None: ...


def watched() -> tuple[Celery, EagerJobs]:
    app = new_app(broker="memory://")
    app.conf.task_always_eager = False
    return app, EagerJobs(app)


def test_they_are_if_the_app_says_so() -> None:
    app, jobs = watched()
    assert not jobs.are_all
    app.conf.task_always_eager = True
    assert jobs.are_all


def test_they_are_if_some_were_applied_and_until_one_is_published() -> None:
    app, jobs = watched()
    task = app.task(noop, name="noop", shared=False)
    task.bind(app)
    signals.task_prerun.connect(begin := lambda **_: jobs.begin(is_eager=bool(task.request.is_eager)), sender=task)
    task.apply()
    assert jobs.are_all
    jobs.note_publication()
    assert not jobs.are_all
    signals.task_prerun.disconnect(begin, sender=task)


def test_they_are_not_where_a_message_was_run() -> None:
    app, jobs = watched()
    task = app.task(noop, name="noop", shared=False)
    signals.task_prerun.connect(begin := lambda **_: jobs.begin(is_eager=bool(task.request.is_eager)), sender=task)
    build_tracer(task.name, task, app=app)("id", (), {}, {"id": "id", "task": task.name})
    task.apply()
    assert not jobs.are_all
    signals.task_prerun.disconnect(begin, sender=task)
