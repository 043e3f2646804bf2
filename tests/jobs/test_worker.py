from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import signals
from celery.worker import state
from celery.worker.control import Panel

from celery_realtime import ImproperlyConfigured, Realtime
from celery_realtime.events import CANCEL_COMMAND
from celery_realtime.jobs.worker import WorkerStep
from tests.recording import Studio, new_app, record


@pytest.fixture
def reserved() -> Iterator[list[Any]]:
    """Requests that this process, as a worker, has taken from the queue."""
    requests: list[Any] = []
    yield requests
    for request in requests:
        state.reserved_requests.discard(request)


STEP = {"task": "publish", "options": {"task_id": "next"}}


class Consumer:
    """What in a worker takes jobs from the queue."""

    def __init__(self, app: Any) -> None:
        self.app = app


class Request:
    """What a worker makes of a message."""

    def __init__(self, job_id: str, project: str | None) -> None:
        self.id = job_id
        self.task = SimpleNamespace(name="transcribe")
        self.request_dict = {"id": job_id, "project_id": project}
        self.args: list[Any] = []
        self.kwargs: dict[str, Any] = {}
        self.hostname = "w@host"
        self._payload: Any = (self.args, self.kwargs, {"chain": [STEP]})
        self.time_start: float | None = None
        self.acknowledged = False

    def on_success(self, *_: Any, **__: Any) -> None: ...

    on_failure = on_timeout = reject = revoked = on_success


def receive(studio: Studio, requests: list[Any], *jobs: tuple[str, str | None]) -> None:
    for job in jobs:
        request = Request(*job)
        requests.append(request)
        state.reserved_requests.add(request)
        signals.task_received.send(sender=Consumer(studio.app), request=request)


def test_a_worker_holds_the_jobs_that_it_has_received_and_that_have_a_project(reserved: list[Any]) -> None:
    studio = Studio()
    receive(studio, reserved, ("one", "p"), ("two", None), ("three", "q"))
    reserved[0].time_start = 1.0
    held = studio.realtime.worker.held_jobs()
    assert {(job.job_id, job.project_id, job.worker, job.running) for job in held} == {
        *(("one", "p", "w@host", True), ("three", "q", "w@host", False))
    }
    assert [[(step.job_id, step.project_id) for step in job.behind] for job in held if job.job_id == "one"] == [
        [("next", "p")]
    ]


def test_a_held_job_is_described_once_and_again_when_it_has_begun(reserved: list[Any]) -> None:
    studio = Studio()
    receive(studio, reserved, ("one", "p"))
    [waiting] = studio.realtime.worker.held_jobs()
    assert studio.realtime.worker.held_jobs()[0] is waiting
    reserved[0].time_start = 7.0
    [begun] = studio.realtime.worker.held_jobs()
    assert (waiting.running, begun.running, begun.since) == (False, True, 7.0)
    assert begun.behind == waiting.behind != ()
    assert studio.realtime.worker.held_jobs()[0] is begun


def test_jobs_of_two_projects_that_have_one_id_are_held_and_end_each_as_its_own(reserved: list[Any]) -> None:
    studio = Studio()
    receive(studio, reserved, ("same", "p"), ("same", "q"))
    assert {(job.job_id, job.project_id) for job in studio.realtime.worker.held_jobs()} == {
        ("same", "p"),
        ("same", "q"),
    }
    first, _ = reserved
    sender = Consumer(studio.app)
    sender.request = SimpleNamespace(id=None)  # type: ignore[attr-defined]
    # It says the id alone, so that it may be of either; the pool says which it was.
    signals.task_failure.send(sender=sender, task_id="same", exception=ValueError("secret of p"))
    assert studio.sent == []
    signals.task_revoked.send(sender=sender, request=first)
    told = [(sent.project_id, sent.data["job_id"], sent.data["state"]) for sent in studio.sent]
    assert told == [("p", "same", "REVOKED"), ("p", "next", "FAILURE")]


def test_what_the_main_process_publishes_after_a_job_of_another_project_does_not_name_it(reserved: list[Any]) -> None:
    """Such as an errback, after the job's child has died."""
    studio = Studio()
    receive(studio, reserved, ("ours", "p"))
    for project in ("p", "q"):
        studio.app.send_task("note", headers={"project_id": project}, parent_id="ours", root_id="ours")
    assert [(sent.project_id, sent.data["parent_id"]) for sent in studio.sent] == [("p", "ours"), ("q", None)]
    assert [sent.data["root_id"] == "ours" for sent in studio.sent] == [True, False]


def test_a_worker_holds_what_it_has_finished_until_the_end_has_been_sent(reserved: list[Any]) -> None:
    """A host that fails before takes with it what the worker knew."""
    studio = Studio()
    receive(studio, reserved, ("ends", "p"))
    request = reserved.pop()
    request.time_start, request.worker_pid = 1.0, os.getpid()
    state.reserved_requests.discard(request)
    request.on_success((0, "repr", 0.1))
    assert studio.realtime.worker.held_jobs() == []
    studio.wire.down = True
    studio.realtime.manager.emit_to_project("p", "something", {})
    [job] = studio.realtime.worker.held_jobs()
    assert (job.job_id, job.running, job.left, job.since) == ("ends", True, True, 1.0)
    studio.wire.down = False
    assert studio.realtime.flush(60)
    assert studio.realtime.worker.held_jobs() == []


def test_a_worker_with_a_mistaken_setting_does_not_start() -> None:
    app = new_app()
    Realtime(app)
    app.conf.realtime_wire = "smoke"
    with pytest.raises(ImproperlyConfigured, match="realtime_wire"):
        WorkerStep(SimpleNamespace(app=app, steps=[]))


def test_before_it_forks_a_worker_has_loaded_what_its_children_need_and_takes_the_command() -> None:
    studio = Studio(history_url=None)
    WorkerStep(SimpleNamespace(app=studio.app, steps=[]))
    assert CANCEL_COMMAND in Panel.data
    assert studio.wire.preloaded


def test_a_worker_begins_when_its_pool_has_forked_and_ends_when_all_else_of_it_has() -> None:
    worker = Studio().app.WorkController(pool="prefork", concurrency=1)
    places = {step.alias: place for place, step in enumerate(worker.steps)}
    assert places["Pool"] < places["WorkerStep"] < places["Consumer"]
    assert places["WorkerEnd"] == 0  # they end in the opposite order


def test_a_worker_without_a_history_holds_no_lease() -> None:
    studio = Studio(history_url=None)
    studio.realtime.worker.start(SimpleNamespace(app=studio.app))
    assert [loop["name"] for loop in studio.realtime.health()["loops"]] == ["reconciler"]
    studio.realtime.worker.abandon()
    assert studio.realtime.health()["loops"] == []


def test_a_worker_that_ends_sends_what_waits() -> None:
    realtime = Realtime(new_app())
    wire = record(realtime)
    realtime.manager.emit_to_project("p", "line", {})
    signals.worker_shutdown.send(sender=None)
    assert wire.named("line")
