"""A plain call of a shared task, in a process where no Realtime is ever made, is no job and no error."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from celery_realtime import get_progress_tracker
from tests.jobs.test_task import task_of
from tests.recording import Studio, current

PROGRAM = """
from celery_realtime import Realtime, get_progress_tracker
from celery import Celery, shared_task

@shared_task(bind=True)
def transcribe(self, parts):
    self.update_progress(25, "Downloading")
    self.emit("line", {"text": "..."})
    for part in self.track(parts):
        pass
    tracker = get_progress_tracker(self.request.id)
    tracker.min_update_interval = 1
    tracker.set_progress(25, "Downloading")
    tracker.increment_progress(25)
    tracker.mark_complete()
    assert tracker.progress == 100
    try:
        tracker.set_progress(250)
    except ValueError:
        pass
    else:
        return "no error"
    try:
        self.update_progress(250)
    except ValueError:
        return "done"

assert transcribe(["a"]) == "done"
app = Celery("studio", broker="memory://", set_as_current=True)
assert transcribe(["a"]) == "done"
assert not hasattr(app, "realtime")
"""


def test_the_methods_are_there_and_only_check_their_arguments() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr


def test_a_task_that_another_calls_reports_by_the_id_that_it_does_not_have() -> None:
    studio = Studio()

    def inner(self: Any) -> None:
        tracker = studio.realtime.progress_tracker(self.request.id)
        tracker.set_progress(50, "inside")

    called = studio.app.task(inner, name="studio.inner", bind=True, shared=False)
    task_of(studio.app, lambda _: called()).apply(headers={"project_id": "p"})
    assert studio.told() == ["STARTED", "SUCCESS"]


def body(self: Any) -> Any:
    self.update_progress(25, "a")
    for _ in self.track([1, 2]):
        pass
    self.plan_stages({"one": 1, "two": 2})
    with self.stage("one") as stage:
        for _ in stage.track([1]):
            pass
    self.emit("line", {"text": "..."})
    with self.stream("answer") as out:
        out.write("token")
    self.metadata.increment("n")
    self.metadata.parent.set("n", 1)
    get_progress_tracker(self.request.id).set_progress(50)
    return self.metadata.get("n")


def test_a_test_that_pushes_a_request_calls_the_task_as_in_a_job() -> None:
    studio = Studio()
    task = task_of(studio.app, body)
    with current(studio.app):
        for request in ({"id": "job", "headers": {"project_id": "p"}}, {"id": "job"}, {}):
            task.push_request(**request)
            try:
                assert task.run() == 1
            finally:
                task.pop_request()
    assert {sent.data["task"] for sent in studio.sent if sent.event == "agent_progress"} == {task.name}
    assert {sent.project_id for sent in studio.sent} == {"p"}
