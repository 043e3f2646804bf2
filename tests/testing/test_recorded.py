"""``realtime_events``: what jobs report is on record, without any service."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from celery import Celery, Task, chain
from celery.contrib.testing.worker import start_worker

from celery_realtime import Realtime
from celery_realtime.testing import RecordedEvents

#: Nothing listens there: who connects fails.
NOWHERE = "redis://127.0.0.1:1/0"


class Studio:
    """A project whose broker and result backend cannot be reached."""

    def __init__(self, broker: str = NOWHERE, backend: str = NOWHERE, **conf: Any) -> None:
        self.app = Celery("tested", broker=broker, backend=backend, set_as_current=False)
        self.app.conf.update(conf)
        self.realtime = Realtime(self.app)

        @self.app.task(bind=True, name="transcribe", shared=False)
        def transcribe(task: Any, recording: str) -> dict[str, Any]:
            for percent in (10, 20, 30):
                task.update_progress(percent, f"{recording}, {percent} of 100")
            task.emit("line", {"text": "Good morning."})
            return {"recording": recording}

        @self.app.task(bind=True, name="fail", shared=False, max_retries=1)
        def fail(task: Any) -> None:
            try:
                raise ConnectionError("gone")
            except ConnectionError as error:
                raise task.retry(exc=error, countdown=0) from None

        @self.app.task(name="second", shared=False)
        def second(before: Any) -> Any:
            return before

        self.transcribe: Task = transcribe
        self.fail: Task = fail
        self.second: Task = second


def test_a_job_that_is_applied_is_on_record_at_once(realtime_events: RecordedEvents) -> None:
    job = Studio().transcribe.apply(("monday",), headers={"project_id": "apollo"})
    assert realtime_events.statuses(job) == ["running", "success"]
    assert realtime_events.states(job.id) == ["STARTED", "SUCCESS"]
    assert realtime_events.progress(job) == [10, 20, 30]
    assert realtime_events.messages(job)[-1] == "monday, 30 of 100"
    assert realtime_events.custom("line", job) == [{"text": "Good morning."}]
    assert realtime_events.result(job) == {"recording": "monday"}
    assert realtime_events.error(job) is None
    assert realtime_events.jobs("apollo") == [job.id]
    assert [event.name for event in realtime_events] == [
        *("agent_status", "agent_progress", "agent_progress", "agent_progress", "line", "agent_status")
    ]


def test_an_event_is_what_a_browser_receives(realtime_events: RecordedEvents) -> None:
    job = Studio().transcribe.apply(("monday",), headers={"project_id": "apollo"})
    end = realtime_events.end(job)
    assert (end.name, end.project_id, end.job_id) == ("agent_status", "apollo", job.id)
    assert end.data["event"] == "status_change"
    assert end.data["task"] == "transcribe"
    assert end.data["timestamp"].endswith("Z")


def test_always_eager_needs_no_broker_either(realtime_events: RecordedEvents) -> None:
    studio = Studio(task_always_eager=True)
    with studio.realtime.project("apollo"):
        job = studio.transcribe.delay("monday")
        chain(studio.transcribe.s("tuesday"), studio.second.s())()
    assert realtime_events.statuses(job) == ["running", "success"]
    assert len(realtime_events.jobs("apollo")) == 3


def test_a_failure_has_its_attempts_and_its_error(realtime_events: RecordedEvents) -> None:
    job = Studio().fail.apply(headers={"project_id": "apollo"})
    assert realtime_events.states(job) == ["STARTED", "RETRY", "STARTED", "FAILURE"]
    assert realtime_events.error(job) == "ConnectionError: gone"
    assert realtime_events.result(job) is None


def test_a_worker_of_celerys_fixtures_is_recorded_in_order(realtime_events: RecordedEvents) -> None:
    studio = Studio("memory://", "cache+memory://")
    with start_worker(studio.app, perform_ping_check=False, shutdown_timeout=60.0):
        jobs = [studio.transcribe.apply_async((str(n),), headers={"project_id": "apollo"}) for n in range(20)]
        for job in jobs:
            assert realtime_events.wait_for(job).data["state"] == "SUCCESS"
            assert realtime_events.wait_for(job, "running").data["worker"]
    for job in jobs:
        assert realtime_events.statuses(job) == ["queued", "running", "success"]
        assert realtime_events.progress(job) == [10, 20, 30]


def test_a_queued_that_comes_late_stands_where_it_belongs() -> None:
    events = RecordedEvents()
    studio = Studio()
    manager = studio.realtime.manager
    from celery_realtime.events import Job, status_change
    from celery_realtime.testing.recording import RecordingOutbox

    job = Job(job_id="j", project_id="p")
    with manager.diverted(RecordingOutbox(events.record)):
        for state in ("STARTED", "PENDING", "SUCCESS"):
            manager.put_status(status_change(job, state))
    assert events.statuses("j") == ["queued", "running", "success"]


def test_jobs_without_a_project_reach_nobody_and_the_error_says_so(realtime_events: RecordedEvents) -> None:
    job = Studio().transcribe.apply(("monday",))
    assert list(realtime_events) == []
    with pytest.raises(AssertionError, match="without a project, which nobody would receive"):
        realtime_events.wait_for(job, timeout=0)


def test_what_has_not_come_is_said_with_all_that_has(realtime_events: RecordedEvents) -> None:
    studio = Studio()
    job = studio.transcribe.apply(("monday",), headers={"project_id": "apollo"})
    with pytest.raises(AssertionError, match=r"has not come to queued in 0 s.*(?s:.*)SUCCESS"):
        realtime_events.wait_for(job, "queued", timeout=0)
    with pytest.raises(AssertionError, match="nothing has not ended"):
        realtime_events.end("nothing")
    assert "apollo" in repr(realtime_events)


def test_another_thread_is_waited_for(realtime_events: RecordedEvents) -> None:
    studio = Studio()
    work = studio.transcribe.s("monday").set(task_id="one", headers={"project_id": "apollo"})
    thread = threading.Thread(target=work.apply)
    thread.start()
    assert realtime_events.wait_for("one").data["result"] == {"recording": "monday"}
    assert realtime_events.wait_until(lambda events: events.custom("line"))
    thread.join()


def test_each_realtime_is_recorded_whenever_it_was_made() -> None:
    from celery_realtime.testing.recording import recording

    before, events = Studio(), RecordedEvents()
    with recording(events):
        after = Studio()
        for studio in (before, after):
            studio.transcribe.apply(("monday",), headers={"project_id": "apollo"})
    assert len(events.jobs()) == 2
    for studio in (before, after):  # and then no more, though none can be sent
        studio.transcribe.apply(("monday",), headers={"project_id": "apollo"})
        assert studio.realtime.manager.outbox.size
        studio.realtime.start_over()
    assert len(events.jobs()) == 2


def test_what_a_filter_drops_is_not_on_record(realtime_events: RecordedEvents) -> None:
    app = Celery("filtered", broker=NOWHERE, set_as_current=False)
    realtime = Realtime(app, event_filter=lambda event, project, data: data if event == "shown" else None)
    realtime.manager.emit_to_project("apollo", "hidden", 1)
    realtime.manager.emit_to_project("apollo", "shown", 2)
    realtime.manager.emit_many("apollo", [("shown", [3]), ("hidden", 4)])
    assert realtime_events.custom() == [2, [3]]
    assert realtime_events.of(project="apollo", name="shown")[0].data == 2
    assert realtime_events[0:1] == [realtime_events[0]]
    realtime_events.clear()
    assert len(realtime_events) == 0


def test_what_is_not_sent_is_not_in_anybodys_way(realtime_events: RecordedEvents) -> None:
    studio = Studio()
    handle = studio.realtime.handle(studio.transcribe, ("monday",), project_id="apollo")
    assert handle.since is None
    studio.realtime.manager.emit_to_project("apollo", "shown", 2)
    assert studio.realtime.flush(0)
    assert studio.realtime.health()["loops"] == []
