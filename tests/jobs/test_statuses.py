from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from celery_realtime.events import RANK_OF_STATUS, STATUS_OF_STATE, Execution, Job
from celery_realtime.jobs.incarnation import Incarnation
from celery_realtime.jobs.statuses import StatusGate, StatusReporter
from celery_realtime.settings import Settings
from tests.recording import Studio

JOB = Job(job_id="job", project_id="p", stall_after=5.0)


def attempt(number: int) -> Job:
    return msgspec.structs.replace(JOB, attempt=number)


def admitted(*reports: tuple[int, str]) -> list[tuple[int, str]]:
    gate = StatusGate()
    return [
        (number, state)
        for number, state in reports
        if gate.admit(attempt(number), RANK_OF_STATUS[STATUS_OF_STATE[state]])
    ]


def test_within_an_attempt_a_job_only_climbs() -> None:
    assert admitted((0, "PENDING"), (0, "STARTED"), (0, "PENDING"), (0, "SUCCESS"), (0, "STARTED")) == [
        *((0, "PENDING"), (0, "STARTED"), (0, "SUCCESS"))
    ]


def test_a_step_that_will_not_run_ends_only_what_is_unknown_and_may_be_published_all_the_same() -> None:
    gate = StatusGate()
    assert gate.admit_unknown(JOB)
    assert not gate.admit_unknown(JOB)
    assert gate.admit(msgspec.structs.replace(JOB, run="1-a"), 0)
    assert not gate.admit_unknown(JOB)


def test_jobs_of_two_projects_with_one_id_do_not_end_each_other() -> None:
    gate = StatusGate()
    other = msgspec.structs.replace(JOB, project_id="q", run="2-a")
    first = msgspec.structs.replace(JOB, run="1-a")
    assert gate.admit(first, 1)
    assert gate.admit(other, 2)
    assert not gate.has_passed(first, 2)
    assert gate.admit(first, 2)


def test_an_end_is_reported_once_whoever_reports_it_first() -> None:
    assert admitted((0, "REVOKED"), (0, "FAILURE")) == [(0, "REVOKED")]


def test_the_next_attempt_begins_again_and_an_earlier_one_is_over() -> None:
    assert admitted((0, "FAILURE"), (1, "RETRY"), (0, "SUCCESS"), (1, "STARTED")) == [
        *((0, "FAILURE"), (1, "RETRY"), (1, "STARTED"))
    ]


def test_a_later_run_begins_again_and_an_earlier_one_is_over() -> None:
    gate = StatusGate()
    old, new = (msgspec.structs.replace(JOB, run=f"{number}-a") for number in (1, 2))
    assert gate.admit(old, 2)
    assert gate.admit(new, 0)
    assert not gate.admit(msgspec.structs.replace(old, attempt=5), 2)
    assert gate.admit(new, 1)


def test_a_task_that_starts_again_is_news_until_its_job_has_ended() -> None:
    gate = StatusGate()
    first, second, third = (
        msgspec.structs.replace(JOB, run="1-a", execution=Execution(name, time.time())) for name in "abc"
    )
    assert [gate.admit(first, 1), gate.admit(first, 1), gate.admit(second, 1), gate.admit(first, 2)] == [
        *(True, False, True, True)
    ]
    assert not gate.admit(third, 1)


def test_a_job_that_goes_on_in_another_message_starts_once_more_in_its_execution() -> None:
    gate = StatusGate()
    job = msgspec.structs.replace(JOB, run="1-a", execution=Execution("e", time.time()))
    assert gate.admit(job, 1)
    gate.hand_on(job)
    assert [gate.admit(job, 0), gate.admit(job, 1), gate.admit(job, 1), gate.admit(job, 2)] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("redelivered", [True, False])
def test_without_a_mark_a_start_after_the_end_is_another_run_unless_it_is_a_redelivery(redelivered: bool) -> None:
    gate = StatusGate()
    assert gate.admit(msgspec.structs.replace(JOB, execution=Execution("a", time.time())), 2)
    later = Execution("b", time.time() + 1, redelivered)
    assert gate.admit(msgspec.structs.replace(JOB, execution=later), 1) is not redelivered


def test_lost_is_taken_back() -> None:
    gate = StatusGate()
    assert [gate.admit(JOB, 2, is_final=False), gate.admit(JOB, 0), gate.admit(JOB, 1), gate.admit(JOB, 2)] == [
        *(True, False, True, True)
    ]


def test_each_job_has_a_gate_of_its_own() -> None:
    gate = StatusGate()
    assert gate.admit(JOB, 2)
    assert gate.admit(msgspec.structs.replace(JOB, job_id="other"), 0)


def test_what_is_news_goes_to_the_manager_once() -> None:
    studio, reporter = Studio(), StatusReporter(Incarnation(), Settings)
    reporter.report_to(studio.realtime.manager)
    for state in ("PENDING", "STARTED", "STARTED", "SUCCESS"):
        reporter.report(JOB, state)
    assert studio.told() == ["PENDING", "STARTED", "SUCCESS"]


def test_only_a_running_job_can_stall_and_only_a_queued_one_expires() -> None:
    studio, reporter = Studio(), StatusReporter(Incarnation(), Settings)
    reporter.report_to(studio.realtime.manager)
    reporter.report(JOB, "PENDING", expires_at=17.0)
    reporter.report(JOB, "STARTED")
    reporter.report(JOB, "SUCCESS")
    assert studio.realtime.flush(60)
    deadlines = [(sent.deadlines.expires_at, sent.deadlines.stall_after) for sent in studio.wire.outgoing]
    assert deadlines == [(17.0, None), (None, 5.0), (None, None)]


def test_without_a_manager_ends_are_observed_all_the_same() -> None:
    reporter, ended = StatusReporter(Incarnation(), Settings), list[Any]()
    reporter.on_end(lambda *end: ended.append(end))
    reporter.report(JOB, "STARTED")
    reporter.report(JOB, "SUCCESS")
    reporter.report(JOB, "FAILURE")
    reporter.wait_until_sent(JOB, 10)
    assert ended == [(JOB, "SUCCESS"), (JOB, "FAILURE")]


def test_a_job_without_project_is_counted() -> None:
    studio, reporter = Studio(), StatusReporter(Incarnation(), Settings)
    reporter.report_to(studio.realtime.manager)
    reporter.report(Job(job_id="job"), "STARTED")
    assert studio.sent == []
    assert studio.realtime.manager.counts["no_project"] == 1


def published(seconds_ago: float, **settings: Any) -> list[str]:
    """Return the states that a worker reports of a job's publication, so long after it, by clocks that may differ."""
    studio = Studio(**{"history_url": "redis://127.0.0.1:1/0", **settings})
    reporter = StatusReporter(Incarnation(), lambda: studio.realtime.settings)
    recorded: list[str] = []
    manager: Any = SimpleNamespace(put=lambda outgoing: recorded.append(json.loads(outgoing.payload)["state"]))
    reporter.report_to(manager)
    mark = f"{int((time.time() - seconds_ago) * 1000):013d}-0123abcd"
    job = msgspec.structs.replace(JOB, run=mark, worker="w@host")
    reporter.report_publication(job)
    reporter.report(job, "STARTED")
    return recorded


def test_a_worker_reports_the_publication_of_a_job_that_it_starts_at_once() -> None:
    assert published(-0.5) == ["PENDING", "STARTED"]


def test_of_a_publication_long_ago_its_publisher_has_reported() -> None:
    assert published(60.0) == ["STARTED"]


def test_without_a_history_web_servers_drop_the_second_of_two_reports() -> None:
    assert published(-0.5, history_url=None) == ["PENDING", "STARTED"]


def test_where_nobody_drops_what_is_older_only_the_publisher_reports_a_publication() -> None:
    assert published(-0.5, history_url=None, wire="stock") == ["STARTED"]
    assert published(-0.5, wire="stock") == ["PENDING", "STARTED"]


def test_a_job_without_a_mark_was_published_by_somebody_who_reports_nothing() -> None:
    studio, reporter = Studio(), StatusReporter(Incarnation(), Settings)
    reporter.report_to(studio.realtime.manager)
    reporter.report_publication(JOB)
    assert studio.sent == []
