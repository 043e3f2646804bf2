from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.utils.functional import lazystr

from celery_realtime.events import Job
from celery_realtime.jobs.job_stages import MAX_NAME, MOST_STAGES
from celery_realtime.jobs.trackers import ProgressTracker
from tests.jobs.test_task import HEADERS, progress_of, run, task_of
from tests.recording import Studio, new_app


@pytest.fixture
def studio() -> Studio:
    return Studio()


def shown(studio: Studio) -> list[tuple[Any, ...]]:
    """Return the progress and the stages of each update, as words."""
    return [_words(update) for update in progress_of(studio)]


def _words(update: dict[str, Any]) -> tuple[Any, ...]:
    stages = [f"{one['name']}:{one['status']}:{one['progress']}" for one in update["stages"]]
    return update["progress"], update["stage"], *stages


def in_order(studio: Studio) -> None:
    """Let what was reported leave, so that newer progress does not replace it."""
    assert studio.realtime.flush(60)


def test_the_progress_of_a_job_is_the_weighted_mean_of_its_stages(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.plan_stages({"download": 1, "transcribe": 4})
        in_order(studio)
        with self.stage("download"):
            in_order(studio)
            self.update_progress(50, "half")
            in_order(studio)
        in_order(studio)
        with self.stage("transcribe") as stage:
            in_order(studio)
            for _ in stage.track(range(2), "Transcribing"):
                in_order(studio)

    assert run(studio, work).successful()
    assert shown(studio) == [
        (0, None, "download:pending:0", "transcribe:pending:0"),
        (0, "download", "download:running:0", "transcribe:pending:0"),
        (10, "download", "download:running:50", "transcribe:pending:0"),
        (20, "download", "download:done:100", "transcribe:pending:0"),
        (20, "transcribe", "download:done:100", "transcribe:running:0"),
        (20, "transcribe", "download:done:100", "transcribe:running:0"),
        (60, "transcribe", "download:done:100", "transcribe:running:50"),
        (100, "transcribe", "download:done:100", "transcribe:done:100"),
    ]
    updates = progress_of(studio)
    assert {update["stages"][1]["weight"] for update in updates} == {4}
    assert (updates[2]["message"], updates[6]["current"], updates[6]["total"]) == ("half", 1, 2)


def test_stages_that_were_not_planned_count_from_when_they_begin(studio: Studio) -> None:
    def work(self: Any) -> None:
        with self.stage("download", weight=1):
            in_order(studio)
        in_order(studio)
        with self.stage("transcribe", weight=4):
            in_order(studio)
            self.update_progress(50)
            in_order(studio)

    run(studio, work)
    assert [progress for progress, *_ in shown(studio)] == [0, 100, 20, 60, 100]
    assert studio.wire.outgoing[2].standing.gate == "g"


@pytest.mark.parametrize("declared", [["one", "two"], {"one": 1, "two": 1}, ("one", "two")])
def test_stages_are_planned_by_name_or_with_weights(studio: Studio, declared: Any) -> None:
    run(studio, lambda self: self.plan_stages(declared))
    assert shown(studio) == [(0, None, "one:pending:0", "two:pending:0")]


def test_what_is_in_stages_is_what_track_reports(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.plan_stages(["a", "b"])
        with self.stage("b"):
            for _ in self.track([1, 2, 3, 4]):
                in_order(studio)

    run(studio, work)
    assert [progress for progress, *_ in shown(studio)][-4:] == [12.5, 25, 37.5, 50]


def test_a_stage_that_raises_has_failed_and_keeps_its_progress(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.plan_stages(["a", "b"])
        with self.stage("a"):
            self.update_progress(30)
            raise ValueError("no luck")

    run(studio, work)
    assert shown(studio)[-1] == (15, "a", "a:failed:30", "b:pending:0")
    assert [sent.event for sent in studio.sent][-2:] == ["agent_progress", "agent_status"]


def test_a_stage_may_begin_again_after_its_end(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.plan_stages(["a", "b"])
        for attempt in range(2):
            try:
                with self.stage("a"):
                    in_order(studio)
                    if not attempt:
                        self.update_progress(60)
                        raise ConnectionError("away")
            except ConnectionError:
                in_order(studio)

    run(studio, work)
    assert [words[2] for words in shown(studio)][-4:] == ["a:running:0", "a:failed:60", "a:running:0", "a:done:100"]


def test_a_retry_begins_anew(studio: Studio) -> None:
    def work(self: Any) -> None:
        if not self.request.retries:
            with self.stage("first"):
                raise self.retry(countdown=0)
        with self.stage("second"):
            in_order(studio)

    run(studio, work)
    attempts = [(update["attempt"], [stage["name"] for stage in update["stages"]]) for update in progress_of(studio)]
    assert attempts[0] == (0, ["first"])
    assert attempts[-1] == (1, ["second"])


def test_within_stages_the_innermost_is_reported(studio: Studio) -> None:
    def work(self: Any) -> None:
        with self.stage("outer"):
            with self.stage("inner"):
                self.update_progress(50)
                in_order(studio)
            self.update_progress(20)
            in_order(studio)

    run(studio, work)
    assert shown(studio)[-3:] == [
        (25, "inner", "outer:running:0", "inner:running:50"),
        (60, "outer", "outer:running:20", "inner:done:100"),
        (100, "outer", "outer:done:100", "inner:done:100"),
    ]


def test_between_stages_only_a_message_counts(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.plan_stages(["a", "b"])
        with self.stage("a"):
            pass
        self.update_progress(99, "Preparing")
        in_order(studio)

    run(studio, work)
    assert shown(studio)[-1][:2] == (50, None)
    assert progress_of(studio)[-1]["message"] == "Preparing"


def test_progress_of_a_stage_never_goes_back(studio: Studio) -> None:
    def work(self: Any) -> None:
        with self.stage("a") as stage:
            stage.update_progress(70)
            stage.update_progress(30)
            assert (stage.progress, stage.status, stage.weight) == (70, "running", 1)
        assert (stage.progress, stage.status) == (100, "done")

    run(studio, work)


def test_a_tracker_adds_to_the_present_stage(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.plan_stages(["a", "b"])
        tracker = studio.realtime.progress_tracker(self.request.id)
        with self.stage("a"):
            tracker.increment_progress(40)
            tracker.increment_progress(40)
            in_order(studio)
        assert tracker.progress == 50

    run(studio, work)
    assert (40, "a", "a:running:80", "b:pending:0") in shown(studio)


def test_threads_with_the_context_of_their_stage_report_of_it(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.plan_stages(["a", "b"])
        both = threading.Barrier(2, timeout=60)

        def part(name: str, percent: int) -> None:
            with self.stage(name):
                both.wait()
                self.update_progress(percent)
                both.wait()

        with ThreadPoolExecutor(2) as pool:
            parts = [pool.submit(contextvars.copy_context().run, part, *one) for one in (("a", 10), ("b", 30))]
            for one in parts:
                one.result()

    run(studio, work)
    running = [words for words in shown(studio) if "a:running:10" in words and "b:running:30" in words]
    assert all(words[0] == 20 for words in running)
    assert shown(studio)[-1][0] == 100


def test_a_thread_without_a_context_reports_by_the_stage_itself(studio: Studio) -> None:
    def work(self: Any) -> None:
        with self.stage("a") as stage:
            thread = threading.Thread(target=lambda: stage.update_progress(60, "elsewhere"))
            thread.start()
            thread.join()
            in_order(studio)

    run(studio, work)
    assert (60, "a", "a:running:60") in shown(studio)


def test_a_stage_that_runs_cannot_begin_a_second_time(studio: Studio) -> None:
    def work(self: Any) -> None:
        with self.stage("a"), self.stage("a"):
            pass

    assert "runs already" in str(run(studio, work).result)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda self: self.stage(5), TypeError, "the name of a stage must be a str, not int"),
        (lambda self: self.stage(""), ValueError, "1 to 100 characters"),
        (lambda self: self.stage("x" * (MAX_NAME + 1)), ValueError, "this one has 101"),
        (lambda self: self.stage("a", weight="heavy"), TypeError, "weight must be a number"),
        (lambda self: self.stage("a", weight=0), ValueError, "must be above 0"),
        (lambda self: self.stage("a", weight=-1), ValueError, "weight must be 0 or more"),
        (lambda self: self.stage("a", weight=float("nan")), ValueError, "weight must be finite"),
        (lambda self: self.stage("a", weight=1e307), ValueError, "weight of stage 'a' must be at most 1e\\+15"),
        (lambda self: self.plan_stages({"a": 10**300}), ValueError, "must be at most 1e\\+15, not 1e\\+300"),
        (lambda self: self.plan_stages("ab"), TypeError, "a dict of names and weights, or a list of names, not str"),
        (lambda self: self.plan_stages(5), TypeError, "not int"),
        (lambda self: self.plan_stages([]), ValueError, "1 to 50 stages, not 0"),
        (lambda self: self.plan_stages(map(str, range(51))), ValueError, "not 51"),
        (lambda self: self.plan_stages({"a": None}), TypeError, "weight must be a number"),
        (lambda self: self.stage("a").update_progress(5), RuntimeError, "stage 'a' has not begun"),
        (lambda self: self.stage("a").track([]), RuntimeError, "stage 'a' has not begun"),
    ],
)
@pytest.mark.parametrize("is_job", [True, False])
def test_what_is_no_stage_is_refused_at_the_call(
    studio: Studio, call: Any, error: type[Exception], message: str, is_job: bool
) -> None:
    def work(self: Any) -> None:
        with pytest.raises(error, match=message):
            call(self)

    task = task_of(studio.app, work)
    assert task.apply(headers=HEADERS).successful() if is_job else task() is None


def test_there_are_no_more_stages_than_events_have_room_for(studio: Studio) -> None:
    def work(self: Any) -> None:
        for number in range(MOST_STAGES):
            with self.stage(f"stage {number}"):
                pass
        with pytest.raises(ValueError, match="'one more' is one more"), self.stage("one more"):
            pass

    assert run(studio, work).successful()


def test_a_plain_call_and_one_that_nobody_sees_report_nothing() -> None:
    def work(self: Any) -> str:
        self.plan_stages(["a"])
        with self.stage("a") as stage:
            self.update_progress(5)
            return str(list(stage.track("x"))) + stage.status

    studio = Studio()
    assert task_of(studio.app, work)() == "['x']running"
    assert task_of(new_app(), work)() == "['x']running"
    silent = Studio(enabled=False)
    assert task_of(silent.app, work).apply(headers=HEADERS).result == "['x']running"
    assert studio.sent == silent.sent == []


def test_names_that_are_no_text_arrive_legible(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.plan_stages(["caf\udce9"])
        with self.stage("caf\udce9"):
            self.update_progress(50)

    run(studio, work)
    assert [stage["name"] for stage in progress_of(studio)[-1]["stages"]] == ["caf\ufffd"]


def test_names_may_be_translated_later(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.plan_stages([lazystr("download"), "transcribe"])
        with self.stage(lazystr("download")), self.stage(lazystr("unplanned"), weight=2):
            self.update_progress(50)

    run(studio, work)
    names = [stage["name"] for stage in progress_of(studio)[-1]["stages"]]
    assert names == ["download", "transcribe", "unplanned"]


def test_a_stage_reports_nothing_after_the_end_of_its_job() -> None:
    reports: list[Any] = []
    tracker = ProgressTracker(Job(job_id="job"), lambda *_: reports.append(1), lambda *_: None, 0.0)
    part = tracker.begin_stage("a", None)
    tracker.end()
    tracker.end_stage(part, failed=False)
    assert len(reports) == 1


def test_the_result_backend_has_the_stages_too(studio: Studio) -> None:
    stored: list[Any] = []
    tracker = ProgressTracker(Job(job_id="job"), lambda *_: None, lambda _job, report, _due: stored.append(report), 0.0)
    tracker.begin_stage("a", 2)
    assert [stage.name for stage in stored[0].stages] == ["a"]
