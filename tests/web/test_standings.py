"""Of events without an offset, none takes a job backwards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.channel.wire import Heard, heard
from celery_realtime.history.snapshot import Snapshot
from celery_realtime.web import standings
from celery_realtime.web.standings import MOST_JOBS, JobStandings

SECOND = "2026-11-27T10:00:{:02d}.000Z"


def status(
    word: str,
    attempt: Any = 0,
    *,
    job: Any = "one",
    at: int = 0,
    state: str = "",
    project: str = "p",
    worker: str | None = None,
) -> Heard:
    data = {"job_id": job, "status": word, "attempt": attempt, "state": state, "timestamp": SECOND.format(at)}
    data["worker"] = worker
    return heard(project, "agent_status", data)


def progress(percent: Any, attempt: Any = 0, job: str = "one") -> Heard:
    data = {"job_id": job, "progress": percent, "attempt": attempt, "timestamp": SECOND.format(0)}
    return heard("p", "agent_progress", data)


def news(*events: Heard) -> list[Any]:
    jobs = JobStandings()
    return [event.data.get("status", event.data.get("progress")) for event in events if jobs.is_news(event)]


def test_a_status_is_news_if_its_rank_or_its_attempt_is_higher() -> None:
    events = [status("running"), status("queued"), status("running"), status("success"), status("running")]
    retry = [status("queued", 1), status("running", 1), status("error", 0), status("error", 1)]

    assert news(*events, *retry) == ["running", "success", "queued", "running", "error"]


def test_a_job_ends_once() -> None:
    assert news(status("success"), status("success"), status("error")) == ["success"]


def test_jobs_and_projects_are_told_apart() -> None:
    events = [status("success"), status("queued", job="two"), status("queued", project="other")]

    assert news(*events) == ["success", "queued", "queued"]


def test_progress_climbs_while_its_job_runs() -> None:
    assert news(progress(10), progress(5), progress(10), status("running"), progress(9)) == [10, 10, "running"]
    assert news(status("running"), progress(50), status("success"), progress(60)) == ["running", 50, "success"]
    assert news(progress(90), progress(10, 1), progress(95, 0)) == [90, 10]


def test_progress_shows_that_a_job_runs() -> None:
    assert news(progress(10), status("queued"), status("success")) == [10, "success"]


def test_what_was_lost_may_come_back() -> None:
    events = [status("error", state="LOST"), status("queued"), status("running"), status("success")]

    assert news(*events) == ["error", "running", "success"]


def test_a_redelivery_is_shown_and_begins_anew() -> None:
    events = [status("running", at=1), progress(80), status("running", at=9), progress(10), status("running", at=1)]

    assert news(*events) == ["running", 80, "running", 10]


def test_a_job_that_its_worker_gives_back_is_queued_again_until_it_starts_again() -> None:
    first, back = status("running", at=1, worker="w"), status("queued", at=3, worker="w")
    late = [status("running", at=1, worker="w"), progress(90), status("queued")]

    assert news(status("queued"), first, progress(80), back, *late) == ["queued", "running", 80, "queued"]
    for again in (status("running", at=4, worker="w"), status("running", at=0, worker="of another clock")):
        events = [first, progress(80), back, again, progress(10), status("success", at=9)]
        assert news(*events) == ["running", 80, "queued", "running", 10, "success"]


@pytest.mark.parametrize(
    "before",
    [
        status("running", at=4, worker="w"),
        status("running", at=1, worker="another"),
        status("success", at=1, worker="w"),
        status("running", 1, at=1, worker="w"),
    ],
    ids=["a later start", "another worker", "its end", "a later attempt"],
)
def test_that_a_job_was_given_back_is_no_news_after(before: Heard) -> None:
    assert len(news(before, status("queued", at=3, worker="w"))) == 1


def test_a_job_that_is_published_again_long_after_its_end_is_shown() -> None:
    assert news(status("success", at=10), status("queued", at=14)) == ["success"]
    assert news(status("success", at=10), status("queued", at=16)) == ["success", "queued"]
    assert news(status("success", 2, at=10), status("queued", 0, at=16)) == ["success", "queued"]


def numbered(event: Heard, offset: int = 1, epoch: str = "e") -> Heard:
    return heard(event.project_id, event.event, {**event.data, "epoch": epoch, "offset": offset})


def test_what_has_an_offset_is_noted_and_not_judged_in_its_epoch() -> None:
    jobs = JobStandings()
    end, start = numbered(status("success", at=9), 3), numbered(status("running", at=1), 4)

    assert jobs.shown(end) is end
    assert jobs.shown(status("running")) is None
    assert jobs.shown(start) is start


# -- where the history has begun anew -----------------------------------------------------------------------------

NOT_ENDED = [status("queued", at=8), status("running", at=9), progress(90), status("error", at=10, state="LOST")]


@pytest.mark.parametrize("older", NOT_ENDED)
def test_what_comes_of_before_an_end_that_was_shown_is_hidden(older: Heard) -> None:
    jobs = JobStandings()
    jobs.shown(numbered(status("error", at=9, state="FAILURE"), 7))

    shown = jobs.shown(numbered(older, 2, "new"))

    assert shown is not None
    assert (shown.event, shown.data) == ("agent_hidden", {"project_id": "p", "epoch": "new", "offset": 2})
    assert (shown.epoch, shown.offset) == ("new", 2)


@pytest.mark.parametrize(
    "newer",
    [
        *(status("success", at=9), status("error", at=1), status("running", at=10), status("queued", 1, at=1)),
        *(status("running", job="two"), status("running", project="other")),
        *(status("running", "0"), heard("p", "agent_status", {"job_id": "one", "status": "running"})),
        heard("p", "step", {"job_id": "one", "timestamp": SECOND.format(1)}),
    ],
)
def test_what_may_be_newer_than_the_end_is_shown(newer: Heard) -> None:
    jobs = JobStandings()
    jobs.shown(numbered(status("success", at=9), 7))
    event = numbered(newer, 2, "new")

    assert jobs.shown(event) is event


@pytest.mark.parametrize("state", ["LOST", "REVOKED"])
def test_an_end_that_nobody_saw_hides_nothing(state: str) -> None:
    jobs = JobStandings()
    jobs.shown(numbered(status("error", at=9, state=state), 7))
    start = numbered(status("running", at=5), 2, "new")

    assert jobs.shown(start) is start


def test_the_end_of_a_step_that_was_not_to_run_hides_nothing() -> None:
    jobs = JobStandings()
    unreached = status("error", at=9, state="FAILURE")
    jobs.shown(numbered(heard("p", "agent_status", {**unreached.data, "error": "not run: ValueError"}), 7))
    start = numbered(status("running", at=5), 2, "new")

    assert jobs.shown(start) is start


def test_an_end_without_an_offset_hides_what_comes_of_before_it() -> None:
    jobs = JobStandings()
    jobs.shown(status("success", at=9))

    shown = jobs.shown(numbered(status("running", at=5)))

    assert shown is not None
    assert shown.event == "agent_hidden"


def snapshot(epoch: str, *events: Heard) -> Snapshot:
    """Return what a history says that knows nothing but some events."""
    jobs = {event.data["job_id"]: event.data for event in events if "status" in event.data}
    entries = [{"event": event.event, "data": event.data} for event in events]
    return Snapshot(epoch, len(events), True, list(jobs.values()), len(jobs), [], entries)


def test_snapshots_are_without_what_is_of_before_an_end_that_was_shown() -> None:
    jobs = JobStandings()
    jobs.shown(numbered(status("success", at=9), 7))
    other = status("running", job="two")
    step = heard("p", "step", {"job_id": "one", "timestamp": SECOND.format(1)})

    seen = jobs.review("p", snapshot("new", status("running", at=8), progress(9), step, other))

    assert seen.jobs == [other.data]
    assert [entry["event"] for entry in seen.events] == ["agent_hidden", "agent_hidden", "step", "agent_status"]
    assert seen.events[1]["data"] == {"project_id": "p", "epoch": "new", "offset": 2}
    assert jobs.review_job("p", "new", status("running", at=8).data) is None
    assert jobs.review_job("p", "new", other.data) == other.data
    assert jobs.review_job("p", "new", None) is None


def test_an_end_in_a_snapshot_counts_as_shown() -> None:
    jobs = JobStandings()
    past = snapshot("e", status("success", at=9))
    assert jobs.review("p", past) == past

    assert jobs.review("p", snapshot("new", status("running", at=8))).jobs == []


@pytest.mark.parametrize("is_read", [False, True])
def test_a_job_that_runs_once_more_can_be_lost(is_read: bool) -> None:
    jobs = JobStandings()
    if is_read:
        jobs.review("p", snapshot("e", status("success", at=9)))
    else:
        jobs.shown(numbered(status("success", at=9), 7))
    jobs.shown(numbered(status("running", at=10), 2, "new"))
    lost = numbered(status("error", at=11, state="LOST"), 3, "new")

    assert jobs.shown(lost) is lost


@pytest.mark.parametrize(
    "event",
    [
        *(status("asleep"), status("success", "1"), status("queued", None), status("running", True)),
        *(status("success", job=5), progress("1"), progress(None), progress(1, [])),
        *(heard("p", "step", {"job_id": "one"}), heard("p", "step", "text"), heard("p", "agent_workflow", {})),
    ],
)
def test_what_cannot_be_judged_passes(event: Heard) -> None:
    jobs = JobStandings()

    assert jobs.is_news(event)
    assert jobs.is_news(event)


def test_a_timestamp_that_is_none_is_no_failure() -> None:
    first = heard("p", "agent_status", {"job_id": "one", "status": "success", "timestamp": 5})
    second = heard("p", "agent_status", {"job_id": "one", "status": "queued", "timestamp": "yesterday"})
    jobs = JobStandings()

    assert [jobs.is_news(event) for event in (first, second)] == [True, False]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standings, "MOST_JOBS", 10)
    jobs = JobStandings()

    for number in range(100):
        assert jobs.is_news(status("running", job=f"job {number}"))
        jobs.review("p", snapshot("e", status("success", job=f"old {number}")))

    assert len(jobs) == 20
    assert MOST_JOBS >= 1000


ranks = {"queued": 0, "running": 1, "success": 2, "error": 2}


@given(st.lists(st.tuples(st.sampled_from(list(ranks)), st.integers(0, 2)), max_size=30))
def test_no_order_of_statuses_takes_a_job_backwards(words: list[tuple[str, int]]) -> None:
    jobs = JobStandings()
    shown = [(attempt, ranks[word]) for word, attempt in words if jobs.is_news(status(word, attempt))]

    assert shown == sorted(set(shown))
