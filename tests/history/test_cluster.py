"""A history on a Redis Cluster of six nodes, while its slots move and its masters die too."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celery_realtime.events import Cancellation, Job, Outgoing
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.history.access import Taken
from celery_realtime.history.connection import RedisConnection
from celery_realtime.history.lease_helper import Renewal, Renewer
from celery_realtime.history.leases import HeldJob
from celery_realtime.history.slots import slot_of
from celery_realtime.history.store import History
from celery_realtime.settings import resolve
from celery_realtime.urls import RedisAddress
from tests.appended import append, custom, progress, status
from tests.clusters import RedisCluster
from tests.processes import free_port
from tests.services import RedisServer
from tests.stream_readers import Writer
from tests.waiting import wait_for

pytestmark = pytest.mark.service

#: Projects of all nodes.
PROJECTS = [f"p{number}" for number in range(12)]

channels = (f"channel-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    nodes = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield nodes.start()
    finally:
        nodes.kill()


@pytest.fixture
def closed_port() -> int:
    return free_port()


@pytest.fixture
def channel() -> str:
    return next(channels)


@pytest.fixture
def history(cluster: RedisCluster, channel: str) -> Iterator[History]:
    history = History(cluster.url(*cluster.nodes[:2]), channel, size=1000, ttl=600.0)
    yield history
    history.close()


def offsets(events: list[dict[str, Any]]) -> list[int]:
    """Return the offsets of lines."""
    return [event["data"]["_realtime"]["offset"] for event in events]


def numbers(history: History, project: str = "p") -> list[int]:
    """Return the numbers that stored lines bear."""
    return [event["data"]["n"] for event in history.recent(project)]


def store(history: History, *batch: Outgoing) -> None:
    """Append events as often as it takes, as a sender does."""
    wait_for(lambda: history.append(list(batch)) is not None, message="events are stored")


# -- all of it, over the nodes --------------------------------------------------------------------------------------


def test_projects_of_all_nodes_are_stored_in_one_batch_and_read(history: History, cluster: RedisCluster) -> None:
    batch = [status("STARTED", project=name, incarnation="w") for name in PROJECTS]
    assert append(history, *batch) == ["agent_status"] * len(PROJECTS)
    assert append(history, *(progress(40, project=name) for name in PROJECTS)) == ["agent_progress"] * len(PROJECTS)
    for name in PROJECTS:
        snapshot = history.read(name, history.read(name).epoch, 0)
        assert (snapshot.recovered, [event["event"] for event in snapshot.events]) == (
            *(True, ["agent_status", "agent_progress"]),
        )
        assert [job["progress"] for job in snapshot.jobs] == [40]
        state = history.job(name, "job")
        assert state is not None
        assert state["progress"] == 40
    assert {place[1] for place in history.positions(PROJECTS).values()} == {2}
    assert all(cluster.projects_on(node, PROJECTS) for node in cluster.masters())


def test_a_project_begins_in_the_epoch_that_all_were_told_before(
    history: History, cluster: RedisCluster, channel: str
) -> None:
    other = History(cluster.url(cluster.nodes[4]), channel, size=1000, ttl=600.0)
    before = [history.position(name) for name in PROJECTS]
    assert [other.position(name) for name in PROJECTS] == before
    append(other, *(status("PENDING", project=name) for name in PROJECTS))
    assert [history.read(name).epoch for name in PROJECTS] == [place["epoch"] for place in before if place]
    other.close()


def test_made_up_projects_of_a_slot_take_the_room_of_one(history: History, cluster: RedisCluster, channel: str) -> None:
    for number in range(30):
        history.position(f"made-up-{number}")
    stored = [key for node in cluster.masters() for key in cluster.ask(node, "KEYS", f"*:{channel}:*")]
    assert all(b":begun:{" in key for key in stored)
    assert len(stored) == len({slot_of(f"made-up-{number}") for number in range(30)})
    assert all(0 < cluster.ask(cluster.master_of(slot_of(key.decode())), "TTL", key) <= 600 for key in stored)


def test_jobs_are_cancelled_in_all_slots(history: History) -> None:
    jobs = [f"job-{number}" for number in range(20)]
    of_one = Cancellation.of("1700000000000-0000abcd")
    for job in jobs:
        history.marks.cancel(job, of_one)
    assert history.marks.cancelled(["other", *jobs, "another"]) == dict.fromkeys(jobs, of_one)
    listed, since = history.marks.cancelled_since(0.0)
    assert listed == dict.fromkeys(jobs, of_one)
    assert history.marks.cancelled_since(since) == ({}, since)
    history.marks.answer("job-1", {"how": "x"})
    assert history.marks.answer_of("job-1") == {"how": "x"}


def test_jobs_of_a_worker_that_does_not_renew_its_lease_are_found(history: History) -> None:
    leases, job = history.leases, HeldJob(job_id="job", project_id="p1", worker="w@host", running=True)
    append(history, *(status("STARTED", project=name, incarnation="i", task="t") for name in PROJECTS))
    leases.hold("i", [job], 0.5)
    assert leases.held() == {("p1", "job")}
    lost = wait_for(lambda: leases.reap(0.5, 0.25, 0.0).lost)
    assert {one.project_id for one in lost["i"]} == {*PROJECTS}
    leases.reported("i")
    leases.reaped("i")
    assert leases.hold("i", [], 0.5) is False


def test_a_lease_is_renewed_beside_a_process_that_cannot_do_it(history: History, cluster: RedisCluster) -> None:
    history.leases.hold("i", [], 600.0)
    [alive] = history.keys.leases("alive")
    node = cluster.master_of(slot_of(alive))
    before = cluster.ask(node, "ZSCORE", alive, "i")
    renewer = Renewer(Renewal(RedisAddress(cluster.url()), *history.leases.renewal("i"), pause=1.0))
    assert renewer.renew() == ""
    assert cluster.ask(node, "ZSCORE", alive, "i") > before
    renewer.close()


def test_queued_jobs_expire_and_running_ones_stall(history: History) -> None:
    append(
        history,
        *(status("PENDING", project=name, expires_at=1.0) for name in PROJECTS),
        *(status("STARTED", project=name, job="runs", stall_after=0.01) for name in PROJECTS),
    )
    found = history.leases.reap(30.0, 5.0, 0.0)
    assert {job.project_id for job in found.expired.values() if job} == {*PROJECTS}
    stalled = wait_for(lambda: found.stalled or history.leases.reap(30.0, 5.0, 0.0).stalled)
    assert {one.job.project_id for one in stalled} <= {*PROJECTS}
    history.leases.expired([*found.expired])
    assert history.leases.reap(30.0, 5.0, 0.0).expired == {}


def test_all_that_is_compared_goes_by_the_clock_of_one_node(history: History, cluster: RedisCluster) -> None:
    for node in cluster.nodes:
        cluster.ask(node, "CONFIG", "RESETSTAT")
    history.access.look(None)
    history.leases.withdraw(Job(job_id="job", project_id="p"), 0.0)
    assert [*history.leases.reap(30.0, 5.0, 0.0).expired]
    asked = [node for node in cluster.nodes if "cmdstat_time" in cluster.ask(node, "INFO", "commandstats")]
    assert asked == [cluster.master_of(slot_of("leases"))]


def test_access_is_taken_back(history: History) -> None:
    access = history.access
    access.confirm("server", 0.0)
    at = access.revoke("ada", "p")
    look = access.look(None)
    assert look.taken == [Taken("ada", "p", at)]
    access.restore([Taken("bob", None, at + 1)], {"v2-former": at}, ["v2-other"])
    assert [one.user for one in access.look(look.since).taken] == ["ada", "bob"]
    servers = access.servers(Taken("ada", "p", at))
    assert ([*servers], servers.has_order) == (["server"], True)
    access.leave("server")
    assert [*access.servers()] == []


def test_watched_projects_of_all_nodes_are_marked_and_known_to_whoever_appends(history: History) -> None:
    history.watches.mark(PROJECTS[::2])
    assert history.watches.of(PROJECTS) == {*PROJECTS[::2]}
    heard: dict[str, bool] = {}
    history.on_watch(heard.__setitem__)
    append(history, *(status("PENDING", project=name) for name in PROJECTS))
    assert heard == {name: name in PROJECTS[::2] for name in PROJECTS}


def test_jobs_without_an_end_on_record_and_their_projects_are_named(history: History) -> None:
    ended = [status("SUCCESS", project=name, job=f"job-{name}") for name in PROJECTS[::2]]
    append(history, *ended, *(status("STARTED", project=name, job=f"job-{name}") for name in PROJECTS[1::2]))
    jobs = [Job(job_id=f"job-{name}", project_id=name) for name in PROJECTS]
    assert [jobs[place].project_id for place in history.ends.unsettled(jobs)] == PROJECTS[1::2]
    assert [history.project_of(f"job-{name}") for name in PROJECTS] == PROJECTS
    assert history.places.projects() == {*PROJECTS}
    history.brokers.add("broker")
    assert history.brokers.has("broker")


# -- how it is reached ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 4], ids=["a master", "a replica"])
def test_the_url_of_one_node_leads_to_all(
    history: History, cluster: RedisCluster, channel: str, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    caplog.set_level(logging.INFO)
    append(history, custom({"n": 1}))
    place = history.position("p")
    plain = History(f"redis://127.0.0.1:{cluster.nodes[number].port}", channel, size=1000, ttl=600.0)
    append(plain, *(custom({"n": 2}, name) for name in ("p", *PROJECTS)))
    append(plain, *(custom({"n": 3}, name) for name in ("p", *PROJECTS)))
    assert numbers(history) == [1, 2, 3]
    assert [numbers(plain, name) for name in PROJECTS] == [[2, 3]] * len(PROJECTS)
    assert plain.position("p") == {**(place or {}), "offset": 3}
    assert "on a Redis Cluster" in caplog.text
    plain.close()


def test_cancellations_that_come_first_are_known_through_one_node_too(cluster: RedisCluster, channel: str) -> None:
    plain = History(f"redis://127.0.0.1:{cluster.nodes[0].port}", channel, size=1000, ttl=600.0)
    assert plain.marks.cancelled([f"job-{number}" for number in range(20)]) == {}
    plain.marks.cancel("job-3", Cancellation())
    assert plain.marks.cancelled_since(0.0)[0] == {"job-3": Cancellation()}
    plain.close()


def test_nodes_that_are_away_are_passed_over(cluster: RedisCluster, channel: str, closed_port: int) -> None:
    url = f"redis+cluster://127.0.0.1:{closed_port};redis+cluster://127.0.0.1:{cluster.nodes[5].port}"
    history = History(url, channel, size=10, ttl=60.0)
    assert append(history, status("PENDING")) == ["agent_status"]
    assert history.ping()
    history.close()


def test_a_cluster_that_is_away_is_an_outage(closed_port: int, caplog: pytest.LogCaptureFixture) -> None:
    history = History(f"redis+cluster://:secret@127.0.0.1:{closed_port}", "away", size=10, ttl=60.0)
    assert history.append([status("PENDING")]) is None
    assert history.position("p") is None
    assert not history.ping()
    with pytest.raises(redis.ConnectionError):
        history.marks.cancelled(["job"])
    assert "Connection refused" in caplog.text
    assert "secret" not in caplog.text
    history.close()


def test_a_redis_that_is_no_cluster_is_named_as_what_it_is(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    history = History(redis_url.replace("redis:", "redis+cluster:"), "one", size=10, ttl=60.0)
    event = status("PENDING")
    assert history.append([event]) == [[event]]
    assert "write redis:// in place of redis+cluster://" in caplog.text
    history.close()


def test_nodes_may_be_reached_elsewhere_than_they_say(cluster: RedisCluster, channel: str) -> None:
    asked: list[tuple[str, int]] = []

    def remap(place: tuple[str, int]) -> tuple[str, int]:
        asked.append(place)
        return "localhost", place[1]

    history = History(RedisAddress(cluster.url(cluster.nodes[0]), {"address_remap": remap}), channel, 10, 60.0)
    append(history, *(status("PENDING", project=name) for name in PROJECTS))
    assert {port for _, port in asked} == {node.port for node in cluster.nodes}
    hosts = {client.connection_pool.connection_kwargs["host"] for client in history.connection.cluster.clients}  # type: ignore[union-attr]
    assert hosts == {"localhost"}
    history.close()


@pytest.fixture
def limited_url(cluster: RedisCluster) -> str:
    """The URL for a user of all nodes who may do no more than the documentation says."""
    rights = ["+@all", "-@dangerous", "+info", "~celery-realtime:*"]
    for node in cluster.nodes:
        cluster.ask(node, "ACL", "SETUSER", "limited", "on", ">p@ss", *rights)
    return cluster.url().replace("://", "://limited:p%40ss@")


def test_the_login_is_that_of_all_nodes(limited_url: str, channel: str, caplog: pytest.LogCaptureFixture) -> None:
    history = History(limited_url, channel, size=10, ttl=60.0)
    assert append(history, *(status("PENDING", project=name) for name in PROJECTS)) == ["agent_status"] * len(PROJECTS)
    history.leases.reap(30.0, 5.0, 0.0)
    history.access.confirm("server", 0.0)
    history.close()
    stranger = History(limited_url.replace("p%40ss", "wrong"), channel, size=10, ttl=60.0)
    assert stranger.append([status("PENDING")]) is None
    assert "invalid username-password pair" in caplog.text
    stranger.close()


def test_a_database_that_the_nodes_do_not_have_is_named(
    cluster: RedisCluster, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(f"{cluster.url()}/3", channel, size=10, ttl=60.0)
    event = status("PENDING")
    assert history.append([event]) == [[event]]
    assert "refused to store history" in caplog.text
    assert "DB index is out of range" in caplog.text or "SELECT is not allowed" in caplog.text
    history.close()


def test_nodes_are_talked_to_over_tls_where_that_is_asked_for() -> None:
    given = RedisConnection(RedisAddress("rediss+cluster://u:p%40ss@one:1,two/2?ssl_ca_certs=/ca.pem"))
    pool: Any = given.client.connection_pool
    made = pool.connection_class(**pool.connection_kwargs)
    assert isinstance(made, redis.SSLConnection)
    assert (made.ca_certs, made.check_hostname) == ("/ca.pem", True)
    assert [pool.connection_kwargs[name] for name in ("host", "port", "username", "password", "db")] == [
        *("one", 1, "u", "p@ss", 2)
    ]
    assert given.cluster is not None
    assert given.cluster.is_cluster


@pytest.mark.parametrize(
    "url", ["sentinel://a?master_name=m", "unix:///run/redis.sock", "redis+socket:///run/redis.sock"]
)
def test_what_cannot_be_a_node_of_a_cluster_is_not_taken_for_one(url: str) -> None:
    assert RedisConnection(RedisAddress(url)).cluster is None


def count_connections(cluster: RedisCluster, name: str) -> list[int]:
    """Return how many connections of a name each node has."""
    listed = [cluster.ask(node, "CLIENT", "LIST") for node in cluster.nodes]
    return sorted(str(of_node).count(f"name={name} ") for of_node in listed)


def test_a_process_has_one_connection_to_each_master_and_closes_them_when_it_rests(
    cluster: RedisCluster, channel: str
) -> None:
    history = History(RedisAddress(cluster.url(), {"client_name": channel}), channel, 10, 60.0)
    history.connection.confine()
    append(history, *(status("PENDING", project=name) for name in PROJECTS))
    wait_for(lambda: count_connections(cluster, channel) == [0, 0, 0, 1, 1, 1])
    history.connection.close_free()
    wait_for(lambda: count_connections(cluster, channel) == [0] * 6)
    assert history.ping()
    assert history.client_at({"host": "127.0.0.1", "port": cluster.nodes[0].port}) is None
    history.close()


# -- slots that move ------------------------------------------------------------------------------------------------


def epoch_of(history: History, project: str) -> str:
    return history.read(project).epoch


def elsewhere(cluster: RedisCluster, slot: int) -> RedisServer:
    return next(node for node in cluster.masters() if node is not cluster.master_of(slot))


def test_events_go_on_where_their_slot_has_gone(history: History, cluster: RedisCluster) -> None:
    append(history, *(custom({"n": 1}, name) for name in PROJECTS))
    epoch, slot = epoch_of(history, "p0"), slot_of("p0")
    cluster.move(slot, elsewhere(cluster, slot))
    assert append(history, *(custom({"n": 2}, name) for name in PROJECTS)) == ["line"] * len(PROJECTS)
    assert [numbers(history, name) for name in PROJECTS] == [[1, 2]] * len(PROJECTS)
    # Nothing was lost, so who missed it is given it.
    missed = history.read("p0", epoch, 1)
    assert (missed.recovered, offsets(missed.events)) == (True, [2])


@pytest.mark.parametrize("has_moved", [False, True], ids=["not one key", "all keys"])
def test_events_of_a_slot_that_is_moving_wait_and_are_stored_once(
    history: History, cluster: RedisCluster, has_moved: bool
) -> None:
    project = "moving"
    append(history, custom({"n": 1}, project))
    batch = [custom({"n": 2}, project), custom({"n": 3}, project)]
    slot = slot_of(project)
    with cluster.moving(slot, elsewhere(cluster, slot)) as move_keys:
        if has_moved:
            move_keys()
        assert history.append(batch) is None
        assert history.append(batch) is None
        assert history.position(project) is None
    store(history, *batch)
    assert numbers(history, project) == [1, 2, 3]
    assert offsets(history.recent(project)) == [1, 2, 3]


def test_leases_that_are_moving_are_asked_for_where_they_have_gone(history: History, cluster: RedisCluster) -> None:
    slot = slot_of("leases")
    history.marks.cancel("one", Cancellation())
    history.leases.hold("i", [], 600.0)
    with cluster.moving(slot, elsewhere(cluster, slot)) as move_keys:
        move_keys()
        cluster.ask(elsewhere(cluster, slot), "SCRIPT", "FLUSH")
        history.marks.cancel("two", Cancellation())
        assert {*history.marks.cancelled_since(0.0)[0]} == {"one", "two"}
        with pytest.raises(redis.RedisError, match="rehashing"):
            history.leases.hold("i", [], 600.0)
    assert history.leases.hold("i", [], 600.0) is True
    assert {*history.marks.cancelled_since(0.0)[0]} == {"one", "two"}


# -- masters that go ------------------------------------------------------------------------------------------------


def test_after_a_failover_events_go_on_in_another_epoch(history: History, cluster: RedisCluster) -> None:
    wait_for(cluster.is_whole, timeout=120)
    append(history, *(custom({"n": 1}, name) for name in PROJECTS))
    master = cluster.master_of(slot_of("p0"))
    there = cluster.projects_on(master, PROJECTS)
    before = {name: epoch_of(history, name) for name in PROJECTS}
    replica = cluster.replica_of(master)
    cluster.ask(replica, "CLUSTER", "FAILOVER")
    wait_for(lambda: replica in cluster.masters() and master not in cluster.masters(), message="the replica took over")
    store(history, *(custom({"n": 2}, name) for name in PROJECTS))
    # What was stored before may be more than what the replica had.
    assert {name: numbers(history, name) for name in PROJECTS} == {
        name: [2] if name in there else [1, 2] for name in PROJECTS
    }
    assert {name for name in PROJECTS if epoch_of(history, name) != before[name]} == {*there}


def test_after_the_death_of_a_master_nothing_is_stored_twice(history: History, cluster: RedisCluster) -> None:
    wait_for(cluster.is_whole, timeout=120)
    append(history, *(custom({"n": 1}, name) for name in PROJECTS))
    master = cluster.master_of(slot_of("p0"))
    [mine, *_], other = (
        cluster.projects_on(master, PROJECTS),
        cluster.projects_on(elsewhere(cluster, slot_of("p0")), PROJECTS)[0],
    )
    replica = cluster.replica_of(master)
    master.kill()
    batch = [custom({"n": 2}, mine), custom({"n": 2}, other)]
    assert history.append(batch) is None
    cluster.ask(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
    store(history, *batch)
    assert (numbers(history, mine), numbers(history, other)) == ([2], [1, 2])
    append(history, custom({"n": 3}, mine))
    assert offsets(history.read(mine, epoch_of(history, mine), 1).events) == [2, 3]
    master.start()


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://a:1,b:2",
        "rediss+cluster://u:p@a:1/0?ssl_ca_certs=/ca.pem",
        "redis+cluster://a;redis+cluster://b",
    ],
)
def test_a_history_may_be_set_on_a_cluster(url: str) -> None:
    assert resolve({"history_url": url}, {}, "memory://").history_url == url
    History(url, "x", size=1, ttl=1.0)


@pytest.mark.parametrize(
    "url", ["redis+cluster://a:1,b:port", "redis+cluster://a;redis://b", "redis+cluster://a:1;x://b"]
)
def test_a_cluster_that_cannot_be_used_is_refused_at_start(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"realtime_history_url .*not the URL of one Redis"):
        resolve({"history_url": url}, {}, "memory://")


def test_a_cluster_is_no_broker() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"realtime_url .*is a Redis Cluster.*realtime_history_url"):
        resolve({"url": "redis+cluster://a:1,b:2"}, {}, "memory://")


# -- streams --------------------------------------------------------------------------------------------------------


def test_streams_are_kept_on_the_node_of_their_project(history: History) -> None:
    writers = [Writer(project_id=project) for project in PROJECTS]
    for text in ("first ", "second "):
        assert history.streams.append([one.part(text) for one in writers]) is not None
        for project in PROJECTS:
            reading = history.streams.read(project, "job", "answer")
            assert reading is not None
            assert str(reading.value).endswith(text)
    for project in PROJECTS:
        [reading] = history.streams.read_all(project, "job", 1000)
        assert (reading.value, reading.start) == ("first second ", 0)
        assert len({slot_of(key) for key in history.keys.stream(project, "job", "answer")}) == 1
