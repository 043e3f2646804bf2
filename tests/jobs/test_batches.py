"""The jobs of a batch start and end with it; tests/integration/test_batches.py runs the real celery-batches."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery import Task, signals

from celery_realtime.events import PROGRESS_EVENT, STATUS_EVENT
from celery_realtime.jobs.batches import FAILED
from tests.recording import Studio


class Pool:
    """Notes what it is to run."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def apply_async(self, _target: Any, _args: Any, **options: Any) -> str:
        self.options = options
        return "a result"


class Consumer:
    """Stands for that of a worker."""

    def __init__(self, app: Any) -> None:
        self.app = app


class Received(SimpleNamespace):
    """Stands for a worker's request, which may be referred to weakly."""


class Batches(Task):  # type: ignore[misc]
    """Stands for the class of celery-batches."""

    _pool: Any = None

    def flush(self, batch: tuple[list[Any]]) -> Any:
        return self._pool.apply_async(print, (self, batch, 0, None), callback=print)


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Studio:
    module = ModuleType("celery_batches")
    module.Batches = Batches  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "celery_batches", module)
    studio = Studio()
    studio.app.conf.result_backend = "cache+memory://"
    return studio


def run_all(batch: list[Any]) -> int:
    return len(batch)


def requests(*job_ids: str) -> tuple[list[Any]]:
    """Return the arguments of a batch."""
    common = {"name": "batch", "args": (), "kwargs": {}, "hostname": "w@host"}
    return ([SimpleNamespace(id=job_id, request_dict={"project_id": "p"}, **common) for job_id in job_ids],)


def run(
    studio: Studio, base: type[Task], args: Any, state: str, meanwhile: Callable[[], None] = lambda: None
) -> list[tuple[str, str, Any]]:
    """Return what is reported of a batch that ends in a state: job, state and error."""
    task = studio.app.task(name="batch", base=base, shared=False)(run_all)
    call = {"sender": task, "task_id": "batch", "task": task, "args": args, "kwargs": {}}
    signals.task_prerun.send(**call)
    meanwhile()
    signals.task_postrun.send(**call, retval=None, state=state)
    statuses = [sent.data for sent in studio.sent if sent.event == STATUS_EVENT]
    return [(data["job_id"], data["state"], data["error"]) for data in statuses]


def test_each_job_ends_as_its_task_has_stored_it_or_as_the_batch(studio: Studio) -> None:
    # All apps of a process share this backend.
    failed, done, silent = (f"{name}-{uuid.uuid4()}" for name in ("failed", "done", "silent"))
    studio.app.backend.store_result(failed, ValueError("no"), "FAILURE")
    studio.app.backend.store_result(done, 42, "SUCCESS")
    reported = run(studio, Batches, requests(failed, done, silent), "SUCCESS")
    assert [state for _, state, _ in reported[:3]] == ["STARTED"] * 3
    assert reported[3:] == [
        (failed, "FAILURE", "ValueError: no"),
        (done, "SUCCESS", None),
        (silent, "SUCCESS", None),
    ]
    assert [sent.data["result"] for sent in studio.sent[4:]] == [42, None]
    assert {sent.data["worker"] for sent in studio.sent} == {"w@host"}


def test_the_jobs_of_a_batch_that_raises_fail(studio: Studio) -> None:
    job = str(uuid.uuid4())
    assert run(studio, Batches, requests(job), "FAILURE")[1:] == [(job, "FAILURE", FAILED)]


def test_each_job_of_a_batch_reports_by_its_id_until_it_ends(studio: Studio) -> None:
    one, other = (f"{name}-{uuid.uuid4()}" for name in ("one", "other"))

    def report() -> None:
        for number, job in enumerate((one, other)):
            studio.realtime.progress_tracker(job).set_progress(40 + number)

    run(studio, Batches, requests(one, other), "SUCCESS", report)
    report()
    reported = [(sent.project_id, sent.data["job_id"], sent.data["progress"]) for sent in sent_progress(studio)]
    assert reported == [("p", one, 40), ("p", other, 41)]


def sent_progress(studio: Studio) -> list[Any]:
    return [sent for sent in studio.sent if sent.event == PROGRESS_EVENT]


def test_what_a_batch_reports_of_no_job_is_said_to_be_not_shown(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    task = studio.app.task(name="batch", base=Batches, shared=False)(run_all)
    task.update_progress(50)
    assert "get_progress_tracker(request.id)" in caplog.text
    other = studio.app.task(name="other", shared=False)(run_all)
    caplog.clear()
    other.update_progress(50)
    assert caplog.text == ""


def test_the_jobs_of_a_batch_whose_process_dies_fail_but_those_that_it_has_stored_as_done(studio: Studio) -> None:
    task = studio.app.task(name="batch", base=Batches, shared=False)(run_all)
    task = studio.app.tasks["batch"]
    received = Received(id="one", name="batch", task=task, request_dict={}, args=(), kwargs={}, hostname="w@h")
    signals.task_received.send(sender=Consumer(studio.app), request=received)  # there is no pool yet
    task._pool = pool = Pool()
    for _ in range(2):
        signals.task_received.send(sender=Consumer(studio.app), request=received)
    done, dead = (f"{name}-{uuid.uuid4()}" for name in ("done", "dead"))
    studio.app.backend.store_result(done, 42, "SUCCESS")
    assert task.flush(requests(done, dead)) == "a result"
    assert task._pool.options["callback"] is print
    pool.options["error_callback"](SimpleNamespace(exception=WorkerLostError("exited prematurely")))
    ends = [(sent.data["job_id"], sent.data["state"], sent.data["error"]) for sent in studio.sent]
    assert ends == [(done, "SUCCESS", None), (dead, "FAILURE", "WorkerLostError: exited prematurely")]
