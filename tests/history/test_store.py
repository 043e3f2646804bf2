"""The history on a real Redis: which events are news, what becomes of them, and what is remembered."""

from __future__ import annotations

import itertools
import random
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from celery_realtime import events
from celery_realtime.events import Outgoing
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.history.connection import MOST_CONNECTIONS
from celery_realtime.history.store import History
from tests.appended import append, custom, progress, status
from tests.waiting import wait_for

numbers = itertools.count()


@pytest.fixture
def history(redis_url: str) -> History:
    return History(redis_url, "tests", size=1000, ttl=60.0)


def since(history: History, offset: int = 0, project: str = "p") -> list[dict[str, Any]]:
    epoch = history.read(project).epoch
    snapshot = history.read(project, epoch, offset)
    assert snapshot.recovered
    return snapshot.events


# -- what is news ---------------------------------------------------------------------------------------------------


def test_a_job_climbs_and_every_step_is_news(history: History) -> None:
    steps = [status("PENDING"), status("STARTED", incarnation="w1"), progress(10), progress(50), status("SUCCESS")]
    assert len(append(history, *steps)) == 5
    assert [one["data"]["offset"] for one in since(history)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "late",
    [
        status("PENDING"),
        status("STARTED", incarnation="w1"),
        progress(99),
        status("FAILURE", error="late"),
        status("REVOKED"),
        status("LOST"),
    ],
    ids=lambda event: f"{event.event}-{event.rank}",
)
def test_nothing_follows_the_end_of_an_attempt(history: History, late: Outgoing) -> None:
    append(history, status("STARTED", incarnation="w1"), status("SUCCESS"))
    assert append(history, late) == []
    assert history.read("p").jobs[0]["state"] == "SUCCESS"


def test_a_higher_attempt_reopens_a_job_and_a_lower_one_is_stale(history: History) -> None:
    append(history, status("STARTED", incarnation="w1"), status("SUCCESS"))
    assert len(append(history, status("RETRY", attempt=1), status("STARTED", attempt=1, incarnation="w1"))) == 2
    assert append(history, status("FAILURE", attempt=0), progress(90, attempt=0)) == []
    assert history.read("p").jobs[0]["attempt"] == 1


def test_queued_never_follows_running(history: History) -> None:
    append(history, status("STARTED", incarnation="w1"))
    assert append(history, status("PENDING")) == []


def test_progress_never_goes_backwards_within_an_attempt(history: History) -> None:
    append(history, status("STARTED", incarnation="w1"), progress(40))
    assert append(history, progress(30)) == []
    assert append(history, progress(40.5)) == ["agent_progress"]
    assert append(history, status("RETRY", attempt=1), progress(5, attempt=1)) == ["agent_status", "agent_progress"]


def test_only_a_running_job_of_that_incarnation_can_be_lost(history: History) -> None:
    append(history, status("PENDING", job="waiting"), status("STARTED", job="running", incarnation="w2"))
    assert append(history, status("LOST", job="waiting", incarnation="w1")) == []
    assert append(history, status("LOST", job="running", incarnation="w1")) == []
    assert append(history, status("LOST", job="unheard of", incarnation="w1")) == []
    assert append(history, status("LOST", job="running", incarnation="w2")) == ["agent_status"]


def test_a_job_whose_incarnation_is_not_known_can_be_lost(history: History) -> None:
    append(history, progress(10, job="reports only progress"), status("STARTED", job="of no worker"))
    for job in ("reports only progress", "of no worker"):
        assert append(history, status("LOST", job=job, incarnation="w1")) == ["agent_status"]


def test_a_lost_job_is_reopened_by_a_run_or_an_end_and_by_nothing_else(history: History) -> None:
    append(history, status("STARTED", incarnation="w1"), status("LOST", incarnation="w1"))
    assert append(history, status("PENDING"), progress(50)) == []
    assert append(history, status("STARTED", incarnation="w2"), progress(50), status("SUCCESS")) == [
        "agent_status",
        "agent_progress",
        "agent_status",
    ]


def test_a_second_delivery_is_news_when_another_incarnation_reports_it(history: History) -> None:
    append(history, status("STARTED", incarnation="w1"))
    assert append(history, status("STARTED", incarnation="w1", parent_id="reported again later")) == []
    assert append(history, status("STARTED", incarnation="w2")) == ["agent_status"]


def test_a_second_try_of_the_same_write_keeps_its_offset(history: History) -> None:
    batch = [status("STARTED", incarnation="w1"), progress(10)]
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
        said += [status("RETRY" if attempt else "PENDING", attempt), status("STARTED", attempt, incarnation="w")]
        said += [progress(percent, attempt) for percent in draw(st.lists(st.integers(0, 100), max_size=3))]
        if attempt < last and draw(st.booleans()):
            said.append(status(draw(st.sampled_from(TERMINALS)), attempt))  # retry(throw=False), then it went on
    end = draw(st.sampled_from(TERMINALS))
    said.append(status(end, last))
    said += draw(st.lists(st.sampled_from(said), max_size=6))
    random.Random(draw(st.integers())).shuffle(said)
    return said, (last, end)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(life=lives(), cut=st.integers(1, 8))
def test_whatever_the_order_a_job_ends_as_it_did_and_its_events_only_climb(
    history: History, life: tuple[list[Outgoing], tuple[int, str]], cut: int
) -> None:
    said, (last, end) = life
    project = f"order-{next(numbers)}"
    said = [replace(event, project_id=project) for event in said]
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
    append(history, status("PENDING"))
    assert history.read("p").epoch == first.epoch


def test_what_is_missing_comes_whole_or_not_at_all(redis_url: str) -> None:
    small = History(redis_url, "small", size=100, ttl=60.0)
    append(small, *[custom({"n": n}) for n in range(10)])
    epoch = small.read("p").epoch
    assert [one["data"]["n"] for one in small.read("p", epoch, 7).events] == [7, 8, 9]
    assert small.read("p", epoch, 10).recovered is True
    for foreign_epoch, offset in (("other", 5), (epoch, 11)):
        unknown = small.read("p", foreign_epoch, offset)
        assert (unknown.recovered, unknown.events) == (False, [])
    for _ in range(5):
        append(small, *[custom({"n": n}) for n in range(100)])
    late = small.read("p", small.read("p").epoch, 3)
    assert (late.recovered, late.events) == (False, [])


def test_positions_of_many_projects_are_read_in_one_round_trip_which_writes_nothing(
    history: History, redis_url: str
) -> None:
    append(history, status("PENDING"), status("STARTED", incarnation="w1"))
    client = redis.Redis.from_url(redis_url)
    client.hset(history.keys.project("broken")[0], mapping={"epoch": "e", "offset": "x"})
    client.set(history.keys.project("odd")[0], "no hash")
    before = client.info("commandstats"), client.dbsize()

    positions = history.positions(["p", "unknown", "broken", "odd"])

    assert positions == {"p": (history.read("p").epoch, 2)}
    assert client.dbsize() == before[1]
    assert history.positions([]) == {}


def test_a_reader_s_position_from_the_future_is_not_recovered_and_changes_nothing_for_others(history: History) -> None:
    append(history, status("PENDING"))
    before = history.read("p", history.read("p").epoch, 1)
    assert before.recovered
    future = history.read("p", before.epoch, 10**9)
    assert (future.recovered, future.events) == (False, [])
    assert (future.epoch, future.offset) == (before.epoch, before.offset)
    assert history.read("p", before.epoch, 1).recovered


def test_a_redis_without_free_memory_is_read(start_redis: Any) -> None:
    server = start_redis()
    history = History(server.fresh_url(), "full", size=1000, ttl=60.0)
    append(history, status("STARTED"), custom({}))
    before = history.read("p")
    client = redis.Redis.from_url(server.url())
    client.config_set("maxmemory", 1)
    assert history.append([event := custom({})]) == [[event]]

    after = history.read("p", before.epoch, 1)
    assert (after.epoch, after.offset, after.recovered, len(after.jobs)) == (before.epoch, 2, True, 1)
    new = history.read("new")
    assert (new.offset, new.recovered, new.jobs) == (0, False, [])


def test_reading_made_up_projects_writes_nothing(history: History, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    history.read("made up")

    def written_by_reading() -> tuple[int, int]:
        before = client.dbsize(), client.info("persistence")["rdb_changes_since_last_save"]
        epochs = [history.read(f"made up {number}").epoch for number in range(50)]
        assert len({*epochs}) == 50
        after = client.dbsize(), client.info("persistence")["rdb_changes_since_last_save"]
        return after[0] - before[0], after[1] - before[1]

    wait_for(lambda: written_by_reading() == (0, 0))  # what was begun before this test may write meanwhile


def lose_all(client: redis.Redis, _keys: list[str]) -> None:
    client.flushdb()


def lose_the_project(client: redis.Redis, keys: list[str]) -> None:
    client.delete(*keys[:-1])


def lose_the_project_and_what_has_begun(client: redis.Redis, keys: list[str]) -> None:
    client.delete(*keys)


@pytest.mark.parametrize("lose", [lose_all, lose_the_project, lose_the_project_and_what_has_begun])
@pytest.mark.parametrize("is_read", [False, True])
def test_no_epoch_comes_a_second_time_whatever_is_lost(
    history: History, redis_url: str, lose: Callable[[redis.Redis, list[str]], None], is_read: bool
) -> None:
    """Each time by a process that has not seen the project before."""
    epochs = []
    for _ in range(4):
        writer = History(redis_url, "tests", size=1000, ttl=60.0)
        promised = history.read("p").epoch if is_read else None
        append(writer, status("PENDING"))
        assert promised in (None, writer.read("p").epoch)
        epochs.append(writer.read("p").epoch)
        lose(redis.Redis.from_url(redis_url), history.keys.project_and_begun("p"))
    assert len({*epochs}) == 4


def test_a_server_that_starts_again_with_older_data_gives_no_epoch_a_second_time(start_redis: Any) -> None:
    server = start_redis(persist=True)
    history = History(server.url(), "tests", size=1000, ttl=60.0)
    append(history, status("PENDING", project="other"))
    promised = history.read("p").epoch
    data = (server.folder / "appendonlydir", server.folder / "older")
    shutil.copytree(*data)
    append(history, status("PENDING"))
    server.kill()
    shutil.rmtree(data[0])
    shutil.copytree(*reversed(data))
    server.start()
    writer = History(server.url(), "tests", size=1000, ttl=60.0)
    wait_for(writer.ping)
    append(writer, status("PENDING"))
    assert len(writer.read("other").jobs) == 1
    assert writer.read("p").epoch != promised


def test_reading_a_project_that_is_whole_writes_nothing(history: History, redis_url: str) -> None:
    append(history, status("SUCCESS", root_id="r"), status("STARTED", job="other", root_id="r"))
    client = redis.Redis.from_url(redis_url)
    changes = client.info("persistence")["rdb_changes_since_last_save"]
    history.read("p", history.read("p").epoch, 1)
    assert client.info("persistence")["rdb_changes_since_last_save"] == changes


def test_what_ended_too_long_ago_is_not_shown_though_nothing_has_forgotten_it_yet(
    history: History, redis_url: str
) -> None:
    append(history, status("SUCCESS", job="old", root_id="r"), status("SUCCESS", job="older", root_id="r"))
    append(history, status("SUCCESS", job="new"), status("STARTED", job="live"))
    client = redis.Redis.from_url(redis_url)
    client.zadd("celery-realtime:tests:{p}:ended", {"old": 1.0, "older": 0.0})
    client.zadd("celery-realtime:tests:{p}:flows-ended", {"r": 1.0})

    snapshot = history.read("p")

    assert {job["job_id"] for job in snapshot.jobs} == {"new", "live"}
    assert (snapshot.jobs_total, snapshot.workflows) == (2, [])


def test_a_job_id_may_look_like_anything(history: History) -> None:
    """Such as like a name that workflows are kept under."""
    append(history, *(status("SUCCESS", job=job, root_id="w:r") for job in ("w:a", "w:r", "b")))
    snapshot = history.read("p")
    assert {job["job_id"] for job in snapshot.jobs} == {"w:a", "w:r", "b"}
    assert [flow["root_id"] for flow in snapshot.workflows] == ["w:r"]


def test_a_job_that_leaves_takes_no_workflow_of_another_name_along(redis_url: str) -> None:
    small = History(redis_url, "small", size=2, ttl=60.0)
    append(small, status("STARTED", job="one", root_id="r"), status("STARTED", job="two", root_id="r"))
    append(small, status("SUCCESS", job="w:r"), status("SUCCESS", job="x"), status("SUCCESS", job="y"))
    assert [flow["root_id"] for flow in small.read("p").workflows] == ["r"]


@pytest.mark.parametrize("key", ["meta", "events", "jobs"])
@pytest.mark.parametrize("who", ["reader", "writer"])
def test_the_loss_of_one_key_changes_the_epoch(history: History, redis_url: str, key: str, who: str) -> None:
    append(history, status("STARTED"), custom({}))
    before = history.read("p")
    client = redis.Redis.from_url(redis_url)
    assert client.delete(f"celery-realtime:tests:{{p}}:{key}") == 1

    if who == "writer":
        append(history, custom({}))
    after = history.read("p", before.epoch, before.offset)

    assert after.epoch != before.epoch
    assert not after.recovered
    assert after.offset == before.offset + (who == "writer")
    assert [job["job_id"] for job in after.jobs] == ([] if key == "jobs" else ["job"])


def test_a_server_that_fell_back_is_found_out_by_who_wrote_what_it_lost(history: History, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    append(history, *(custom({"n": n}) for n in range(5)))
    before = history.read("p")
    client.xdel("celery-realtime:tests:{p}:events", "4-0", "5-0")
    client.hset("celery-realtime:tests:{p}:meta", "offset", 3)

    append(history, custom({"n": 5}))

    after = history.read("p", before.epoch, 5)
    assert after.epoch != before.epoch
    assert (after.offset, after.recovered) == (6, False)


def test_a_large_snapshot_has_what_lives_before_what_has_ended_and_the_latest_of_each(history: History) -> None:
    for n in range(10):
        append(history, status("SUCCESS", job=f"done-{n}"), status("STARTED", job=f"live-{n}"))

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
        append(history, *(status("STARTED", job=f"job-{n}") for n in range(start, start + 100)))

    bounded, whole = history.read("p"), history.read("p", most_jobs=10000, most_bytes=10**9)

    assert (len(bounded.jobs), bounded.jobs_total) == (1000, 5000)
    assert {job["job_id"] for job in bounded.jobs} == {f"job-{n}" for n in range(4000, 5000)}
    assert len(whole.jobs) == 5000


def test_an_answer_is_bounded_in_bytes_and_says_what_it_leaves_out(history: History) -> None:
    before = history.read("p")
    for number in range(30):
        append(history, status("SUCCESS", job=f"job-{number}", result=b'"' + b"x" * 60000 + b'"'))
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
    monkeypatch.setattr("celery_realtime.history.appending.MAX_LIVE", 10)
    for n in range(20):
        append(history, status("STARTED", job=f"job-{n}"), status("STARTED", job="busy", incarnation=f"w{n}"))

    snapshot = history.read("p")

    assert {job["job_id"] for job in snapshot.jobs} == {"busy", *(f"job-{n}" for n in range(11, 20))}
    assert snapshot.offset == 40


def test_lost_data_changes_the_epoch(history: History, redis_url: str) -> None:
    append(history, status("PENDING"))
    before = history.read("p")
    redis.Redis.from_url(redis_url).flushdb()
    after = history.read("p")
    assert after.epoch != before.epoch
    assert (after.offset, after.jobs) == (0, [])


def test_projects_know_nothing_of_each_other(history: History) -> None:
    odd = ["p", "p:jobs", "{p}", "p}", "ü", "a b", "*"]
    for project in odd:
        append(history, status("PENDING", job=f"job of {project}", project=project))
    for project in odd:
        assert [job["job_id"] for job in history.read(project).jobs] == [f"job of {project}"]


def test_channels_know_nothing_of_each_other(redis_url: str) -> None:
    one, two = (History(redis_url, channel, size=10, ttl=60.0) for channel in ("one", "two"))
    append(one, status("PENDING"))
    assert two.read("p").jobs == []


def test_a_noisy_project_empties_no_other(redis_url: str) -> None:
    small = History(redis_url, "noise", size=50, ttl=60.0)
    append(small, custom({"n": 1}, project="quiet"))
    for _ in range(20):
        append(small, *[custom({"n": n}, project="noisy") for n in range(100)])
    assert [one["data"]["n"] for one in since(small, project="quiet")] == [1]
    length = redis.Redis.from_url(redis_url).xlen("celery-realtime:noise:{noisy}:events")
    assert length < 50 + 200  # Redis trims by whole nodes of 100 entries


def test_ended_jobs_beyond_the_bound_leave_the_snapshot_and_live_ones_stay(redis_url: str) -> None:
    small = History(redis_url, "ended", size=10, ttl=60.0)
    append(small, status("STARTED", job="live", incarnation="w"))
    for n in range(40):
        append(small, status("SUCCESS", job=f"done-{n}"))
    jobs = {job["job_id"] for job in small.read("p").jobs}
    assert jobs == {"live", *(f"done-{n}" for n in range(30, 40))}


def test_everything_of_a_project_is_given_up_in_the_end(history: History, redis_url: str) -> None:
    append(history, status("STARTED", root_id="r", incarnation="w"), status("SUCCESS", job="other", root_id="r"))
    history.read("p")
    client = redis.Redis.from_url(redis_url)
    assert all(0 < client.ttl(key) <= 60 for key in client.scan_iter("celery-realtime:tests:{p}:*"))


def test_custom_events_are_stamped_in_their_own_corner(history: History) -> None:
    append(history, custom({"text": "hi"}), custom([1, 2]))
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
    odd = replace(
        status("STARTED", job="odd", incarnation="w"),
        job_id="caf\udce9",
        standing=events.Standing(worker="w\udce9", kind="running", incarnation="w\udce9"),
    )
    assert append(history, status("PENDING", job="first"), odd, status("PENDING", job="last")) == ["agent_status"] * 3


def test_more_readers_than_connections_take_turns(redis_url: str) -> None:
    """A web server answers in as many threads as clients ask at once."""
    history = History(f"{redis_url}?client_name=readers", "tests", size=1000, ttl=60.0)
    history.append([status("STARTED", project=f"p{number}") for number in range(300)])
    start = threading.Barrier(300)

    def read(number: int) -> int:
        start.wait(60)
        return len(history.read(f"p{number}").jobs)

    with ThreadPoolExecutor(300) as threads:
        assert list(threads.map(read, range(300))) == [1] * 300
    with redis.Redis.from_url(redis_url) as look:
        ours = [client for client in look.client_list() if client["name"] == "readers"]
    assert 1 < len(ours) <= MOST_CONNECTIONS


def test_after_a_loss_a_workflow_counts_what_has_been_reported_since_and_goes_down_no_more(redis_url: str) -> None:
    """Nobody reports again what had ended, so the numbers may stay below those of before; they are of another epoch."""
    history = History(redis_url, "tests", size=100, ttl=60.0)
    steps = [{"job": name, "root_id": "root"} for name in ("root", "a", "b")]
    append(history, *[status("STARTED", **step) for step in steps], status("SUCCESS", **steps[0]))
    before = history.read("p")
    assert [(flow["total"], flow["done"]) for flow in before.workflows] == [(3, 1)]
    redis.Redis.from_url(redis_url).flushdb()

    seen = []
    for event in (
        status("STARTED", **steps[1]),  # a worker whose lease is gone reports what it runs
        status("STARTED", **steps[2]),
        status("SUCCESS", **steps[1]),
        status("SUCCESS", **steps[2]),
    ):
        append(history, event)
        after = history.read("p")
        assert after.epoch != before.epoch
        seen += [[(flow["total"], flow["running"], flow["done"]) for flow in after.workflows]]

    assert seen == [[], [(2, 2, 0)], [(2, 1, 1)], [(2, 0, 2)]]


def test_what_all_events_of_a_job_begin_with_is_not_stored_with_its_state(history: History) -> None:
    for job in ("one", 'a "quoted" one', "caf\u00e9/2"):
        append(history, status("STARTED", job=job, root_id=job), progress(40, job=job, root_id=job))
        stored: Any = history.connection.client.hget(history.keys.project("p")[2], job)
        assert b"project_id" not in stored or "/" in job
        state, told = history.job("p", job), [event["data"] for event in history.recent("p")]
        assert state is not None
        of_status, of_progress = ({k: v for k, v in data.items() if k not in ("epoch", "offset")} for data in told[-2:])
        reached = {name: of_progress[name] for name in ("progress", "message", "current", "total")}
        assert state == {**of_status, **reached, "stalled": False}
        assert state in history.read("p").jobs
