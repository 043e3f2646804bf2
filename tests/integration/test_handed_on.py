"""A job that goes on in a message that it has published, as a replacement or a retry, is lost with who has it alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start, states
from tests.launcher import Launcher
from tests.processes import Worker
from tests.services import Broker
from tests.variants import long_unless
from tests.waiting import wait_for

LOST_AFTER = 6.0

ENV = {"LOST_AFTER": str(LOST_AFTER)}
ELSEWHERE = "elsewhere"

GOING_ON = {
    "replacement": jobs.replaced_elsewhere,
    "step": jobs.replaced_by_steps_elsewhere,
    "retry": jobs.retried_elsewhere,
}


class First(Stage):
    """A stage whose worker hands jobs on to a queue that it does not read."""

    def __init__(self, launcher: Launcher, broker: Broker) -> None:
        super().__init__(launcher, broker, env=ENV)
        history = jobs.realtime.manager.history
        assert history is not None
        self._redis = redis.Redis.from_url(broker.backend_url)
        [alive, self._running] = history.keys.leases("alive", "running:")
        [incarnation] = wait_for(lambda: self._redis.zrange(alive, 0, -1))  # type: ignore[arg-type]
        self._running += incarnation.decode()

    def wait_until_handed_on(self, job: str) -> None:
        """Wait until it is on record that the worker has a job no more: what it has not said is lost with it."""
        self.worker.wait_for_log(rf"\[{job}\] (ignored|retry)")
        wait_for(lambda: not any(job in str(field) for field in self._redis.hkeys(self._running)))  # type: ignore[union-attr]


@pytest.fixture
def stage(launcher: Launcher, redis_broker: Broker) -> Iterator[First]:
    with producing(redis_broker):
        yield First(launcher, redis_broker)


def worker_elsewhere(stage: Stage) -> Worker:
    options = ("--queues", ELSEWHERE)
    return stage.launcher.worker("tests.integration.jobs", broker=stage.broker, name="second", env=ENV, options=options)


def wait_for_looks(client: Recorder, project: str) -> None:
    """Wait until whoever looks for lost jobs has done so, longer than a lease after now."""
    marker = jobs.add.apply_async((1, 2), expires=LOST_AFTER, queue="nowhere", headers={"project_id": project}).id
    client.wait_for_end(marker)


def seen(client: Recorder, job: str) -> list[str]:
    """Return the states of a job; a retry is one more than a replacement shows."""
    return [
        state for _, state, attempt in states(client, job) if state != "RETRY" and (state, attempt) != ("STARTED", 1)
    ]


@pytest.mark.parametrize(
    ("task", "how"),
    long_unless([("replacement", "kill"), ("step", "stop")], list(itertools.product(GOING_ON, ["kill", "stop"]))),
)
def test_a_job_that_waits_elsewhere_is_not_lost_with_the_worker_that_had_it(
    stage: First, tmp_path: Path, task: str, how: str
) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(GOING_ON[task], str(tmp_path / "go"), ELSEWHERE, project=project)
        stage.wait_until_handed_on(job)
        getattr(stage.worker, how)()
        wait_for_looks(client, project)
        assert seen(client, job) == ["PENDING", "STARTED"]
        (tmp_path / "go").touch()
        worker_elsewhere(stage)
        assert client.wait_for_end(job)["state"] == "SUCCESS"
    assert seen(client, job) == ["PENDING", "STARTED", "SUCCESS"]


@pytest.mark.parametrize("task", long_unless(["replacement"], GOING_ON))
def test_a_job_that_runs_elsewhere_is_lost_with_that_worker_and_not_with_the_one_that_had_it(
    stage: First, tmp_path: Path, task: str
) -> None:
    project, second = new_project(), worker_elsewhere(stage)
    with stage.watch(project) as client:
        job = start(GOING_ON[task], str(tmp_path / "never"), ELSEWHERE, project=project)
        stage.wait_until_handed_on(job)
        client.wait_for_event("agent_progress", message="holding")
        stage.worker.kill()
        wait_for_looks(client, project)
        assert seen(client, job) == ["PENDING", "STARTED"]
        second.kill()
        end = client.wait_for_end(job)
    assert end["state"] == "LOST"
    assert second.hostname in end["error"]


def test_a_job_that_waits_where_nobody_will_get_it_ends_when_it_is_cancelled(stage: First, tmp_path: Path) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.replaced_elsewhere, str(tmp_path / "go"), ELSEWHERE, project=project)
        stage.wait_until_handed_on(job)
        assert client.call("cancel_job", {"job_id": job})["cancel"] == "requested"
        end = client.wait_for_end(job)
    # "terminated", if the order overtakes what the first worker has still to do.
    assert end["state"] == "REVOKED"
    assert end["error"] in ("TaskRevokedError: revoked", "TaskRevokedError: terminated")


@pytest.mark.parametrize(
    ("task", "pool"),
    long_unless(
        [("replacement", "solo"), ("step", "prefork"), ("retry", "prefork")],
        list(itertools.product(GOING_ON, ["prefork", "solo"])),
    ),
)
def test_a_job_that_goes_on_in_the_same_worker_is_lost_with_it(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path, task: str, pool: str
) -> None:
    project = new_project()
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, env=ENV, pool=pool, concurrency=1)
        with stage.watch(project) as client:
            job = start(GOING_ON[task], str(tmp_path / "never"), "celery", project=project)
            client.wait_for_event("agent_progress", message="holding")
            stage.worker.kill()
            assert client.wait_for_end(job)["state"] == "LOST"
    assert seen(client, job) == ["PENDING", "STARTED", "LOST"]
