"""Tasks as they are written with celery-types: checked by mypy --strict, with it and without; never run."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task, shared_task

from celery_realtime import Realtime, RealtimeTask


class StudioTask(Task[..., Any], RealtimeTask):
    abstract = True


celery = Celery("studio", task_cls=StudioTask)
other = Celery("other")
realtime = Realtime(celery)


@celery.task(bind=True)
def of_the_app(self: StudioTask, recording: str) -> int:
    self.update_progress(25, "Downloading")
    self.emit("line", {"text": "..."})
    raise self.retry(countdown=self.request.retries)


@other.task(bind=True, base=StudioTask)
def by_its_base(self: StudioTask, recording: str) -> list[str]:
    return [part.upper() for part in self.track([recording])]


@shared_task(bind=True, base=StudioTask)
def shared(self: StudioTask, recording: str) -> None:
    report(self)


def report(task: RealtimeTask) -> None:
    task.update_progress(current=1, total=2)


of_the_app.delay("monday.wav")
report(of_the_app)
