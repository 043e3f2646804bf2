"""Who runs which job, and what is found when a worker has died."""

from __future__ import annotations

import itertools
import time
from typing import Any

import msgspec
import pytest
import redis

from celery_realtime import events
from celery_realtime.events import Job, Outgoing, Step
from celery_realtime.history.leases import HeldJob, Leases
from celery_realtime.history.lua import Runner
from celery_realtime.history.store import History
from tests.appended import append, progress, status
from tests.lua_scripts import KEYS
from tests.waiting import wait_for

RUN = "1700000000000-0a0b0c0d"
JOB = HeldJob(job_id="job", project_id="p", worker="w@host", running=True)


@pytest.fixture
def history(redis_url: str) -> History:
    return History(redis_url, "tests", size=1000, ttl=60.0)


def new_leases(redis_url: str) -> Leases:
    return Leases(KEYS, Runner(redis.Redis.from_url(redis_url)))


def lost(leases: Leases, lease: float) -> dict[str, list[HeldJob]]:
    return leases.reap(lease, lease / 2, 0.0).lost


def test_a_lapsed_lease_is_returned_to_one_reaper_and_to_another_only_if_that_one_fails(redis_url: str) -> None:
    one, two = new_leases(redis_url), new_leases(redis_url)
    one.hold("i", [JOB], lease=0.5)
    assert lost(one, 0.5) == {}
    assert wait_for(lambda: lost(one, 0.5) or lost(two, 0.5)) == {"i": [JOB]}
    assert (lost(one, 0.5), lost(two, 0.5)) == ({}, {})
    assert wait_for(lambda: lost(two, 0.5)) == {"i": [JOB]}
    two.reaped("i")
    assert one.hold("i", [], lease=0.5) is False


def test_two_incarnations_of_one_worker_each_have_a_lease_of_their_own(redis_url: str) -> None:
    leases, looks = new_leases(redis_url), itertools.count()
    leases.hold("killed", [JOB], lease=0.4)

    def look() -> Any:
        leases.hold("started again", [], lease=0.4)
        found = lost(leases, 0.4)
        assert "started again" not in found
        return found or next(looks) > 200

    assert wait_for(look) == {"killed": [JOB]}


def test_a_lease_that_is_renewed_never_lapses(redis_url: str) -> None:
    leases, since = new_leases(redis_url), time.monotonic()

    def look() -> bool:
        leases.hold("i", [JOB], lease=3.0)
        assert lost(leases, 3.0) == {}
        return time.monotonic() - since > 4

    wait_for(look)


def test_after_a_time_in_which_nobody_looked_every_worker_gets_the_time_of_a_lease(redis_url: str) -> None:
    """Redis may have been away, and with it every worker's chance to renew."""
    leases = new_leases(redis_url)
    leases.hold("i", [JOB], lease=0.2)
    started = time.monotonic()
    wait_for(lambda: time.monotonic() - started > 0.5)
    assert leases.reap(0.2, 0.05, 0.0).lost == {}
    assert wait_for(lambda: leases.reap(0.2, 0.05, 0.0).lost)


# -- what events say ------------------------------------------------------------------------------------------------


def test_a_job_that_starts_is_held_before_its_worker_renews_its_lease(history: History) -> None:
    history.leases.hold("i", [], lease=0.2)
    append(history, status("STARTED", incarnation="i", task="t", worker="w@host"))
    append(history, status("STARTED", job="of no worker"), status("PENDING", job="later", incarnation="i"))

    [job] = wait_for(lambda: lost(history.leases, 0.2))["i"]

    assert (job.job_id, job.project_id, job.task, job.worker, job.running) == ("job", "p", "t", "w@host", True)


def test_any_number_of_jobs_starts_in_one_batch(redis_url: str) -> None:
    """As many as ``realtime_batch_size`` may be: Lua passes some 8,000 values on at once, and no more."""
    client = redis.Redis.from_url(redis_url)
    starts, _ = Leases(KEYS, Runner(client)).commands(
        [status("STARTED", job=f"job-{number}", incarnation="i") for number in range(4500)]
    )
    assert Runner(client).run_all(starts) == [None]
    assert client.hlen(KEYS.leases("running:i")[0]) == 4500


def test_what_a_child_has_noted_outlives_the_renewals_of_its_main_process(history: History) -> None:
    """It may know a project that the main process does not: from an argument, or from a resolver."""
    history.leases.hold("i", [], lease=0.2)
    append(history, status("STARTED", incarnation="i", project="child's", run=RUN))
    job_of_main_process = msgspec.structs.replace(JOB, run=RUN)
    history.leases.hold("i", [job_of_main_process], lease=0.2)
    history.leases.hold("i", [job_of_main_process], lease=0.2)
    [job] = wait_for(lambda: lost(history.leases, 0.2))["i"]
    assert (job.job_id, job.project_id) == ("job", "child's")


def test_what_is_behind_a_job_is_known_from_its_main_process(history: History) -> None:
    behind = (Step(job_id="next", project_id="p", root_id="job"), Step(job_id="job", project_id="p", continues=True))
    append(history, status("STARTED", incarnation="i"))
    history.leases.hold("i", [msgspec.structs.replace(JOB, behind=behind)], lease=0.2)
    [job] = wait_for(lambda: lost(history.leases, 0.2))["i"]
    assert job.behind == behind


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED"])
def test_a_job_that_has_ended_is_held_no_more(history: History, state: str) -> None:
    append(history, status("STARTED", incarnation="i"))
    assert history.leases.release("i") is False
    append(history, status(state, incarnation="i"))
    assert history.leases.release("i") is True


def test_a_job_that_starts_and_ends_in_one_batch_is_not_held(history: History) -> None:
    append(history, status("STARTED", incarnation="i"), status("SUCCESS", incarnation="i"))
    assert history.leases.release("i") is True


def test_a_retry_ends_the_attempt_before_it_and_not_the_one_that_may_run_already(history: History) -> None:
    append(history, status("STARTED", incarnation="i"), status("STARTED", attempt=1, incarnation="i"))
    append(history, status("RETRY", attempt=1, incarnation="i"))
    assert history.leases.release("i") is False
    append(history, status("SUCCESS", attempt=1, incarnation="i"))
    assert history.leases.release("i") is True


def test_a_job_that_goes_on_in_another_message_is_held_no_more_until_it_begins_again(history: History) -> None:
    def handed_on() -> Outgoing:
        return events.outgoing_handed_on(Job(job_id="job", project_id="p"), time.time(), incarnation="i")

    append(history, status("STARTED", incarnation="i"), handed_on())
    assert history.leases.release("i") is True
    append(history, status("STARTED", incarnation="i"))
    assert history.leases.release("i") is False
    append(history, handed_on())
    assert history.leases.release("i") is True
    append(history, handed_on(), status("STARTED", incarnation="i"))
    assert history.leases.release("i") is False


def test_the_end_that_another_incarnation_reports_leaves_the_note_of_this_one(history: History) -> None:
    append(history, status("STARTED", incarnation="i"), status("STARTED", incarnation="j"))
    append(history, status("SUCCESS", incarnation="j"))
    assert (history.leases.release("i"), history.leases.release("j")) == (False, True)


# -- one id in two projects -----------------------------------------------------------------------------------------


def projects(jobs: list[HeldJob]) -> list[tuple[str | None, bool]]:
    return sorted((job.project_id, job.running) for job in jobs)


@pytest.mark.parametrize("run", [None, RUN])
def test_jobs_of_two_projects_with_one_id_are_both_held(history: History, run: str | None) -> None:
    """Whether the message of each has a mark, or they were published by somebody without this package."""
    runs = [run, run and RUN.replace("a", "b")]
    jobs = [HeldJob(job_id="job", project_id=name, run=own) for name, own in zip("pq", runs, strict=True)]
    history.leases.hold("held", jobs, lease=0.2)
    history.leases.note("noted", jobs)
    history.leases.hold("begins", [], lease=0.2)
    append(
        history, *(status("STARTED", project=job.project_id or "", run=job.run, incarnation="begins") for job in jobs)
    )
    assert history.leases.held() == {("p", "job"), ("q", "job")}
    found: dict[str, list[HeldJob]] = {}
    wait_for(lambda: found.update(lost(history.leases, 0.2)) or len(found) == 2)
    assert projects(found["held"]) == [("p", False), ("q", False)]
    assert projects(found["begins"]) == [("p", True), ("q", True)]


def test_the_end_of_a_job_leaves_the_note_of_another_project_s(history: History) -> None:
    append(history, *(status("STARTED", project=name, incarnation="i") for name in ("p", "q")))
    append(history, status("SUCCESS", project="q", incarnation="i"))
    history.leases.hold("i", [], lease=0.2)
    assert history.leases.release("i") is False
    assert projects(wait_for(lambda: lost(history.leases, 0.2))["i"]) == [("p", True)]


def test_a_job_expires_whatever_another_project_s_of_its_id_does(history: History) -> None:
    append(history, *(status("PENDING", project=name, expires_at=time.time() - 5) for name in ("p", "q")))
    history.leases.withdraw(Job(job_id="job", project_id="r"), after=-10.0)
    expired = history.leases.reap(0.2, 0.1, 1.0).expired
    assert {job and job.project_id for job in expired.values()} == {"p", "q", "r"}
    history.leases.expired([name for name, job in expired.items() if job and job.project_id != "q"])
    [left] = wait_for(lambda: history.leases.reap(0.2, 0.1, 0.0).expired).values()
    assert left is not None
    assert left.project_id == "q"


def test_a_job_stalls_whatever_another_project_s_of_its_id_does(history: History) -> None:
    append(history, *(status("STARTED", project=name, stall_after=0.05) for name in ("p", "q", "r")))
    append(history, status("SUCCESS", project="q"))
    stalled: list[str | None] = []
    wait_for(
        lambda: (
            stalled.extend(one.job.project_id for one in history.leases.reap(60.0, 1.0, 0.0).stalled)
            or len(stalled) > 1
        )
    )
    assert sorted(map(str, stalled)) == ["p", "r"]


# -- expiries and stalls --------------------------------------------------------------------------------------------


def test_an_expired_job_is_returned_after_the_grace_until_it_is_dealt_with(history: History, redis_url: str) -> None:
    append(history, status("PENDING", expires_at=time.time() - 5, task="t"), status("PENDING", job="other"))
    assert history.leases.reap(60.0, 1.0, 60.0).expired == {}
    [(name, job)] = history.leases.reap(0.2, 0.1, 1.0).expired.items()
    assert job is not None
    assert (job.job_id, job.project_id, job.task) == ("job", "p", "t")
    assert wait_for(lambda: history.leases.reap(0.2, 0.1, 0.0).expired) == {name: job}
    history.leases.expired([name])
    history.leases.expired([])
    with redis.Redis.from_url(redis_url) as client:
        assert client.exists(*KEYS.leases("expiring", "expiring-jobs")) == 0


def test_a_withdrawn_job_is_returned_after_its_time_with_the_reason(history: History) -> None:
    append(history, status("PENDING", expires_at=time.time() + 60))
    history.leases.withdraw(Job(job_id="job", project_id="p", attempt=2), after=10.0)
    assert history.leases.reap(60.0, 1.0, 0.0).expired == {}
    history.leases.withdraw(Job(job_id="job", project_id="p", attempt=2), after=-10.0)
    [job] = history.leases.reap(60.0, 1.0, 0.0).expired.values()
    assert job is not None
    assert (job.job_id, job.attempt, job.reason) == ("job", 2, "revoked")


def test_a_stalled_job_is_returned_once_with_the_latest_progress(history: History) -> None:
    append(history, status("STARTED", stall_after=0.05), progress(40, stall_after=0.05))
    [stalled] = wait_for(lambda: history.leases.reap(60.0, 1.0, 0.0).stalled)
    update = stalled.progress
    assert (stalled.job.job_id, update.progress, update.message) == ("job", 40, "at 40")
    assert history.leases.reap(60.0, 1.0, 0.0).stalled == []


def test_a_stall_is_forgotten_when_its_job_ends(history: History, redis_url: str) -> None:
    append(history, status("STARTED", stall_after=60.0), status("STARTED", job="other", stall_after=60.0))
    append(history, status("SUCCESS"))
    with redis.Redis.from_url(redis_url) as client:
        stalling, jobs = KEYS.leases("stalling", "stalling-jobs")
        assert client.zrange(stalling, 0, -1) == [b"p\nother"]
        assert client.hkeys(jobs) == [b"p\nother"]


def test_expiries_and_stalls_travel_with_the_events(
    history: History, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(history, status("PENDING"))
    batch = [status("PENDING", job=f"job{n}", expires_at=time.time() + 60, stall_after=60.0) for n in range(100)]
    trips: list[int] = []
    answers = Runner.replies

    def count(runner: Runner, calls: Any) -> Any:
        trips.append(len(calls))
        return answers(runner, calls)

    monkeypatch.setattr(Runner, "replies", count)
    append(history, *batch)
    with redis.Redis.from_url(redis_url) as client:
        stored = [client.zcard(key) for key in KEYS.leases("expiring", "stalling")]
    assert stored == [100, 100]
    assert len(trips) == 1


def test_notes_that_are_refused_take_no_offset_away(
    history: History, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set(KEYS.leases("expiring")[0], "no sorted set")
    appended = history.append([status("PENDING", expires_at=time.time() + 60)])
    assert appended is not None
    assert b'"offset":1' in appended[0][0].payload
    assert "refused to note what jobs do" in caplog.text
