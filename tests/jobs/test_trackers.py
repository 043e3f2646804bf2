from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.events import Cancellation, Job, job_name
from celery_realtime.jobs.progress import Progress
from celery_realtime.jobs.trackers import ProgressTracker, Trackers
from tests.recording import Studio

JOB = Job(job_id="job_123", project_id="project_456")


# -- a tracker --------------------------------------------------------------------------------------------------


class Reports:
    """Records what a tracker sends, and when it may leave."""

    def __init__(self, interval: float = 0.0, job: Job = JOB, pace: Callable[[Job], float] | None = None) -> None:
        self.reports: list[Progress] = []
        self.dues: list[float] = []
        self.stored: list[Progress] = []
        self.stored_dues: list[float] = []
        self.tracker = ProgressTracker(job, self._publish, self._mirror, interval, pace)

    def _publish(self, job: Job, report: Progress, due: float) -> None:
        assert job is self.tracker.job
        self.reports.append(report)
        self.dues.append(due)

    def _mirror(self, job: Job, report: Progress, due: float) -> None:
        assert job is self.tracker.job
        self.stored.append(report)
        self.stored_dues.append(due)


def test_a_tracker_speaks_the_words_of_the_contract() -> None:
    sent = Reports()
    sent.tracker.set_progress(25, "Downloading audio file...")
    sent.tracker.increment_progress(25, "Transcribing audio...")
    sent.tracker.mark_complete("Transcription complete!")
    assert sent.reports == sent.stored
    assert sent.reports == [
        Progress(25, "Downloading audio file..."),
        Progress(50, "Transcribing audio..."),
        Progress(100, "Transcription complete!"),
    ]


def test_a_tracker_takes_units() -> None:
    sent = Reports()
    sent.tracker.update(current=3, total=12, message="on it")
    assert sent.reports == [Progress(25, "on it", 3, 12)]
    assert sent.tracker.progress == 25


def test_progress_never_goes_backwards_but_its_message_goes_on() -> None:
    sent = Reports()
    sent.tracker.set_progress(50)
    sent.tracker.set_progress(20, "again")
    sent.tracker.update(current=1, total=10)
    assert sent.reports[1:] == [Progress(50, "again"), Progress(50, None, 1, 10)]
    assert sent.tracker.progress == 50


def test_increments_end_at_100() -> None:
    sent = Reports()
    for _ in range(3):
        sent.tracker.increment_progress(40)
    assert [report.progress for report in sent.reports] == [40, 80, 100]


@pytest.mark.parametrize("amount", [-5, 101, math.nan])
def test_an_increment_out_of_range_is_refused(amount: float) -> None:
    sent = Reports()
    with pytest.raises(ValueError, match="progress"):
        sent.tracker.increment_progress(amount)
    assert sent.reports == []


@pytest.mark.parametrize("method", ["set_progress", "increment_progress"])
def test_what_a_tracker_refuses_is_refused_by_name(method: str) -> None:
    sent = Reports()
    with pytest.raises(ValueError, match="progress"):
        getattr(sent.tracker, method)(250)
    with pytest.raises(TypeError, match="progress"):
        getattr(sent.tracker, method)("50")
    assert sent.reports == []


def test_units_of_an_unknown_total_leave_the_percentage_where_it_is() -> None:
    sent = Reports()
    sent.tracker.set_progress(30)
    sent.tracker.advance(7, None, "on it")
    assert sent.reports[-1] == Progress(30, "on it", 7)


def test_the_first_update_leaves_at_once_and_the_next_waits() -> None:
    sent = Reports(interval=60)
    before = time.monotonic()
    sent.tracker.set_progress(10)
    sent.tracker.set_progress(20)
    assert before <= sent.dues[0] <= time.monotonic()
    assert sent.dues[1] == sent.dues[0] + 60


def test_the_end_does_not_wait() -> None:
    sent = Reports(interval=60)
    sent.tracker.set_progress(10)
    sent.tracker.mark_complete()
    assert sent.dues[1] <= time.monotonic()


def test_the_interval_can_be_changed_for_one_job() -> None:
    sent = Reports(interval=60)
    assert sent.tracker.min_update_interval == 60
    sent.tracker.set_progress(10)
    sent.tracker.min_update_interval = 1
    assert sent.tracker.min_update_interval == 1
    sent.tracker.set_progress(20)
    assert sent.dues[1] == sent.dues[0] + 1


def test_a_pace_that_changes_is_that_of_events_and_not_of_the_result_backend() -> None:
    seconds = 60.0
    sent = Reports(interval=60, pace=lambda _: seconds)
    sent.tracker.set_progress(10)
    assert not sent.tracker.holds_by_pace
    assert sent.tracker.hasten() is None
    sent.tracker.set_progress(20)
    assert sent.tracker.holds_by_pace
    assert sent.dues[1] == sent.dues[0] + 60
    seconds = 0.0
    due = sent.tracker.hasten()
    assert due is not None
    assert due <= time.monotonic()
    sent.tracker.set_progress(30)
    assert sent.dues[2] <= time.monotonic()
    assert sent.stored_dues[1:] == [sent.stored_dues[0] + 60] * 2
    assert sent.tracker.min_update_interval == 60


def test_a_pace_that_changes_is_noticed_by_who_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_realtime.jobs.trackers.PACE_LIFE", 0.0)
    seconds = 60.0
    sent = Reports(interval=60, pace=lambda _: seconds)
    for percent in (10, 20):
        sent.tracker.set_progress(percent)
    seconds = 0.0
    sent.tracker.set_progress(30)
    assert sent.dues[2] <= time.monotonic()
    seconds = 60.0
    sent.tracker.set_progress(40)
    assert sent.dues[3] == sent.dues[2] + 60


def test_an_interval_that_is_set_beats_the_pace() -> None:
    sent = Reports(interval=60, pace=lambda _: 0.0)
    sent.tracker.min_update_interval = 30
    sent.tracker.set_progress(10)
    sent.tracker.set_progress(20)
    assert sent.dues[1] == sent.dues[0] + 30
    assert not sent.tracker.holds_by_pace
    assert sent.tracker.hasten() is None


def test_nothing_of_a_job_that_has_ended_is_hastened() -> None:
    sent = Reports(interval=60, pace=lambda _: 60.0)
    sent.tracker.set_progress(10)
    sent.tracker.set_progress(20)
    sent.tracker.end()
    assert not sent.tracker.holds_by_pace
    assert sent.tracker.hasten() is None


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_an_interval_that_is_no_length_of_time_is_refused(seconds: float) -> None:
    sent = Reports(interval=60)
    with pytest.raises(ValueError, match="min_update_interval"):
        sent.tracker.min_update_interval = seconds
    assert sent.tracker.min_update_interval == 60


@pytest.mark.parametrize("seconds", ["1", None, True])
def test_an_interval_of_the_wrong_type_is_refused(seconds: Any) -> None:
    sent = Reports(interval=60)
    with pytest.raises(TypeError, match="min_update_interval"):
        sent.tracker.min_update_interval = seconds
    assert sent.tracker.min_update_interval == 60


def test_the_result_backend_hears_at_most_once_a_second_even_where_subscribers_hear_more() -> None:
    sent = Reports(interval=0)
    sent.tracker.set_progress(10)
    sent.tracker.set_progress(20)
    assert sent.dues[1] <= time.monotonic()
    assert sent.stored_dues[1] == sent.stored_dues[0] + 1


def test_what_plain_code_has_stored_itself_is_not_stored_again() -> None:
    sent = Reports()
    sent.tracker.report(Progress(10), mirror=False)
    assert (len(sent.reports), sent.stored) == (1, [])


def test_threads_of_one_job_lose_no_increment_and_never_step_back() -> None:
    sent = Reports()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work() -> None:
        for _ in range(1000):
            sent.tracker.increment_progress(0.0078125)

    threads = [threading.Thread(target=work) for _ in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    percents = [report.progress for report in sent.reports]
    assert sent.tracker.progress == 62.5
    assert percents == sorted(percents)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_whatever_is_reported_what_is_sent_only_rises(percents: list[float]) -> None:
    sent = Reports()
    for percent in percents:
        sent.tracker.set_progress(percent)
    seen = [report.progress for report in sent.reports]
    assert seen == sorted(seen)
    assert seen[-1] == max(percents)


# -- the jobs that run ----------------------------------------------------------------------------------------------


@pytest.fixture
def studio() -> Studio:
    return Studio()


def test_a_job_has_one_tracker_for_as_long_as_it_runs(studio: Studio) -> None:
    trackers = []

    @studio.app.task(bind=True, shared=False)
    def transcribe(self: Any) -> None:
        jobs = studio.realtime.running_jobs
        trackers.extend([jobs.tracker_of(self), jobs.tracker_of(self), jobs.tracker_by_id(self.request.id)])

    transcribe.apply(headers={"project_id": "p"}).get()
    assert len({id(tracker) for tracker in trackers}) == 1
    assert trackers[0].ended


def test_outside_a_job_there_is_no_tracker(studio: Studio) -> None:
    @studio.app.task(bind=True, shared=False)
    def transcribe(self: Any) -> Any:
        return studio.realtime.running_jobs.tracker_of(self)

    assert transcribe() is None


def test_a_job_that_ended_ends_the_trackers_that_are_made_afterwards(studio: Studio) -> None:
    jobs = studio.realtime.running_jobs
    jobs.end(JOB)
    assert jobs.tracker_by_id(JOB.job_id).ended
    assert not jobs.tracker_by_id("another").ended


def test_the_end_of_an_earlier_attempt_does_not_end_a_later_one(studio: Studio) -> None:
    jobs = studio.realtime.running_jobs

    @studio.app.task(bind=True, shared=False)
    def transcribe(self: Any) -> Any:
        tracker = jobs.tracker_of(self)
        jobs.end(Job(job_id=self.request.id, project_id="p", attempt=0))
        return tracker.ended

    assert transcribe.apply(headers={"project_id": "p"}, retries=1).get() is False


def test_two_jobs_of_one_id_in_two_projects_have_a_tracker_each(studio: Studio) -> None:
    """The first goes on while the other begins, reports and ends."""

    @studio.app.task(bind=True, shared=False)
    def transcribe(self: Any, inner: str | None = None) -> None:
        self.update_progress(30)
        if inner is not None:
            assert studio.realtime.flush(60)
            transcribe.apply(task_id="same", headers={"project_id": inner})
            self.update_progress(60)

    transcribe.apply(("q",), task_id="same", headers={"project_id": "p"})
    assert studio.told("p") == ["STARTED", "30", "60", "SUCCESS"]
    assert studio.told("q") == ["STARTED", "30", "SUCCESS"]


def test_a_tracker_that_is_asked_for_by_the_id_is_that_of_the_only_job_of_that_id() -> None:
    trackers = Trackers()
    one, other = Job(job_id="same", project_id="p"), Job(job_id="same", project_id="q")
    asked, of_other = Reports().tracker, Reports().tracker
    assert trackers.by_id("same") is None
    trackers.add(Job(job_id="same"), asked)
    assert trackers.by_id("same") is trackers.of(one) is trackers.by_id("same") is asked
    assert trackers.of(other) is None
    trackers.add(other, of_other)
    assert trackers.by_id("same") is None
    assert trackers.pop(one) is asked
    assert trackers.by_id("same") is trackers.of(other) is of_other
    assert trackers.pop(other) is of_other
    assert trackers.by_id("same") is trackers.pop(other) is None


def test_where_two_projects_have_a_job_of_an_id_what_is_reported_by_the_id_reaches_neither(studio: Studio) -> None:
    @studio.app.task(bind=True, shared=False)
    def transcribe(self: Any, inner: str | None = None) -> None:
        self.update_progress(30)
        if inner is not None:
            transcribe.apply(task_id="same", headers={"project_id": inner})
        else:
            thread = threading.Thread(target=lambda: studio.realtime.progress_tracker("same").set_progress(60))
            thread.start()
            thread.join()

    transcribe.apply(("q",), task_id="same", headers={"project_id": "p"})
    assert studio.told("p") == studio.told("q") == ["STARTED", "30", "SUCCESS"]
    assert studio.realtime.manager.counts["no_project"] == 1


def test_a_process_that_runs_no_jobs_has_nothing_that_stores_progress(studio: Studio) -> None:
    studio.realtime.running_jobs.end(JOB)
    assert studio.realtime.running_jobs.loops == []


def test_a_backend_that_fails_does_not_keep_a_cancelled_job_from_ending(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    class Backend:
        def mark_as_revoked(self, *args: Any, **options: Any) -> None:
            raise LookupError("a driver's own error")

    @studio.app.task(bind=True, shared=False, cancellable=True, backend=Backend(), store_eager_result=True)
    def transcribe(self: Any) -> None:
        studio.realtime.running_jobs.cancellations.add(job_name(self.request.id, "p"), Cancellation())
        self.request.is_eager, self.ignore_result = False, False
        try:
            self.update_progress(50)
        finally:
            self.request.is_eager, self.ignore_result = True, True

    transcribe.apply(headers={"project_id": "p"})
    assert studio.told() == ["STARTED", "REVOKED"]
    (record,) = [each for each in caplog.records if "that a job was cancelled, so" in each.getMessage()]
    assert record.getMessage().endswith(": LookupError: a driver's own error")
    assert vars(record)["project_id"] == "p"
