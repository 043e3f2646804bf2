"""A Redis that comes back as the broker without its data has lost the messages of what is queued."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from datetime import datetime, timezone

import pytest
import redis
from celery import Celery

from celery_realtime import events
from celery_realtime.events import Job, Step
from celery_realtime.history.leases import HeldJob
from celery_realtime.history.store import History
from celery_realtime.jobs.broker_watch import BrokerWatch
from celery_realtime.jobs.redis_broker import RedisBroker
from tests.appended import append, status
from tests.recording import Studio, new_app
from tests.services import RedisServer
from tests.waiting import wait_for

#: Longer, in seconds, than a test may take: until then a broker that has come back is looked at again.
LONG = 600.0


@pytest.fixture
def broker(start_redis: Callable[..., RedisServer]) -> RedisServer:
    return start_redis(name="broker")


@pytest.fixture
def studio(broker: RedisServer, redis_url: str) -> Studio:
    app = new_app()
    app.conf.broker_url = broker.url()
    return Studio(app, history_url=redis_url)


@pytest.fixture
def watch(studio: Studio) -> BrokerWatch:
    return BrokerWatch(studio.app, studio.realtime.manager, "channel", pause=0.05, patience=LONG)


@pytest.fixture
def impatient(studio: Studio) -> BrokerWatch:
    return BrokerWatch(studio.app, studio.realtime.manager, "channel", pause=0.05, patience=0.0)


def history_of(studio: Studio) -> History:
    history = studio.realtime.manager.history
    assert history is not None
    return history


def queue(studio: Studio, *jobs: str, ago: float = 5.0, project: str = "p") -> None:
    at = datetime.fromtimestamp(time.time() - ago, timezone.utc).isoformat().replace("+00:00", "Z")
    append(history_of(studio), *(status("PENDING", job=job, project=project, timestamp=at) for job in jobs))


def connected(studio: Studio, channel: str = "channel") -> AbstractContextManager[RedisBroker]:
    return closing(RedisBroker.connect(studio.app, channel))


def lose(broker: RedisServer) -> None:
    broker.kill()
    broker.start()


def states(studio: Studio, project: str = "p") -> dict[str, str]:
    assert studio.realtime.flush(60)
    return {job["job_id"]: job["state"] for job in history_of(studio).read(project).jobs}


def test_what_was_queued_before_the_broker_came_back_empty_is_lost(
    studio: Studio, broker: RedisServer, watch: BrokerWatch
) -> None:
    watch.look()
    queue(studio, "one", "two")
    queue(studio, "three", project="q")
    watch.look()
    assert studio.sent == []
    lose(broker)
    watch.look()
    assert {**states(studio), **states(studio, "q")} == {"one": "LOST", "two": "LOST", "three": "LOST"}
    assert all(sent.data["error"].startswith("MessageLost: ") for sent in studio.sent)


def test_what_runs_or_has_ended_is_not(studio: Studio, broker: RedisServer, watch: BrokerWatch) -> None:
    watch.look()
    queue(studio, "runs", "ended")
    append(history_of(studio), status("STARTED", job="runs"), status("SUCCESS", job="ended"))
    lose(broker)
    watch.look()
    assert states(studio) == {"runs": "STARTED", "ended": "SUCCESS"}


def test_what_a_worker_has_is_not_until_it_has_it_no_more(
    studio: Studio, broker: RedisServer, watch: BrokerWatch
) -> None:
    leases = history_of(studio).leases
    leases.hold("i", [HeldJob(job_id="reserved", project_id="p")], 60)
    watch.look()
    queue(studio, "reserved", "waits")
    lose(broker)
    watch.look()
    assert states(studio) == {"reserved": "PENDING", "waits": "LOST"}
    leases.hold("i", [], 60)
    watch.look()
    assert states(studio)["reserved"] == "LOST"


def hand_on(studio: Studio, job: str, root: str | None = None) -> None:
    at = datetime.fromtimestamp(time.time() - 5, timezone.utc).isoformat()
    append(history_of(studio), status("STARTED", job=job, root_id=root, incarnation="i", timestamp=at))
    handed_on = events.outgoing_handed_on(Job(job_id=job, project_id="p"), time.time(), incarnation="i")
    append(history_of(studio), handed_on)


def test_what_was_handed_on_is_lost_unless_what_it_may_wait_for_is_there(
    studio: Studio, broker: RedisServer, watch: BrokerWatch
) -> None:
    held = HeldJob(job_id="step", project_id="p", behind=(Step(job_id="awaits a step", project_id="p"),))
    history_of(studio).leases.hold("i", [held], 60)
    watch.look()
    for job in ("awaits its message", "awaits a step"):
        hand_on(studio, job)
    hand_on(studio, "awaits what is queued", "root")
    append(history_of(studio), status("STARTED", job="runs", incarnation="i"))
    lose(broker)
    later = datetime.fromtimestamp(time.time() + 60, timezone.utc).isoformat()
    append(history_of(studio), status("PENDING", job="queued later", root_id="root", timestamp=later))
    # A server tells since when it runs in whole seconds: at the first look that may be before the job was handed on.
    wait_for(lambda: watch.look() or states(studio)["awaits its message"] == "LOST")
    assert states(studio) == {
        "awaits its message": "LOST",
        "awaits a step": "STARTED",
        "awaits what is queued": "STARTED",
        "runs": "STARTED",
        "queued later": "PENDING",
    }


def test_what_is_published_after_its_return_is_not(studio: Studio, broker: RedisServer, watch: BrokerWatch) -> None:
    watch.look()
    lose(broker)
    queue(studio, "later", ago=-60.0)
    watch.look()
    assert states(studio) == {"later": "PENDING"}


def test_a_job_that_shows_that_it_lives_is_not_lost_any_more(
    studio: Studio, broker: RedisServer, watch: BrokerWatch
) -> None:
    watch.look()
    queue(studio, "lives")
    lose(broker)
    watch.look()
    append(history_of(studio), status("STARTED", job="lives"))
    assert states(studio) == {"lives": "STARTED"}


def test_a_broker_that_keeps_its_data_has_lost_nothing(
    studio: Studio, start_redis: Callable[..., RedisServer], watch: BrokerWatch
) -> None:
    server = start_redis(name="durable", persist=True)
    studio.app.conf.broker_url = server.url()
    watch.look()
    queue(studio, "waits")
    lose(server)
    watch.look()
    assert states(studio) == {"waits": "PENDING"}


def test_a_broker_that_was_never_seen_has_lost_nothing(studio: Studio, broker: RedisServer, watch: BrokerWatch) -> None:
    queue(studio, "waits")
    lose(broker)
    watch.look()
    assert states(studio) == {"waits": "PENDING"}


def test_a_loss_is_reported_until_late_reports_have_come_in_and_then_no_more(
    studio: Studio, broker: RedisServer, watch: BrokerWatch, impatient: BrokerWatch
) -> None:
    watch.look()
    lose(broker)
    watch.look()
    queue(studio, "reported late", ago=60.0)
    watch.look()
    assert states(studio) == {"reported late": "LOST"}
    with connected(studio) as connection:
        wait_for(lambda: connection.age() > 0)
    impatient.look()
    queue(studio, "of another clock", ago=60.0)
    watch.look()
    assert states(studio)["of another clock"] == "PENDING"


def test_the_mark_stays_away_while_the_losses_cannot_be_sent(
    studio: Studio, broker: RedisServer, impatient: BrokerWatch
) -> None:
    impatient.look()
    queue(studio, "waits")
    lose(broker)
    studio.wire.down = True
    with connected(studio) as connection:
        wait_for(lambda: connection.age() > 0)
        impatient.look()
        assert not connection.is_marked()
        studio.wire.down = False
        impatient.look()
        assert connection.is_marked()


def test_it_looks_from_a_thread_of_its_own_and_outlives_an_outage(
    studio: Studio, broker: RedisServer, watch: BrokerWatch
) -> None:
    watch.start()
    with connected(studio) as connection:
        wait_for(connection.is_marked)
    queue(studio, "waits")
    broker.kill()
    wait_for(lambda: watch.loop.failures)
    broker.start()
    wait_for(lambda: states(studio) == {"waits": "LOST"})
    watch.stop()


def connections_of(broker: RedisServer) -> list[str]:
    """Return the addresses of all that are connected to the broker, but for who asks."""
    with redis.Redis.from_url(broker.url()) as client:
        me = client.client_id()
        return sorted(other["addr"] for other in client.client_list() if int(other["id"]) != me)


def test_it_holds_one_connection_until_it_is_stopped(studio: Studio, broker: RedisServer, watch: BrokerWatch) -> None:
    watch.look()
    connections = connections_of(broker)
    assert len(connections) == 1
    watch.look()
    assert connections_of(broker) == connections
    watch.stop()
    wait_for(lambda: connections_of(broker) == [])
    watch.look()
    assert len(connections_of(broker)) == 1


def test_a_connection_that_has_broken_is_replaced(studio: Studio, broker: RedisServer, watch: BrokerWatch) -> None:
    watch.look()
    [before] = connections_of(broker)
    with redis.Redis.from_url(broker.url()) as client:
        client.client_kill(before)
    watch.look()
    [after] = connections_of(broker)
    assert after != before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_of_a_fork_does_not_look_through_the_connection_of_its_parent(
    studio: Studio, broker: RedisServer, watch: BrokerWatch
) -> None:
    watch.look()
    before = connections_of(broker)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        watch.look()
        os.write(write, b"looked")
        time.sleep(60)  # noqa: TID251
        os._exit(0)
    try:
        assert os.read(read, 10) == b"looked"
        both = connections_of(broker)
        assert (len(both), {*before} < {*both}) == (2, True)
        watch.look()
        assert connections_of(broker) == both
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        watch.stop()


def test_channels_do_not_share_a_mark(studio: Studio, broker: RedisServer, watch: BrokerWatch) -> None:
    watch.look()
    with connected(studio) as one, connected(studio, "another") as other:
        assert (one.is_marked(), other.is_marked()) == (True, False)


@pytest.mark.parametrize(("url", "is_redis"), [("redis://127.0.0.1:1/0", True), ("amqp://127.0.0.1:1//", False)])
def test_only_a_redis_is_watched(url: str, is_redis: bool) -> None:
    assert RedisBroker.is_used_by(Celery(broker=url, set_as_current=False)) is is_redis


def test_a_password_is_no_part_of_the_name_of_a_broker(studio: Studio, broker: RedisServer) -> None:
    with redis.Redis.from_url(broker.url()) as client:
        client.acl_setuser("ada", enabled=True, passwords=["+secret"], keys="*", channels="*", categories=["+@all"])
    studio.app.conf.broker_url = broker.url().replace("redis://", "redis://ada:secret@")
    with connected(studio) as connection:
        assert not connection.is_marked()
        assert "secret" not in connection.name
