"""In gevent and eventlet workers a task that computes lets nothing else run, and yet is shown as what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start, states
from tests.launcher import Launcher
from tests.services import Broker
from tests.variants import long_unless
from tests.waiting import wait_for

LOST_AFTER = 6.0

GetStage = Callable[..., Stage]


def helpers_of(stage: Stage) -> list[psutil.Process]:
    """Return the processes that renew the lease of a stage's worker beside it."""
    children = psutil.Process(stage.worker.pid).children()
    return [child for child in children if "lease helper" in " ".join(child.cmdline())]


# The helper is the same for both kinds of greenlets: tests/sending/test_green_lease.py.
@pytest.mark.parametrize(
    ("pool", "task"),
    long_unless(
        [("gevent", jobs.occupy), ("gevent", jobs.occupy_interpreter)],
        [(pool, task) for pool in ("gevent", "eventlet") for task in (jobs.occupy, jobs.occupy_interpreter)],
    ),
)
def test_a_task_that_computes_for_long_is_running_and_never_lost(shared_stage: GetStage, pool: str, task: Any) -> None:
    project = new_project()
    stage = shared_stage(pool=pool, env={"LOST_AFTER": str(LOST_AFTER)})
    with stage.watch(project) as client:
        job = start(task, int(1.5 * LOST_AFTER), project=project)
        client.wait_for_event("agent_status", job_id=job, status="running")
        assert client.wait_for_end(job)["status"] == "success"
    assert [state for _, state, _ in states(client, job)] == ["PENDING", "STARTED", "SUCCESS"]


# Both have the same process beside them, which ends with the worker.
@pytest.mark.parametrize("pool", long_unless(["gevent"], ["gevent", "eventlet"]))
def test_a_worker_that_is_killed_while_its_task_computes_has_lost_it(
    launcher: Launcher, redis_broker: Broker, pool: str
) -> None:
    project = new_project()
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, pool=pool, env={"LOST_AFTER": str(LOST_AFTER)})
        with stage.watch(project) as client:
            [helper] = helpers_of(stage)
            job = start(jobs.spin, 60.0, project=project)
            client.wait_for_event("agent_status", job_id=job, status="running")
            stage.worker.kill_main()
            assert client.wait_for_end(job)["state"] == "LOST"
            wait_for(lambda: not helper.is_running())


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_other_pools_have_no_process_beside_them(shared_stage: GetStage, pool: str) -> None:
    assert helpers_of(shared_stage(pool=pool)) == []
