"""How often progress of a job leaves: real jobs, a real history, and somebody who watches or does not."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_realtime.history.store import History
from tests.recording import Studio
from tests.waiting import wait_for

pytestmark = pytest.mark.service

#: Between two updates that leave, in seconds: as good as never, and soon.
NEVER, SOON = 600.0, 0.02

#: Between two reports, in seconds.
REPORT_PAUSE = 0.002

#: Seconds of reports in which many updates would leave at the shorter interval.
LONG = 25 * SOON


class Job:
    """A job of a project that reports without end, in a thread, until a test has seen enough.

    Args:
        studio: Where it runs.
        project_id: Its project.
        prepare: Called in its task before the first report.
    """

    def __init__(self, studio: Studio, project_id: str = "p", prepare: Callable[[Any], object] = id) -> None:
        self._studio = studio
        self._project_id = project_id
        self._prepare = prepare
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        #: When it has reported last, in seconds since its first report.
        self.age = 0.0

    def _run(self) -> None:
        def report(task: Any) -> None:
            self._report(task)

        task = self._studio.app.task(report, bind=True, name=f"report.{self._project_id}", shared=False)
        task.apply(headers={"project_id": self._project_id})

    def _report(self, task: Any) -> None:
        self._prepare(task)
        started, number = time.monotonic(), 0
        while not self._enough.wait(REPORT_PAUSE):
            number += 1
            task.update_progress(min(99.0, number / 1000), f"report {number}")
            self.age = time.monotonic() - started

    def report_on(self) -> None:
        """Wait until it has reported for long."""
        until = self.age + LONG
        wait_for(lambda: self.age >= until)

    @property
    def shown(self) -> int:
        """How many of its updates the history has."""
        recent = history_of(self._studio).recent(self._project_id)
        return sum(entry["event"] == "agent_progress" for entry in recent)

    @contextlib.contextmanager
    def running(self) -> Iterator[Job]:
        """Run until the block has ended; in it, the first update has left."""
        self._thread.start()
        try:
            wait_for(lambda: self.shown > 0)
            yield self
        finally:
            self._enough.set()
            self._thread.join(60)
            assert not self._thread.is_alive()


def history_of(studio: Studio) -> History:
    history = studio.realtime.manager.history
    assert history is not None
    return history


def knows(studio: Studio, project_id: str = "p") -> bool:
    """Return whether a process knows that somebody watches a project."""
    return studio.realtime.manager.watched.has(project_id)


def watch_until(studio: Studio, condition: Callable[[], object], project_id: str = "p") -> None:
    """Watch a project, as a web server with a client does, until a condition is true."""

    def is_true() -> object:
        history_of(studio).watches.mark([project_id])
        return condition()

    wait_for(is_true)


def end_watching(studio: Studio) -> None:
    """Let the mark of a project lapse now, and the process hear of it."""
    history = history_of(studio)
    history.connection.client.delete(history.keys.watched("p"))
    wait_for(lambda: not knows(studio))


@pytest.fixture
def make(redis_url: str) -> Iterator[Callable[..., Studio]]:
    with contextlib.ExitStack() as made:

        def make(**settings: Any) -> Studio:
            usual = {"progress_interval": NEVER, "progress_interval_watched": SOON, "linger": 0.0}
            studio = Studio(**{"history_url": redis_url, **usual, **settings})
            made.callback(studio.realtime.manager.close)
            return studio

        yield make


def test_nobody_watches_and_progress_leaves_at_the_longer_interval(make: Callable[..., Studio]) -> None:
    studio = make()
    with Job(studio).running() as job:
        job.report_on()
        assert job.shown == 1


def test_somebody_watches_and_progress_leaves_at_the_shorter_interval_and_not_more_often(
    make: Callable[..., Studio],
) -> None:
    studio = make(progress_interval_watched=0.1)
    with Job(studio).running() as job:
        watch_until(studio, lambda: job.shown >= 6)
        shown, age = job.shown, job.age
    assert shown <= age / 0.1 + 2


def test_it_goes_faster_when_somebody_begins_to_watch_and_slower_when_the_last_has_left(
    make: Callable[..., Studio],
) -> None:
    studio = make()
    with Job(studio).running() as job:
        job.report_on()
        assert job.shown == 1
        watch_until(studio, lambda: job.shown >= 6)
        end_watching(studio)
        job.report_on()  # what it had put before
        shown = job.shown
        job.report_on()
        assert job.shown <= shown + 1
        watch_until(studio, lambda: job.shown >= shown + 6)


def test_only_jobs_of_the_watched_project_go_faster(make: Callable[..., Studio]) -> None:
    studio = make()
    with Job(studio, "p").running() as job, Job(studio, "q").running() as other:
        watch_until(studio, lambda: job.shown >= 6)
        other.report_on()
        assert other.shown == 1


def test_what_is_held_leaves_when_somebody_begins_to_watch_although_nothing_is_reported_any_more(
    make: Callable[..., Studio],
) -> None:
    studio = make()
    tracker = tracker_of(studio, "job")
    tracker.set_progress(10, "first")
    wait_for(lambda: shown_of(studio) == ["first"])
    tracker.set_progress(20, "second")
    tracker.set_progress(30, "third")
    watch_until(studio, lambda: len(shown_of(studio)) > 1)
    assert shown_of(studio) == ["first", "third"]
    tracker.set_progress(40, "fourth")
    watch_until(studio, lambda: shown_of(studio) == ["first", "third", "fourth"])


def test_an_interval_that_a_task_has_set_holds_whoever_watches(make: Callable[..., Studio]) -> None:
    studio = make()

    def choose(task: Any) -> None:
        tracker = studio.realtime.progress_tracker(task.request.id)
        tracker.min_update_interval = NEVER

    with Job(studio, prepare=choose).running() as job:
        history_of(studio).watches.mark(["p"])
        studio.realtime.manager.emit_to_project("p", "line", {})  # whose answer says who watches
        wait_for(lambda: knows(studio))
        job.report_on()
        assert job.shown == 1


def test_an_interval_shorter_than_that_of_watched_projects_stays_what_it_is(make: Callable[..., Studio]) -> None:
    studio = make(progress_interval=SOON, progress_interval_watched=NEVER)
    assert not studio.realtime.manager.has_watched_pace
    with Job(studio).running() as job:
        watch_until(studio, lambda: job.shown >= 6 and knows(studio))
        shown = job.shown
        wait_for(lambda: job.shown >= shown + 6)


def test_a_job_whose_project_only_this_process_knows_goes_faster_too(make: Callable[..., Studio]) -> None:
    studio = make()
    studio.realtime.manager.track_job_for_project("job", "p")
    tracker = studio.realtime.progress_tracker("job")
    tracker.set_progress(10, "first")
    tracker.set_progress(20, "second")
    watch_until(studio, lambda: "second" in shown_of(studio))


def test_without_a_history_progress_leaves_at_the_longer_interval(make: Callable[..., Studio]) -> None:
    studio = make(history_url=None)
    assert not studio.realtime.manager.has_watched_pace
    tracker = tracker_of(studio, "job")
    tracker.set_progress(10)
    wait_for(lambda: studio.wire.named("agent_progress"))
    started = time.monotonic()
    while time.monotonic() - started < LONG:
        tracker.set_progress(20)
    assert len(studio.wire.named("agent_progress")) == 1
    assert not knows(studio)


def test_when_redis_goes_away_nobody_counts_as_watching(make: Callable[..., Studio]) -> None:
    studio = make()
    studio.realtime.manager.watched.note("p", True)
    assert knows(studio)
    studio.realtime.start_over(history_url="redis://127.0.0.1:1/0")
    studio.realtime.manager.watched.note("p", True)
    studio.realtime.manager.emit_to_project("p", "line", {})
    wait_for(lambda: not knows(studio))
    studio.realtime.manager.start_over()


def tracker_of(studio: Studio, job_id: str) -> Any:
    studio.realtime.manager.track_job_for_project(job_id, "p")
    return studio.realtime.progress_tracker(job_id)


def shown_of(studio: Studio) -> list[str]:
    """Return the messages that the history has."""
    recent = history_of(studio).recent("p")
    return [entry["data"]["message"] for entry in recent if entry["event"] == "agent_progress"]
