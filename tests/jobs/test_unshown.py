"""What is reported where its job does not run is not shown, and a line in the log says so."""

from __future__ import annotations

from typing import Any

import pytest

from celery_realtime.jobs import unshown
from tests.jobs.test_task import names
from tests.recording import Studio

KNOWS_NONE = "knows no project of job elsewhere, so its progress is not shown"


@pytest.fixture
def studio() -> Studio:
    studio = Studio()
    studio.app.conf.result_backend = "cache+memory://"
    return studio


def reporting(studio: Studio) -> Any:
    @studio.app.task(bind=True, name=next(names), shared=False)
    def report(self: Any) -> None:
        self.update_progress(50)
        self.emit("line", {"number": 1})
        list(self.track([1, 2]))

    return report


def test_progress_by_the_id_of_a_job_of_another_process(studio: Studio, caplog: pytest.LogCaptureFixture) -> None:
    studio.realtime.progress_tracker("elsewhere").set_progress(50)
    assert KNOWS_NONE in caplog.text
    assert studio.sent == []


def test_the_state_of_a_job_of_another_process(studio: Studio, caplog: pytest.LogCaptureFixture) -> None:
    task = reporting(studio)
    task.update_state(task_id="elsewhere", state="PROGRESS", meta={"current": 1, "total": 2})
    assert KNOWS_NONE in caplog.text
    assert studio.sent == []
    assert studio.app.AsyncResult("elsewhere").state == "PROGRESS"
    caplog.clear()
    task.update_state(task_id="another", state="DOWNLOADING", meta={"rows": 1})
    task.update_state(task_id="another", state="RETRY", meta={"progress": 1})
    assert not caplog.text


def test_a_job_without_a_project_and_one_that_was_tracked_are_no_news(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    @studio.app.task(bind=True, name=next(names), shared=False)
    def by_id(self: Any) -> None:
        studio.realtime.progress_tracker(self.request.id).set_progress(50)

    by_id.apply()
    studio.realtime.manager.track_job_for_project("tracked", "p")
    studio.realtime.progress_tracker("tracked").set_progress(50)
    assert studio.told() == ["50"]
    assert not caplog.text


def test_a_task_without_a_job_is_a_plain_call_unless_a_worker_has_started_its_process(
    studio: Studio, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = reporting(studio)
    task()
    assert not caplog.text
    monkeypatch.setattr(unshown, "is_spawned_by_worker", lambda: True)
    task()
    assert f"knows no job of task {task.name}" in caplog.text
    assert studio.sent == []
