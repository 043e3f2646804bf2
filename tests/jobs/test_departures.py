from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated
from celery.exceptions import Reject, TimeLimitExceeded, WorkerLostError

from celery_realtime.events import Job
from celery_realtime.jobs.departures import CUT_OFF_GRACE, GRACE, Departures

JOB = Job(job_id="job", project_id="p")


class Request:
    """What a worker makes of a message, as far as departures look at it."""

    def __init__(self) -> None:
        self.time_start = 5.0
        self.worker_pid = 7
        self.acknowledged = False
        self.message = SimpleNamespace(acknowledged=True)
        self.is_revoked = self._already_cancelled = False
        self.calls: list[str] = []

    def revoked(self) -> bool:
        return self.is_revoked

    def on_success(self, outcome: Any, **_: Any) -> str:
        self.calls.append("success")
        return "answer"

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        self.calls.append("failure")

    def on_timeout(self, soft: bool, timeout: float) -> None:
        self.calls.append("timeout")

    def reject(self, requeue: bool = False) -> None:
        self.acknowledged = True
        self.calls.append("reject")


@pytest.fixture
def departures() -> Departures:
    return Departures()


def error_of(error: BaseException) -> Any:
    return SimpleNamespace(exception=error)


def kinds(departures: Departures) -> list[str]:
    return [departure.report.kind for departure in departures.due(10, clock=math.inf)]


def test_a_job_that_has_returned_has_left(departures: Departures) -> None:
    request = Request()
    departures.watch(JOB, request)
    assert kinds(departures) == []
    assert request.on_success((0, "repr", 0.1)) == "answer"
    [left] = departures.due(10, clock=math.inf)
    assert (left.job, left.report.kind, left.started_at, left.pid, left.request) == (JOB, "returned", 5.0, 7, None)
    assert request.calls == ["success"]
    assert (left.when.id, left.when.started, left.when.clock) == ("", left.left_at, round(left.left_clock * 1_000_000))


def test_a_request_that_has_left_is_not_watched_any_more(departures: Departures) -> None:
    """Or it would be part of a cycle, with its message."""
    request = Request()
    departures.watch(JOB, request)
    request.on_success((0, "repr", 0.1))
    assert not {"on_success", "on_failure", "on_timeout", "reject", "revoked"} & vars(request).keys()


def test_it_is_due_after_some_seconds_and_may_be_looked_at_later(departures: Departures) -> None:
    request = Request()
    departures.watch(JOB, request)
    request.on_success((0, "repr", 0.1))
    [left] = departures.due(10, clock=math.inf)
    assert departures.due(10, clock=left.due - GRACE / 2) == []
    departures.postpone([left], left.due + 5)
    assert departures.due(10, clock=left.due_first) == []
    assert departures.due(10, clock=left.due_first + 5) == [left]
    departures.settle([left])
    assert len(departures) == 0


def test_what_the_pool_says_first_counts(departures: Departures) -> None:
    request = Request()
    departures.watch(JOB, request)
    failure = request.on_failure
    request.on_timeout(False, 3)
    failure(error_of(WorkerLostError("killed for it")))
    assert kinds(departures) == ["failed"]


def test_jobs_of_two_projects_that_have_one_id_leave_each_by_itself(departures: Departures) -> None:
    requests = {project: Request() for project in ("p", "q")}
    for project, request in requests.items():
        departures.watch(msgspec.structs.replace(JOB, project_id=project), request)
    requests["p"].on_failure(error_of(WorkerLostError("gone")))
    requests["q"].on_success((0, "repr", 0.1))
    left = departures.due(10, clock=math.inf)
    assert [(one.job.project_id, one.report.kind) for one in left] == [("p", "lost"), ("q", "returned")]
    departures.settle(left[:1])
    assert departures.all() == left[1:]


def test_a_soft_time_limit_is_no_departure(departures: Departures) -> None:
    request = Request()
    departures.watch(JOB, request)
    request.on_timeout(True, 3)
    assert kinds(departures) == []
    request.on_success((1, error_of(ValueError()), 0.1))
    assert kinds(departures) == ["failed"]


def test_a_job_whose_message_goes_back_is_the_broker_s(departures: Departures) -> None:
    class Requeued(Request):
        def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
            self.reject(requeue=True)

    for error in (WorkerLostError("killed"), Reject("later", requeue=True)):
        request = Requeued()
        departures.watch(JOB, request)
        request.on_failure(error_of(error))
        assert kinds(departures) == ["requeued"]
        [given_back] = departures.due(10, clock=time.monotonic())  # at once
        assert abs(given_back.left_at - time.time()) < 60
    again = Request()
    departures.watch(JOB, again)
    again.on_success((0, "repr", 0.1))
    assert kinds(departures) == ["returned"]


def test_a_job_whose_child_has_died_is_looked_at_at_once_if_celery_does_not_look(
    departures: Departures, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = [False, False, True]
    monkeypatch.setattr("celery_realtime.jobs.departures.looks_for_stored_success", lambda: looks.pop(0))
    killed = WorkerLostError("killed")
    woken: list[None] = []
    departures.on_death(lambda: woken.append(None))
    request = Request()
    departures.watch(JOB, request)
    assert not departures.hasten(JOB, killed)
    request.on_failure(error_of(killed))
    assert departures.due(10, clock=time.monotonic()) == []
    woken.clear()
    assert not departures.hasten(JOB, ValueError())
    assert departures.hasten(JOB, killed)
    assert (len(departures.due(10, clock=time.monotonic())), len(woken)) == (1, 1)
    assert departures.hasten(JOB, killed)
    assert not departures.hasten(JOB, killed)


@pytest.mark.parametrize("is_timeout", [False, True])
def test_as_long_as_the_message_of_a_killed_child_is_not_acknowledged_its_job_may_be_delivered_again(
    departures: Departures, monkeypatch: pytest.MonkeyPatch, is_timeout: bool
) -> None:
    monkeypatch.setattr("celery_realtime.jobs.departures.looks_for_stored_success", lambda: True)
    request = Request()
    request.message.acknowledged = False
    departures.watch(JOB, request)
    if is_timeout:
        request.on_timeout(False, 2.0)
    else:
        request.on_failure(error_of(WorkerLostError("killed")))
    told = TimeLimitExceeded(2.0) if is_timeout else WorkerLostError("what Celery stores")
    assert departures.hasten(JOB, told)
    [left] = departures.due(10, clock=time.monotonic())
    assert left.awaits_acknowledgement
    assert left.report.cause is told
    request.message.acknowledged = True
    assert not left.awaits_acknowledgement
    assert not departures.hasten(JOB, told)


def test_a_job_that_has_failed_by_itself_is_not_waited_for(departures: Departures) -> None:
    request = Request()
    request.message.acknowledged = False
    departures.watch(JOB, request)
    request.on_failure(error_of(ValueError("no luck")))
    assert not departures.hasten(JOB, ValueError("no luck"))
    assert not departures.due(10, clock=math.inf)[0].awaits_acknowledgement


def test_when_the_worker_ends_what_is_not_acknowledged_goes_back_and_the_rest_is_dropped(
    departures: Departures,
) -> None:
    requests = {name: Request() for name in ("waiting", "late", "early", "gone", "revoked")}
    for name, request in requests.items():
        departures.watch(msgspec.structs.replace(JOB, job_id=name), request)
    requests["waiting"].time_start = 0.0
    requests["early"].acknowledged = True
    requests["gone"].on_success((0, "repr", 0.1))
    requests["revoked"].is_revoked = True
    assert requests["revoked"].revoked()
    departures.close()
    left = {one.job.job_id: one.report.kind for one in departures.due(10, clock=math.inf)}
    assert left == {"late": "requeued", "early": "abandoned", "gone": "returned"}


def test_a_job_that_celery_cuts_off_is_not_revoked(departures: Departures) -> None:
    for acknowledged, kind in ((True, "abandoned"), (False, "requeued")):
        request = Request()
        request.acknowledged, request._already_cancelled = acknowledged, True
        departures.watch(msgspec.structs.replace(JOB, job_id=kind), request)
        request.on_failure(error_of(Terminated("15")))
    assert kinds(departures) == ["abandoned", "requeued"]


def test_a_message_that_was_acknowledged_cannot_go_back(departures: Departures) -> None:
    request = Request()
    request.acknowledged = True
    departures.watch(JOB, request)
    request.on_failure(error_of(Reject("later", requeue=True)))
    assert kinds(departures) == ["rejected"]


def test_a_message_that_is_thrown_away_has_left(departures: Departures) -> None:
    """Celery does so with an ETA that it cannot read, and sends no signal."""
    request = Request()
    departures.watch(JOB, request)
    request.reject(requeue=False)
    assert kinds(departures) == ["rejected"]


def test_observers_learn_of_a_death_at_once(departures: Departures) -> None:
    deaths: list[bool] = []
    departures.on_death(lambda: deaths.append(True))
    for error in (ValueError(), WorkerLostError("killed")):
        request = Request()
        departures.watch(JOB, request)
        request.on_failure(error_of(error))
    assert deaths == [True]


def test_a_thread_that_was_killed_hands_over_no_result(departures: Departures) -> None:
    request = Request()
    departures.watch(JOB, request)
    try:
        raise ValueError
    except ValueError:
        assert request.on_success(ExceptionInfo()) == "answer"
    assert kinds(departures) == []


def test_a_job_that_was_cut_off_is_due_sooner(departures: Departures) -> None:
    departures.cut_off(JOB, SimpleNamespace())
    [left] = departures.due(10, clock=math.inf)
    assert left.report.kind == "cut off"
    assert CUT_OFF_GRACE < GRACE


def test_at_most_so_many_are_looked_at_and_the_oldest_first(departures: Departures) -> None:
    for number in range(5):
        departures.cut_off(Job(job_id=str(number), project_id="p"), SimpleNamespace())
    assert [left.job.job_id for left in departures.due(3, clock=math.inf)] == ["0", "1", "2"]


def test_what_a_worker_has_changes_when_a_job_comes_and_when_it_leaves(departures: Departures) -> None:
    changes: list[int] = []
    departures.on_change(lambda: changes.append(len(departures)))
    request = Request()
    departures.watch(JOB, request)
    assert len(changes) == 1
    request.on_success((0, "repr", 0.1))
    assert len(changes) > 1
