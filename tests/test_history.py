"""The history on a real Redis: what is news, what it is told as, and what is remembered."""

from __future__ import annotations

import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_realtime import events, wire
from celery_realtime.events import Job, Outgoing
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.history import History
from celery_realtime.progress import Progress, progress_update
from celery_realtime.redis_connection import MOST_CONNECTIONS
from tests.waiting import wait_for

numbers = itertools.count()


@pytest.fixture
def history(redis_url: str) -> History:
    return History(redis_url, "tests", size=1000, ttl=60.0)


def status(state: str, attempt: int = 0, job: str = "job", project: str = "p", **more: Any) -> Outgoing:
    details = {name: more.pop(name) for name in ("error", "result") if name in more}
    about = Job(job_id=job, project_id=project, attempt=attempt, **more)
    return events.outgoing_status(events.status_change(about, state, **details))


def progress(percent: float, attempt: int = 0, job: str = "job", project: str = "p") -> Outgoing:
    about = Job(job_id=job, project_id=project, attempt=attempt)
    return events.outgoing_progress(progress_update(about, Progress(percent, f"at {percent}")))


def custom(data: Any, project: str = "p") -> Outgoing:
    return events.outgoing_custom("line", data, project, "job", 65536)


def told(history: History, *batch: Outgoing) -> list[str | None]:
    """Append, and return the names of what is news."""
    answer = history.append(list(batch))
    assert answer is not None
    return [event.event for group in answer for event in group]


def since(history: History, offset: int = 0, project: str = "p") -> list[dict[str, Any]]:
    epoch = history.read(project).epoch
    snapshot = history.read(project, epoch, offset)
    assert snapshot.recovered
    return snapshot.events


# -- what is news ---------------------------------------------------------------------------------------------------


def test_a_job_climbs_and_every_step_is_told(history: History) -> None:
    steps = [status("PENDING"), status("STARTED", worker="w1"), progress(10), progress(50), status("SUCCESS")]
    assert len(told(history, *steps)) == 5
    assert [one["data"]["offset"] for one in since(history)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "late",
    [
        status("PENDING"),
        status("STARTED", worker="w1"),
        progress(99),
        status("FAILURE", error="late"),
        status("REVOKED"),
        status("LOST"),
    ],
    ids=lambda event: f"{event.event}-{event.rank}",
)
def test_nothing_follows_the_end_of_an_attempt(history: History, late: Outgoing) -> None:
    told(history, status("STARTED", worker="w1"), status("SUCCESS"))
    assert told(history, late) == []
    assert history.read("p").jobs[0]["state"] == "SUCCESS"


def test_a_higher_attempt_reopens_a_job_and_a_lower_one_is_stale(history: History) -> None:
    told(history, status("STARTED", worker="w1"), status("SUCCESS"))
    assert len(told(history, status("RETRY", attempt=1), status("STARTED", attempt=1, worker="w1"))) == 2
    assert told(history, status("FAILURE", attempt=0), progress(90, attempt=0)) == []
    assert history.read("p").jobs[0]["attempt"] == 1


def test_queued_never_follows_running(history: History) -> None:
    told(history, status("STARTED", worker="w1"))
    assert told(history, status("PENDING")) == []


def test_progress_never_goes_backwards_within_an_attempt(history: History) -> None:
    told(history, status("STARTED", worker="w1"), progress(40))
    assert told(history, progress(30)) == []
    assert told(history, progress(40.5)) == ["agent_progress"]
    assert told(history, status("RETRY", attempt=1), progress(5, attempt=1)) == ["agent_status", "agent_progress"]


def test_only_a_running_job_of_that_worker_can_be_lost(history: History) -> None:
    told(history, status("PENDING", job="waiting"), status("STARTED", job="running", worker="w2"))
    assert told(history, status("LOST", job="waiting", worker="w1")) == []
    assert told(history, status("LOST", job="running", worker="w1")) == []
    assert told(history, status("LOST", job="unheard of", worker="w1")) == []
    assert told(history, status("LOST", job="running", worker="w2")) == ["agent_status"]


def test_a_lost_job_is_reopened_by_a_run_or_an_end_and_by_nothing_else(history: History) -> None:
    told(history, status("STARTED", worker="w1"), status("LOST", worker="w1"))
    assert told(history, status("PENDING"), progress(50)) == []
    assert told(history, status("STARTED", worker="w2"), progress(50), status("SUCCESS")) == [
        "agent_status",
        "agent_progress",
        "agent_status",
    ]


def test_a_second_delivery_is_told_by_its_worker(history: History) -> None:
    told(history, status("STARTED", worker="w1"))
    assert told(history, status("STARTED", worker="w1", parent_id="told again later")) == []
    assert told(history, status("STARTED", worker="w2")) == ["agent_status"]


def test_a_second_try_of_the_same_write_keeps_its_offset(history: History) -> None:
    batch = [status("STARTED", worker="w1"), progress(10)]
    first, second = history.append(batch), history.append(batch)
    assert first == second
    assert history.read("p").offset == 2


# -- any order ------------------------------------------------------------------------------------------------------

TERMINALS = ("SUCCESS", "FAILURE", "REVOKED", "REJECTED", "IGNORED")


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[Outgoing], tuple[int, str]]:
    """All that is ever said of a job, shuffled and some of it twice, and how the job really ended."""
    last = draw(st.integers(0, 3))
    said: list[Outgoing] = []
    for attempt in range(last + 1):
        said += [status("RETRY" if attempt else "PENDING", attempt), status("STARTED", attempt, worker="w")]
        said += [progress(percent, attempt) for percent in draw(st.lists(st.integers(0, 100), max_size=3))]
        if attempt < last and draw(st.booleans()):
            said.append(status(draw(st.sampled_from(TERMINALS)), attempt))  # retry(throw=False), then it went on
    end = draw(st.sampled_from(TERMINALS))
    said.append(status(end, last))
    said += draw(st.lists(st.sampled_from(said), max_size=6))
    random.Random(draw(st.integers())).shuffle(said)
    return said, (last, end)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(life=lives(), cut=st.integers(1, 8))
def test_whatever_the_order_a_job_ends_as_it_did_and_its_events_only_climb(
    history: History, life: tuple[list[Outgoing], tuple[int, str]], cut: int
) -> None:
    said, (last, end) = life
    project = f"order-{next(numbers)}"
    said = [event._replace(project_id=project) for event in said]
    for start in range(0, len(said), cut):
        history.append(said[start : start + cut])
    final = history.read(project).jobs[0]
    assert (final["attempt"], final["state"]) == (last, end)
    climb = [one["data"] for one in since(history, project=project)]
    statuses = [(data["attempt"], events.RANK_OF_STATUS[data["status"]]) for data in climb if "status" in data]
    assert statuses == sorted(set(statuses))
    assert climb[-1].get("state") == end
    for attempt in range(last + 1):
        percents = [data["progress"] for data in climb if "progress" in data and data["attempt"] == attempt]
        assert percents == sorted(percents)


# -- snapshot and recovery ------------------------------------------------------------------------------------------


def test_an_empty_project_has_an_epoch_and_keeps_it(history: History) -> None:
    first, second = history.read("p"), history.read("p")
    assert (first.offset, first.jobs, first.events) == (0, [], [])
    assert first.epoch == second.epoch
    told(history, status("PENDING"))
    assert history.read("p").epoch == first.epoch


def test_what_is_missing_comes_whole_or_not_at_all(redis_url: str) -> None:
    small = History(redis_url, "small", size=100, ttl=60.0)
    told(small, *[custom({"n": n}) for n in range(10)])
    epoch = small.read("p").epoch
    assert [one["data"]["n"] for one in small.read("p", epoch, 7).events] == [7, 8, 9]
    assert small.read("p", epoch, 10).recovered is True
    for foreign_epoch, offset in (("other", 5), (epoch, 11)):
        unknown = small.read("p", foreign_epoch, offset)
        assert (unknown.recovered, unknown.events) == (False, [])
    for _ in range(5):
        told(small, *[custom({"n": n}) for n in range(100)])
    late = small.read("p", small.read("p").epoch, 3)
    assert (late.recovered, late.events) == (False, [])


def test_an_offset_from_the_future_changes_the_epoch(history: History) -> None:
    told(history, status("PENDING"))
    before = history.read("p")
    assert history.read("p", before.epoch, 99).epoch != before.epoch


def test_events_whose_storing_was_not_answered_are_stored_once(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [status("STARTED"), custom({"n": 1}), progress(10), custom([2]), custom({"n": 3}), status("SUCCESS")]
    run = history._run

    def lose_the_answer(commands: Any) -> Any:
        run(commands)
        raise redis.TimeoutError("the answer does not come")

    monkeypatch.setattr(history, "_run", lose_the_answer)
    assert history.append(batch) is None
    assert history.append(batch) is None
    monkeypatch.setattr(history, "_run", run)
    told(history, custom({"n": "other"}))

    again = history.append(batch)

    assert again is not None
    heard = [event for told in again for _, body in wire.frames(told, "me", "/") for event in wire.decode_message(body)]
    assert [event.offset for event in heard if isinstance(event, wire.Heard)] == [1, 2, 3, 4, 5, 6]
    assert len(since(history)) == 7
    assert len(history._doubtful) == 0


def test_a_custom_event_that_is_sent_twice_is_two_events(history: History) -> None:
    event = custom({"n": 1})
    assert told(history, event, event) == ["line", "line"]
    assert told(history, event) == ["line"]
    assert len(since(history)) == 3


@pytest.mark.parametrize("key", ["meta", "events", "jobs"])
@pytest.mark.parametrize("who", ["reader", "writer"])
def test_the_loss_of_one_key_changes_the_epoch(history: History, redis_url: str, key: str, who: str) -> None:
    told(history, status("STARTED"), custom({}))
    before = history.read("p")
    client = redis.Redis.from_url(redis_url)
    assert client.delete(f"celery-realtime:tests:{{p}}:{key}") == 1

    if who == "writer":
        told(history, custom({}))
    after = history.read("p", before.epoch, before.offset)

    assert after.epoch != before.epoch
    assert not after.recovered
    assert after.offset == (1 if who == "writer" else 0)
    assert after.jobs == []


def test_a_server_that_fell_back_is_found_out_by_who_wrote_what_it_lost(history: History, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    told(history, *(custom({"n": n}) for n in range(5)))
    before = history.read("p")
    client.xdel("celery-realtime:tests:{p}:events", "4-0", "5-0")
    client.hset("celery-realtime:tests:{p}:meta", "offset", 3)

    told(history, custom({"n": 5}))

    after = history.read("p", before.epoch, 5)
    assert after.epoch != before.epoch
    assert (after.offset, after.recovered) == (1, False)


def test_a_large_snapshot_has_what_lives_before_what_has_ended_and_the_latest_of_each(history: History) -> None:
    for n in range(10):
        told(history, status("SUCCESS", job=f"done-{n}"), status("STARTED", job=f"live-{n}"))

    def names(most: int) -> set[str]:
        snapshot = history.read("p", most_jobs=most)
        assert snapshot.jobs_total == 20
        return {job["job_id"] for job in snapshot.jobs}

    lives = {f"live-{n}" for n in range(10)}
    assert names(3) == {"live-7", "live-8", "live-9"}
    assert names(12) == lives | {"done-8", "done-9"}
    assert len(names(1000)) == 20


def test_a_snapshot_of_thousands_of_jobs_is_read_whole_when_asked_for(history: History) -> None:
    for start in range(0, 5000, 100):
        told(history, *(status("STARTED", job=f"job-{n}") for n in range(start, start + 100)))

    bounded, whole = history.read("p"), history.read("p", most_jobs=10000, most_bytes=10**9)

    assert (len(bounded.jobs), bounded.jobs_total) == (1000, 5000)
    assert {job["job_id"] for job in bounded.jobs} == {f"job-{n}" for n in range(4000, 5000)}
    assert len(whole.jobs) == 5000


def test_an_answer_is_bounded_in_bytes_and_says_what_it_leaves_out(history: History) -> None:
    before = history.read("p")
    for number in range(30):
        told(history, status("SUCCESS", job=f"job-{number}", result=b'"' + b"x" * 60000 + b'"'))
    snapshot = history.read("p", before.epoch, before.offset)
    assert (snapshot.recovered, snapshot.events) == (False, [])
    assert snapshot.jobs_total == 30
    assert [job["job_id"] for job in snapshot.jobs] == [f"job-{number}" for number in range(30 - 17, 30)]
    later = history.read("p", before.epoch, 20)
    assert later.recovered
    assert len(later.events) == 10


def test_of_jobs_that_never_end_the_ones_silent_longest_are_forgotten(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_realtime.history.MAX_LIVE", 10)
    for n in range(20):
        told(history, status("STARTED", job=f"job-{n}"), status("STARTED", job="busy", worker=f"w{n}"))

    snapshot = history.read("p")

    assert {job["job_id"] for job in snapshot.jobs} == {"busy", *(f"job-{n}" for n in range(11, 20))}
    assert snapshot.offset == 40


def test_lost_data_changes_the_epoch(history: History, redis_url: str) -> None:
    told(history, status("PENDING"))
    before = history.read("p")
    redis.Redis.from_url(redis_url).flushdb()
    after = history.read("p")
    assert after.epoch != before.epoch
    assert (after.offset, after.jobs) == (0, [])


def test_projects_know_nothing_of_each_other(history: History) -> None:
    odd = ["p", "p:jobs", "{p}", "p}", "ü", "a b", "*"]
    for project in odd:
        told(history, status("PENDING", job=f"job of {project}", project=project))
    for project in odd:
        assert [job["job_id"] for job in history.read(project).jobs] == [f"job of {project}"]


def test_channels_know_nothing_of_each_other(redis_url: str) -> None:
    one, two = (History(redis_url, channel, size=10, ttl=60.0) for channel in ("one", "two"))
    told(one, status("PENDING"))
    assert two.read("p").jobs == []


def test_a_noisy_project_empties_no_other(redis_url: str) -> None:
    small = History(redis_url, "noise", size=50, ttl=60.0)
    told(small, custom({"n": 1}, project="quiet"))
    for _ in range(20):
        told(small, *[custom({"n": n}, project="noisy") for n in range(100)])
    assert [one["data"]["n"] for one in since(small, project="quiet")] == [1]
    length = redis.Redis.from_url(redis_url).xlen("celery-realtime:noise:{noisy}:events")
    assert length < 50 + 200  # Redis trims by whole nodes of 100 entries


def test_ended_jobs_beyond_the_bound_leave_the_snapshot_and_live_ones_stay(redis_url: str) -> None:
    small = History(redis_url, "ended", size=10, ttl=60.0)
    told(small, status("STARTED", job="live", worker="w"))
    for n in range(40):
        told(small, status("SUCCESS", job=f"done-{n}"))
    jobs = {job["job_id"] for job in small.read("p").jobs}
    assert jobs == {"live", *(f"done-{n}" for n in range(30, 40))}


def test_everything_of_a_project_is_given_up_in_the_end(history: History, redis_url: str) -> None:
    told(history, status("STARTED", root_id="r", worker="w"), status("SUCCESS", job="other", root_id="r"))
    history.read("p")
    client = redis.Redis.from_url(redis_url)
    assert all(0 < client.ttl(key) <= 60 for key in client.scan_iter("celery-realtime:tests:{p}:*"))


def test_custom_events_are_stamped_in_their_own_corner(history: History) -> None:
    told(history, custom({"text": "hi"}), custom([1, 2]))
    line, plain = since(history)
    assert line["data"]["_realtime"]["offset"] == 1
    assert plain == {"event": "line", "data": [1, 2], "epoch": line["data"]["_realtime"]["epoch"], "offset": 2}


def test_redis_that_is_away_is_said_and_what_it_missed_can_be_stored_later(start_redis: Any) -> None:
    server = start_redis()
    history = History(server.fresh_url(), "away", size=10, ttl=60.0)
    server.stop()
    assert history.append([status("PENDING")]) is None
    assert history.ping() is False
    server.restart()
    assert wait_for(lambda: history.append([status("PENDING")]))


def test_redis_that_refuses_lets_events_out_without_an_offset(history: History, redis_url: str) -> None:
    redis.Redis.from_url(redis_url).set("celery-realtime:tests:{p}:meta", "not a hash")
    event = status("PENDING")
    assert history.append([event]) == [[event]]


@pytest.mark.parametrize(
    "url", ["redis://localhost:port/0", "http://localhost", "rediss://localhost?ssl_cert_reqs=maybe"]
)
def test_a_url_that_cannot_be_used_is_named(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="realtime_history_url"):
        History(url, "x", size=1, ttl=1.0)


def test_an_id_that_no_encoder_takes_costs_nobody_else(history: History) -> None:
    odd = status("STARTED", job="odd", worker="w")._replace(
        job_id="caf\udce9", standing=events.Standing(worker="w\udce9", kind="running")
    )
    assert told(history, status("PENDING", job="first"), odd, status("PENDING", job="last")) == ["agent_status"] * 3


# -- leases ---------------------------------------------------------------------------------------------------------


def test_a_lapsed_lease_is_found_by_one_reaper_and_by_another_only_if_that_one_fails(redis_url: str) -> None:
    one, two = (History(redis_url, "leases", size=10, ttl=60.0) for _ in range(2))
    job = Job(job_id="job", project_id="p")
    one.hold("w", [job], lease=0.5)
    assert one.reap(0.5, 0.2, 0.0).lost == {}
    assert wait_for(lambda: one.reap(0.5, 0.2, 0.0).lost or two.reap(0.5, 0.2, 0.0).lost) == {"w": [job]}
    assert (one.reap(0.5, 0.2, 0.0).lost, two.reap(0.5, 0.2, 0.0).lost) == ({}, {})
    assert wait_for(lambda: two.reap(0.5, 0.2, 0.0).lost) == {"w": [job]}
    two.reaped("w")
    assert one.hold("w", [], lease=0.5) is False


def test_a_job_that_starts_is_held_before_its_worker_renews_its_lease(history: History) -> None:
    history.hold("w", [], lease=0.2)
    told(
        history, status("STARTED", worker="w", task="t"), status("STARTED", job="free"), status("PENDING", job="later")
    )

    lost = wait_for(lambda: history.reap(lease=0.2, pause=0.1, patience=0.0).lost)

    assert [(job.job_id, job.project_id, job.task) for job in lost["w"]] == [("job", "p", "t")]


def test_a_lease_that_is_renewed_never_lapses(history: History) -> None:
    looks = itertools.count()

    def look() -> bool:
        history.hold("w", [Job(job_id="job", project_id="p")], lease=0.3)
        assert history.reap(0.3, 0.1, 0.0).lost == {}
        return next(looks) > 40

    wait_for(look)


def test_after_a_time_in_which_nobody_looked_every_worker_gets_the_time_of_a_lease(history: History) -> None:
    """Redis may have been away, and with it every worker's chance to renew."""
    history.hold("w", [Job(job_id="job", project_id="p")], lease=0.2)
    started = time.monotonic()
    wait_for(lambda: time.monotonic() - started > 0.5)
    assert history.reap(0.2, 0.05, 0.0).lost == {}
    assert wait_for(lambda: history.reap(0.2, 0.05, 0.0).lost)


def test_more_readers_than_connections_take_turns(redis_url: str) -> None:
    """A web server answers in as many threads as clients ask at once."""
    history = History(f"{redis_url}?client_name=readers", "tests", size=1000, ttl=60.0)
    history.append([status("STARTED", project=f"p{number}") for number in range(300)])
    start = threading.Barrier(300)

    def read(number: int) -> int:
        start.wait(20)
        return len(history.read(f"p{number}").jobs)

    with ThreadPoolExecutor(300) as threads:
        assert list(threads.map(read, range(300))) == [1] * 300
    with redis.Redis.from_url(redis_url) as look:
        ours = [client for client in look.client_list() if client["name"] == "readers"]
    assert 1 < len(ours) <= MOST_CONNECTIONS
