"""Redis behind Sentinels carries tasks, results, events and history, and goes on after its master was killed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from celery import Celery

from celery_realtime import Realtime, events
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.history.store import History
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.processes import HOST, ManagedProcess, accepts_connections, free_port
from tests.programs import require
from tests.services import Broker, RedisServer
from tests.waiting import wait_for

MASTER = "mymaster"
CONFIGURATION = """\
port {port}
bind {host}
sentinel monitor {name} {host} {master} 1
sentinel down-after-milliseconds {name} 500
sentinel failover-timeout {name} 2000
"""


class Sentinel(ManagedProcess):
    """A Sentinel that watches one master."""

    def __init__(self, folder: Path, master: RedisServer) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        file = folder / "sentinel.conf"
        file.write_text(CONFIGURATION.format(port=self.port, host=HOST, name=MASTER, master=master.port))
        command = [require("redis"), str(file), "--sentinel"]
        super().__init__(command, folder=folder, name="sentinel", ready=lambda: accepts_connections(self.port))

    def master_port(self) -> int:
        with redis.Redis(HOST, self.port) as client:
            return int(client.sentinel_get_master_addr_by_name(MASTER)[1])

    def replicas(self) -> int:
        with redis.Redis(HOST, self.port) as client:
            return len(client.sentinel_slaves(MASTER))


class Pair:
    """A master, its replica, and the Sentinel that lets the replica take over.

    Args:
        launcher: Starts them.
    """

    def __init__(self, launcher: Launcher) -> None:
        folder = launcher.folder
        prompt = ["--repl-diskless-sync-delay", "0"]
        self.master = launcher.start(RedisServer(folder / "master", name="master", options=prompt))
        following = ["--replicaof", HOST, str(self.master.port)]
        self.replica = launcher.start(RedisServer(folder / "replica", name="replica", options=following))
        wait_for(self.is_linked)
        self.sentinel = launcher.start(Sentinel(folder / "sentinel", self.master))
        wait_for(lambda: self.sentinel.replicas() == 1)

    def url(self, database: int) -> str:
        return f"sentinel://{HOST}:{self.sentinel.port}/{database}"

    def is_linked(self) -> bool:
        with redis.Redis(HOST, self.replica.port) as client:
            return str(client.info("replication")["master_link_status"]) == "up"

    def cut_off_replica(self) -> None:
        """Let the replica hear nothing more of what the master stores."""
        with redis.Redis(HOST, self.replica.port) as replica, redis.Redis(HOST, self.master.port) as master:
            replica.config_set("masterauth", "wrong")  # so that it does not come back
            master.execute_command("CLIENT", "KILL", "TYPE", "replica")
            wait_for(lambda: not self.is_linked())

    def fail_over(self) -> None:
        self.master.kill()
        with redis.Redis(HOST, self.replica.port) as replica:
            wait_for(lambda: replica.info("replication")["role"] == "master")
        wait_for(lambda: self.sentinel.master_port() == self.replica.port)


def away() -> str:
    """Return the address of a Sentinel that is down; Celery itself asks it for eight seconds if it comes first."""
    return f"sentinel://{HOST}:{free_port()}"


@pytest.fixture
def pair(launcher: Launcher) -> Pair:
    return Pair(launcher)


@pytest.fixture
def broker(pair: Pair) -> Iterator[Broker]:
    conf: Any = jobs.celery.conf
    conf.broker_transport_options = conf.result_backend_transport_options = {"master_name": MASTER}
    yield Broker("redis", pair.master, f"{pair.url(0)};{away()}", pair.master, f"{pair.url(1)};{away()}")
    conf.broker_transport_options = conf.result_backend_transport_options = {}


def test_jobs_are_live_and_remembered_over_sentinels_and_after_a_failover(
    launcher: Launcher, broker: Broker, pair: Pair
) -> None:
    project = new_project()
    with producing(broker):
        stage = Stage(launcher, broker, env={"MASTER_NAME": MASTER})
        with stage.watch(project) as client:
            before = jobs.count.apply_async((3, 0.01), headers={"project_id": project}).id
            end = client.wait_for_end(before)
            known = client.subscribe(project, since={"epoch": end["epoch"], "offset": 0})
            assert known["recovered"]
            assert len(known["events"]) == known["offset"]

            pair.fail_over()

            def told_after() -> Any:
                """Publish until one comes through: what Celery's broker lost in the failover nobody brings back."""
                job = jobs.count.apply_async((1, 0), headers={"project_id": project}).id
                return client.wait_for_end(job, timeout=15)

            after = wait_for(told_after, timeout=100, ignoring=(AssertionError, Exception))
            place = {"epoch": known["epoch"], "offset": known["offset"]}
            answer = client.subscribe(project, since=place)
            assert (answer["ok"], answer["recovered"], answer["events"]) == (True, False, [])
            assert answer["epoch"] == after["epoch"] != known["epoch"]
            assert {before, after["job_id"]} <= {job["job_id"] for job in answer["jobs"]}
            assert client.disconnects == 0


def tell(history: History, *texts: str) -> list[tuple[str, int]]:
    """Store events, and return their epochs and offsets; none while the history is away."""
    told = [events.outgoing_custom("line", {"text": text}, "p", None, 65536) for text in texts]
    marks = [msgspec.json.decode(one.payload)["_realtime"] for [one] in history.append(told) or []]
    return [(mark["epoch"], mark["offset"]) for mark in marks]


def test_offsets_that_a_failover_gives_out_again_are_of_another_epoch(pair: Pair) -> None:
    url = f"{away()}/1;{pair.url(1)}?master_name={MASTER}"
    one, two = (History(url, "lost", size=100, ttl=60.0) for _ in range(2))
    with contextlib.closing(one), contextlib.closing(two):
        assert [offset for _, offset in tell(one, "a", "b", "c")] == [1, 2, 3]
        pair.cut_off_replica()
        heard = tell(one, "d", "e")[-1]
        assert heard[1] == 5
        pair.fail_over()
        given_again = wait_for(lambda: tell(two, "f", "g", "h", "i"))
        assert [offset for _, offset in given_again] == [4, 5, 6, 7]
        assert given_again[0][0] != heard[0]
        snapshot = one.read("p", *heard)
        assert (snapshot.recovered, snapshot.events) == (False, [])
        missed = one.read("p", given_again[0][0], 5)
        assert [event["data"]["text"] for event in missed.events] == ["h", "i"]


def test_without_a_master_name_the_mistake_is_named() -> None:
    app = Celery("sentinel", broker="memory://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="master_name"):
        _ = Realtime(app, history_url=f"sentinel://{HOST}:{free_port()}").manager.history
