"""Leases are renewed, and what has lapsed is reported, on a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis

from celery_realtime.events import Ending
from celery_realtime.history.leases import HeldJob, Leases
from celery_realtime.history.store import History
from celery_realtime.sending.keeper import Keeper, LeaseRenewal, Reaper
from celery_realtime.sending.lost_jobs import FindEnds, LostJobs, knows_nothing
from tests.appended import append, status
from tests.recording import Studio
from tests.waiting import wait_for

LEASE = 0.2


class Worker:
    """An incarnation whose lease is renewed by hand."""

    def __init__(self, studio: Studio, incarnation: str = "i", *, lease: float = LEASE) -> None:
        self.held: list[HeldJob] = []
        history = history_of(studio)
        self.renewal = LeaseRenewal(
            studio.realtime.manager, history.leases, incarnation, held=lambda: self.held, lease=lease
        )


def history_of(studio: Studio) -> History:
    history = studio.realtime.manager.history
    assert history is not None
    return history


def job(name: str = "job", *, running: bool = True, project: str | None = "p", attempt: int = 0) -> HeldJob:
    return HeldJob(job_id=name, project_id=project, worker="w@host", running=running, attempt=attempt)


@pytest.fixture
def studio(redis_url: str) -> Studio:
    return Studio(history_url=redis_url)


@pytest.fixture
def leases(studio: Studio) -> Leases:
    return history_of(studio).leases


@pytest.fixture
def new_keeper() -> Iterator[Callable[[Studio], Keeper]]:
    keepers: list[Keeper] = []

    def new(studio: Studio) -> Keeper:
        keepers.append(Keeper(studio.realtime.manager, lost_after=0.3))
        return keepers[-1]

    yield new
    for keeper in keepers:
        keeper.stop()


def reaper(studio: Studio, find: FindEnds = knows_nothing) -> Reaper:
    manager, leases = studio.realtime.manager, history_of(studio).leases
    lost = LostJobs(manager, leases, lease=LEASE, find_ends=find)
    return Reaper(manager, leases, lost, lease=LEASE, pause=LEASE / 2)


def reap_until(studio: Studio, done: Callable[[], Any]) -> None:
    one = reaper(studio)

    def look() -> Any:
        one.reap()
        return studio.realtime.flush(60) and done()

    wait_for(look)


# -- renewing -------------------------------------------------------------------------------------------------------


def test_after_an_empty_redis_only_what_runs_is_reported_as_running(studio: Studio, redis_url: str) -> None:
    """What a worker has only reserved waits in it for a free process."""
    worker = Worker(studio, lease=60.0)
    left = HeldJob(job_id="left", project_id="p", running=True, left=True)
    worker.held = [job("runs"), job("reserved", running=False), job("of no project", project=None), left]
    worker.renewal.renew()
    redis.Redis.from_url(redis_url).flushdb()
    worker.renewal.renew()
    assert [(sent.data["job_id"], sent.data["state"]) for sent in studio.sent] == [("runs", "STARTED")]
    assert [known["job_id"] for known in history_of(studio).read("p").jobs] == ["runs"]


@pytest.mark.parametrize("looks", [1, 2])
def test_a_loss_that_is_reported_after_its_worker_has_come_back_is_taken_back(
    studio: Studio, redis_url: str, looks: int
) -> None:
    """A result backend that is slow, say, holds the report up. The worker says meanwhile that its job runs."""
    worker, asked, answer = Worker(studio), threading.Semaphore(0), threading.Event()
    append(history_of(studio), status("STARTED", job="runs", incarnation="i"))
    worker.held = [job("runs")]
    worker.renewal.renew()

    def find(jobs: list[HeldJob]) -> Mapping[str, Ending | None]:
        asked.release()
        assert answer.wait(60)
        return knows_nothing(jobs)

    reapers = [reaper(studio, find) for _ in range(looks)]
    for one in reapers:
        wait_for(lambda one=one: (one.reap(), asked.acquire(blocking=False))[1])  # type: ignore[misc]
    for _ in range(3):
        worker.renewal.renew()
    assert studio.told() == []
    answer.set()
    wait_for(lambda: "LOST" in studio.told())
    [lapsed] = history_of(studio).keys.leases("lapsed")
    with redis.Redis.from_url(redis_url) as client:
        wait_for(lambda: (worker.renewal.renew(), not client.exists(lapsed))[1])
    assert studio.told()[-1] == "STARTED"
    assert [known["state"] for known in history_of(studio).read("p").jobs] == ["STARTED"]


def test_after_a_lapse_only_what_runs_is_taken_back(studio: Studio) -> None:
    worker = Worker(studio)
    append(history_of(studio), status("STARTED", job="runs", incarnation="i"), status("PENDING", job="reserved"))
    worker.held = [job("runs"), job("reserved", running=False)]
    worker.renewal.renew()
    reap_until(studio, lambda: "LOST" in studio.told())
    wait_for(lambda: (worker.renewal.renew(), len(studio.told()) > 1)[1])
    assert studio.told() == ["LOST", "STARTED"]
    states = {known["job_id"]: known["state"] for known in history_of(studio).read("p").jobs}
    assert states == {"runs": "STARTED", "reserved": "PENDING"}


def test_a_lapse_is_noticed_although_the_answer_of_the_renewal_that_ended_it_was_lost(
    studio: Studio, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(studio, lease=60.0)
    append(history_of(studio), status("STARTED", job="runs", incarnation="i"))
    worker.held = [job("runs")]
    worker.renewal.renew()
    reap_until(studio, lambda: "LOST" in studio.told())
    leases.reaped("i")

    def hold_without_an_answer(*args: Any) -> bool:
        Leases.hold(leases, *args)
        raise redis.TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(leases, "hold", hold_without_an_answer)
        with pytest.raises(redis.TimeoutError):
            worker.renewal.renew()
    worker.renewal.renew()
    worker.renewal.renew()
    assert studio.told() == ["LOST", "STARTED"]


def test_a_worker_that_stood_still_takes_back_what_was_lost_although_redis_has_its_lease(studio: Studio) -> None:
    """Its finder has reported the loss, and then died, or has yet to look up a result."""
    worker = Worker(studio)
    append(history_of(studio), status("STARTED", job="runs", incarnation="i"))
    worker.held = [job("runs")]
    worker.renewal.renew()
    append(history_of(studio), status("LOST", job="runs", incarnation="i"))
    since = time.monotonic()
    wait_for(lambda: time.monotonic() - since > LEASE)
    worker.renewal.renew()
    assert studio.told() == ["STARTED"]


def test_what_was_not_lost_does_not_run_again_when_an_answer_was(
    studio: Studio, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(history_of(studio), status("STARTED", job="runs", incarnation="i"))
    worker = Worker(studio)
    worker.held = [job("runs")]
    worker.renewal.renew()
    offset = history_of(studio).read("p").offset
    with monkeypatch.context() as patch:
        patch.setattr(leases, "hold", unreachable)
        with pytest.raises(redis.TimeoutError):
            worker.renewal.renew()
    worker.renewal.renew()
    assert studio.realtime.flush(60)
    assert history_of(studio).read("p").offset == offset


def unreachable(*_: Any) -> bool:
    raise redis.TimeoutError


def test_the_first_renewal_of_an_incarnation_reports_nothing(studio: Studio) -> None:
    worker = Worker(studio, lease=60.0)
    worker.held = [job()]
    worker.renewal.renew()
    worker.renewal.renew()
    assert studio.sent == []


def test_a_lease_that_was_given_up_is_not_renewed_any_more(studio: Studio, leases: Leases) -> None:
    worker = Worker(studio, lease=60.0)
    worker.renewal.renew()
    worker.renewal.release()
    worker.renewal.renew()
    assert leases.hold("i", [], LEASE) is False


def test_a_worker_that_is_cut_off_renews_no_more_and_its_jobs_are_lost(
    studio: Studio, leases: Leases, new_keeper: Callable[[Studio], Keeper]
) -> None:
    """Its process may live on, and be a worker again: as the next incarnation."""
    append(history_of(studio), status("STARTED", incarnation="i"))
    keeper = new_keeper(studio)
    keeper.start()
    keeper.hold("i", lambda: [job()])
    wait_for(lambda: leases.hold("i", [job()], LEASE))
    keeper.abandon("i")
    keeper.abandon("never held")
    keeper.hold("j", list)
    wait_for(lambda: studio.told() == ["LOST"])


def test_an_incarnation_that_ends_while_it_holds_jobs_leaves_its_lease_to_lapse(studio: Studio, leases: Leases) -> None:
    worker = Worker(studio, lease=60.0)
    worker.held = [job()]
    worker.renewal.renew()
    worker.renewal.release()
    assert leases.hold("i", [], LEASE) is True


def test_a_lease_that_cannot_be_given_up_lapses_by_itself_as_the_log_says(
    start_redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis()
    worker = Worker(Studio(history_url=server.fresh_url()))
    server.stop()
    worker.renewal.release()
    assert "it will lapse by itself" in caplog.text


def test_jobs_that_come_between_two_renewals_are_noted_at_once(studio: Studio, redis_url: str) -> None:
    keeper = Keeper(studio.realtime.manager, lost_after=600.0)
    [key] = history_of(studio).keys.leases("held:i")
    held: list[HeldJob] = [job("first")]
    with redis.Redis.from_url(redis_url) as client:
        try:
            keeper.hold("i", lambda: list(held))
            wait_for(lambda: client.hkeys(key) == [b"0::p\nfirst"])
            held.append(job("received", running=False))
            keeper.note_soon()
            wait_for(lambda: sorted(client.hkeys(key)) == [b"0::p\nfirst", b"0::p\nreceived"])
            held[1] = job("received")
            keeper.note_soon()
            wait_for(lambda: b'"running":true' in (client.hget(key, "0::p\nreceived") or b""))
        finally:
            keeper.stop()


# -- reporting ------------------------------------------------------------------------------------------------------


def test_the_jobs_of_a_dead_incarnation_are_lost_and_those_of_its_namesake_are_not(studio: Studio) -> None:
    append(history_of(studio), *(status("STARTED", job=name, incarnation=name, worker="w@host") for name in "ab"))
    dead, alive = Worker(studio, "a"), Worker(studio, "b")
    dead.renewal.renew()
    one = reaper(studio)

    def look() -> list[Any]:
        alive.renewal.renew()
        one.reap()
        return studio.sent

    [lost] = wait_for(look)
    assert (lost.data["job_id"], lost.data["state"], lost.data["worker"]) == ("a", "LOST", "w@host")
    assert lost.data["error"] == "WorkerLost: w@host has not been heard of for 0.2 s"
    assert {known["job_id"]: known["status"] for known in history_of(studio).read("p").jobs} == {
        "a": "error",
        "b": "running",
    }


def test_a_job_that_its_worker_had_not_started_is_not_lost(studio: Studio) -> None:
    append(history_of(studio), status("PENDING", job="reserved"), status("STARTED", job="runs", incarnation="i"))
    worker = Worker(studio)
    worker.held = [job("reserved", running=False), job("runs")]
    worker.renewal.renew()
    reap_until(studio, lambda: studio.sent)
    assert [sent.data["job_id"] for sent in studio.sent] == ["runs"]


def test_jobs_whose_loss_cannot_be_sent_are_reported_later(studio: Studio, leases: Leases) -> None:
    append(history_of(studio), status("STARTED", incarnation="i"))
    leases.hold("i", [], LEASE)
    assert wait_for(lambda: leases.reap(LEASE, LEASE / 2, 0.0).lost)  # by a reaper that died then
    reap_until(studio, lambda: studio.told() == ["LOST"])


def test_a_cancelled_job_that_no_worker_has_is_reported_as_revoked(studio: Studio, leases: Leases) -> None:
    append(history_of(studio), status("PENDING"))
    leases.withdraw(job(), after=-60.0)
    reap_until(studio, lambda: studio.sent)
    [sent] = studio.sent
    assert (sent.data["state"], sent.data["error"]) == ("REVOKED", "TaskRevokedError: revoked")


def test_an_expired_job_is_reported_once(studio: Studio, leases: Leases) -> None:
    append(history_of(studio), status("PENDING", expires_at=time.time() - 60))
    reap_until(studio, lambda: studio.sent)
    [sent] = studio.sent
    assert (sent.data["state"], sent.data["error"]) == ("REVOKED", "TaskRevokedError: expired")
    wait_for(lambda: leases.reap(0.0, 1.0, 0.0).expired == {})  # once it has been sent


def test_a_stalled_job_is_reported(studio: Studio) -> None:
    append(history_of(studio), status("STARTED", stall_after=0.01))
    reap_until(studio, lambda: studio.sent)
    assert studio.sent[0].data["stalled"] is True


# -- the thread -----------------------------------------------------------------------------------------------------


def keepers_at_work() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "celery-realtime-keeper"}


def test_a_keeper_holds_the_leases_of_its_process_and_reports_what_lapses(
    studio: Studio, leases: Leases, new_keeper: Callable[[Studio], Keeper]
) -> None:
    append(history_of(studio), status("STARTED", incarnation="dead"))
    leases.hold("dead", [], LEASE)
    keeper = new_keeper(studio)
    keeper.start()
    keeper.hold("i", lambda: [job("held")])  # a process may be a web server first, and a worker then
    keeper.hold("j", list)
    wait_for(lambda: studio.told() == ["LOST"])
    assert wait_for(lambda: leases.hold("i", [job("held")], LEASE) and leases.hold("j", [], LEASE))
    assert keeper.loop.is_turning
    keeper.release("i")
    keeper.release("j")
    keeper.release("never held")
    assert leases.hold("j", [], LEASE) is False


def test_a_worker_may_start_again_in_the_same_process(
    studio: Studio, leases: Leases, new_keeper: Callable[[Studio], Keeper]
) -> None:
    keeper, before = new_keeper(studio), keepers_at_work()
    for incarnation in ("first", "second"):
        keeper.hold(incarnation, list)
        assert wait_for(lambda incarnation=incarnation: leases.hold(incarnation, [], LEASE))
        keeper.release(incarnation)
        assert leases.hold(incarnation, [], LEASE) is False
        wait_for(lambda: keepers_at_work() <= before)


def test_a_web_server_goes_on_looking_when_a_worker_in_it_has_ended(
    studio: Studio, new_keeper: Callable[[Studio], Keeper]
) -> None:
    keeper, before = new_keeper(studio), keepers_at_work()
    keeper.start()
    keeper.start()
    keeper.hold("i", list)
    keeper.release("i")
    assert len(keepers_at_work() - before) == 1
    keeper.stop()
    wait_for(lambda: keepers_at_work() <= before)


def test_a_keeper_outlives_a_time_without_redis(start_redis: Any, new_keeper: Callable[[Studio], Keeper]) -> None:
    server = start_redis()
    studio = Studio(history_url=server.fresh_url())
    keeper = new_keeper(studio)
    keeper.hold("i", list)
    wait_for(lambda: keeper.loop.is_turning)
    server.stop()
    wait_for(lambda: keeper.loop.failures)
    server.restart()
    wait_for(lambda: keeper.loop.health()["error"] is None)
    assert wait_for(lambda: history_of(studio).leases.hold("i", [], 60.0), ignoring=(redis.RedisError,))


def test_without_a_history_there_is_nothing_to_keep() -> None:
    keeper = Keeper(Studio(history_url=None).realtime.manager, lost_after=0.3)
    keeper.start()
    keeper.hold("i", list)
    keeper.release("i")
    assert not keeper.loop.is_turning
