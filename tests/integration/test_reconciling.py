"""A job ends as it did, whoever is killed before its end was reported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start, states
from tests.launcher import Launcher
from tests.proxy import Proxy
from tests.services import Broker
from tests.variants import any_broker
from tests.waiting import wait_for

#: A killed child for each; it takes the pool a second or more to replace one.
PAIRS = 4

LOST_AFTER = 6.0


@pytest.fixture
def one_at_a_time(launcher: Launcher, broker: Broker) -> Iterator[Stage]:
    """A stage whose worker runs one job after the other in one child, and a new one when that has died."""
    with producing(broker):
        yield Stage(launcher, broker, concurrency=1)


@any_broker
def test_nothing_that_a_job_has_said_is_lost_with_the_child_that_dies_in_the_next_one(one_at_a_time: Stage) -> None:
    """The child has some milliseconds to send it, and does not get them."""
    project, pairs = new_project(), PAIRS
    with one_at_a_time.watch(project) as client:
        said = []
        for _ in range(pairs):
            said.append(start(jobs.say_and_return, 3, project=project))
            start(jobs.die, project=project)
        for job in said:
            end = client.wait_for_end(job, timeout=60)
            assert (end["status"], end["result"]) == ("success", "said")
            assert client.statuses(job).count("success") == 1
            # What was stored and not published comes when the web server has read it from the history.
            wait_for(lambda job=job: numbers(client, job, "line", "number") == [0, 1, 2])
            wait_for(lambda job=job: numbers(client, job, "agent_progress", "progress") == [90])


def numbers(client: Recorder, job: str, event: str, member: str) -> list[int]:
    return sorted(data[member] for name, data in client.for_job(job) if name == event)


@any_broker
def test_a_job_that_has_stored_its_success_is_a_success_though_its_child_dies_before_it_reports(
    one_at_a_time: Stage,
) -> None:
    project = new_project()
    with one_at_a_time.watch(project) as client:
        job = start(jobs.succeed_and_die, project=project)
        end = client.wait_for_end(job)
        assert (end["state"], end["result"]) == ("SUCCESS", {"made": 1})
        assert [status for status, _, _ in states(client, job)][-1] == "success"


def test_a_job_that_has_begun_and_could_not_be_noted_is_lost_and_one_that_waits_is_not(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path
) -> None:
    """The worker cannot reach the history any more; but the broker has a message of the one and not of the other."""
    project = new_project()
    with producing(redis_broker), Proxy(redis_broker.backend_url) as way:
        env = {"LOST_AFTER": str(LOST_AFTER), "HISTORY_URL": redis_broker.backend_url}
        stage = Stage(launcher, redis_broker, env=env, worker_env={"HISTORY_URL": way.url}, concurrency=1)
        history = jobs.realtime.manager.history
        assert history is not None
        with stage.watch(project) as client:
            first = start(jobs.hold, str(tmp_path / "go"), project=project)
            client.wait_for_event("agent_progress", job_id=first)
            begins = start(jobs.hold, str(tmp_path / "never"), project=project)
            waits = start(jobs.add, 1, 2, project=project)
            wait_for(lambda: {(project, job) for job in (first, begins, waits)} <= history.leases.held())
            way.refuse()
            (tmp_path / "go").touch()
            with redis.Redis.from_url(redis_broker.url) as messages:
                wait_for(lambda: messages.hlen("unacked") == 1)
            stage.worker.kill()
            assert client.wait_for_end(begins)["state"] == "LOST"
            assert client.wait_for_end(first)["state"] == "SUCCESS"
            assert client.statuses(waits) == ["queued"]


@pytest.mark.parametrize(("backend", "state"), [("redis", "SUCCESS"), ("database", "SUCCESS"), ("none", "LOST")])
def test_the_job_of_a_killed_worker_ends_as_the_result_backend_says(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path, backend: str, state: str
) -> None:
    """Only a web server is left to look."""
    project, stored = new_project(), tmp_path / "stored"
    urls = {
        "redis": redis_broker.backend_url,
        "database": f"db+sqlite:///{tmp_path / 'results'}",
        "none": "disabled://",
    }
    env = {
        "LOST_AFTER": str(LOST_AFTER),
        "HISTORY_URL": redis_broker.backend_url,
        "CELERY_RESULT_BACKEND": urls[backend],
    }
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, env=env)
        with stage.watch(project) as client:
            job = start(jobs.succeed_and_die, str(stored), project=project)
            client.wait_for_event("agent_status", job_id=job, status="running")
            wait_for(stored.exists)
            stage.worker.kill()
            end = client.wait_for_end(job)
    assert end["state"] == state
    assert end["result"] == ({"made": 1} if state == "SUCCESS" else None)
