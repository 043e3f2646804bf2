from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest
from celery.worker.control import Panel

from celery_realtime.events import CANCEL_COMMAND
from celery_realtime.jobs.cancelling import Cancellations, register_command
from tests.waiting import wait_for


class History:
    """Says which jobs have been cancelled, as the marks of a history do."""

    def __init__(self) -> None:
        self.jobs: set[str] = set()
        self.broken = False
        self.asked = 0
        self.answers: dict[str, Any] = {}
        self.marks = self

    def cancelled(self, job_ids: Iterable[str]) -> list[str]:
        self.asked += 1
        if self.broken:
            raise ConnectionError("away")
        return [job_id for job_id in job_ids if job_id in self.jobs]

    def answer(self, job_id: str, answer: dict[str, Any]) -> None:
        self.answers[job_id] = answer


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def cancellations(history: History) -> Cancellations:
    made: Any = Cancellations(lambda: history)  # type: ignore[arg-type,return-value]
    return made


def test_a_job_that_this_process_is_told_of_is_cancelled_at_once() -> None:
    cancellations = Cancellations(lambda: None)
    cancellations.add("job")
    assert cancellations.has("job")
    assert not cancellations.has("another")


def test_a_job_that_was_cancelled_elsewhere_is_found_in_the_history(
    cancellations: Cancellations, history: History
) -> None:
    assert not cancellations.has("job")
    history.jobs.add("job")
    wait_for(lambda: cancellations.has("job"))
    assert not cancellations.has("another")
    for job in ("job", "another"):
        cancellations.forget(job)


def test_while_the_history_is_away_jobs_run_on_and_the_loop_goes_on(
    cancellations: Cancellations, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    history.broken = True
    assert not cancellations.has("job")
    wait_for(lambda: cancellations.loop.failures >= 2)
    assert [loop.health()["error"] for loop in cancellations.loops] == ["ConnectionError: away"]
    history.broken = False
    history.jobs.add("job")
    wait_for(lambda: cancellations.has("job"))
    cancellations.forget("job")
    assert len(caplog.records) == 1


def test_when_no_job_is_left_the_loop_ends_and_the_next_job_starts_it_again(
    cancellations: Cancellations, history: History
) -> None:
    cancellations.has("job")
    cancellations.forget("job")
    wait_for(lambda: cancellations.loops == [])
    history.jobs.add("next")
    wait_for(lambda: cancellations.has("next"))
    cancellations.forget("next")


def test_without_a_history_nothing_is_asked() -> None:
    cancellations = Cancellations(lambda: None)
    assert not cancellations.has("job")
    assert cancellations.loops == []


def test_a_process_that_can_start_no_thread_runs_its_jobs_and_tries_again(
    cancellations: Cancellations,
    history: History,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            assert not cancellations.has("job")
    assert len(caplog.records) == 1
    history.jobs.add("job")
    wait_for(lambda: cancellations.has("job"))
    cancellations.forget("job")


def test_the_command_may_be_registered_for_each_worker_of_a_process() -> None:
    register_command()
    command = Panel.data[CANCEL_COMMAND]
    register_command()
    assert Panel.data[CANCEL_COMMAND] is command
